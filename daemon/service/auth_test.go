package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kv/kvtest"
)

func ranges(patterns string) []kv.KeyRange {
	var list []kv.KeyRange
	for _, p := range strings.Fields(patterns) {
		list = append(list, kv.PatternRange(p))
	}
	return list
}

// propose changes access control as the member itself.
func propose(t *testing.T, s *Service, body command.Body) {
	t.Helper()
	result, err := s.log.Propose(t.Context(), command.Command{Body: body})
	if err := errors.Join(err, result.Err); err != nil {
		t.Fatal(err)
	}
}

// guard turns access control on, with a user "u" who may read and write what the patterns say, and
// nobody else but root.
func guard(t *testing.T, s *Service, read, write string) *Session {
	t.Helper()
	propose(t, s, command.AuthUser{Op: Create, Name: "root", Hash: "-"})
	propose(t, s, command.AuthRole{Op: Create, Name: "guest"})
	propose(t, s, command.AuthRole{Op: Create, Name: "r", Rights: Rights{Read: ranges(read), Write: ranges(write)}})
	propose(t, s, command.AuthUser{Op: Create, Name: "u", Hash: "-", Roles: []string{"r"}})
	propose(t, s, command.AuthEnable{Enabled: true})
	return &Session{service: s, user: "u"}
}

func TestASessionWithoutAccessControlIsAStore(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) kv.Store {
		s, _ := open()
		lead(t, s)
		session, err := s.Open(t.Context(), Credentials{Given: true, User: "whoever"})
		if err != nil {
			t.Fatal(err)
		}
		return session
	})
}

func TestASessionOfRootIsAStore(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) kv.Store {
		s, _ := open()
		lead(t, s)
		guard(t, s, "", "")
		return &Session{service: s, user: "root"}
	})
}

func TestOpeningCostsNothingWhileAccessControlIsOff(t *testing.T) {
	s, _ := open()
	c := Credentials{Source: "127.0.0.1:1"}
	if n := testing.AllocsPerRun(100, func() { s.Open(context.Background(), c) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestWhatMayNotBeReadIsNotShownInPassing(t *testing.T) {
	s, _ := open()
	for _, key := range []string{"/both", "/blind", "/d/seen", "/d/unseen", "/d/sub/x"} {
		write(t, s, set(key, "secret", 0))
	}
	u := guard(t, s, "/both /d /d/seen /d/sub/", "/both /blind /both2")
	ctx := t.Context()
	for _, c := range []struct {
		w    kv.Write
		want string // what of the answer shows "secret", or the cause of a refusal
	}{
		{set("/both", "new", 0), "prev"},
		{set("/both", "secret", 0), "node"},
		{set("/blind", "x", 0), ""},
		{set("/blind", "secret", 0), "node"}, // which the writer has sent
		{kv.Write{Op: kv.OpUpdate, Key: "/both", Refresh: true, TTL: time.Hour}, "node prev"},
		{kv.Write{Op: kv.OpUpdate, Key: "/blind", Refresh: true, TTL: time.Hour}, ""},
		{kv.Write{Op: kv.OpCompareAndSwap, Key: "/both", PrevValue: "guess", Value: "x"}, "cause [guess != secret]"},
		{kv.Write{Op: kv.OpCompareAndSwap, Key: "/blind", PrevValue: "guess", Value: "x"}, "cause "},
		{kv.Write{Op: kv.OpCompareAndDelete, Key: "/blind", PrevValue: "guess", PrevIndex: 9}, "cause "},
		{kv.Write{Op: kv.OpDelete, Key: "/blind"}, ""},
		{kv.Write{Op: kv.OpDelete, Key: "/both"}, "prev"},
	} {
		result, err := u.Write(ctx, c.w)
		var shown []string
		if result.Node != nil && result.Node.Value == "secret" {
			shown = append(shown, "node")
		}
		if result.PrevNode != nil && result.PrevNode.Value == "secret" {
			shown = append(shown, "prev")
		}
		got := strings.Join(shown, " ")
		if e, ok := err.(*kv.Error); ok {
			got = "cause " + e.Cause
		}
		if got != c.want {
			t.Errorf("%+v shows %q, want %q (%v)", c.w, got, c.want, err)
		}
	}
	result, err := u.Read(ctx, kv.Read{Key: "/d"})
	if err != nil || len(result.Node.Nodes) != 2 || result.Node.Nodes[0].Key != "/d/seen" || result.Node.Nodes[1].Key != "/d/sub" {
		t.Errorf("the listing is %+v, %v", result.Node, err)
	}
	if whole, err := s.Read(ctx, kv.Read{Key: "/d"}); err != nil || len(whole.Node.Nodes) != 3 {
		t.Errorf("the store's own listing has become %+v, %v", whole.Node, err)
	}
}

func TestSeveralKeysNeedARightEach(t *testing.T) {
	s, _ := open()
	for _, key := range []string{"/a/x", "/b/x", "/c", "/d/_h/x"} {
		write(t, s, set(key, "secret", 0))
	}
	u := guard(t, s, "/a /a/* /c/ /d/_h /d/_h/*", "")
	for _, c := range []struct {
		only    []string
		allowed bool
	}{
		{[]string{"/a"}, true}, {[]string{"/a", "/d/_h"}, true}, {[]string{"/d/_h/x", "/a/x"}, true},
		{[]string{"/a", "/b"}, false}, {[]string{"/a/x", "/b/x"}, false}, {[]string{"/d"}, false}, {[]string{""}, false},
		{[]string{"/a", "/c/"}, false}, // which is a value
		{[]string{"/a", "/none"}, false},
	} {
		result, err := u.Read(t.Context(), kv.Read{Recursive: true, Only: c.only})
		if allowed := err == nil; allowed != c.allowed || !allowed && !kv.Is(err, kv.Denied) {
			t.Errorf("%q: %+v, %v", c.only, result, err)
		}
		w, err := u.Watch(t.Context(), kv.WatchFrom{Recursive: true, Only: c.only})
		if allowed := err == nil; allowed != c.allowed && c.only[1] != "/c/" {
			t.Errorf("%q watched: %v", c.only, err)
		}
		if err == nil {
			w.Close()
		}
	}
}

func TestAWatchOfSeveralKeysEndsWithTheRightToOneOfThem(t *testing.T) {
	s, _ := open()
	u := guard(t, s, "/a /a/* /b /b/*", "")
	w, err := u.Watch(t.Context(), kv.WatchFrom{Recursive: true, Only: []string{"/a", "/b"}})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	write(t, s, set("/b/x", "1", 0))
	if event, err := w.Next(t.Context()); err != nil || event.Node.Key != "/b/x" {
		t.Fatalf("%+v, %v", event, err)
	}
	propose(t, s, command.AuthRole{Op: Update, Name: "r", Revoke: Rights{Read: ranges("/b")}})
	if _, err := w.Next(t.Context()); !kv.Is(err, kv.Denied) || !strings.Contains(err.Error(), "/b") {
		t.Errorf("after that it brings %v", err)
	}
}

func TestADirectoryInThePlaceOfAValueDoesNotShowTheValue(t *testing.T) {
	s, _ := open()
	u := guard(t, s, "/p/* /p/_h", "")
	w, err := u.Watch(t.Context(), kv.WatchFrom{Recursive: true, Only: []string{"/p/", "/p/_h"}})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	write(t, s, set("/p", "secret", 0))
	write(t, s, kv.Write{Op: kv.OpSet, Key: "/p", Dir: true})
	if event, err := w.Next(t.Context()); err != nil || !event.Node.Dir || event.PrevNode != nil {
		t.Errorf("%+v before %+v, %v", event.Node, event.PrevNode, err)
	}
}

func TestASlashReadsADirectoryAndNoValue(t *testing.T) {
	s, _ := open()
	write(t, s, set("/file", "secret", 0))
	write(t, s, set("/dir/a", "1", 0))
	u := guard(t, s, "/file/* /dir/*", "")
	for _, c := range []struct {
		read kv.Read
		want kv.Kind // Internal for success
	}{
		{kv.Read{Key: "/dir/"}, kv.Internal},
		{kv.Read{Key: "/dir/", Recursive: true}, kv.Internal},
		{kv.Read{Key: "/dir/", Quorum: true}, kv.Internal},
		{kv.Read{Key: "/dir"}, kv.Denied},
		{kv.Read{Key: "/file/"}, kv.Denied},
		{kv.Read{Key: "/file/", Recursive: true}, kv.Denied},
		{kv.Read{Key: "/file/", Quorum: true}, kv.Denied},
		{kv.Read{Key: "/file"}, kv.Denied},
		{kv.Read{Key: "/"}, kv.Denied},
		{kv.Read{Key: "/dir/../file/"}, kv.Denied},
		{kv.Read{Key: "/dir/none"}, kv.NotFound},
	} {
		if _, err := u.Read(t.Context(), c.read); kv.KindOf(err) != c.want || (err == nil) != (c.want == kv.Internal) {
			t.Errorf("%+v: %v, want %v", c.read, err, c.want)
		}
	}
}

func TestAWatchThatLosesItsRightEndsAtOnce(t *testing.T) {
	revoke := command.AuthUser{Op: Update, Name: "u", Revoke: []string{"r"}}
	for name, c := range map[string]struct {
		before func(*testing.T, *Service) *Session
		change command.Body
	}{
		"revoked":  {func(t *testing.T, s *Service) *Session { return guard(t, s, "/a", "") }, revoke},
		"deleted":  {func(t *testing.T, s *Service) *Session { return guard(t, s, "/a", "") }, command.AuthUser{Op: Delete, Name: "u"}},
		"narrowed": {func(t *testing.T, s *Service) *Session { return guard(t, s, "/a", "") }, command.AuthRole{Op: Update, Name: "r", Revoke: Rights{Read: ranges("/a")}}},
		"enabled": {func(t *testing.T, s *Service) *Session {
			session := guard(t, s, "/a", "")
			propose(t, s, command.AuthEnable{})
			session.user = ""
			return session
		}, command.AuthEnable{Enabled: true}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, log := open()
				session := c.before(t, s)
				idle, err := session.Watch(t.Context(), kv.WatchFrom{Key: "/a"})
				if err != nil {
					t.Fatal(err)
				}
				other, err := (&Session{service: s, user: "root"}).Watch(t.Context(), kv.WatchFrom{Key: "/a"})
				if err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				go func() { _, err := idle.Next(context.Background()); ended <- err }()
				synctest.Wait()
				propose(t, s, c.change)
				synctest.Wait()
				select {
				case err := <-ended:
					if !kv.Is(err, kv.Denied) {
						t.Errorf("it ended with %v", err)
					}
				default:
					t.Fatal("it goes on")
				}
				if _, err := session.Watch(t.Context(), kv.WatchFrom{Key: "/a"}); !kv.Is(err, kv.Denied) {
					t.Errorf("watching again: %v", err)
				}
				write(t, s, set("/a", "1", 0))
				if e, err := other.Next(t.Context()); err != nil || e.Node.Value != "1" {
					t.Errorf("root's watch: %+v, %v", e, err)
				}
				other.Close()
				if n := len(log.state.guards.watches); n != 0 {
					t.Errorf("%d watches are still guarded", n)
				}
			})
		})
	}
}

func TestAnEventBehindTheRevocationInTheSameEntryIsNotDelivered(t *testing.T) {
	s, log := open()
	u := guard(t, s, "/a", "")
	w, err := u.Watch(t.Context(), kv.WatchFrom{Key: "/a"})
	if err != nil {
		t.Fatal(err)
	}
	log.index++
	log.state.Apply(log.index, 3, &command.Batch{Level: command.Level, Commands: []command.Command{
		{Body: command.AuthUser{Op: Delete, Name: "u"}}, {Body: set("/a", "secret", 0)},
	}})
	log.state.Flush()
	if e, err := w.Next(t.Context()); !kv.Is(err, kv.Denied) {
		t.Errorf("delivered %+v, %v", e.Node, err)
	}
}

func TestAWatchEndsWhenItsUserGetsAnotherPassword(t *testing.T) {
	s, _ := open()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	guard(t, s, "/a", "")
	login := func(password Secret) *Session {
		session, err := s.Authenticate(t.Context(), Credentials{Given: true, User: "u", Password: password})
		if err != nil {
			t.Fatal(err)
		}
		return session
	}
	give := func(password Secret) {
		hash, err := s.logins.hash(t.Context(), password)
		if err != nil {
			t.Fatal(err)
		}
		propose(t, s, command.AuthUser{Op: Update, Name: "u", Hash: hash})
	}
	give("old")
	old, err := login("old").Watch(t.Context(), kv.WatchFrom{Key: "/a"})
	if err != nil {
		t.Fatal(err)
	}
	give("new")
	young, err := login("new").Watch(t.Context(), kv.WatchFrom{Key: "/a"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.Next(ctx); !kv.Is(err, kv.Denied) {
		t.Errorf("with the old password: %v", err)
	}
	propose(t, s, command.AuthUser{Op: Update, Name: "u", Grant: []string{"guest"}}) // is no reason to end it
	write(t, s, set("/a", "1", 0))
	if e, err := young.Next(ctx); err != nil || e.Node.Value != "1" {
		t.Errorf("with the new password: %+v, %v", e, err)
	}
}

func TestAWatchOfADirectoryShowsNoValueAtItsOwnKey(t *testing.T) {
	s, _ := open()
	u := guard(t, s, "/d/*", "")
	w, err := u.Watch(t.Context(), kv.WatchFrom{Key: "/d/", Recursive: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Watch(t.Context(), kv.WatchFrom{Key: "/d", Recursive: true}); !kv.Is(err, kv.Denied) {
		t.Errorf("without a slash: %v", err)
	}
	write(t, s, set("/d", "secret", 0))
	write(t, s, kv.Write{Op: kv.OpSet, Key: "/d", Dir: true})
	write(t, s, set("/d/a", "1", 0))
	var got []string
	for range 2 {
		e, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(e.Node.Key, e.Node.Value, e.PrevNode))
	}
	if fmt.Sprint(got) != "[/d<nil> /d/a1<nil>]" {
		t.Errorf("saw %q", got)
	}
}

func TestALeaseBelongsToWhoeverMayWriteAllThatIsOnIt(t *testing.T) {
	s, _ := open()
	u := guard(t, s, "/own/*", "/own/*")
	root := &Session{service: s, user: "root"}
	ctx := t.Context()
	lease, err := u.Grant(ctx, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	attach := func(session *Session, key string) error {
		_, err := session.Write(ctx, kv.Write{Op: kv.OpSet, Key: key, Lease: lease.ID})
		return err
	}
	if err := attach(u, "/own/a"); err != nil {
		t.Fatal(err)
	}
	if _, err := u.KeepAlive(ctx, lease.ID); err != nil {
		t.Error(err)
	}
	if err := attach(root, "/roots"); err != nil {
		t.Fatal(err)
	}
	if seen, err := u.Lease(ctx, lease.ID); err != nil || !slices.Equal(seen.Keys, []string{"/own/a"}) {
		t.Errorf("the keys shown are %v, %v", seen.Keys, err)
	}
	if seen, err := root.Lease(ctx, lease.ID); err != nil || len(seen.Keys) != 2 {
		t.Errorf("root sees %v, %v", seen.Keys, err)
	}
	_, alive := u.KeepAlive(ctx, lease.ID)
	_, revoked := u.Revoke(ctx, lease.ID)
	for what, err := range map[string]error{"keep-alive": alive, "revoke": revoked, "attach": attach(u, "/own/b")} {
		if !kv.Is(err, kv.Denied) {
			t.Errorf("%s with another's key on it: %v", what, err)
		}
	}
	if _, err := root.Revoke(ctx, lease.ID); err != nil {
		t.Error(err)
	}
	nobody := &Session{service: s}
	if _, err := nobody.Grant(ctx, time.Minute); !kv.Is(err, kv.Denied) {
		t.Errorf("a lease for whoever may write nothing: %v", err)
	}
}

const canary = "c4nary-p4ssword"

// withPasswords turns access control on through sessions, with the passwords of root and u, and
// returns the log.
func withPasswords(t *testing.T) (*Service, *bytes.Buffer) {
	s, _ := open()
	s.logins.cost = bcrypt.MinCost
	var log bytes.Buffer
	s.audit.log = slog.New(slog.NewTextHandler(&log, nil))
	admin, err := s.Authenticate(t.Context(), Credentials{Source: "192.0.2.1:5"})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"root", "u"} {
		if _, created, err := admin.ChangeUser(t.Context(), UserChange{Op: Put, Name: name, Password: canary + Secret(name)}); err != nil || !created {
			t.Fatal(created, err)
		}
	}
	if err := admin.EnableAuth(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	return s, &log
}

func TestPasswordsLetInAndNothingElseDoes(t *testing.T) {
	s, log := withPasswords(t)
	ctx := t.Context()
	right := Credentials{Given: true, User: "u", Password: canary + "u", Source: "192.0.2.7:1"}
	login := func(change func(*Credentials)) error {
		c := right
		change(&c)
		_, err := s.Open(ctx, c)
		return err
	}
	for range 2 { // the second time it is recognised
		if err := login(func(*Credentials) {}); err != nil {
			t.Fatal(err)
		}
	}
	for name, change := range map[string]func(*Credentials){
		"another password":     func(c *Credentials) { c.Password += "x" },
		"no password":          func(c *Credentials) { c.Password = "" },
		"another's password":   func(c *Credentials) { c.User = "root" },
		"nobody's name":        func(c *Credentials) { c.User = "nobody" },
		"nothing that is read": func(c *Credentials) { *c = Credentials{Given: true} },
	} {
		if err := login(change); !kv.Is(err, kv.Denied) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What was right is wrong once the password has changed, and the other way round.
	root := &Session{service: s, user: "root"}
	if _, _, err := root.ChangeUser(ctx, UserChange{Op: Update, Name: "u", Password: canary + "new"}); err != nil {
		t.Fatal(err)
	}
	if err := login(func(*Credentials) {}); !kv.Is(err, kv.Denied) {
		t.Errorf("the old password: %v", err)
	}
	if err := login(func(c *Credentials) { c.Password = canary + "new" }); err != nil {
		t.Errorf("the new password: %v", err)
	}
	if _, _, err := root.ChangeUser(ctx, UserChange{Op: Update, Name: "u", Password: Secret(strings.Repeat("p", 73))}); !kv.Is(err, kv.Invalid) {
		t.Errorf("a password of 73 bytes: %v", err)
	}
	if strings.Contains(log.String(), canary) {
		t.Errorf("a password is in the log:\n%s", log)
	}
	for _, want := range []string{`what=enable user="" source=192.0.2.1:5`, `what="update user" user=root`, `access denied`, `operation="log in"`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %s:\n%s", want, log)
		}
	}
}

func TestGuessingEndsForItsOriginAlone(t *testing.T) {
	s, _ := withPasswords(t)
	now := time.Unix(1_000_000, 0)
	s.logins.now = func() time.Time { return now }
	try := func(source, user string, password Secret) error {
		_, err := s.Open(t.Context(), Credentials{Given: true, User: user, Password: password, Source: source})
		return err
	}
	for range int(failuresOfUser.burst) {
		if err := try("192.0.2.7:1", "u", "guess"); !kv.Is(err, kv.Denied) {
			t.Fatal(err)
		}
	}
	if err := try("192.0.2.7:2", "u", canary+"u"); !kv.Is(err, kv.Denied) {
		t.Errorf("the right password after %v wrong ones: %v", failuresOfUser.burst, err)
	}
	if err := try("192.0.2.8:1", "u", canary+"u"); err != nil {
		t.Errorf("from another address: %v", err)
	}
	if err := try("192.0.2.7:3", "u", canary+"u"); err != nil {
		t.Errorf("a password that was right elsewhere needs no guessing: %v", err)
	}
	if err := try("192.0.2.7:4", "root", canary+"root"); err != nil {
		t.Errorf("another user from the same address: %v", err)
	}
	for i := range 2 * originsMax {
		s.logins.mu.Lock()
		s.logins.noteFailure(origin{host: hostOf(fmt.Sprintf("10.0.%d.%d:1", i/256, i%256))}, failuresOfHost)
		s.logins.mu.Unlock()
	}
	if n := len(s.logins.failed); n > originsMax {
		t.Errorf("%d origins are remembered", n)
	}
}

func TestOneMachineOfIPv6IsOneOrigin(t *testing.T) {
	if hostOf("[2001:db8::1]:5") != hostOf("[2001:db8::2:3]:6") || hostOf("[2001:db8::1]:5") == hostOf("[2001:db8:1::1]:5") {
		t.Error("the first half of the address is not what counts")
	}
	if hostOf("192.0.2.1:5") != hostOf("[::ffff:192.0.2.1]:7") || hostOf("192.0.2.1:5") == hostOf("192.0.2.2:5") {
		t.Error("addresses of IPv4 do not count one by one")
	}
}

func TestAFullQueueOfLoginsRefusesAndSaysSo(t *testing.T) {
	s, _ := withPasswords(t)
	for range cap(s.logins.queue) {
		s.logins.queue <- struct{}{}
	}
	_, err := s.Open(t.Context(), Credentials{Given: true, User: "u", Password: canary + "u"})
	if !kv.Is(err, kv.Unavailable) {
		t.Errorf("got %v", err)
	}
}

func TestDenialsDoNotFloodTheLog(t *testing.T) {
	var log bytes.Buffer
	now := time.Unix(1_000_000, 0)
	a := newAudit(slog.New(slog.NewTextHandler(&log, nil)), func() time.Time { return now })
	for range 1000 {
		a.denied("get", strings.Repeat("k", 5000), "u", "192.0.2.1:1", "no right")
	}
	if lines := strings.Count(log.String(), "\n"); lines != int(denialsLogged.burst) || log.Len() > 20_000 {
		t.Errorf("%d lines of %d bytes", lines, log.Len())
	}
	now = now.Add(time.Minute)
	log.Reset()
	a.denied("get", "/k", "u", "192.0.2.1:1", "no right")
	if !strings.Contains(log.String(), "unlogged=980") {
		t.Errorf("it does not tell how many were left out: %s", log.String())
	}
}

func TestWhoeverIsNotRootCannotChangeAccessControl(t *testing.T) {
	s, _ := open()
	u := guard(t, s, "/*", "/*")
	ctx := t.Context()
	before := s.state.machine.Auth()
	_, _, user := u.ChangeUser(ctx, UserChange{Op: Update, Name: "u", Grant: []string{"root"}})
	_, role := u.ChangeRole(ctx, RoleChange{Op: Create, Name: "mine"})
	_, list := u.Auth()
	_, _, leases := u.Leases(ctx, 0)
	for what, err := range map[string]error{"user": user, "role": role, "enable": u.EnableAuth(ctx, false), "list": list, "leases": leases} {
		if !kv.Is(err, kv.Denied) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if s.state.machine.Auth() != before || u.Administrator() {
		t.Error("something has changed")
	}
	if s.OpenToAll() || !s.AuthEnabled() {
		t.Error("the store is said to be open")
	}
}

func TestAFullStoreTakesRightsAwayAndGivesNone(t *testing.T) {
	s, _, _ := openBounded(64 << 10)
	guard(t, s, "/a", "/a")
	root := &Session{service: s, user: "root"}
	fillUp(t, s)
	ctx := t.Context()
	for what, c := range map[string]struct {
		change UserChange
		full   bool
	}{
		"a new user": {UserChange{Op: Put, Name: "new", Password: "pw"}, true},
		"a grant":    {UserChange{Op: Update, Name: "u", Grant: []string{"more"}}, true},
		"a password": {UserChange{Op: Put, Name: "u", Password: "pw"}, false},
	} {
		if _, _, err := root.ChangeUser(ctx, c.change); kv.Is(err, kv.NoSpace) != c.full || (err == nil) == c.full {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := root.ChangeRole(ctx, RoleChange{Op: Create, Name: "new"}); !kv.Is(err, kv.NoSpace) {
		t.Errorf("a new role: %v", err)
	}
	if _, err := root.ChangeRole(ctx, RoleChange{Op: Update, Name: "r", Revoke: Rights{Read: ranges("/a")}}); err != nil {
		t.Errorf("a revocation: %v", err)
	}
	if _, _, err := root.ChangeUser(ctx, UserChange{Op: Delete, Name: "u"}); err != nil {
		t.Errorf("a deletion: %v", err)
	}
}

// revoking is a log that brings a change of others to light while it waits for what they have done.
type revoking struct {
	*memoryLog
	change command.Body
}

func (l revoking) ReadBarrier(ctx context.Context) error {
	_, err := l.Propose(ctx, command.Command{Body: l.change})
	return err
}

func (l revoking) WhileLeading(ctx context.Context, do func() error) error {
	if err := l.ReadBarrier(ctx); err != nil {
		return err
	}
	return do()
}

func TestALeaseIsNotKeptAliveByARightThatOthersHadTaken(t *testing.T) {
	s, log := open()
	u := guard(t, s, "", "/own/*")
	lease, err := u.Grant(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	s.log = revoking{log, command.AuthUser{Op: Update, Name: "u", Revoke: []string{"r"}}}
	if _, err := u.KeepAlive(t.Context(), lease.ID); !kv.Is(err, kv.Denied) {
		t.Errorf("got %v", err)
	}
}

func TestALongChangeOfAccessControlIsAShortLine(t *testing.T) {
	s, _, told := openBounded(0)
	var roles []string
	for i := range 100_000 {
		roles = append(roles, fmt.Sprint("role", i))
	}
	if _, _, err := s.anybody.ChangeUser(t.Context(), UserChange{Op: Create, Name: strings.Repeat("n", 1000), Password: "pw", Roles: roles}); !kv.Is(err, kv.Invalid) {
		t.Errorf("got %v", err)
	}
	if told.Len() == 0 || told.Len() > 2000 {
		t.Errorf("%d bytes: %.200s", told.Len(), told)
	}
}
