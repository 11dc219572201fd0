package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kvd-io/kvd/e2e/cluster"
)

const (
	// probeEvery is a prober's pause after an answer, and probeMax when it gives up waiting for one.
	probeEvery = 2 * time.Millisecond
	probeMax   = 300 * time.Millisecond
)

// probers write through every member, so that a member that does not answer hides nothing. They note
// when writes were acknowledged.
type probers struct {
	client  http.Client
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu   sync.Mutex // guards acks
	acks map[*cluster.Member][]time.Time
}

func startProbers(ctx context.Context, g *group) *probers {
	p := &probers{acks: map[*cluster.Member][]time.Time{}}
	p.client.Transport = &http.Transport{MaxIdleConnsPerHost: 1}
	ctx, p.cancel = context.WithCancel(ctx)
	for _, m := range g.Members() {
		p.running.Go(func() {
			for ctx.Err() == nil {
				once, cancel := context.WithTimeout(ctx, probeMax)
				err := put(once, &p.client, m.ClientURL+"/v2/keys/bench/probe/"+m.Name, "value=v")
				cancel()
				if err == nil {
					p.mu.Lock()
					p.acks[m] = append(p.acks[m], time.Now())
					p.mu.Unlock()
				}
				wait(ctx, probeEvery)
			}
		})
	}
	return p
}

func (p *probers) stop() {
	p.cancel()
	p.running.Wait()
	p.client.CloseIdleConnections()
}

// writing reports whether each of the members has acknowledged a write since a moment.
func (p *probers) writing(members []*cluster.Member, since time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range members {
		if acks := p.acks[m]; len(acks) == 0 || acks[len(acks)-1].Before(since) {
			return false
		}
	}
	return true
}

// longestGap returns the longest time since from in which no member acknowledged anything.
func (p *probers) longestGap(from time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []time.Time
	for _, acks := range p.acks {
		all = append(all, acks...)
	}
	slices.SortFunc(all, time.Time.Compare)
	last, longest := from, time.Duration(0)
	for _, at := range all {
		if at.After(from) {
			longest = max(longest, at.Sub(last))
			last = at
		}
	}
	return longest
}

// wait waits for d or the end of ctx.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// ending is a way in which a leader goes. It returns what brings everything back.
type ending struct {
	name   string
	target float64 // of kvd, in ms: the p99
	act    func(ctx context.Context, g *group, leader *cluster.Member) (back func() error, err error)
}

var endings = []ending{
	{"kill -9", 1500, func(_ context.Context, _ *group, leader *cluster.Member) (func() error, error) {
		leader.Kill()
		return leader.Launch, nil
	}},
	{"orderly stop", 200, func(_ context.Context, _ *group, leader *cluster.Member) (func() error, error) {
		return leader.Launch, leader.Stop()
	}},
	{"hand over", 200, func(ctx context.Context, g *group, leader *cluster.Member) (func() error, error) {
		return func() error { return nil }, g.Transfer(ctx, g.Others(leader)[0])
	}},
}

// runFailover takes leaders away again and again, and measures how long nobody could write.
func runFailover(ctx context.Context, b *bench) ([]table, error) {
	t := table{Work: fmt.Sprintf("three members, the leader goes %d times", b.kills)}
	for _, name := range []string{"kvd", "etcd"} {
		g, err := b.startGroup(ctx, name, "failover")
		if err != nil {
			return nil, err
		}
		for _, e := range endings {
			gaps, err := b.end(ctx, g, e)
			if err != nil {
				g.Close()
				return nil, fmt.Errorf("%s, %s: %w", name, e.name, err)
			}
			fmt.Fprintf(b.log, "  %s, %s: %v without a write at most\n", name, e.name, quantile(gaps, 100).Round(time.Millisecond))
			t.Rows = append(t.Rows, row{Subject: name + ", " + e.name, Figures: []figure{
				{"no write for, p50 ms", millis(quantile(gaps, 50)), 0},
				{"p99 ms", millis(quantile(gaps, 99)), 0},
				{"longest ms", millis(quantile(gaps, 100)), 0},
			}})
			if name == "kvd" {
				t.Claims = append(t.Claims, claim{What: "kvd, " + e.name + ", p99 ms", Value: millis(quantile(gaps, 99)), Target: e.target})
			}
		}
		g.Close()
	}
	return []table{t}, nil
}

// end takes the leader of g away as often as it is to be, and returns for how long nobody could write.
func (b *bench) end(ctx context.Context, g *group, e ending) ([]time.Duration, error) {
	p := startProbers(ctx, g)
	defer p.stop()
	var gaps []time.Duration
	for range b.kills {
		if err := p.await(ctx, g.Members(), time.Now()); err != nil {
			return nil, err
		}
		leader, err := g.Leader(ctx)
		if err != nil {
			return nil, err
		}
		begun := time.Now()
		back, err := e.act(ctx, g, leader)
		if err != nil {
			return nil, err
		}
		if _, err := g.Leader(ctx); err != nil {
			return nil, err
		}
		if err := p.await(ctx, g.Others(leader), time.Now()); err != nil {
			return nil, err
		}
		gaps = append(gaps, p.longestGap(begun))
		if err := back(); err != nil {
			return nil, err
		}
		if err := g.AwaitHealthy(ctx); err != nil {
			return nil, err
		}
	}
	return gaps, nil
}

// await returns when each of the members has acknowledged a write since a moment.
func (p *probers) await(ctx context.Context, members []*cluster.Member, since time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, startMax)
	defer cancel()
	for !p.writing(members, since) {
		if wait(ctx, probeEvery); ctx.Err() != nil {
			var names []string
			for _, m := range members {
				names = append(names, m.Name)
			}
			return fmt.Errorf("%s do not all write: %w", strings.Join(names, ", "), ctx.Err())
		}
	}
	return nil
}
