package moves

import (
	"strings"
	"testing"

	"github.com/kvd-io/kvd/pkg/kv"
)

// TestTheJudgeKnowsWhoMustNotTouchWhat gives the judge histories with one thing that must not happen.
func TestTheJudgeKnowsWhoMustNotTouchWhat(t *testing.T) {
	const key, lease = "/services/web/the-one", kv.LeaseID(7)
	node := func(index kv.Index, value string) *kv.Node {
		return &kv.Node{Key: key, Value: value, ModifiedIndex: index}
	}
	create := func(index kv.Index, value string) kv.Event {
		return kv.Event{Action: kv.ActionCreate, Node: node(index, value)}
	}
	change := func(action kv.Action, index kv.Index, value, old string) kv.Event {
		return kv.Event{Action: action, Node: node(index, value), PrevNode: node(index-1, old)}
	}
	leased := func(e kv.Event) kv.Event {
		e.PrevNode.Lease = lease
		return e
	}
	by := func(host string, action kv.Action, index kv.Index) write {
		return write{host: host, key: key, action: action, index: index, what: "PUT"}
	}
	for _, c := range []struct {
		name   string
		events []kv.Event
		writes []write
		want   string // part of the only violation, "" for none
	}{
		{"a life", []kv.Event{create(2, "h1"), change(kv.ActionCompareAndSwap, 3, "h1 again", "h1"), change(kv.ActionCompareAndDelete, 4, "", "h1 again"), create(5, "h2")},
			[]write{by("h1", kv.ActionCreate, 2), by("h1", kv.ActionCompareAndSwap, 3), by("h1", kv.ActionCompareAndDelete, 4), by("h2", kv.ActionCreate, 5)}, ""},
		{"an expiry", []kv.Event{create(2, "h1"), change(kv.ActionExpire, 3, "", "h1"), create(4, "h2")}, []write{by("h1", kv.ActionCreate, 2), by("h2", kv.ActionCreate, 4)}, ""},
		{"its own lease", []kv.Event{create(2, "h1"), leased(change(kv.ActionDelete, 3, "", "h1"))}, []write{by("h1", kv.ActionCreate, 2)}, ""},
		{"the other's lease", []kv.Event{create(2, "h2"), leased(change(kv.ActionDelete, 3, "", "h2"))}, []write{by("h2", kv.ActionCreate, 2)}, "delete of h1"},
		{"a wrong delete", []kv.Event{create(2, "h1"), change(kv.ActionDelete, 3, "", "h1")}, []write{by("h1", kv.ActionCreate, 2), by("h2", kv.ActionDelete, 3)}, "delete of h2"},
		{"an overwrite", []kv.Event{create(2, "h1"), change(kv.ActionSet, 3, "h2", "h1")}, []write{by("h1", kv.ActionCreate, 2), by("h2", kv.ActionSet, 3)}, "set of h2"},
		{"a wrong renewal", []kv.Event{create(2, "h1")}, []write{by("h1", kv.ActionCreate, 2), by("h2", kv.ActionCompareAndSwap, 3)}, "h2 has renewed"},
		{"a false name", []kv.Event{create(2, "h1")}, []write{by("h2", kv.ActionCreate, 2)}, "has written as h1"},
		{"a stranger", []kv.Event{create(2, "h1")}, nil, "nobody has done"},
		{"a gap of the watch", []kv.Event{create(2, "h1"), change(kv.ActionDelete, 4, "", "h1 again")}, []write{by("h1", kv.ActionCreate, 2), by("h1", kv.ActionDelete, 4)}, "the watch had told"},
	} {
		t.Run(c.name, func(t *testing.T) {
			one := &link{host: "h1", writes: c.writes, leases: map[string]bool{lease.String(): true}}
			got, _ := judge(c.events, []*link{one, {host: "h2"}}, []string{key}, func(value string) string { return strings.Fields(value + " -")[0] })
			switch {
			case c.want == "" && len(got) > 0, c.want != "" && (len(got) != 1 || !strings.Contains(got[0], c.want)):
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
