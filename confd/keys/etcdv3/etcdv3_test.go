package etcdv3

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/pkg/certs"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/kvclient/etcdtest"
	"github.com/kvd-io/kvd/pkg/tlsconfig"
)

func open(t *testing.T, cfg kvclient.Config) *Store {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func (s *Store) raw(t *testing.T) *clientv3.Client {
	t.Helper()
	client, err := s.connected()
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func start3(t *testing.T) (*Store, *etcdtest.Server) {
	t.Helper()
	server := etcdtest.Start(t)
	return open(t, kvclient.Config{Endpoints: []string{server.URL}}), server
}

func put(t *testing.T, s *Store, key, value string, options ...clientv3.OpOption) kv.Index {
	t.Helper()
	answer, err := s.raw(t).Put(t.Context(), key, value, options...)
	if err != nil {
		t.Fatal(err)
	}
	return kv.Index(answer.Header.Revision)
}

func read(t *testing.T, s *Store, only ...string) (string, kv.Result) {
	t.Helper()
	result, err := s.Read(t.Context(), kv.Read{Recursive: true, Quorum: true, Only: only})
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, node := range result.Node.Nodes {
		text += node.Key + "=" + node.Value + " "
	}
	return text, result
}

func TestAKeyStandsForItselfAndWhatIsBelowItAndForNothingElse(t *testing.T) {
	s, _ := start3(t)
	for _, key := range []string{"/app", "/app/x", "/app/_y/z", "/app2", "/app-2/x", "/app/", "//b//c/", "/b/c", "d", "/app0"} {
		put(t, s, key, strings.ToUpper(key))
	}
	for only, want := range map[string]string{
		"/app":              "/app=/APP /app/_y/z=/APP/_Y/Z /app/x=/APP/X ",
		"/app /app/x /app2": "/app=/APP /app/_y/z=/APP/_Y/Z /app/x=/APP/X /app2=/APP2 ",
		"/app/_y":           "/app/_y/z=/APP/_Y/Z ",
		"/none":             "",
		"/b":                "/b/c=/B/C ",
		"/app/x":            "/app/x=/APP/X ",
	} {
		if got, _ := read(t, s, strings.Fields(only)...); got != want {
			t.Errorf("%s: %s, want %s", only, got, want)
		}
	}
	if got, _ := read(t, s, ""); !strings.Contains(got, "/app-2/x=") || !strings.Contains(got, "/b/c=/B/C ") || strings.Contains(got, "d=d") {
		t.Errorf("everything: %s", got)
	}
}

func TestManyKeysAreReadAtOneRevisionAndWatched(t *testing.T) {
	s, _ := start3(t)
	var only []string
	for i := range kv.OnlyMax {
		key := fmt.Sprintf("/k%03d", i)
		only = append(only, key)
		put(t, s, key+"/x", "1")
	}
	last := put(t, s, "/elsewhere", "1")
	text, result := read(t, s, only...)
	if strings.Count(text, "=") != kv.OnlyMax || result.Index != last || result.Cluster == "" {
		t.Errorf("%d keys at %d in %q, want %d at %d", strings.Count(text, "="), result.Index, result.Cluster, kv.OnlyMax, last)
	}
	w, err := s.Watch(t.Context(), kv.WatchFrom{Index: result.Index + 1, Only: only})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, key := range []string{only[0] + "/x", only[len(only)-1]} {
		put(t, s, key, "2")
		if event, err := w.Next(t.Context()); err != nil || event.Node.Key != key {
			t.Errorf("the watch brings %+v, %v, and not %s", event, err, key)
		}
	}
}

func TestAWatchBringsWhatHappensAfterARevision(t *testing.T) {
	s, _ := start3(t)
	put(t, s, "/a/before", "1")
	lease, err := s.raw(t).Grant(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "/a/leased", "1", clientv3.WithLease(lease.ID))
	_, result := read(t, s, "/a", "/b")
	put(t, s, "/a/x", "1")
	w, err := s.Watch(t.Context(), kv.WatchFrom{Recursive: true, Index: result.Index + 1, Only: []string{"/a"}})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	put(t, s, "/a-sibling", "1")
	put(t, s, "/a", "2")
	if _, err := s.raw(t).Delete(t.Context(), "/a/x"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	brought := map[string][]string{} // in order, of the key itself and of what is below it
	for range 4 {
		event, err := w.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if event.Node.ModifiedIndex <= result.Index {
			t.Errorf("%+v was read before", event)
		}
		of := kv.Parent(event.Node.Key)
		brought[of] = append(brought[of], fmt.Sprintf("%s %s %s", event.Action, event.Node.Key, event.Node.Value))
	}
	if got, want := fmt.Sprintf("%q", brought), `map["":["set /a 2"] "/a":["set /a/x 1" "delete /a/x " "expire /a/leased "]]`; got != want {
		t.Errorf("it brings %s, want %s", got, want)
	}
	put(t, s, "/a//unclean", "1")
	if event, err := w.Next(ctx); !kv.Is(err, kv.HistoryGone) {
		t.Errorf("of a key with an unusual name it brings %+v, %v", event, err)
	}
}

func TestAWatchFromBeforeACompactionIsToldThatHistoryIsGone(t *testing.T) {
	s, _ := start3(t)
	first := put(t, s, "/a/x", "1")
	put(t, s, "/a/x", "2")
	last := put(t, s, "/a/x", "3")
	if _, err := s.raw(t).Compact(t.Context(), int64(last)); err != nil {
		t.Fatal(err)
	}
	w, err := s.Watch(t.Context(), kv.WatchFrom{Recursive: true, Index: first + 1, Only: []string{"/a", "/b"}})
	if err == nil {
		defer w.Close()
		_, err = w.Next(t.Context())
	}
	if !kv.Is(err, kv.HistoryGone) {
		t.Errorf("it is told %v", err)
	}
}

func TestAStoreThatCannotBeReachedIsOpenedAndSaysSoWhenItIsRead(t *testing.T) {
	s := open(t, kvclient.Config{Endpoints: []string{"127.0.0.1:1"}, Username: "u", Password: "p", RequestTimeout: 300 * time.Millisecond})
	if _, err := s.Read(t.Context(), kv.Read{Only: []string{"/a"}}); !kv.Temporary(err) {
		t.Errorf("read: %v", err)
	}
	if _, err := s.Watch(t.Context(), kv.WatchFrom{Index: 1, Only: []string{"/a"}}); !kv.Temporary(err) {
		t.Errorf("watched: %v", err)
	}
	if _, err := s.Write(t.Context(), kv.Write{}); !kv.Is(err, kv.Invalid) {
		t.Errorf("written: %v", err)
	}
}

// user makes a user with a role of its own that may read ranges, each from its first to its second key; "" for the first alone.
func user(t *testing.T, s *Store, name, password string, ranges ...[2]string) {
	t.Helper()
	ctx, auth := t.Context(), s.raw(t).Auth
	errs := []error{second(auth.UserAdd(ctx, name, password)), second(auth.RoleAdd(ctx, name)), second(auth.UserGrantRole(ctx, name, name))}
	for _, r := range ranges {
		errs = append(errs, second(auth.RoleGrantPermission(ctx, name, r[0], r[1], clientv3.PermissionType(clientv3.PermRead))))
	}
	for _, err := range errs {
		if err != nil && !strings.Contains(err.Error(), "role name already exists") {
			t.Fatal(err)
		}
	}
}

// enable turns access control on, with a user root whose password is r.
func enable(t *testing.T, s *Store) {
	t.Helper()
	user(t, s, "root", "r")
	if _, err := s.raw(t).AuthEnable(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestUsersMayReadWhatTheyMay(t *testing.T) {
	s, server := start3(t)
	put(t, s, "/open/x", "1")
	ctx := t.Context()
	user(t, s, "u", "p", [2]string{"/open", ""}, [2]string{"/open/", "/open0"})
	enable(t, s)
	as := func(user, password string) *Store {
		return open(t, kvclient.Config{Endpoints: []string{server.URL}, Username: user, Password: password})
	}
	u := as("u", "p")
	if got, _ := read(t, u, "/open"); got != "/open/x=1 " {
		t.Errorf("u reads %s", got)
	}
	w, err := u.Watch(ctx, kv.WatchFrom{Index: 2, Only: []string{"/open"}})
	if err != nil {
		t.Errorf("u watches: %v", err)
	} else {
		w.Close()
	}
	for what, store := range map[string]*Store{"what it may not": u, "with a wrong password": as("u", "x"), "without a name": as("", "")} {
		key := "/open"
		if store == u {
			key = "/closed"
		}
		if _, err := store.Read(ctx, kv.Read{Only: []string{key}}); !kv.Is(err, kv.Denied) {
			t.Errorf("read %s: %v", what, err)
		}
		w, err := store.Watch(ctx, kv.WatchFrom{Index: 2, Only: []string{key}})
		if err == nil {
			_, err = w.Next(ctx)
			w.Close()
		}
		if !kv.Is(err, kv.Denied) {
			t.Errorf("watched %s: %v", what, err)
		}
	}
}

func TestARightToWhatIsBelowAKeyIsEnough(t *testing.T) {
	s, server := start3(t)
	put(t, s, "/app/x", "1")
	put(t, s, "/app", "nobody's")
	put(t, s, "/key", "1")
	user(t, s, "u", "p", [2]string{"/app/", "/app0"}, [2]string{"/key", ""}, [2]string{"/key/", "/key0"})
	enable(t, s)
	root := open(t, kvclient.Config{Endpoints: []string{server.URL}, Username: "root", Password: "r"})
	u := open(t, kvclient.Config{Endpoints: []string{server.URL}, Username: "u", Password: "p"})
	got, result := read(t, u, "/app", "/key")
	if got != "/app/x=1 /key=1 " {
		t.Fatalf("u reads %s", got)
	}
	w, err := u.Watch(t.Context(), kv.WatchFrom{Index: result.Index + 1, Only: []string{"/app", "/key"}})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	put(t, root, "/app", "still nobody's")
	put(t, root, "/app/x", "2")
	put(t, root, "/key", "2")
	changed := map[string]string{}
	for range 2 {
		event, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		changed[event.Node.Key] = event.Node.Value
	}
	if changed["/app/x"] != "2" || changed["/key"] != "2" {
		t.Errorf("the watch brings %v", changed)
	}
	// What has had a value does not vanish because it may not be read any more.
	if _, err := root.raw(t).RoleRevokePermission(t.Context(), "u", "/key", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Read(t.Context(), kv.Read{Only: []string{"/app", "/key"}}); !kv.Is(err, kv.Denied) {
		t.Errorf("without its right it reads %v", err)
	}
}

func TestAWatchWithoutAKeyThatMayBeReadLaterEndsWhenThatIsRead(t *testing.T) {
	s, server := start3(t)
	put(t, s, "/app/x", "1")
	user(t, s, "u", "p", [2]string{"/app/", "/app0"}, [2]string{"/other/", "/other0"})
	enable(t, s)
	root := open(t, kvclient.Config{Endpoints: []string{server.URL}, Username: "root", Password: "r"})
	u := open(t, kvclient.Config{Endpoints: []string{server.URL}, Username: "u", Password: "p"})
	watch := func(from kv.Index, only ...string) kv.Watch {
		t.Helper()
		w, err := u.Watch(t.Context(), kv.WatchFrom{Index: from + 1, Only: only})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Close)
		return w
	}
	next := func(w kv.Watch) (kv.Event, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		return w.Next(ctx)
	}
	_, before := read(t, u, "/app", "/other")
	partial, other := watch(before.Index, "/app"), watch(before.Index, "/other")
	if _, err := root.raw(t).RoleGrantPermission(t.Context(), "u", "/app", "", clientv3.PermissionType(clientv3.PermRead)); err != nil {
		t.Fatal(err)
	}
	_, after := read(t, u, "/app", "/other")
	if event, err := next(partial); !kv.Is(err, kv.HistoryGone) {
		t.Errorf("the watch without the key brings %+v, %v", event, err)
	}
	whole := watch(after.Index, "/app")
	put(t, root, "/app", "2")
	if event, err := next(whole); err != nil || event.Node.Value != "2" {
		t.Errorf("the next one brings %+v, %v", event, err)
	}
	put(t, root, "/other/x", "2")
	if event, err := next(other); err != nil || event.Node.Value != "2" {
		t.Errorf("one without a key that may not be read yet brings %+v, %v", event, err)
	}
	partial.Close()
	other.Close()
	if len(u.partial) > 0 {
		t.Errorf("%d watches are still known", len(u.partial))
	}
}

func TestAnEtcdIsReadOverTLSByAUserWhosePasswordChanges(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs")
	ca, err := certs.Init(dir, "mine", time.Now())
	other, err2 := certs.Init(filepath.Join(dir, "other"), "other", time.Now())
	if err = cmp.Or(err, err2); err != nil {
		t.Fatal(err)
	}
	issue := func(ca *certs.CA, r certs.Request) {
		t.Helper()
		if _, err := ca.Issue(r, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	issue(ca, certs.Request{Kind: certs.Peer, Name: "n1", Hosts: []string{"127.0.0.1"}})
	issue(ca, certs.Request{Kind: certs.Client, Name: "u"})
	issue(other, certs.Request{Kind: certs.Client, Name: "u"})
	in := func(name string) string { return filepath.Join(dir, name) }
	server := etcdtest.StartTLS(t, tlsconfig.Files{Cert: in("peer-n1.crt"), Key: in("peer-n1.key"), CA: in("ca.crt")})
	cfg := kvclient.Config{
		Endpoints: []string{server.URL}, CAFile: in("ca.crt"), CertFile: in("client-u.crt"), KeyFile: in("client-u.key"), RequestTimeout: 2 * time.Second,
	}
	s := open(t, cfg)
	put(t, s, "/a/x", "1")
	user(t, s, "u", "before", [2]string{"/a", "/a0"})
	enable(t, s)
	asRoot := cfg
	asRoot.Username, asRoot.Password = "root", "r"
	root := open(t, asRoot)

	cfg.Username, cfg.PasswordFile = "u", in("password")
	password := func(text string) {
		t.Helper()
		if err := os.WriteFile(cfg.PasswordFile, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	password("before")
	for _, c := range []struct {
		want  string
		spoil func(*kvclient.Config)
	}{
		{"no authority that is trusted here", func(c *kvclient.Config) { c.CAFile = in("other/ca.crt") }},
		{"refuses the certificate", func(c *kvclient.Config) { c.CertFile, c.KeyFile = in("other/client-u.crt"), in("other/client-u.key") }},
		{"refuses the certificate", func(c *kvclient.Config) { c.CertFile, c.KeyFile = "", "" }},
		{"https", func(c *kvclient.Config) {
			*c = kvclient.Config{Endpoints: []string{strings.TrimPrefix(server.URL, "https://")}, RequestTimeout: c.RequestTimeout}
		}},
	} {
		bad := cfg
		c.spoil(&bad)
		store := open(t, bad)
		for deadline := time.Now().Add(20 * time.Second); ; { // a busy etcd may take longer than one request to refuse
			_, err := store.Read(t.Context(), kv.Read{Only: []string{"/a"}})
			if err != nil && strings.Contains(err.Error(), c.want) {
				break
			}
			if err == nil || time.Now().After(deadline) {
				t.Fatalf("%v, and not %s", err, c.want)
			}
		}
	}
	u := open(t, cfg)
	if got, _ := read(t, u, "/a"); got != "/a/x=1 " {
		t.Errorf("u reads %s", got)
	}
	if _, err := root.raw(t).UserChangePassword(t.Context(), "u", "after"); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Read(t.Context(), kv.Read{Only: []string{"/a"}}); !kv.Is(err, kv.Denied) {
		t.Errorf("with the password before: %v", err)
	}
	password("after")
	got, result := read(t, u, "/a")
	w, err := u.Watch(t.Context(), kv.WatchFrom{Index: result.Index + 1, Only: []string{"/a"}})
	if got != "/a/x=1 " || err != nil {
		t.Fatalf("with the new password: %s, %v", got, err)
	}
	defer w.Close()
	put(t, root, "/a/x", "2")
	if event, err := w.Next(t.Context()); err != nil || event.Node.Value != "2" {
		t.Errorf("the watch brings %+v, %v", event, err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestSettingsThatCannotBeAreRefused(t *testing.T) {
	for want, cfg := range map[string]kvclient.Config{
		"is not http or https": {Endpoints: []string{"ftp://a:1"}},
		"no host with a port":  {Endpoints: []string{"http://"}},
		"password file":        {PasswordFile: "/none"},
		"both its certificate": {CertFile: "/none"},
		"/none":                {CAFile: "/none"},
	} {
		if s, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, %v", cfg, s, err)
		}
	}
	for endpoint, want := range map[string]string{"a": "a:2379", "a:1": "a:1", "https://a:1/": "a:1", "http://[::1]": "[::1]:2379", "10.0.0.1": "10.0.0.1:2379"} {
		if got, _, err := hostOf(endpoint); err != nil || got != want {
			t.Errorf("%s is %s, %v; want %s", endpoint, got, err, want)
		}
	}
}
