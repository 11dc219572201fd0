package registry

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

// remains are what earlier runs of a standing owner have left in the store.
type remains struct {
	found      []remnant
	index      kv.Index   // of the store when the first of it was read
	lease      kv.LeaseID // that most of this owner's own keys are attached to; 0: none
	unreadable []string   // why views could not be looked at
}

// remnant is one key that an earlier run has left.
type remnant struct {
	view View
	node *kv.Node
}

// lookForRemains reads all views. An error says that the store does not answer.
func (p *Publisher) lookForRemains(ctx context.Context, desired map[string]*placed) (left remains, err error) {
	var all []remnant
	for _, view := range p.cfg.Views {
		result, err := p.cfg.Store.Read(ctx, kv.Read{Key: view.Prefix, Recursive: true, Quorum: true})
		switch {
		case kv.Is(err, kv.NotFound):
		case err != nil && isOutage(err):
			return left, err
		case err != nil:
			left.unreadable = append(left.unreadable, fmt.Sprintf("%s: %v", view.Prefix, err))
		default:
			if left.index == 0 {
				left.index = result.Index
			}
			all = append(all, records(view, result.Node)...)
		}
	}
	leases, ours := map[kv.LeaseID]bool{}, map[kv.LeaseID]int{}
	for _, r := range all {
		owner := r.view.ownerOf(r.node)
		wanted := desired[r.node.Key]
		same := !r.view.namesOwner() && wanted != nil && wanted.value == r.node.Value
		if sameProgram(owner, p.cfg.Owner) || same {
			leases[r.node.Lease] = true
		}
		if owner == p.cfg.Owner || same {
			ours[r.node.Lease]++
		}
	}
	delete(leases, 0)
	delete(ours, 0)
	for lease, keys := range ours {
		if most := ours[left.lease]; keys > most || keys == most && lease > left.lease {
			left.lease = lease
		}
	}
	for _, r := range all {
		if sameProgram(r.view.ownerOf(r.node), p.cfg.Owner) || !r.view.namesOwner() && leases[r.node.Lease] {
			left.found = append(left.found, r)
		}
	}
	return left, nil
}

// records returns the keys two levels below the directory of a view.
func records(view View, dir *kv.Node) (found []remnant) {
	for _, service := range dir.Nodes {
		for _, node := range service.Nodes {
			if !node.Dir {
				found = append(found, remnant{view, node})
			}
		}
	}
	return found
}

// inherit notes what earlier runs have left. What is desired is carried on with; the rest stays for
// as long as it would have without this run, or until a sweep.
func (p *Publisher) inherit(left remains) {
	for _, r := range left.found {
		key := r.node.Key
		e := p.entries[key]
		if e == nil {
			e = p.newEntry(key, r.view)
			e.leftover, e.due = true, time.Now().Add(p.cfg.TTL)
			p.agenda.put(e)
		}
		if e.busy || e.known.index != 0 {
			continue
		}
		e.known = holding{value: r.node.Value, index: r.node.ModifiedIndex, lease: r.node.Lease, seen: left.index}
	}
}

// entriesBelow calls do for the entries that go with key, itself or a directory.
func (p *Publisher) entriesBelow(key string, do func(*entry)) {
	if e := p.entries[key]; e != nil {
		do(e)
		return
	}
	for _, view := range p.cfg.Views {
		inside, below := strings.CutPrefix(key, view.Prefix+"/")
		if below && strings.Contains(inside, "/") {
			return // a key of somebody else's: no directory of ours lies so deep
		}
	}
	for other, e := range p.entries {
		if kv.Below(other, key) {
			do(e)
		}
	}
}
