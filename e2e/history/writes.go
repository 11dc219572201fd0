package history

import (
	"cmp"
	"slices"
)

// CheckWrites compares puts to keys that were each written once, with what is there in the end: every
// write that was acknowledged, as it was acknowledged, and nothing that was not asked for. Keys with a
// TTL are left to CheckExpiry.
func CheckWrites(ops []Op, there map[string]Entry) []Violation {
	var found []Violation
	asked := map[string]bool{}
	for _, op := range ops {
		if op.Kind != Put || op.TTL != 0 {
			continue
		}
		asked[op.Key] = true
		got, ok := there[op.Key]
		switch {
		case !ok && op.Outcome == Done:
			found = append(found, violation(Lost, "%v", op))
		case !ok:
		case op.Outcome == Refused:
			found = append(found, violation(RefusedDone, "%v", op))
		case got.Value != op.Value:
			found = append(found, violation(WrongValue, "%v, there is %q", op, got.Value))
		case op.Outcome == Done && got.Index != op.Index:
			found = append(found, violation(WrongIndex, "%v, it has index %d", op, got.Index))
		}
	}
	for key, got := range there {
		if !asked[key] {
			found = append(found, violation(FromNowhere, "%s is %q, index %d", key, got.Value, got.Index))
		}
	}
	return found
}

// CheckOrder finds writes whose indices contradict the order of time: one that began after another had
// returned has the greater index, and no two have the same.
func CheckOrder(ops []Op) []Violation {
	var found []Violation
	var calls []Op
	for _, op := range ops {
		if op.happened() {
			calls = append(calls, op)
		}
	}
	returns := slices.Clone(calls)
	slices.SortFunc(calls, func(a, b Op) int { return cmp.Compare(a.Call, b.Call) })
	slices.SortFunc(returns, func(a, b Op) int { return cmp.Compare(a.Return, b.Return) })
	owner := map[uint64]Op{}
	var latest Op // the greatest index among the writes that had returned
	next := 0
	for _, op := range calls {
		for ; next < len(returns) && returns[next].Return < op.Call; next++ {
			if returns[next].Index > latest.Index {
				latest = returns[next]
			}
		}
		if op.Index <= latest.Index {
			found = append(found, violation(Disorder, "%v began after %v had returned", op, latest))
		}
		if other, taken := owner[op.Index]; taken {
			found = append(found, violation(Disorder, "%v and %v have the same index", op, other))
		}
		owner[op.Index] = op
	}
	return found
}

// CheckSame compares what each member says it holds.
func CheckSame(members map[string]map[string]Entry) []Violation {
	var found []Violation
	var names []string
	for name := range members {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names[min(1, len(names)):] {
		first := names[0]
		for key, a := range members[first] {
			if b, ok := members[name][key]; !ok || a != b {
				found = append(found, violation(MembersDiffer, "%s is %+v on %s, %+v on %s (there: %v)", key, a, first, b, name, ok))
			}
		}
		for key, b := range members[name] {
			if _, ok := members[first][key]; !ok {
				found = append(found, violation(MembersDiffer, "%s is %+v on %s and absent on %s", key, b, name, first))
			}
		}
	}
	return found
}
