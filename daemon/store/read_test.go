package store

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

func TestListingsShowOneLevelOrAllInKeyOrderWithoutTheHidden(t *testing.T) {
	r := newReplica(t)
	for _, key := range []string{"/a/b", "/a-b", "/a.b", "/a0", "/a/b-/x", "/a/_h/x", "/_h/a", "/_h/_i", "/d/_only", "/a/a/a/a"} {
		r.apply(set(key, "")) // indices 2 to 11
	}
	r.apply(asDir(create("/empty", "")))
	for _, c := range []struct {
		key, oneLevel, all string
	}{
		{"", "get / {0,0} (/a/ {2,2}, /a-b {3,3}, /a.b {4,4}, /a0 {5,5}, /d/ {10,10}, /empty/ {12,12}) @12",
			"get / {0,0} (/a/ {2,2} (/a/a/ {11,11} (/a/a/a/ {11,11} (/a/a/a/a {11,11})), /a/b {2,2}, /a/b-/ {6,6} (/a/b-/x {6,6})), " +
				"/a-b {3,3}, /a.b {4,4}, /a0 {5,5}, /d/ {10,10}, /empty/ {12,12}) @12"},
		{"/a", "get /a/ {2,2} (/a/a/ {11,11}, /a/b {2,2}, /a/b-/ {6,6}) @12",
			"get /a/ {2,2} (/a/a/ {11,11} (/a/a/a/ {11,11} (/a/a/a/a {11,11})), /a/b {2,2}, /a/b-/ {6,6} (/a/b-/x {6,6})) @12"},
		{"/_h", "get /_h/ {8,8} (/_h/a {8,8}) @12", "get /_h/ {8,8} (/_h/a {8,8}) @12"},
		{"/a/_h", "get /a/_h/ {7,7} (/a/_h/x {7,7}) @12", "get /a/_h/ {7,7} (/a/_h/x {7,7}) @12"},
		{"/_h/_i", "get /_h/_i {9,9} @12", "get /_h/_i {9,9} @12"},
		{"/d", "get /d/ {10,10} @12", "get /d/ {10,10} @12"},
		{"/empty", "get /empty/ {12,12} @12", "get /empty/ {12,12} @12"},
		{"/a/b/c", "not a directory (/a/b) @12", "not a directory (/a/b) @12"},
		{"/x/y", "key not found (/x) @12", "key not found (/x) @12"},
		{"/a/x", "key not found (/a/x) @12", "key not found (/a/x) @12"},
		{"//a/../empty/.", "get /empty/ {12,12} @12", "get /empty/ {12,12} @12"},
		{"/../a-b/", "get /a-b {3,3} @12", "get /a-b {3,3} @12"},
	} {
		if got := r.get(c.key, false); got != c.oneLevel {
			t.Errorf("%q\n got %s\nwant %s", c.key, got, c.oneLevel)
		}
		if got := r.get(c.key, true); got != c.all {
			t.Errorf("%q, recursive\n got %s\nwant %s", c.key, got, c.all)
		}
	}
}

func TestAnEmptyStoreIsAnEmptyRootAtIndexOne(t *testing.T) {
	if got := newReplica(t).get("", true); got != "get / {0,0} @1" {
		t.Error(got)
	}
}

func TestLongListingsEqualShortOnes(t *testing.T) {
	for _, children := range []int{shortListing - 1, shortListing, shortListing + 1, 3 * shortListing} {
		r := newReplica(t)
		var want []string
		for i := range children {
			key := fmt.Sprintf("/d/%04d", i*7%children)
			if i%3 == 0 {
				key += "/below"
			}
			r.apply(set(key, ""))
		}
		for i := range children {
			want = append(want, fmt.Sprintf("/d/%04d", i))
		}
		res, err := r.Read(kv.Read{Key: "/d"}, 0)
		if err != nil || res.Index != r.Index() {
			t.Fatalf("%d children: %v at %d", children, err, res.Index)
		}
		var got []string
		for _, n := range res.Node.Nodes {
			got = append(got, n.Key)
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%d children: got %v", children, got)
		}
	}
}

func TestAReadingStaysAsItWasWhileTheStoreGoesOn(t *testing.T) {
	r := newReplica(t)
	r.apply(lasting(time.Minute, set("/a/b", "1")), set("/a/c", "1"))
	want := r.get("/a", true)
	res, _ := r.Read(kv.Read{Key: "/a", Recursive: true}, 0)
	r.apply(set("/a/b", "2"), remove("/a/c"), rmr("/a"))
	if got := render(res, nil); got != want {
		t.Errorf("the answer became %s, it was %s", got, want)
	}
	if got := r.get("/a", true); got != "key not found (/a) @6" {
		t.Error(got)
	}
}

func TestTTLCountsDownOnTheLaterOfTheReadersAndTheReplicatedClock(t *testing.T) {
	r := newReplica(t)
	r.now = 10 * time.Second
	r.apply(lasting(5*time.Second, set("/a", "1")))
	for _, c := range []struct {
		now  time.Duration
		want string
	}{
		{0, " ttl 5 until 15s"},
		{10*time.Second + 1, " ttl 5 until 15s"},
		{11 * time.Second, " ttl 4 until 15s"},
		{14*time.Second + 999999999, " ttl 1 until 15s"},
		{15 * time.Second, " until 15s"},
		{1 << 62, " until 15s"},
	} {
		r.now = c.now
		if got := r.get("/a", false); got != "get /a=1 {2,2}"+c.want+" @2" {
			t.Errorf("at %v: %s", c.now, got)
		}
		if got := r.get("", true); got != "get / {0,0} (/a=1 {2,2}"+c.want+") @2" {
			t.Errorf("at %v: %s", c.now, got)
		}
	}
}

func TestADirectoryKeepsItsIndicesWhateverHappensBelow(t *testing.T) {
	r := newReplica(t)
	r.apply(set("/d/e/f", "1"), set("/d/e/g", "1"), update("/d/e/f", "2"), remove("/d/e/f"), remove("/d/e/g"))
	if got := r.get("/d", true); got != "get /d/ {2,2} (/d/e/ {2,2}) @6" {
		t.Error(got)
	}
}

func TestRecursiveRemovalTakesNothingBesideTheDirectory(t *testing.T) {
	r := newReplica(t)
	beside := []string{"/a-b", "/a.b", "/a0", "/a/b", "/ab", "/a!", "/A"}
	for _, key := range append([]string{"/a/x/y", "/a/x/_z/u", "/a/x-"}, beside...) {
		r.apply(set(key, ""))
	}
	r.TakeEvents()
	r.apply(rmr("/a/x"))
	if got := r.seen(); !slices.Equal(got, []string{"delete /a/x/ {2,12} <- /a/x/ {2,2}"}) {
		t.Errorf("events %q", got)
	}
	for _, key := range append(beside, "/a/x-") {
		if got := r.get(key, false); !strings.HasPrefix(got, "get "+key+" ") {
			t.Errorf("%s: %s", key, got)
		}
	}
	for _, key := range []string{"/a/x", "/a/x/_z", "/a/x/_z/u", "/a/x/y"} {
		if got := r.get(key, false); got != "key not found (/a/x) @12" {
			t.Errorf("%s: %s", key, got)
		}
	}
}
