package history

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Event is what a watcher was told.
type Event struct {
	Index  uint64
	Action string // in the words of the v2 API
	Key    string
	Value  string // after it; "" for a removal
	Prev   string // before it
	At     time.Duration
}

// same compares what has to be equal for all watchers.
func (e Event) same(other Event) bool {
	e.At = other.At
	return e == other
}

func (e Event) String() string {
	return fmt.Sprintf("event %d, %s %s to %q from %q, at %v", e.Index, e.Action, e.Key, e.Value, e.Prev, e.At)
}

func (e Event) writes() bool {
	switch e.Action {
	case "set", "create", "update", "compareAndSwap":
		return true
	}
	return false
}

// Watch is what one watcher of everything has been told, resumed by index as often as it broke off.
type Watch struct {
	Member string
	From   uint64 // the first index that it asked for
	Events []Event
	Holes  []Hole
}

// Hole is a part of the history that the member said it no longer has.
type Hole struct{ From, To uint64 } // both inclusive

func (w Watch) misses(index uint64) bool {
	return index < w.From || slices.ContainsFunc(w.Holes, func(h Hole) bool { return h.From <= index && index <= h.To })
}

// CheckWatches compares watches of everything below one directory with each other and with the ops on
// it: each is in order, without doubles and without gaps up to the index until, all tell the same, every
// acknowledged write is told, and nothing else.
func CheckWatches(ops []Op, watches []Watch, until uint64) []Violation {
	var found []Violation
	union := map[uint64]Event{}
	told := make([]map[uint64]bool, len(watches))
	for i, w := range watches {
		told[i] = map[uint64]bool{}
		var last uint64
		for _, e := range w.Events {
			switch {
			case told[i][e.Index]:
				found = append(found, violation(WatchTwice, "%s: %v", w.Member, e))
			case e.Index < last:
				found = append(found, violation(WatchOrder, "%s: %v came after index %d", w.Member, e, last))
			}
			last = max(last, e.Index)
			told[i][e.Index] = true
			if other, ok := union[e.Index]; ok && !e.same(other) {
				found = append(found, violation(WatchDiffers, "%s: %v, others were told: %v", w.Member, e, other))
			}
			union[e.Index] = e
		}
	}
	for _, index := range slices.Sorted(maps.Keys(union)) {
		for i, w := range watches {
			if index <= until && !told[i][index] && !w.misses(index) {
				found = append(found, violation(WatchGap, "%s was never told of %v", w.Member, union[index]))
			}
		}
	}
	return append(found, compare(ops, watches, union, until)...)
}

// compare sets the events that anybody was told of beside the ops.
func compare(ops []Op, watches []Watch, union map[uint64]Event, until uint64) []Violation {
	var found []Violation
	type write struct{ key, value string }
	asked := map[write]Op{}
	mortal := map[string]bool{}
	for _, op := range ops {
		if !op.writes() {
			continue
		}
		asked[write{op.Key, op.Value}] = op
		mortal[op.Key] = mortal[op.Key] || op.TTL != 0
		if op.Outcome != Done {
			continue
		}
		missed := !slices.ContainsFunc(watches, func(w Watch) bool { return !w.misses(op.Index) })
		switch e, ok := union[op.Index]; {
		case !ok && (missed || op.Index > until):
		case !ok:
			found = append(found, violation(WatchGap, "nobody was told of %v", op))
		case e.Key != op.Key || e.Value != op.Value || e.Prev != op.Saw:
			found = append(found, violation(WatchDiffers, "%v is told as %v", op, e))
		}
	}
	times := map[write]uint64{}
	for _, index := range slices.Sorted(maps.Keys(union)) {
		e := union[index]
		if !e.writes() {
			if e.Action != "expire" || !mortal[e.Key] {
				found = append(found, violation(FromNowhere, "%v", e))
			}
			continue
		}
		w := write{e.Key, e.Value}
		switch op, ok := asked[w]; {
		case !ok:
			found = append(found, violation(FromNowhere, "%v", e))
		case op.Outcome == Refused || op.Outcome == Mismatch:
			found = append(found, violation(RefusedDone, "%v: %v", op, e))
		case times[w] != 0:
			found = append(found, violation(Twice, "%v, and before as event %d", e, times[w]))
		}
		times[w] = index
	}
	return found
}

// CheckExpiry finds keys that went before their time was up, by what watchers were told and by reads,
// and keys that are there in the end, when the time of all of them is up. Every key is written once.
func CheckExpiry(ops []Op, watches []Watch, there map[string]Entry) []Violation {
	var found []Violation
	puts := map[string]Op{}
	for _, op := range ops {
		if op.Kind == Put && op.TTL != 0 {
			puts[op.Key] = op
		}
	}
	for _, w := range watches {
		for _, e := range w.Events {
			if put, ok := puts[e.Key]; ok && e.Action == "expire" && e.At < put.Call+put.TTL {
				found = append(found, violation(Early, "%s: %v, written by %v", w.Member, e, put))
			}
		}
	}
	for _, op := range ops {
		put, ok := puts[op.Key]
		if ok && op.Kind == Get && op.Outcome == Done && op.Saw == "" && put.Outcome == Done &&
			op.Call > put.Return && op.Return < put.Call+put.TTL {
			found = append(found, violation(Early, "%v, written by %v", op, put))
		}
	}
	for key := range there {
		if put, ok := puts[key]; ok {
			found = append(found, violation(Immortal, "%v", put))
		}
	}
	return found
}
