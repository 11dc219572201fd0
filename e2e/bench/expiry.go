package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	expiryWriters = 8 // that write while keys expire
	// expiryRate is a rate of filling that every server reaches: it says how long keys have to last.
	expiryRate = 1500
)

// runExpiry lets many keys be due in the same second, and compares writes of that time with writes
// of the time before.
func runExpiry(ctx context.Context, b *bench) ([]table, error) {
	t := table{Work: fmt.Sprintf("%d keys due in the same second, %d writers", b.expiring, expiryWriters)}
	for _, start := range []func(context.Context, string) (*server, error){
		func(ctx context.Context, data string) (*server, error) { return b.startKVD(ctx, data) }, b.startEtcd,
	} {
		s, err := start(ctx, "expiry")
		if err != nil {
			return nil, err
		}
		idle, during, left, err := b.expire(ctx, s)
		s.kill()
		if err != nil {
			return nil, fmt.Errorf("%s: %w\n%s", s.name, err, s.said)
		}
		ratio := float64(quantile(during, 99)) / float64(quantile(idle, 99))
		t.Rows = append(t.Rows, row{Subject: s.name, Figures: []figure{
			{"idle, p50 ms", millis(quantile(idle, 50)), 2},
			{"p99 ms", millis(quantile(idle, 99)), 2},
			{"during expiry, p50 ms", millis(quantile(during, 50)), 2},
			{"p99 ms", millis(quantile(during, 99)), 2},
			{"longest ms", millis(quantile(during, 100)), 1},
			{"keys left after it", float64(left), 0},
		}})
		c := claim{What: s.name + ", p99 during expiry / idle", Value: ratio}
		if s.name == "kvd" {
			c.Target = 2
		}
		t.Claims = append(t.Claims, c)
	}
	return []table{t}, nil
}

// expire returns how long each write took before the keys were due and from then on, and how many
// of the keys are left at the end.
func (b *bench) expire(ctx context.Context, s *server) (idle, during []time.Duration, left int, err error) {
	lasting := time.Duration(b.expiring)*time.Second/expiryRate + b.duration + 4*time.Second
	due := time.Now().Add(lasting).Truncate(time.Second)
	form := func() string {
		seconds := max(1, int(time.Until(due).Seconds()))
		return url.Values{"value": {strings.Repeat("v", 64)}, "ttl": {strconv.Itoa(seconds)}}.Encode()
	}
	keyOf := func(i int) string { return fmt.Sprintf("/due/%03d/%06d", i/1000, i) }
	if err := fillForms(ctx, s, b.expiring, 32, keyOf, form); err != nil {
		return nil, nil, 0, err
	}
	if late := time.Since(due.Add(-b.duration - time.Second)); late > 0 {
		return nil, nil, 0, fmt.Errorf("the keys were written %v too late to see idle writes", late)
	}
	if idle, err = writeUntil(ctx, s, time.Now().Add(b.duration)); err != nil {
		return nil, nil, 0, err
	}
	select {
	case <-time.After(time.Until(due.Add(-time.Second))): // whole seconds were cut off
	case <-ctx.Done():
		return nil, nil, 0, ctx.Err()
	}
	// 100,000 keys at 20,000 a second, and the second in which they are due.
	end := due.Add(time.Second + time.Duration(b.expiring)*time.Second/20_000)
	if during, err = writeUntil(ctx, s, end); err != nil {
		return nil, nil, 0, err
	}
	left, err = countLeft(ctx, s)
	return idle, during, left, err
}

// writeUntil writes with some writers side by side and returns how long each write took.
func writeUntil(ctx context.Context, s *server, end time.Time) ([]time.Duration, error) {
	client := http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: expiryWriters, DisableCompression: true}}
	defer client.CloseIdleConnections()
	form := url.Values{"value": {strings.Repeat("v", 256)}}.Encode()
	var mu sync.Mutex
	var all []time.Duration
	var failed error
	var writing sync.WaitGroup
	for writer := range expiryWriters {
		writing.Go(func() {
			var took []time.Duration
			var err error
			for i := 0; err == nil && time.Now().Before(end); i++ {
				begun := time.Now()
				err = put(ctx, &client, fmt.Sprintf("%s/v2/keys/busy/%d/%d", s.url, writer, i%1000), form)
				took = append(took, time.Since(begun))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			if err != nil {
				failed = err
			}
		})
	}
	writing.Wait()
	return all, failed
}

// countLeft returns how many of the keys that were due are still there.
func countLeft(ctx context.Context, s *server) (int, error) {
	body, err := get(ctx, s.url+"/v2/keys/due?recursive=true")
	if err != nil {
		return 0, err
	}
	var answer struct {
		Node struct {
			Nodes []struct{ Nodes []struct{} }
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return 0, err
	}
	left := 0
	for _, dir := range answer.Node.Nodes {
		left += len(dir.Nodes)
	}
	return left, nil
}
