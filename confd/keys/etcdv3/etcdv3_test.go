package etcdv3

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/kvclient/etcdtest"
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

func TestManyKeysAreReadAtOneRevision(t *testing.T) {
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
	for _, want := range []string{"set /a/x 1", "set /a 2", "delete /a/x ", "expire /a/leased "} {
		event, err := w.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%s %s %s", event.Action, event.Node.Key, event.Node.Value); got != want || event.Node.ModifiedIndex <= result.Index {
			t.Errorf("%q at %d, want %q", got, event.Node.ModifiedIndex, want)
		}
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

func TestUsersMayReadWhatTheyMay(t *testing.T) {
	s, server := start3(t)
	put(t, s, "/open/x", "1")
	ctx := t.Context()
	auth := s.raw(t).Auth
	for _, err := range []error{
		second(auth.UserAdd(ctx, "root", "r")), second(auth.UserGrantRole(ctx, "root", "root")),
		second(auth.RoleAdd(ctx, "reader")), second(auth.RoleGrantPermission(ctx, "reader", "/open", "/open0", clientv3.PermissionType(clientv3.PermRead))),
		second(auth.UserAdd(ctx, "u", "p")), second(auth.UserGrantRole(ctx, "u", "reader")), second(auth.AuthEnable(ctx)),
	} {
		if err != nil && !strings.Contains(err.Error(), "role name already exists") {
			t.Fatal(err)
		}
	}
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
