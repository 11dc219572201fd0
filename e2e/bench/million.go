package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/kvd-io/kvd/e2e/cluster"
)

const (
	// steadyWriters write beside whatever is measured.
	steadyWriters = 8
	// pushBytes is a value that makes the log grow.
	pushBytes = 256 << 10
	// snapshotMax and joinMax bound the wait for what is measured.
	snapshotMax = 5 * time.Minute
	joinMax     = 5 * time.Minute
)

// fillGroup starts kvd with many keys, and returns it with its leader.
func (b *bench) fillGroup(ctx context.Context, data string) (*group, *server, error) {
	g, err := b.startGroup(ctx, "kvd", data)
	if err != nil {
		return nil, nil, err
	}
	leader, err := g.Leader(ctx)
	if err == nil {
		err = fill(ctx, g.at(leader), b.keys, 256, manyKey, strings.Repeat("v", 100))
	}
	if err != nil {
		g.Close()
		return nil, nil, err
	}
	return g, g.at(leader), nil
}

// steady writes until stop is called, which returns all writes.
func steady(ctx context.Context, s *server) (stop func() ([]timed, error)) {
	ctx, cancel := context.WithCancel(ctx)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: steadyWriters, DisableCompression: true}}
	form := "value=" + strings.Repeat("v", 256)
	var mu sync.Mutex
	var all []timed
	var failed error
	var writing sync.WaitGroup
	for writer := range steadyWriters {
		writing.Go(func() {
			var mine []timed
			for i := 0; ctx.Err() == nil; i++ {
				begun := time.Now()
				err := put(context.WithoutCancel(ctx), client, fmt.Sprintf("%s/v2/keys/steady/%d/%d", s.url, writer, i%100), form)
				mine = append(mine, timed{begun, time.Since(begun)})
				if err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
					break
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, mine...)
		})
	}
	return func() ([]timed, error) {
		cancel()
		writing.Wait()
		client.CloseIdleConnections()
		return all, failed
	}
}

// runSnapshot makes the log grow until members fold it into a snapshot, and compares the writes of that
// time with those of a quiet one.
func runSnapshot(ctx context.Context, b *bench) ([]table, error) {
	g, leader, err := b.fillGroup(ctx, "snapshot")
	if err != nil {
		return nil, err
	}
	defer g.Close()
	var quiet, during []time.Duration
	var took time.Duration
	for range b.rounds {
		stop := steady(ctx, leader)
		begun := time.Now()
		wait(ctx, b.duration)
		calm := time.Now()
		pushErr := b.push(ctx, g, leader)
		pushed := time.Now()
		for g.snapshotting() && time.Since(pushed) < snapshotMax && ctx.Err() == nil {
			wait(ctx, probeEvery)
		}
		ended := time.Now()
		writes, err := stop()
		if err := errors.Join(pushErr, err, ctx.Err()); err != nil {
			return nil, err
		}
		quiet = append(quiet, between(writes, begun, calm)...)
		during = append(during, between(writes, pushed, ended)...)
		took += ended.Sub(pushed) / time.Duration(b.rounds)
	}
	if len(during) == 0 || len(quiet) == 0 {
		return nil, fmt.Errorf("no write fell into the %v of a snapshot", took)
	}
	return []table{compared(fmt.Sprintf("three members, %d keys, %d writers, a snapshot", b.keys, steadyWriters), quiet, during,
		figure{"snapshots of all members, s", took.Seconds(), 2})}, nil
}

// compared is a table of writes without and with something.
func compared(work string, quiet, during []time.Duration, more ...figure) table {
	return table{Work: work,
		Rows: []row{{Subject: "kvd", Figures: append([]figure{
			{"quiet, p50 ms", millis(quantile(quiet, 50)), 2},
			{"p99 ms", millis(quantile(quiet, 99)), 2},
			{"meanwhile, p50 ms", millis(quantile(during, 50)), 2},
			{"p99 ms", millis(quantile(during, 99)), 2},
			{"longest ms", millis(quantile(during, 100)), 1},
		}, more...)}},
		Claims: []claim{{What: "kvd, p99 meanwhile / quiet", Value: float64(quantile(during, 99)) / float64(quantile(quiet, 99)), Target: 2}},
	}
}

// push writes large values until a member has begun a snapshot.
func (b *bench) push(ctx context.Context, g *group, leader *server) error {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
	defer client.CloseIdleConnections()
	form := "value=" + strings.Repeat("p", pushBytes)
	for begun := time.Now(); !g.snapshotting(); {
		for range 4 {
			if err := put(ctx, client, leader.url+"/v2/keys/push", form); err != nil {
				return err
			}
		}
		if time.Since(begun) > snapshotMax {
			return fmt.Errorf("no member has begun a snapshot within %v", snapshotMax)
		}
	}
	return nil
}

// snapshotting reports whether a member writes a snapshot now.
func (g *group) snapshotting() bool {
	for _, m := range g.Members() {
		if unfinished, _ := filepath.Glob(filepath.Join(m.Data(), "raft", "snapshots", "*.tmp")); len(unfinished) > 0 {
			return true
		}
	}
	return false
}

// runJoin puts an empty member into the place of a follower and waits until it has all keys.
func runJoin(ctx context.Context, b *bench) ([]table, error) {
	g, leader, err := b.fillGroup(ctx, "join")
	if err != nil {
		return nil, err
	}
	defer g.Close()
	var follower *cluster.Member
	for _, m := range g.Members() {
		if m.ClientURL != leader.url {
			follower = m
		}
	}
	if err := g.Vacate(ctx, follower); err != nil {
		return nil, err
	}
	stop := steady(ctx, leader)
	begun := time.Now()
	wait(ctx, b.duration)
	calm := time.Now()
	joinErr := b.join(ctx, follower)
	joined := time.Now()
	writes, err := stop()
	if err := errors.Join(joinErr, err); err != nil {
		return nil, err
	}
	t := compared(fmt.Sprintf("three members, %d keys, %d writers, one joins", b.keys, steadyWriters), between(writes, begun, calm), between(writes, calm, joined),
		figure{"until it has all keys, s", joined.Sub(calm).Seconds(), 2})
	t.Claims = append(t.Claims, claim{What: "until the new member has all keys, s", Value: joined.Sub(calm).Seconds(), Target: 20})
	return []table{t}, nil
}

// join starts a new member and returns when it reads the first key and the last.
func (b *bench) join(ctx context.Context, m *cluster.Member) error {
	if err := m.Launch(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, joinMax)
	defer cancel()
	for _, i := range []int{0, b.keys - 1} {
		for {
			if _, err := get(ctx, m.ClientURL+"/v2/keys"+manyKey(i)); err == nil {
				break
			}
			if wait(ctx, probeEvery); ctx.Err() != nil {
				return fmt.Errorf("the new member does not have all keys: %w", errors.Join(ctx.Err(), m.Died()))
			}
		}
	}
	return nil
}
