package httpv2

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"weak"

	"github.com/kvd-io/kvd/pkg/kv"
)

// listed is the answer to the reading of a directory with so many children.
func listed(children int, value string) kv.Event {
	node := &kv.Node{Key: "/d", Dir: true, ModifiedIndex: 4, CreatedIndex: 4}
	for i := range children {
		node.Nodes = append(node.Nodes, &kv.Node{Key: fmt.Sprintf("/d/%05d", i), Value: value, ModifiedIndex: 5, CreatedIndex: 5})
	}
	return kv.Event{Action: kv.ActionGet, Node: node}
}

func TestAListingIsKeptRenderedFromTheSecondTimeOn(t *testing.T) {
	var r renderings
	a, b := listed(longListing, "a"), listed(longListing, "b")
	for _, event := range []kv.Event{a, b} {
		if r.of(event) != nil {
			t.Error("a listing is rendered for ever that nobody may ask for again")
		}
	}
	for _, event := range []kv.Event{a, b, a} {
		if got := r.of(event); string(got) != string(render(nil, event)) {
			t.Errorf("the listing reads %.60q", got)
		}
	}
	if first, again := r.of(a), r.of(a); &first[0] != &again[0] {
		t.Error("the same listing is rendered again")
	}
	equal := *a.Node
	if r.of(kv.Event{Action: kv.ActionGet, Node: &equal}) != nil {
		t.Error("an equal listing is taken for the same one")
	}
}

func TestOnlyLongListingsAreKeptRendered(t *testing.T) {
	var r renderings
	removed := listed(longListing, "v")
	removed.Action = kv.ActionDelete
	for range 3 {
		for _, event := range []kv.Event{{Action: kv.ActionGet}, listed(longListing-1, "v"), removed} {
			if r.of(event) != nil {
				t.Errorf("%s of %v is kept", event.Action, event.Node)
			}
		}
	}
	if len(r.lines) != 0 {
		t.Errorf("%d are noted", len(r.lines))
	}
}

func TestRenderedListingsAreBounded(t *testing.T) {
	var r renderings
	value := strings.Repeat("v", 4<<10)
	for range 200 {
		event := listed(longListing, value)
		r.of(event)
		r.of(event)
		kept := 0
		for _, line := range r.lines {
			kept += noteBytes + len(line)
		}
		if r.bytes > renderedBytes || kept > renderedBytes {
			t.Fatalf("%d bytes are kept, %d are counted, at most %d should be", kept, r.bytes, renderedBytes)
		}
	}
	huge := listed(2*longListing, strings.Repeat("v", renderedBytes/longListing))
	for range 2 {
		r.of(huge)
	}
	if r.lines[weak.Make(huge.Node)] != nil {
		t.Error("a listing is kept that is larger than all together may be")
	}
}

// A tree that is read recursively is a new node for each reading, and may be most of the store.
func TestAListingThatTheStoreHasLetGoIsNotHeld(t *testing.T) {
	var r renderings
	var known []weak.Pointer[kv.Node]
	for readings := range 3 {
		event := listed(longListing, "v")
		for range readings + 1 {
			r.of(event)
		}
		known = append(known, weak.Make(event.Node))
	}
	runtime.GC()
	for i, node := range known {
		if node.Value() != nil {
			t.Errorf("a listing is held after it was read %d times", i+1)
		}
	}
	if len(r.lines) != len(known) {
		t.Errorf("%d listings are known, want %d", len(r.lines), len(known))
	}
}

func TestListingsAreRenderedSideBySide(t *testing.T) {
	var r renderings
	events := []kv.Event{listed(longListing, "a"), listed(longListing, "b"), listed(longListing, "c")}
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for n := range 200 {
				event := events[(i+n)%len(events)]
				if got := r.of(event); got != nil && string(got) != string(render(nil, event)) {
					t.Errorf("the listing of %s reads %.60q", event.Node.Nodes[0].Value, got)
					return
				}
			}
		})
	}
	group.Wait()
}
