package confd

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/kvd-io/kvd/confd/report"
)

// board is where the targets stand, for who asks, and passes on what changes. Safe for concurrent use.
type board struct {
	to report.Reporter

	mu       sync.Mutex // guards the fields below
	targets  map[string]report.TargetStatus
	released map[string]bool // by the name of a resource: what is held is let through once
}

func newBoard(to report.Reporter) *board {
	if to == nil {
		to = report.Discard{}
	}
	return &board{to: to, targets: map[string]report.TargetStatus{}, released: map[string]bool{}}
}

// set notes where a target stands.
func (b *board) set(status report.TargetStatus) {
	b.mu.Lock()
	b.targets[status.Name] = status
	b.mu.Unlock()
	b.to.Target(status)
}

// expect notes that the targets of tasks are waited for, as far as nothing is known of them.
func (b *board) expect(tasks []task) {
	known := map[string]bool{}
	for _, status := range b.all() {
		known[cmp.Or(status.Resource, status.Name)] = true
	}
	for _, t := range tasks {
		if !known[t.Name] {
			b.set(report.TargetStatus{Name: t.Name, Dest: t.Dest, State: report.Waiting, Since: time.Now(), Keys: t.Keys})
		}
	}
}

// gone notes that there is no such target any more, if there was one.
func (b *board) gone(name string) {
	b.mu.Lock()
	_, known := b.targets[name]
	delete(b.targets, name)
	b.mu.Unlock()
	if known {
		b.to.Gone(name)
	}
}

// step notes that a step was done, which began at a time.
func (b *board) step(name, step string, began time.Time, err error) {
	b.to.Step(name, step, time.Since(began), err)
}

// all returns where the targets stand, by name.
func (b *board) all() []report.TargetStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	statuses := make([]report.TargetStatus, 0, len(b.targets))
	for _, name := range slices.Sorted(maps.Keys(b.targets)) {
		statuses = append(statuses, b.targets[name])
	}
	return statuses
}

// release notes that what a resource is held at is to be let through, and reports whether any of its
// targets is held. name is a resource's, or that of one of its targets, which are held together.
func (b *board) release(name string) (held, known bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for other, status := range b.targets {
		resource := cmp.Or(status.Resource, other)
		if other != name && resource != name {
			continue
		}
		known = true
		if status.State == report.Held {
			held = true
			b.released[resource] = true
		}
	}
	return held, known
}

// isReleased reports whether what the resource of this name is held at was released.
func (b *board) isReleased(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.released[name]
}

// spent notes that a release has had its effect.
func (b *board) spent(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.released, name)
}
