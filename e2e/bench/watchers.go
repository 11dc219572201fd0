package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// writesPerVisit is how many writes wake a crowd before the other server has its turn.
const writesPerVisit = 20

// idleTime is for how long nothing is written, to see what waiting costs.
const idleTime = time.Second

// vigil is what a server's watchers have seen: the time from the begin of each write until
// something was over.
type vigil struct {
	alone    []time.Duration // the write's answer, without a watcher
	few, all []time.Duration // the last event, with nobody but the woken, and beside all others

	cpuFew, cpuAll time.Duration // of the server, for each write of those
	bytes, idle    float64       // memory of one watcher; processor time a second of all of them
}

// runWatchers writes to a key that a tenth of all connections watch, beside and without the
// others.
func runWatchers(ctx context.Context, b *bench) ([]table, error) {
	var tables []table
	for _, stream := range []bool{false, true} {
		kind := "long polls"
		if stream {
			kind = "streams"
		}
		seen := map[string]*vigil{}
		for round := range b.rounds {
			for _, start := range []func(context.Context, string) (*server, error){
				func(ctx context.Context, data string) (*server, error) { return b.startKVD(ctx, data) }, b.startEtcd,
			} {
				s, err := start(ctx, fmt.Sprintf("watchers-%v-%d", stream, round))
				if err != nil {
					return nil, err
				}
				v := seen[s.name]
				if v == nil {
					v = &vigil{}
					seen[s.name] = v
				}
				err = v.visit(ctx, s, b.watchers, stream)
				s.kill()
				if err != nil {
					return nil, fmt.Errorf("%s, %s: %w\n%s", s.name, kind, err, s.said)
				}
				fmt.Fprintf(b.log, "  %s, round %d of %d, %-4s last event after %.1f ms (median so far)\n", kind, round+1, b.rounds, s.name, millis(quantile(v.all, 50)))
			}
		}
		t := table{Work: fmt.Sprintf("%d %s, a write wakes %d", b.watchers, kind, b.watchers/10)}
		for _, name := range []string{"kvd", "etcd"} {
			v := seen[name]
			t.Rows = append(t.Rows, row{Subject: name, Figures: []figure{
				{"last event, p50 ms", millis(quantile(v.all, 50)), 1},
				{"p99 ms", millis(quantile(v.all, 99)), 1},
				{"without the idle, p50 ms", millis(quantile(v.few, 50)), 1},
				{"p99 ms", millis(quantile(v.few, 99)), 1},
				{"server CPU ms a write", millis(v.cpuAll), 1},
				{"without the idle", millis(v.cpuFew), 1},
				{"a write alone, p50 ms", millis(quantile(v.alone, 50)), 1},
				{"resident KB a watcher", v.bytes / 1e3, 1},
				{"CPU of all while idle, %", 100 * v.idle, 1},
			}})
		}
		t.Claims = []claim{
			{What: "kvd, last event, p99 ms", Value: millis(quantile(seen["kvd"].all, 99)), Target: 60},
			{What: "kvd, with the idle / without them, p50", Value: float64(quantile(seen["kvd"].all, 50)) / float64(quantile(seen["kvd"].few, 50))},
			{What: "the same, CPU", Value: float64(seen["kvd"].cpuAll) / float64(seen["kvd"].cpuFew)},
			{What: "kvd / etcd, last event, p50", Value: float64(quantile(seen["kvd"].all, 50)) / float64(quantile(seen["etcd"].all, 50))},
		}
		tables = append(tables, t)
	}
	return tables, nil
}

// visit lets watchers connections watch s, of which each write wakes a tenth, and adds what they
// see to v.
func (v *vigil) visit(ctx context.Context, s *server, watchers int, stream bool) error {
	writer := http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
	defer writer.CloseIdleConnections()
	form := url.Values{"value": {strings.Repeat("v", 256)}}.Encode()
	write := func() error { return put(ctx, &writer, s.url+"/v2/keys/services/web/instance-1", form) }
	for range writesPerVisit {
		start := time.Now()
		if err := write(); err != nil {
			return err
		}
		v.alone = append(v.alone, time.Since(start))
	}
	c, err := newCrowd(s.url)
	if err != nil {
		return err
	}
	defer c.close()
	woken := watchers / 10
	if err := c.join(ctx, woken, stream, func(int) string { return "/services/web" }); err != nil {
		return err
	}
	if v.few, v.cpuFew, err = wake(ctx, s, c, woken, stream, write, v.few); err != nil {
		return err
	}
	before, _, err := s.residentBytes()
	if err != nil {
		return err
	}
	if err := c.join(ctx, watchers-woken, stream, func(i int) string { return fmt.Sprintf("/idle/%06d", i) }); err != nil {
		return err
	}
	after, _, err := s.residentBytes()
	if err != nil {
		return err
	}
	v.bytes = float64(after-before) / float64(watchers-woken)
	if v.all, v.cpuAll, err = wake(ctx, s, c, woken, stream, write, v.all); err != nil {
		return err
	}
	began, err := s.cpu()
	if err != nil {
		return err
	}
	select {
	case <-time.After(idleTime):
	case <-ctx.Done():
		return ctx.Err()
	}
	ended, err := s.cpu()
	v.idle = (ended - began).Seconds() / idleTime.Seconds()
	return err
}

// wake writes again and again, and adds to seen how long it took each time until count members had
// the event. It returns as well what each write cost the server, with the watches that follow it.
func wake(ctx context.Context, s *server, c *crowd, count int, stream bool, write func() error, seen []time.Duration) ([]time.Duration, time.Duration, error) {
	before, err := s.cpu()
	if err != nil {
		return seen, 0, err
	}
	for range writesPerVisit {
		written := make(chan error, 1)
		start := time.Now()
		go func() { written <- write() }()
		at, woken, err := c.event(ctx, count)
		if err != nil {
			return seen, 0, err
		}
		seen = append(seen, at.Sub(start))
		if err := <-written; err != nil {
			return seen, 0, err
		}
		if !stream {
			if err := c.register(ctx, woken); err != nil {
				return seen, 0, err
			}
		}
	}
	after, err := s.cpu()
	return seen, (after - before) / writesPerVisit, err
}

// quantile returns the duration that percent of all are not longer than.
func quantile(all []time.Duration, percent int) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(len(sorted)-1, len(sorted)*percent/100)]
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
