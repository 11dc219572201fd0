package nemesis

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kvd-io/kvd/e2e/cluster"
)

// fault is a class of things that go wrong. begin makes it happen and returns what makes it good again.
type fault struct {
	name  string
	alone bool // never beside another one
	begin func(ctx context.Context, n *nemesis) (heal func() error, err error)
}

// faults are all classes.
var faults = []fault{
	{"kill the leader", false, killing(leader)},
	{"kill a follower", false, killing(follower)},
	{"kill two", false, killing(two)},
	{"kill all", false, killing(everybody)},
	{"pause the leader", false, pausing(leader)},
	{"pause a follower", false, pausing(follower)},
	{"pause two", false, pausing(two)},
	{"cut off the leader", false, cutting(around(leader))},
	{"cut off a follower", false, cutting(around(follower))},
	{"cut all links", false, cutting(around(everybody))},
	{"cut one link", false, cutting(oneLink)},
	{"cut in two", false, cutting(halves)},
	{"nobody hears the leader", false, cutting(outward(leader))},
	{"the leader hears nobody", false, cutting(inward(leader))},
	{"nobody hears a follower", false, cutting(outward(follower))},
	{"a follower hears nobody", false, cutting(inward(follower))},
	{"cut the leader off from clients", false, cutting(fromClients(leader))},
	{"cuts that come and go", false, flapping},
	{"slow disk of the leader", false, slowing(leader)},
	{"slow disk of a follower", false, slowing(follower)},
	{"stop and start the leader", false, stopping(leader)},
	{"stop and start a follower", false, stopping(follower)},
	{"hand over the leadership", true, transfer},
	{"roll all members", true, roll},
	{"replace a member", true, replace},
	{"fall behind a snapshot", true, fallBehind},
}

// notFor are classes that a program has no way for. etcd takes a snapshot after 100,000 writes only.
var notFor = map[string][]string{"etcd": {"fall behind a snapshot"}}

// choice picks the members that something happens to.
type choice func(ctx context.Context, n *nemesis) []*cluster.Member

func leader(ctx context.Context, n *nemesis) []*cluster.Member {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second) // beside another fault there may be none
	defer cancel()
	m, err := n.cluster.Leader(ctx)
	if err != nil {
		m = n.anyone()
	}
	return []*cluster.Member{m}
}

func follower(ctx context.Context, n *nemesis) []*cluster.Member {
	others := n.cluster.Others(leader(ctx, n)[0])
	return []*cluster.Member{others[n.random.IntN(len(others))]}
}

func two(_ context.Context, n *nemesis) []*cluster.Member {
	m := n.anyone()
	others := n.cluster.Others(m)
	return []*cluster.Member{m, others[n.random.IntN(len(others))]}
}

func everybody(_ context.Context, n *nemesis) []*cluster.Member { return n.cluster.Members() }

func killing(who choice) func(context.Context, *nemesis) (func() error, error) {
	return func(ctx context.Context, n *nemesis) (func() error, error) {
		members := who(ctx, n)
		for _, m := range members {
			m.Kill()
		}
		return func() error { return launch(members) }, nil
	}
}

func launch(members []*cluster.Member) error {
	var errs []error
	for _, m := range members {
		errs = append(errs, m.Launch())
	}
	return errors.Join(errs...)
}

func stopping(who choice) func(context.Context, *nemesis) (func() error, error) {
	return func(ctx context.Context, n *nemesis) (func() error, error) {
		members := who(ctx, n)
		for _, m := range members {
			if err := m.Stop(); err != nil {
				return nil, err
			}
		}
		return func() error { return launch(members) }, nil
	}
}

func pausing(who choice) func(context.Context, *nemesis) (func() error, error) {
	return func(ctx context.Context, n *nemesis) (func() error, error) {
		members := who(ctx, n)
		for _, m := range members {
			if err := m.Pause(); err != nil && m.PID() != 0 {
				return nil, err
			}
		}
		return func() error {
			for _, m := range members {
				if err := m.Resume(); err != nil && m.PID() != 0 {
					return err
				}
			}
			return nil
		}, nil
	}
}

// links says which directions are cut.
type links func(ctx context.Context, n *nemesis) []cluster.Link

func cutting(which links) func(context.Context, *nemesis) (func() error, error) {
	return func(ctx context.Context, n *nemesis) (func() error, error) {
		return n.cluster.Heal, n.cluster.Cut(which(ctx, n)...)
	}
}

func around(who choice) links {
	return func(ctx context.Context, n *nemesis) []cluster.Link {
		var all []cluster.Link
		for _, m := range who(ctx, n) {
			all = append(all, n.cluster.Around(m)...)
		}
		return all
	}
}

func outward(who choice) links {
	return func(ctx context.Context, n *nemesis) []cluster.Link {
		var all []cluster.Link
		for _, m := range who(ctx, n) {
			for _, other := range n.cluster.Others(m) {
				all = append(all, cluster.Link{From: m.Name, To: other.Name})
			}
		}
		return all
	}
}

func inward(who choice) links {
	return func(ctx context.Context, n *nemesis) []cluster.Link {
		all := outward(who)(ctx, n)
		for i, link := range all {
			all[i] = cluster.Link{From: link.To, To: link.From}
		}
		return all
	}
}

func oneLink(ctx context.Context, n *nemesis) []cluster.Link {
	both := two(ctx, n)
	return cluster.Between(both[0].Name, both[1].Name)
}

// halves cuts the members in two parts, of which one has a majority.
func halves(_ context.Context, n *nemesis) []cluster.Link {
	members := n.cluster.Members()
	order := n.random.Perm(len(members))
	size := 1 + n.random.IntN(len(members)/2)
	var all []cluster.Link
	for _, a := range order[:size] {
		for _, b := range order[size:] {
			all = append(all, cluster.Between(members[a].Name, members[b].Name)...)
		}
	}
	return all
}

func fromClients(who choice) links {
	return func(ctx context.Context, n *nemesis) []cluster.Link {
		return cluster.Between(who(ctx, n)[0].Name, cluster.Clients)
	}
}

// flapping cuts members off one after the other, each for a moment.
func flapping(ctx context.Context, n *nemesis) (func() error, error) {
	for range 5 {
		if err := n.cluster.Cut(n.cluster.Around(n.anyone())...); err != nil {
			return nil, err
		}
		sleep(ctx, time.Duration(50+n.random.IntN(300))*time.Millisecond)
		if err := n.cluster.Heal(); err != nil {
			return nil, err
		}
		sleep(ctx, time.Duration(n.random.IntN(200))*time.Millisecond)
	}
	return n.cluster.Heal, nil
}

func slowing(who choice) func(context.Context, *nemesis) (func() error, error) {
	return func(ctx context.Context, n *nemesis) (func() error, error) {
		m := who(ctx, n)[0]
		end, err := m.Slow(time.Duration(5+n.random.IntN(60)) * time.Millisecond)
		if err != nil && m.PID() == 0 {
			return func() error { return nil }, nil // another fault has killed it
		}
		return end, err
	}
}

func transfer(ctx context.Context, n *nemesis) (func() error, error) {
	return func() error { return nil }, n.cluster.Transfer(ctx, follower(ctx, n)[0])
}

// roll stops and starts one member after the other, each when the one before is healthy.
func roll(ctx context.Context, n *nemesis) (func() error, error) {
	for _, m := range n.cluster.Members() {
		if err := m.Stop(); err != nil {
			return nil, err
		}
		if err := m.Launch(); err != nil {
			return nil, err
		}
		if err := n.cluster.AwaitHealthy(ctx); err != nil {
			return nil, err
		}
	}
	return func() error { return nil }, nil
}

// fallBehind kills a follower and has the others write so much that they keep a snapshot in place of
// the log that it lacks. The writes go to a hidden key, of which the watchers are not told.
func fallBehind(ctx context.Context, n *nemesis) (func() error, error) {
	const size, most = 1 << 20, 1000
	m := follower(ctx, n)[0]
	m.Kill()
	others := n.cluster.Others(m)
	before := newestSnapshot(others[0])
	form := url.Values{"value": {strings.Repeat("v", size)}}
	var reply cluster.Reply
	var err error
	for i := 0; newestSnapshot(others[0]) == before; i++ {
		if i == most {
			return nil, fmt.Errorf("%s has no new snapshot after %d writes of %d bytes, the last one: %d %s, %v", others[0].Name, most, size, reply.Status, reply.Message, err)
		}
		once, cancel := context.WithTimeout(ctx, settleMax)
		reply, err = n.caller.Keys(once, http.MethodPut, others[i%len(others)].ClientURL, "/_large", form) // some may fail: the leader may be new
		cancel()
	}
	return m.Launch, nil
}

// newestSnapshot returns the newest of a kvd's own snapshots.
func newestSnapshot(m *cluster.Member) string {
	all, _ := filepath.Glob(filepath.Join(m.Data(), "raft", "snapshots", "*"))
	all = slices.DeleteFunc(all, func(name string) bool { return strings.HasSuffix(name, ".tmp") })
	return slices.Max(append(all, ""))
}

func replace(ctx context.Context, n *nemesis) (func() error, error) {
	return func() error { return nil }, n.cluster.Replace(ctx, n.anyone())
}
