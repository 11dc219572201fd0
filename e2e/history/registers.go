package history

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// CheckRegisters looks for an order of the ops of each key that a register could have answered to: one
// that respects their times and in which each op sees what the one before it left. Every key is absent
// at first. limit bounds the search for one key; one that takes longer is Undecided.
func CheckRegisters(ops []Op, limit time.Duration) []Violation {
	byKey := map[string][]Op{}
	for _, op := range ops {
		if op.Outcome != Refused {
			byKey[op.Key] = append(byKey[op.Key], op)
		}
	}
	var found []Violation
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		ops := decisive(relevant(byKey[key]))
		switch porcupine.CheckOperationsTimeout(register, operations(ops), limit) {
		case porcupine.Illegal:
			found = append(found, violation(NotLinear, "%s:\n%s", key, listing(smallest(ops, limit))))
		case porcupine.Unknown:
			found = append(found, violation(Undecided, "%s: %d ops are not judged within %v", key, len(ops), limit))
		}
	}
	return found
}

// relevant leaves out what restricts nothing: reads without an answer, and writes without one whose
// value nobody has seen, which may as well never have happened.
func relevant(ops []Op) []Op {
	seen := map[string]bool{}
	for _, op := range ops {
		seen[op.Saw] = true
		if op.Kind == Swap && op.Outcome != Mismatch { // it may have found this
			seen[op.Prev] = true
		}
	}
	return slices.DeleteFunc(ops, func(op Op) bool {
		return op.Outcome == Unknown && (op.Kind == Get || !seen[op.Value])
	})
}

// decisive leaves out all but two of the ops that only found a value: the one that began last and the
// one that returned first. A value is written once, so that it is there during one span of time, and
// an op can have found it if it began before the end of that span and returned after its beginning.
func decisive(ops []Op) []Op {
	lastCall, firstReturn := map[string]int{}, map[string]int{}
	for i, op := range ops {
		if !finds(op) {
			continue
		}
		if best, ok := lastCall[op.Saw]; !ok || op.Call > ops[best].Call {
			lastCall[op.Saw] = i
		}
		if best, ok := firstReturn[op.Saw]; !ok || op.Return < ops[best].Return {
			firstReturn[op.Saw] = i
		}
	}
	var kept []Op
	for i, op := range ops {
		if !finds(op) || lastCall[op.Saw] == i || firstReturn[op.Saw] == i {
			kept = append(kept, op)
		}
	}
	return kept
}

// finds reports whether all that op does is to find a value, which is not impossible in itself.
func finds(op Op) bool {
	return op.Outcome == Done && op.Kind == Get || op.Outcome == Mismatch && op.Prev != op.Saw
}

// smallest returns the shortest beginning of ops, by their ends, that is already wrong.
func smallest(ops []Op, limit time.Duration) []Op {
	slices.SortFunc(ops, func(a, b Op) int { return cmp.Compare(end(a), end(b)) })
	low, high := 0, len(ops)
	for low < high {
		middle := (low + high) / 2
		if porcupine.CheckOperationsTimeout(register, operations(prefix(ops, middle)), limit) == porcupine.Illegal {
			high = middle
		} else {
			low = middle + 1
		}
	}
	return ops[:low]
}

// prefix returns the first n of ops and the writes that began before the last of them ended: it may
// have seen those. Their outcome was open then.
func prefix(ops []Op, n int) []Op {
	if n == 0 {
		return nil
	}
	first := slices.Clone(ops[:n])
	for _, op := range ops[n:] {
		if op.writes() && op.Call < end(ops[n-1]) && op.Outcome != Mismatch {
			op.Outcome = Unknown
			first = append(first, op)
		}
	}
	return first
}

func listing(ops []Op) string {
	const most = 40
	var text strings.Builder
	for _, op := range ops[max(0, len(ops)-most):] {
		text.WriteString("  " + op.String() + "\n")
	}
	return text.String()
}

// end is when the op may at last have taken effect.
func end(op Op) time.Duration {
	if op.Outcome == Unknown {
		return math.MaxInt64
	}
	return op.Return
}

func operations(ops []Op) []porcupine.Operation {
	all := make([]porcupine.Operation, len(ops))
	for i, op := range ops {
		all[i] = porcupine.Operation{ClientId: op.Client, Input: op, Output: op, Call: int64(op.Call), Return: int64(end(op))}
	}
	return all
}

// register is one key. Its state is its value, "" for none.
var register = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, _ any) (bool, any) {
		value, op := state.(string), input.(Op)
		switch {
		case op.Outcome == Mismatch:
			return op.Saw == value && op.Prev != value, value
		case op.Outcome == Done && op.Saw != value:
			return false, value
		case op.Kind == Get:
			return true, value
		case op.Kind == Swap && op.Prev != value:
			return op.Outcome == Unknown, value
		}
		return true, op.Value
	},
	Equal: func(a, b any) bool { return a == b },
}
