package main

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// keysPerDirectory spreads the keys as registrations are spread over services.
const keysPerDirectory = 100

// manyKey returns a key of 40 bytes.
func manyKey(i int) string {
	return fmt.Sprintf("/services/%06d/instance-%014d", i/keysPerDirectory, i)
}

// runKeys fills kvd through its API, looks at its memory, and starts it again, after a kill and
// after an orderly stop.
func runKeys(ctx context.Context, b *bench) ([]table, error) {
	const data = "keys.kvd"
	s, err := b.startKVD(ctx, data, "GODEBUG=gctrace=1")
	defer func() { s.kill() }()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := fill(ctx, s, b.keys, 256, manyKey, strings.Repeat("v", 100)); err != nil {
		return nil, err
	}
	filling := time.Since(began)
	fmt.Fprintf(b.log, "  %d keys in %v\n", b.keys, filling.Round(time.Millisecond))
	live, err := liveHeap(ctx, s)
	if err != nil {
		return nil, err
	}
	resident, _, err := s.residentBytes()
	if err != nil {
		return nil, err
	}
	s.kill()
	afterKill, s2, err := b.restart(ctx, data)
	s = s2
	if err != nil {
		return nil, err
	}
	stopping := time.Now()
	if err := s.stop(); err != nil {
		return nil, fmt.Errorf("stop kvd: %w\n%s", err, s.said)
	}
	stopped := time.Since(stopping)
	afterStop, s2, err := b.restart(ctx, data)
	s = s2
	if err != nil {
		return nil, err
	}
	perKey := live / float64(b.keys)
	return []table{{
		Work: fmt.Sprintf("%d keys of 40+100 bytes", b.keys),
		Rows: []row{{Subject: "kvd", Figures: []figure{
			{"live heap, bytes a key", perKey, 0},
			{"live heap MB", live / 1e6, 0},
			{"resident MB", float64(resident) / 1e6, 0},
			{"filled, keys/s", float64(b.keys) / filling.Seconds(), 0},
			{"restart after kill -9, s", afterKill.Seconds(), 2},
			{"orderly stop, s", stopped.Seconds(), 2},
			{"restart after it, s", afterStop.Seconds(), 2},
		}}},
		Claims: []claim{
			{What: "live heap, bytes a key", Value: perKey, Target: 300},
			{What: "restart, s", Value: max(afterKill, afterStop).Seconds(), Target: 3},
		},
	}}, nil
}

// restart starts kvd on existing data and returns how long it took until the last key was read.
func (b *bench) restart(ctx context.Context, data string) (time.Duration, *server, error) {
	began := time.Now()
	s, err := b.startKVD(ctx, data)
	if err != nil {
		return 0, s, err
	}
	if _, err := get(ctx, s.url+"/v2/keys"+manyKey(b.keys-1)); err != nil {
		return 0, s, fmt.Errorf("the last key after a restart: %w", err)
	}
	took := time.Since(began)
	fmt.Fprintf(b.log, "  started on these keys in %v\n", took.Round(time.Millisecond))
	return took, s, nil
}

// gcTrace is the runtime's line about one collection; the last of the three sizes is what it found
// alive, in MB.
var gcTrace = regexp.MustCompile(`(?m)^gc (\d+) @.* \d+->\d+->(\d+) MB, `)

// liveHeap returns the bytes that the second collection from now finds alive: whatever was garbage
// when it began is gone by then. Listings make the garbage that starts a collection.
func liveHeap(ctx context.Context, s *server) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, startMax)
	defer cancel()
	first := -1
	for {
		traces := gcTrace.FindAllStringSubmatch(s.said.String(), -1)
		if len(traces) > 0 {
			last := traces[len(traces)-1]
			count, _ := strconv.Atoi(last[1])
			if first < 0 {
				first = count
			}
			if count >= first+2 {
				megabytes, err := strconv.ParseFloat(last[2], 64)
				return megabytes * (1 << 20), err
			}
		}
		if _, err := get(ctx, s.url+"/v2/keys/services/000000?recursive=true"); err != nil {
			return 0, fmt.Errorf("make garbage: %w", err)
		}
	}
}
