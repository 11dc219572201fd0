package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

const (
	leaseCount = 100
	keepAlive  = 3 * time.Second // each lease, once in this time
)

// runLeases attaches keys to leases and looks at what it costs to keep those alive. etcd's v2 API has
// nothing like it.
func runLeases(ctx context.Context, b *bench) ([]table, error) {
	g, err := b.startGroup(ctx, "kvd", "leases")
	if err != nil {
		return nil, err
	}
	defer g.Close()
	leader, err := g.Leader(ctx)
	if err != nil {
		return nil, err
	}
	s := g.at(leader)
	keys := b.keys / 10
	var leases [leaseCount]string
	for i := range leases {
		if leases[i], err = grant(ctx, s); err != nil {
			return nil, err
		}
	}
	var next atomic.Int64
	form := func() string { // each lease has as many keys as any other; which ones does not matter
		return url.Values{"value": {strings.Repeat("v", 64)}, "lease": {leases[next.Add(1)%leaseCount]}}.Encode()
	}
	if err := fillForms(ctx, s, keys, 64, func(i int) string { return fmt.Sprintf("/leased/%04d/%d", i/100, i) }, form); err != nil {
		return nil, err
	}
	idle, _, err := b.rest(ctx, s, leader.PID(), nil)
	if err != nil {
		return nil, err
	}
	busy, entries, err := b.rest(ctx, s, leader.PID(), leases[:])
	if err != nil {
		return nil, err
	}
	return []table{{
		Work: fmt.Sprintf("three members, %d keys under %d leases", keys, leaseCount),
		Rows: []row{{Subject: "kvd", Figures: []figure{
			{"keep-alives/s", leaseCount / keepAlive.Seconds(), 1},
			{"CPU of the leader, % of a core", busy, 2},
			{"without keep-alives", idle, 2},
			{"raft entries/s", entries, 2},
		}}},
		Claims: []claim{
			{What: "kvd, CPU of the leader, % of a core", Value: busy, Target: 2},
			{What: "kvd, raft entries/s; the lease clock is one", Value: entries, Target: 1.1},
		},
	}}, nil
}

// grant returns the id of a new lease.
func grant(ctx context.Context, s *server) (string, error) {
	body, err := send(ctx, http.MethodPost, s.url+"/v2/leases", "ttl=60")
	if err != nil {
		return "", err
	}
	var lease struct{ ID string }
	err = json.Unmarshal(body, &lease)
	return lease.ID, err
}

// send returns the body of an answer that reports success.
func send(ctx context.Context, method, target, form string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, target, strings.NewReader(form))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode >= http.StatusMultipleChoices {
		err = fmt.Errorf("%s %s: %s: %s", method, target, response.Status, body)
	}
	return body, err
}

// rest does nothing but keep leases alive, for three rounds of that or longer, and returns what part of a
// processor one process takes meanwhile, in percent, and how many entries a second the log grows by.
func (b *bench) rest(ctx context.Context, s *server, pid int, leases []string) (percent, entries float64, err error) {
	beats := max(1, len(leases))
	rounds := 1
	if b.duration >= time.Second {
		rounds = max(3, int(2*b.duration/keepAlive))
	}
	first, err := raftIndex(ctx, s)
	if err != nil {
		return 0, 0, err
	}
	used, err := cpuOf(pid)
	if err != nil {
		return 0, 0, err
	}
	begun := time.Now()
	for beat := range rounds * beats {
		at := begun.Add(time.Duration(beat+1) * keepAlive / time.Duration(beats))
		if len(leases) > 0 {
			if _, err := send(ctx, http.MethodPut, s.url+"/v2/leases/"+leases[beat%beats], ""); err != nil {
				return 0, 0, err
			}
		}
		wait(ctx, time.Until(at))
	}
	took := time.Since(begun)
	usedNow, err := cpuOf(pid)
	if err != nil {
		return 0, 0, err
	}
	last, err := raftIndex(ctx, s)
	return 100 * (usedNow - used).Seconds() / took.Seconds(), float64(last-first) / took.Seconds(), err
}

// raftIndex is the last entry of the log that kvd has executed.
func raftIndex(ctx context.Context, s *server) (uint64, error) {
	body, err := get(ctx, s.url+"/debug/state")
	if err != nil {
		return 0, err
	}
	var state struct{ RaftIndex uint64 }
	err = json.Unmarshal(body, &state)
	return state.RaftIndex, err
}
