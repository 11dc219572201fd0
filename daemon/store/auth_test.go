package store

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
)

func ranges(patterns ...string) []kv.KeyRange {
	list := []kv.KeyRange{}
	for _, p := range patterns {
		list = append(list, kv.PatternRange(p))
	}
	return list
}

func patterns(list []kv.KeyRange) string {
	words := []string{}
	for _, r := range list {
		p, _ := r.Pattern()
		words = append(words, p)
	}
	return strings.Join(words, " ")
}

func newUser(name, hash string, roles ...string) command.AuthUser {
	return command.AuthUser{Op: command.AuthCreate, Name: name, Hash: command.Secret(hash), Roles: roles}
}

func newRole(name string, rights command.Rights) command.AuthRole {
	return command.AuthRole{Op: command.AuthCreate, Name: name, Rights: rights}
}

// guarded returns a replica with access control on: root, and a user "u" with these rights.
func guarded(t *testing.T, read, write []kv.KeyRange) *replica {
	r := newReplica(t)
	for _, result := range r.apply(newUser("root", "h"), newRole("r", command.Rights{Read: read, Write: write}), newUser("u", "h", "r"), command.AuthEnable{Enabled: true}) {
		if result.Err != nil {
			t.Fatal(result.Err)
		}
	}
	return r
}

// as executes a command in somebody's name.
func (r *replica) as(user string, asDir bool, body command.Body) error {
	r.index++
	batch := &command.Batch{Level: command.Level, Clock: int64(r.now), WallOffset: wallOffset,
		Commands: []command.Command{{User: user, AuthRevision: r.Auth().Revision, AsDir: asDir, Body: body}}}
	return r.Apply(r.index, 7, batch)[0].Err
}

func TestChangesOfAccessControlSayWhatEtcdSays(t *testing.T) {
	r := newReplica(t)
	user := func(op command.AuthOp, name, hash string, roles, grant, revoke []string) command.AuthUser {
		return command.AuthUser{Op: op, Name: name, Hash: command.Secret(hash), Roles: roles, Grant: grant, Revoke: revoke}
	}
	role := func(op command.AuthOp, name string, rights, grant, revoke command.Rights) command.AuthRole {
		return command.AuthRole{Op: op, Name: name, Rights: rights, Grant: grant, Revoke: revoke}
	}
	names := func(names ...string) []string { return append([]string{}, names...) }
	var none command.Rights
	reads := func(patterns ...string) command.Rights { return command.Rights{Read: ranges(patterns...)} }
	writes := func(patterns ...string) command.Rights { return command.Rights{Write: ranges(patterns...)} }
	const create, update, put, del = command.AuthCreate, command.AuthUpdate, command.AuthPut, command.AuthDelete
	for i, c := range []struct {
		body command.Body
		want string
	}{
		{command.AuthEnable{Enabled: true}, "compare failed: No root user available, please create one"},
		{command.AuthEnable{}, "compare failed: already disabled"},
		{user(put, "u", "", nil, nil, nil), "invalid request: Cannot create user u with an empty password"},
		{user(put, "u", "h1", nil, nil, nil), "u []string(nil)"},
		{user(create, "u", "h2", nil, nil, nil), "key already exists: User u already exists."},
		{user(put, "u", "h2", nil, nil, nil), "u []string{}"},
		{user(put, "u", "", nil, nil, nil), "invalid request: User not updated. Use grant/revoke/password to update the user."},
		{user(create, "v", "h", names("r2", "r1"), nil, nil), `v []string{"r2", "r1"}`},
		{user(update, "v", "", nil, names("r0"), nil), `v []string{"r0", "r1", "r2"}`},
		{user(update, "v", "", nil, names("r0"), nil), "key already exists: Granting duplicate role r0 for user v"},
		{user(update, "v", "", nil, nil, names("rx")), "compare failed: Revoking ungranted role rx for user v"},
		{user(update, "v", "", nil, names("a"), names("a")), "invalid request: User not updated. Use grant/revoke/password to update the user."},
		{user(update, "v", "", nil, nil, names("r1", "r0", "r2")), "v []string{}"},
		{user(update, "nob", "", nil, names("a"), nil), "key not found: User nob does not exist."},
		{user(del, "nob", "", nil, nil, nil), "key not found: User nob does not exist"},
		{user(del, "v", "", nil, nil, nil), ""},

		{role(create, "r", none, none, none), "r []kv.KeyRange(nil) []kv.KeyRange(nil)"},
		{role(create, "r", none, none, none), "key already exists: Role r already exists."},
		{role(update, "r", none, none, writes("/z")), "r []kv.KeyRange{} []kv.KeyRange{}"},
		{role(update, "r", none, none, writes("/z")), "invalid request: Role not updated. Use grant/revoke to update the role."},
		{role(create, "s", reads("/b", "/a*", "/a!", "/b"), none, none), "s /b /a* /a! /b []kv.KeyRange(nil)"},
		{role(update, "s", none, reads("/c/*"), none), "s /a! /a* /b /c/* []kv.KeyRange{}"},
		{role(update, "s", none, reads("/c/*"), none), "key already exists: Granting duplicate read permission /c/*"},
		{role(update, "s", none, writes("/c"), reads("/a*", "/none")), "s /a! /b /c/* /c"},
		{role(update, "s", none, writes("/c"), writes("/c")), "key already exists: Granting duplicate write permission /c"},
		{role(update, "no", none, reads("/a"), none), "key not found: Role no does not exist."},
		{role(del, "no", none, none, none), "key not found: Role no doesn't exist."},
		{role(create, "root", none, none, none), "root is read only: Cannot modify role root: is root role."},
		{role(update, "root", none, reads("/a"), none), "root is read only: Cannot modify role root: is root role."},
		{role(del, "root", none, none, none), "root is read only: Cannot modify role root: is root role."},
		{role(del, "r", none, none, none), ""},

		{user(put, "root", "h", nil, nil, nil), `root []string{"root"}`},
		{user(update, "root", "", nil, nil, names("root")), "root []string{}"},
		{user(update, "root", "", nil, names("root"), nil), "key already exists: Granting duplicate role root for user root"},
		{command.AuthEnable{Enabled: true}, ""},
		{command.AuthEnable{Enabled: true}, "compare failed: already enabled"},
		{user(del, "root", "", nil, nil, nil), "root is read only: Cannot delete root user while auth is enabled."},
		{command.AuthEnable{}, ""},
		{user(del, "root", "", nil, nil, nil), ""},
	} {
		before := r.Auth()
		result := r.apply(c.body)[0]
		got := ""
		list := func(l []kv.KeyRange) string {
			if len(l) == 0 {
				return fmt.Sprintf("%#v", l)
			}
			return patterns(l)
		}
		switch changed := result.Changed.(type) {
		case User:
			got = fmt.Sprintf("%s %#v", changed.Name, changed.Roles)
		case Role:
			got = fmt.Sprintf("%s %s %s", changed.Name, list(changed.Read), list(changed.Write))
		}
		if e, ok := result.Err.(*kv.Error); ok {
			got = fmt.Sprintf("%v: %s", e.Kind, e.Cause)
		}
		if got != c.want {
			t.Errorf("step %d, %+v:\n got %s\nwant %s", i, c.body, got, c.want)
		}
		if (result.Err == nil) != (r.Auth().Revision > before.Revision) || result.Err != nil && r.Auth() != before {
			t.Errorf("step %d: the revision went from %d to %d", i, before.Revision, r.Auth().Revision)
		}
		if err := r.Audit(); err != nil {
			t.Errorf("step %d: %v", i, err)
		}
	}
	if got := fmt.Sprint(r.Index()); got != "1" {
		t.Errorf("access control has used up indices: the store is at %s", got)
	}
	if role, ok := r.Auth().Role("guest"); !ok || patterns(role.Read)+patterns(role.Write) != "/*/*" {
		t.Errorf("the role guest after enabling: %+v, %v", role, ok)
	}
}

func TestListsAreByNameAndRootIsAlwaysThere(t *testing.T) {
	r := newReplica(t)
	r.apply(newUser("b", "h"), newUser("a", "h"), newUser("root", "h"), newRole("z", command.Rights{}), newRole("a", command.Rights{}))
	r.apply(command.AuthUser{Op: command.AuthUpdate, Name: "root", Revoke: []string{"root"}})
	var got []string
	for _, u := range r.Auth().Users() {
		got = append(got, u.Name+fmt.Sprint(u.Roles))
	}
	for _, role := range r.Auth().Roles() {
		got = append(got, role.Name)
	}
	if fmt.Sprint(got) != "[a[] b[] root[root] a root z]" {
		t.Errorf("got %v", got)
	}
}

func TestDecideComparesWholeKeys(t *testing.T) {
	for _, c := range []struct {
		patterns string
		need     Need
		want     Verdict
	}{
		{"/foo", Need{Key: "/foo"}, Allowed},
		{"/foo", Need{Key: "/foo/a"}, Denied},
		{"/foo", Need{Key: "/foobar"}, Denied},
		{"/foo", Need{Key: "/foo", AsDir: true}, Allowed},
		{"/foo", Need{Key: "/foo", Below: true}, Denied},
		{"/foo/", Need{Key: "/foo", AsDir: true}, AllowedAsDir},
		{"/foo/", Need{Key: "/foo"}, Denied},
		{"/foo/*", Need{Key: "/foo"}, Denied},
		{"/foo/*", Need{Key: "/foo", AsDir: true}, AllowedAsDir},
		{"/foo/*", Need{Key: "/foo", AsDir: true, Below: true}, AllowedAsDir},
		{"/foo/*", Need{Key: "/foo", Below: true}, Denied},
		{"/foo/*", Need{Key: "/foo/a", Below: true}, Allowed},
		{"/foo/*", Need{Key: "/foo0"}, Denied},
		{"/foo*", Need{Key: "/foo", Below: true}, Allowed},
		{"/foo*", Need{Key: "/foobar"}, Allowed},
		{"/foo/a*", Need{Key: "/foo", AsDir: true, Below: true}, Denied},
		{"/foo /foo/*", Need{Key: "/foo", Below: true}, Allowed},
		{"/foo /foo/a* /foo/*", Need{Key: "/foo", Below: true}, Allowed},
		{"/*", Need{Key: ""}, Allowed},
		{"/*", Need{Key: "", Below: true}, Allowed},
		{"/", Need{Key: ""}, Allowed},
		{"/", Need{Key: "", Below: true}, Denied},
		{"/a*", Need{Key: ""}, Denied},
		{"*", Need{Key: "/a/b", Below: true}, Allowed},
		{"", Need{Key: ""}, Denied},
		{"/a*b", Need{Key: "/axb"}, Denied},
		{"/a*b", Need{Key: "/a*b"}, Allowed},
		{"/\xff*", Need{Key: "/\xff\xff", Below: true}, Allowed},
		{"/a", Need{Key: "/a", Write: true}, Denied},
	} {
		rights := &Rights{read: newSpans(ranges(strings.Fields(c.patterns)...))}
		if got := rights.Decide(c.need); got != c.want {
			t.Errorf("%q, %+v: %v, want %v", c.patterns, c.need, got, c.want)
		}
	}
}

// matches is what the v2 API says that a pattern matches.
func matches(pattern, key string) bool {
	if strings.HasSuffix(pattern, "*") {
		return strings.HasPrefix(key, pattern[:len(pattern)-1])
	}
	return pattern == key
}

func TestDecideAgreesWithMatchingEachKey(t *testing.T) {
	// Every key of up to four letters of a small alphabet, so that "everything below" can be tried.
	letters := []string{"/", "a", "b", "\xff"}
	var keys []string
	var grow func(string)
	grow = func(prefix string) {
		keys = append(keys, prefix)
		if len(prefix) < 5 {
			for _, l := range letters {
				grow(prefix + l)
			}
		}
	}
	grow("/")
	pattern := rapid.Custom(func(t *rapid.T) string {
		p := strings.Join(rapid.SliceOfN(rapid.SampledFrom(letters), 0, 3).Draw(t, "letters"), "")
		return p + rapid.SampledFrom([]string{"", "*"}).Draw(t, "star")
	})
	rapid.Check(t, func(t *rapid.T) {
		held := rapid.SliceOfN(pattern, 0, 5).Draw(t, "patterns")
		rights := &Rights{write: newSpans(ranges(held...))}
		any := func(key string) bool {
			for _, p := range held {
				if matches(p, key) {
					return true
				}
			}
			return false
		}
		n := Need{Write: true, Key: kv.Clean(rapid.SampledFrom(keys).Draw(t, "key")), Below: rapid.Bool().Draw(t, "below"), AsDir: rapid.Bool().Draw(t, "asDir")}
		spelling := n.Key
		if spelling == "" {
			spelling = "/"
		}
		want := Denied
		if any(spelling) {
			want = Allowed
		} else if n.AsDir && any(n.Key+"/") {
			want = AllowedAsDir
		}
		if n.Below && want != Denied {
			// A union of ranges covers the subtree exactly when one prefix does, or all of its keys are named
			// one by one, which no list of patterns can do: between two keys there is always another.
			covered := false
			for _, p := range held {
				covered = covered || strings.HasSuffix(p, "*") && strings.HasPrefix(n.Key+"/", p[:len(p)-1])
			}
			if !covered {
				want = Denied
			}
		}
		if got := rights.Decide(n); got != want {
			t.Fatalf("%q: %+v: %v, want %v", held, n, got, want)
		}
	})
}

func TestPatternsAreRangesAndBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.StringOfN(rapid.SampledFrom([]rune("/ab*")), 0, 5, -1).Draw(t, "pattern") + string(rapid.SampledFrom([]string{"", "*", "\xff*", "\xff", "\x00"}).Draw(t, "end"))
		r := kv.PatternRange(p)
		if got, ok := r.Pattern(); !ok || got != p {
			t.Fatalf("%q became %q, then %q, %v", p, r, got, ok)
		}
		key := rapid.StringOfN(rapid.SampledFrom([]rune("/ab*")), 0, 6, -1).Draw(t, "key")
		if got := newSpans([]kv.KeyRange{r}).contain(key); got != matches(p, key) {
			t.Fatalf("pattern %q, key %q: %v", p, key, got)
		}
	})
	if p, ok := (kv.KeyRange{From: "/a", To: "/c"}).Pattern(); ok {
		t.Errorf("/a to /c is said to be %q", p)
	}
}

func TestSpansHoldNothingThatTheirRangesDoNot(t *testing.T) {
	end := rapid.StringOfN(rapid.SampledFrom([]rune("ab")), 0, 3, -1)
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) kv.KeyRange {
			return kv.KeyRange{From: end.Draw(t, "from"), To: end.Draw(t, "to")}
		}), 0, 6).Draw(t, "ranges")
		key := rapid.StringOfN(rapid.SampledFrom([]rune("ab")), 0, 4, -1).Draw(t, "key")
		want := false
		for _, r := range list {
			want = want || r.From <= key && (r.To == "" || key < r.To)
		}
		if got := newSpans(list).contain(key); got != want {
			t.Fatalf("%q in %q: %v, want %v", key, list, got, want)
		}
	})
}

func TestACommandIsJudgedWhereItStandsInTheLog(t *testing.T) {
	r := guarded(t, nil, ranges("/own/*"))
	if err := r.as("u", false, set("/own/a", "1")); err != nil {
		t.Fatal(err)
	}
	// Proposed while the user had the right, behind the revocation in the same entry.
	revision := r.Auth().Revision
	r.index++
	results := r.Apply(r.index, 7, &command.Batch{Commands: []command.Command{
		{User: "root", AuthRevision: revision, Body: command.AuthUser{Op: command.AuthUpdate, Name: "u", Revoke: []string{"r"}}},
		{User: "u", AuthRevision: revision, Body: set("/own/a", "2")},
		{Body: set("/own/a", "3")}, // a member's own business
	}})
	if results[0].Err != nil || !kv.Is(results[1].Err, kv.Denied) || results[2].Err != nil {
		t.Errorf("%+v", results)
	}
	if e := results[1].Err.(*kv.Error); e.Index != 0 || e.Cause != "Insufficient credentials" {
		t.Errorf("the denial is %+v", e)
	}
}

func TestARequestFromBeforeAccessControlIsTheGuests(t *testing.T) {
	r := newReplica(t)
	revision := r.Auth().Revision
	r.apply(newUser("root", "h"), newRole("guest", command.Rights{Write: ranges("/open/*")}), command.AuthEnable{Enabled: true})
	for key, want := range map[string]bool{"/open/a": true, "/a": false} {
		r.index++
		got := r.Apply(r.index, 7, &command.Batch{Commands: []command.Command{{AuthRevision: revision, Body: set(key, "")}}})[0].Err
		if (got == nil) != want {
			t.Errorf("%s: %v", key, got)
		}
	}
}

func TestWhatAWriteNeedsDependsOnWhatStandsThere(t *testing.T) {
	const slash = true
	for _, c := range []struct {
		rights string
		user   string
		slash  bool
		body   command.Body
		want   bool
	}{
		{"/d/*", "u", slash, asDir(set("/d/new", "")), true},
		{"/new/*", "u", slash, asDir(set("/new", "")), true},
		{"/new/*", "u", !slash, asDir(set("/new", "")), false},
		{"/new/*", "u", slash, set("/new", ""), false},
		{"/f/*", "u", slash, asDir(set("/f", "")), false},                  // would replace a value by a directory
		{"/f/*", "u", slash, rmr("/f"), false},                             // a value, reached by a directory's spelling
		{"/f/*", "u", slash, post("/f", ""), false},                        //
		{"/d/*", "u", slash, post("/d", ""), true},                         //
		{"/q/*", "u", slash, post("/q", ""), true},                         // becomes a directory
		{"/d/*", "u", !slash, post("/d", ""), false},                       //
		{"/d", "u", !slash, post("/d", ""), true},                          //
		{"/d/*", "u", slash, rmr("/d"), true},                              //
		{"/d/*", "u", !slash, rmr("/d"), false},                            //
		{"/d", "u", !slash, rmr("/d"), false},                              // not what is below
		{"/d /d/*", "u", !slash, rmr("/d"), true},                          //
		{"/d/*", "u", slash, remove("/d"), false},                          // says nothing of a directory
		{"/d/*", "u", slash, asDir(remove("/d")), true},                    // which is not empty, but that is the store's answer
		{"/d", "u", !slash, lasting(time.Minute, update("/d", "")), false}, // its end would take all below
		{"/d*", "u", !slash, lasting(time.Minute, update("/d", "")), true},
		{"/d", "u", !slash, update("/d", ""), true}, // for ever
		{"/f", "u", !slash, lasting(time.Minute, update("/f", "")), true},
		{"/t", "u", !slash, lasting(time.Minute, asDir(set("/t", ""))), false},
		{"/t*", "u", !slash, lasting(time.Minute, asDir(set("/t", ""))), true},
		{"/t", "u", !slash, kv.Write{Op: kv.OpSet, Key: "/t", Dir: true, Lease: 1}, false}, // as with a TTL
		{"/*", "u", !slash, set("/f", ""), true},
		{"/*", "nobody", !slash, set("/f", ""), false},
		{"/f", "root", !slash, set("/elsewhere", ""), true},
		{"/*", "u", !slash, newRole("mine", command.Rights{}), false},
		{"/*", "u", !slash, command.AuthEnable{}, false},
		{"/*", "u", !slash, command.Member{ID: 1}, false},
		{"/*", "u", !slash, command.Tick{}, false}, // what no rule permits is denied
		{"/*", "root", !slash, newRole("mine", command.Rights{}), true},
	} {
		r := guarded(t, nil, ranges(strings.Fields(c.rights)...))
		r.apply(set("/f", "value"), set("/d/a", ""))
		err := r.as(c.user, c.slash, c.body)
		if kv.Is(err, kv.Denied) == c.want {
			t.Errorf("%s as %s with %q, slash %v: %v", fmt.Sprintf("%+v", c.body), c.user, c.rights, c.slash, err)
		}
	}
}

func TestUsersAndRolesAreOfBoundedSize(t *testing.T) {
	r := newReplica(t)
	long, longPattern := strings.Repeat("n", nameBytesMax+1), "/"+strings.Repeat("p", patternBytesMax)
	var roles, full []string
	for i := range rolesMax + 1 {
		roles = append(roles, fmt.Sprint("r", i))
	}
	for i := range patternsMax {
		full = append(full, fmt.Sprintf("/%d/*", i))
	}
	reads := func(patterns ...string) command.Rights { return command.Rights{Read: ranges(patterns...)} }
	writes := func(patterns ...string) command.Rights { return command.Rights{Write: ranges(patterns...)} }
	for _, result := range r.apply(newUser("full", "h", roles[1:]...), newRole("full", command.Rights{Read: ranges(full...), Write: ranges(full...)}),
		newUser(long[1:], "h"), newRole(long[1:], reads(longPattern[1:], longPattern[1:]+"*"))) {
		if result.Err != nil {
			t.Fatal(result.Err)
		}
	}
	before := r.Sum()
	for _, body := range []command.Body{
		newUser(long, "h"), newUser("u", "h", long), newUser("u", "h", roles...),
		command.AuthUser{Op: command.AuthUpdate, Name: "full", Grant: roles[:1]},
		command.AuthUser{Op: command.AuthUpdate, Name: "full", Revoke: roles},
		newRole(long, command.Rights{}), newRole("r", reads(longPattern)), newRole("r", writes(longPattern+"*")),
		newRole("r", reads(append(full, "/more")...)), newRole("r", writes(append(full, "/more")...)),
		command.AuthRole{Op: command.AuthUpdate, Name: "full", Grant: reads("/more")},
		command.AuthRole{Op: command.AuthUpdate, Name: "full", Grant: writes("/more")},
		command.AuthRole{Op: command.AuthUpdate, Name: "full", Revoke: writes(append(full, "/more")...)},
	} {
		if err := r.apply(body)[0].Err; !kv.Is(err, kv.Invalid) || len(err.Error()) > 200 {
			t.Errorf("%.60v: %v", body, err)
		}
	}
	if r.Sum() != before {
		t.Error("something has changed")
	}
}

func TestAChangeOfAccessControlGrowsNoMoreThanItSays(t *testing.T) {
	r := newReplica(t)
	long := strings.Repeat("x", 200)
	for _, c := range []struct {
		body  command.Body
		grows bool
	}{
		{newUser("root", "h"), true},
		{newUser("u", "h", "r", long), true},
		{command.AuthUser{Op: command.AuthPut, Name: "put", Hash: "h", Roles: []string{long}}, true},
		{command.AuthUser{Op: command.AuthPut, Name: "put", Hash: "i"}, false},
		{command.AuthUser{Op: command.AuthUpdate, Name: "u", Grant: []string{"s", long + long[:50]}}, true},
		{command.AuthUser{Op: command.AuthUpdate, Name: "u", Revoke: []string{"s", long}}, false},
		{newRole("r", command.Rights{Read: ranges(long, "/a"), Write: ranges(long + "*")}), true},
		{command.AuthRole{Op: command.AuthUpdate, Name: "r", Grant: command.Rights{Read: ranges("/b"), Write: ranges("/b*")}}, true},
		{command.AuthRole{Op: command.AuthUpdate, Name: "r", Revoke: command.Rights{Read: ranges(long)}}, false},
		{command.AuthRole{Op: command.AuthDelete, Name: "r"}, false},
		{command.AuthUser{Op: command.AuthDelete, Name: "u"}, false},
	} {
		says, before := r.Auth().Growth(c.body), r.Bytes()
		if err := r.apply(c.body)[0].Err; err != nil {
			t.Fatalf("%+v: %v", c.body, err)
		}
		if grown := r.Bytes() - before; grown > says || (says > 0) != c.grows || c.grows != (grown > 0) {
			t.Errorf("%.80v: grew by %d, was to grow by %d", c.body, grown, says)
		}
	}
	if err := r.Audit(); err != nil {
		t.Error(err)
	}
}
