package store

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
)

// step is a write and its outcome as render shows it.
type step struct {
	write kv.Write
	want  string
}

// Every story begins with a fresh store, whose first change is number 2.
var stories = []struct {
	name  string
	steps []step
}{
	{"set makes a key, then replaces it and restarts createdIndex", []step{
		{set("/a", "1"), "set /a=1 {2,2} @2 new"},
		{set("/a", "2"), "set /a=2 {3,3} <- /a=1 {2,2} @3"},
		{set("/a", ""), "set /a {4,4} <- /a=2 {3,3} @4"},
	}},
	{"set makes the directories above", []step{
		{set("/a/b/c", "1"), "set /a/b/c=1 {2,2} @2 new"},
		{set("/a", "1"), "not a file (/a) @2"},
		{set("/a/b", "1"), "not a file (/a/b) @2"},
	}},
	{"set below a value fails and changes nothing", []step{
		{set("/a", "1"), "set /a=1 {2,2} @2 new"},
		{set("/a/b", "1"), "not a directory (/a) @2"},
		{set("/a/b/c/d", "1"), "not a directory (/a) @2"},
		{set("/c", "1"), "set /c=1 {3,3} @3 new"},
	}},
	{"set of a directory makes it, takes a value's place, never a directory's", []step{
		{asDir(set("/d", "ignored")), "set /d/ {2,2} @2 new"},
		{asDir(set("/d", "")), "not a file (/d) @2"},
		{set("/f", "1"), "set /f=1 {3,3} @3 new"},
		{asDir(set("/f", "")), "set /f/ {4,4} <- /f=1 {3,3} @4"},
		{set("/f/g", "1"), "set /f/g=1 {5,5} @5 new"},
	}},
	{"set does not compare", []step{
		{set("/a", "1"), "set /a=1 {2,2} @2 new"},
		{kv.Write{Op: kv.OpSet, Key: "/a", Value: "2", PrevValue: "x", PrevIndex: 99}, "set /a=2 {3,3} <- /a=1 {2,2} @3"},
	}},
	{"create makes only what is absent", []step{
		{create("/a", "1"), "create /a=1 {2,2} @2 new"},
		{create("/a", "2"), "key already exists (/a) @2"},
		{create("/a/b", "2"), "not a directory (/a) @2"},
		{create("/d/e", "1"), "create /d/e=1 {3,3} @3 new"},
		{create("/d", "1"), "key already exists (/d) @3"},
		{asDir(create("/d", "")), "key already exists (/d) @3"},
		{asDir(create("/n", "")), "create /n/ {4,4} @4 new"},
	}},
	{"create does not know refresh or comparison", []step{
		{kv.Write{Op: kv.OpCreate, Key: "/a", Value: "1", Refresh: true, PrevValue: "x", PrevIndex: 9}, "create /a=1 {2,2} @2 new"},
	}},
	{"create in order names children by index", []step{
		{post("/q", "1"), "create /q/00000000000000000002=1 {2,2} @2 new"},
		{set("/other", ""), "set /other {3,3} @3 new"},
		{post("/q", "2"), "create /q/00000000000000000004=2 {4,4} @4 new"},
		{asDir(post("/q", "")), "create /q/00000000000000000005/ {5,5} @5 new"},
		{post("/deep/er", "3"), "create /deep/er/00000000000000000006=3 {6,6} @6 new"},
		{post("/other", "x"), "not a directory (/other) @6"},
		{post("/other/x", "x"), "not a directory (/other) @6"},
	}},
	{"create in order works on the root", []step{
		{post("", "1"), "create /00000000000000000002=1 {2,2} @2 new"},
	}},
	{"create in order meets a name that is taken", []step{
		{set("/q/00000000000000000003", "squatter"), "set /q/00000000000000000003=squatter {2,2} @2 new"},
		{post("/q", "1"), "key already exists (/q/00000000000000000003) @2"},
		{asDir(post("/q", "1")), "key already exists (/q/00000000000000000003) @2"},
		{set("/x", ""), "set /x {3,3} @3 new"},
		{post("/q", "1"), "create /q/00000000000000000004=1 {4,4} @4 new"},
		{asDir(set("/q/00000000000000000006", "")), "set /q/00000000000000000006/ {5,5} @5 new"},
		{post("/q", "1"), "key already exists (/q/00000000000000000006) @5"},
	}},
	{"update keeps createdIndex and takes the value as given", []step{
		{update("/a/b", "1"), "key not found (/a) @1"},
		{set("/a/b", "1"), "set /a/b=1 {2,2} @2 new"},
		{update("/a/x/y", "1"), "key not found (/a/x) @2"},
		{update("/a/b/c", "1"), "not a directory (/a/b) @2"},
		{update("/a/b", "2"), "update /a/b=2 {2,3} <- /a/b=1 {2,2} @3"},
		{update("/a/b", ""), "update /a/b {2,4} <- /a/b=2 {2,3} @4"},
		{asDir(update("/a/b", "3")), "update /a/b=3 {2,5} <- /a/b {2,4} @5"},
	}},
	{"update of a directory sets its TTL but not its own modifiedIndex", []step{
		{set("/d/f", "1"), "set /d/f=1 {2,2} @2 new"},
		{lasting(5*time.Second, asDir(update("/d", ""))), "update /d/ {2,3} ttl 5 until 5s <- /d/ {2,2} @3"},
		{lasting(9*time.Second, update("/d", "")), "update /d/ {2,4} ttl 9 until 9s <- /d/ {2,2} ttl 5 until 5s @4"},
		{update("/d", "value"), "not a file (/d) @4"},
		{refresh(5*time.Second, update("/d", "")), "not a file (/d) @4"},
		{update("/d", ""), "update /d/ {2,5} <- /d/ {2,2} ttl 9 until 9s @5"},
	}},
	{"compare-and-swap swaps only what it expects", []step{
		{cas("/a/b", "2", "1", 0), "key not found (/a) @1"},
		{set("/a/b", "1"), "set /a/b=1 {2,2} @2 new"},
		{cas("/a/b", "2", "x", 0), "compare failed ([x != 1]) @2"},
		{cas("/a/b", "2", "", 7), "compare failed ([7 != 2]) @2"},
		{cas("/a/b", "2", "x", 7), "compare failed ([x != 1] [7 != 2]) @2"},
		{cas("/a/b", "2", "1", 7), "compare failed ([7 != 2]) @2"},
		{cas("/a/b", "2", "x", 2), "compare failed ([x != 1]) @2"},
		{cas("/a/b", "2", "1", 2), "compareAndSwap /a/b=2 {2,3} <- /a/b=1 {2,2} @3"},
		{cas("/a/b", "3", "2", 0), "compareAndSwap /a/b=3 {2,4} <- /a/b=2 {2,3} @4"},
		{cas("/a/b", "", "", 4), "compareAndSwap /a/b {2,5} <- /a/b=3 {2,4} @5"},
		{asDir(cas("/a/b", "4", "", 5)), "compareAndSwap /a/b=4 {2,6} <- /a/b {2,5} @6"},
		{cas("/a", "x", "wrong", 99), "not a file (/a) @6"},
		{cas("/a/b/c", "x", "wrong", 99), "not a directory (/a/b) @6"},
		{cas("/a/c/d", "x", "wrong", 99), "key not found (/a/c) @6"},
	}},
	{"delete takes a value away", []step{
		{remove("/a/b"), "key not found (/a) @1"},
		{set("/a/b", "1"), "set /a/b=1 {2,2} @2 new"},
		{remove("/a/c"), "key not found (/a/c) @2"},
		{remove("/a/b/c"), "not a directory (/a/b) @2"},
		{update("/a/b", "2"), "update /a/b=2 {2,3} <- /a/b=1 {2,2} @3"},
		{remove("/a/b"), "delete /a/b {2,4} <- /a/b=2 {2,3} @4"},
		{remove("/a/b"), "key not found (/a/b) @4"},
	}},
	{"delete is as strict with directories as asked", []step{
		{set("/d/e/f", "1"), "set /d/e/f=1 {2,2} @2 new"},
		{remove("/d"), "not a file (/d) @2"},
		{asDir(remove("/d")), "directory not empty (/d) @2"},
		{asDir(remove("/d/e/f")), "delete /d/e/f {2,3} <- /d/e/f=1 {2,2} @3"},
		{remove("/d/e"), "not a file (/d/e) @3"},
		{asDir(remove("/d/e")), "delete /d/e/ {2,4} <- /d/e/ {2,2} @4"},
		{set("/d/e/f", "1"), "set /d/e/f=1 {5,5} @5 new"},
		{rmr("/d"), "delete /d/ {2,6} <- /d/ {2,2} @6"},
		{set("/d", "a file now"), "set /d=a file now {7,7} @7 new"},
		{rmr("/d"), "delete /d {7,8} <- /d=a file now {7,7} @8"},
	}},
	{"a directory with only hidden children is not empty", []step{
		{set("/d/_h", "1"), "set /d/_h=1 {2,2} @2 new"},
		{asDir(remove("/d")), "directory not empty (/d) @2"},
	}},
	{"compare-and-delete deletes only what it expects, and no directory", []step{
		{cad("/a", "1", 0), "key not found (/a) @1"},
		{set("/a", "1"), "set /a=1 {2,2} @2 new"},
		{cad("/a", "2", 0), "compare failed ([2 != 1]) @2"},
		{cad("/a", "2", 3), "compare failed ([2 != 1] [3 != 2]) @2"},
		{cad("/a/b", "2", 3), "not a directory (/a) @2"},
		{cad("/a", "1", 2), "compareAndDelete /a {2,3} <- /a=1 {2,2} @3"},
		{set("/d/f", "1"), "set /d/f=1 {4,4} @4 new"},
		{cad("/d", "1", 4), "not a file (/d) @4"},
		{kv.Write{Op: kv.OpCompareAndDelete, Key: "/d", PrevIndex: 4, Dir: true, Recursive: true}, "not a file (/d) @4"},
	}},
	{"the root is read only", []step{
		{set("", "1"), "root is read only (/) @1"},
		{asDir(set("", "")), "root is read only (/) @1"},
		{create("", "1"), "root is read only (/) @1"},
		{update("", ""), "root is read only (/) @1"},
		{refresh(time.Second, update("", "")), "root is read only (/) @1"},
		{cas("", "1", "2", 3), "root is read only (/) @1"},
		{remove(""), "root is read only (/) @1"},
		{asDir(remove("")), "root is read only (/) @1"},
		{rmr(""), "root is read only (/) @1"},
		{cad("", "1", 0), "not a file () @1"},
	}},
	{"a refresh keeps the value and moves the deadline and modifiedIndex", []step{
		{refresh(5*time.Second, set("/a/b", "")), "key not found (/a) @1"},
		{lasting(5*time.Second, set("/a/b", "1")), "set /a/b=1 {2,2} ttl 5 until 5s @2 new"},
		{refresh(8*time.Second, update("/a/b", "")), "update /a/b=1 {2,3} ttl 8 until 8s <- /a/b=1 {2,2} ttl 5 until 5s @3"},
		{refresh(9*time.Second, cas("/a/b", "", "1", 0)), "compareAndSwap /a/b=1 {2,4} ttl 9 until 9s <- /a/b=1 {2,3} ttl 8 until 8s @4"},
		{refresh(9*time.Second, cas("/a/b", "", "", 3)), "compare failed ([3 != 4]) @4"},
		{refresh(7*time.Second, set("/a/b", "")), "set /a/b=1 {5,5} ttl 7 until 7s <- /a/b=1 {2,4} ttl 9 until 9s @5"},
		{refresh(7*time.Second, set("/a/c", "")), "key not found (/a/c) @5"},
		{refresh(7*time.Second, update("/a/c", "")), "key not found (/a/c) @5"},
		{refresh(7*time.Second, cas("/a/c", "", "1", 0)), "key not found (/a/c) @5"},
		{refresh(7*time.Second, set("/a/b/c", "")), "not a directory (/a/b) @5"},
		{refresh(7*time.Second, set("/a", "")), "not a file (/a) @5"},
		{refresh(7*time.Second, cas("/a", "", "1", 0)), "not a file (/a) @5"},
	}},
	{"a refresh gives a permanent key a TTL", []step{
		{set("/a", "1"), "set /a=1 {2,2} @2 new"},
		{refresh(8*time.Second, update("/a", "")), "update /a=1 {2,3} ttl 8 until 8s <- /a=1 {2,2} @3"},
	}},
	{"a write without a TTL makes a key permanent", []step{
		{lasting(5*time.Second, set("/a", "1")), "set /a=1 {2,2} ttl 5 until 5s @2 new"},
		{update("/a", "2"), "update /a=2 {2,3} <- /a=1 {2,2} ttl 5 until 5s @3"},
		{lasting(5*time.Second, update("/a", "3")), "update /a=3 {2,4} ttl 5 until 5s <- /a=2 {2,3} @4"},
		{cas("/a", "4", "3", 0), "compareAndSwap /a=4 {2,5} <- /a=3 {2,4} ttl 5 until 5s @5"},
		{lasting(5*time.Second, cas("/a", "5", "4", 0)), "compareAndSwap /a=5 {2,6} ttl 5 until 5s <- /a=4 {2,5} @6"},
		{set("/a", "6"), "set /a=6 {7,7} <- /a=5 {2,6} ttl 5 until 5s @7"},
	}},
	{"a TTL is rounded up to seconds in the answer", []step{
		{lasting(1, set("/a", "")), "set /a {2,2} ttl 1 until 1ns @2 new"},
		{lasting(time.Second, set("/a", "")), "set /a {3,3} ttl 1 until 1s <- /a {2,2} ttl 1 until 1ns @3"},
		{lasting(time.Second+1, set("/a", "")), "set /a {4,4} ttl 2 until 1.000000001s <- /a {3,3} ttl 1 until 1s @4"},
	}},
	{"ttl=0 is a TTL that is due: an expiration and no ttl", []step{
		{lasting(kv.TTLDue, set("/a", "1")), "set /a=1 {2,2} until 0s @2 new"},
		{lasting(kv.TTLDue, asDir(set("/d", ""))), "set /d/ {3,3} until 0s @3 new"},
	}},
	{"what is not clean is refused by every operation", []step{
		{set("/a/", "1"), `invalid request (key "/a/" is not clean) @1`},
		{create("a", "1"), `invalid request (key "a" is not clean) @1`},
		{post("/", "1"), `invalid request (key "/" is not clean) @1`},
		{update("//a", "1"), `invalid request (key "//a" is not clean) @1`},
		{cas("/a/../b", "1", "", 1), `invalid request (key "/a/../b" is not clean) @1`},
		{remove("/./a"), `invalid request (key "/./a" is not clean) @1`},
		{cad("/a/.", "1", 0), `invalid request (key "/a/." is not clean) @1`},
	}},
	{"keys are bytes", []step{
		{set("/é\x00\xff %2F", "\xfe\n"), "set /é\x00\xff %2F=\xfe\n {2,2} @2 new"},
		{set("/...", "1"), "set /...=1 {3,3} @3 new"},
		{cas("/é\x00\xff %2F", "1", "\xfe", 0), "compare failed ([\xfe != \xfe\n]) @3"},
	}},
}

func TestEveryOperationAnswersAsTheV2APIDoes(t *testing.T) {
	for _, story := range stories {
		t.Run(story.name, func(t *testing.T) {
			r := newReplica(t)
			for i, s := range story.steps {
				before, sum := r.Index(), r.Sum()
				got := r.do(s.write)
				if got != s.want {
					t.Fatalf("step %d, %v %s:\n got %s\nwant %s", i+1, s.write.Op, s.write.Key, got, s.want)
				}
				if after := r.Index(); after == before && r.Sum() != sum {
					t.Errorf("step %d failed and yet changed the state", i+1)
				}
				if err := audit(r.Machine); err != nil {
					t.Fatalf("after step %d: %v", i+1, err)
				}
			}
		})
	}
}

func TestAnErrorNamesOperationAndKey(t *testing.T) {
	r := newReplica(t)
	err := r.apply(update("/a/b", "1"))[0].Err
	want := &kv.Error{Op: "update", Key: "/a/b", Kind: kv.NotFound, Cause: "/a", Index: 1}
	if !reflect.DeepEqual(err, want) {
		t.Errorf("got %#v, want %#v", err, want)
	}
	_, err = r.Read(kv.Read{Key: "/a/b"}, 0)
	want.Op = "get"
	if !reflect.DeepEqual(err, want) {
		t.Errorf("got %#v, want %#v", err, want)
	}
}

func TestCommandsOfABatchAreIndependent(t *testing.T) {
	r := newReplica(t)
	got := []string{}
	for _, res := range r.apply(create("/a", "1"), create("/a", "2"), command.Tick{}, cas("/a", "3", "1", 2), remove("/none")) {
		if res.Event.Node == nil && res.Err == nil {
			got = append(got, fmt.Sprint("@", res.Index))
			continue
		}
		got = append(got, render(res.Result, res.Err))
	}
	want := []string{"create /a=1 {2,2} @2 new", "key already exists (/a) @2", "@2", "compareAndSwap /a=3 {2,3} <- /a=1 {2,2} @3", "key not found (/none) @3"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

func TestEventsAreWhatTheWriterWasToldExceptRefreshesAndImpliedDirectories(t *testing.T) {
	r := newReplica(t)
	want := []string{}
	for _, w := range []kv.Write{
		lasting(time.Hour, set("/a/b/c", "1")), update("/a/b/c", "2"), cas("/a/b/c", "3", "2", 0), create("/x", ""),
		asDir(create("/d", "")), lasting(time.Hour, update("/d", "")), post("/q", "v"), cad("/a/b/c", "3", 0), rmr("/a"), remove("/x"),
	} {
		res := r.apply(w)[0]
		if res.Err != nil {
			t.Fatal(res.Err)
		}
		want = append(want, renderEvent(res.Event))
		r.apply(refresh(time.Hour, set("/x", ""))) // fails or not, nobody is to see it
	}
	if got := r.seen(); !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if events, index := r.TakeEvents(); len(events) != 0 || index != r.Index() {
		t.Errorf("taken twice: %v at %d", events, index)
	}
}

func TestMembersAreReplacedByIDAndListedInItsOrder(t *testing.T) {
	r := newReplica(t)
	r.apply(command.Member{ID: 9, Name: "nine"}, command.Member{ID: 2, Name: "two", PeerURLs: []string{"http://p"}, Voter: true})
	r.apply(command.Member{ID: 9, Name: "neuf", ClientURLs: []string{"http://c"}})
	want := []command.Member{{ID: 2, Name: "two", PeerURLs: []string{"http://p"}, Voter: true}, {ID: 9, Name: "neuf", ClientURLs: []string{"http://c"}}}
	if got := r.Members(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if r.Index() != firstRevision {
		t.Errorf("a member took index %d", r.Index())
	}
}

func TestEntriesOutOfOrderStopTheMember(t *testing.T) {
	for name, entry := range map[string]struct {
		index uint64
		body  command.Body
	}{
		"an entry again":     {5, command.Tick{}},
		"an entry of before": {4, command.Tick{}},
		"an unknown command": {6, "surprise"},
	} {
		t.Run(name, func(t *testing.T) {
			m := New(0)
			m.Apply(5, 3, &command.Batch{})
			if index, term := m.Applied(); index != 5 || term != 3 {
				t.Fatalf("applied %d in term %d", index, term)
			}
			defer func() {
				if recover() == nil {
					t.Error("the machine went on")
				}
			}()
			m.Apply(entry.index, 3, &command.Batch{Commands: []command.Command{{Body: entry.body}}})
		})
	}
}
