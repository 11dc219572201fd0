package registry

import "container/heap"

// agenda holds the entries that are to be visited at some time, the next one first.
type agenda []*entry

// noSlot is the slot of an entry that is not in the agenda.
const noSlot = -1

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].due.Before(a[j].due) }
func (a agenda) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].slot, a[j].slot = i, j
}

// Push implements heap.Interface.
func (a *agenda) Push(x any) {
	e := x.(*entry)
	e.slot = len(*a)
	*a = append(*a, e)
}

// Pop implements heap.Interface.
func (a *agenda) Pop() any {
	last := len(*a) - 1
	e := (*a)[last]
	(*a)[last] = nil
	*a = (*a)[:last]
	e.slot = noSlot
	return e
}

// put adds e, or moves it after its due has changed.
func (a *agenda) put(e *entry) {
	if e.slot == noSlot {
		heap.Push(a, e)
	} else {
		heap.Fix(a, e.slot)
	}
}

// drop takes e out if it is in.
func (a *agenda) drop(e *entry) {
	if e.slot != noSlot {
		heap.Remove(a, e.slot)
	}
}

// next takes out the first entry; there is one.
func (a *agenda) next() *entry { return heap.Pop(a).(*entry) }
