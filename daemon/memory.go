package daemon

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// garbageRoom is how much garbage a small heap may gather before it is collected. Go's own rule,
	// as much again as is alive, makes a small store that is asked a lot collect hundreds of times a
	// second: of 64 connections that read, that takes a tenth of the processor.
	garbageRoom = 64 << 20

	gcPercentMin = 100 // Go's own; from garbageRoom of live heap on
	gcPercentMax = 1600

	gcInterval = time.Second
)

// collectSeldom keeps the garbage collector's target at the live heap and as much again, but at
// least garbageRoom, until ctx ends. It is a matter of the whole process, so the program does it and
// not Open. Where GOGC is set, that stays.
func collectSeldom(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	ticker := time.NewTicker(gcInterval)
	defer ticker.Stop()
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	set := gcPercentMin
	for {
		metrics.Read(live)
		if percent := gcPercent(live[0].Value.Uint64()); percent != set {
			debug.SetGCPercent(percent)
			set = percent
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// gcPercent returns how much garbage may gather, in percent of the live heap. It changes in steps of a
// quarter, so that a heap that hardly changes leaves it alone.
func gcPercent(live uint64) int {
	percent := gcPercentMax
	for percent > gcPercentMin && live*uint64(percent) > garbageRoom*100 {
		percent = max(percent*3/4, gcPercentMin)
	}
	return percent
}
