package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/kvd-io/kvd/pkg/kv"
)

// desired is the set asked for. Each Set makes a new generation; none is changed once it is made.
type desired struct {
	generation uint64
	values     map[string]*placed // by key; what is the same as before is the same placed
	refused    error              // records that were left out
}

// placed is the value of a key, in which view, and the record that it was made of.
type placed struct {
	view  View
	value string
	of    Record // with the publisher's Owner
}

// Set replaces the desired set. It never blocks and copies what it needs. The Owner of a record
// is replaced by the publisher's. A record that Validate refuses, and all but the first of several with
// one key, are left out; Status says so.
func (p *Publisher) Set(records []Record) {
	p.mu.Lock()
	before := p.desired.values
	p.mu.Unlock()
	next := desired{values: make(map[string]*placed, len(records)*len(p.cfg.Views))}
	var refused []error
	for _, record := range records {
		record.Owner = p.cfg.Owner
		if err := p.place(record, before, next.values); err != nil {
			refused = append(refused, fmt.Errorf("service %q, instance %q: %w", record.Service, record.Instance, err))
		}
	}
	next.refused = errors.Join(append(refused, p.unusable)...)
	p.want(func() {
		next.generation = p.desired.generation
		p.desired = next
	})
}

// place adds the keys of a record to values. What it was before need not be made again.
func (p *Publisher) place(record Record, before, values map[string]*placed) error {
	copied, valid := false, false
	var problems []error
	for _, view := range p.cfg.Views {
		key, err := view.key(record)
		old, known := before[key]
		_, taken := values[key]
		switch {
		case err != nil:
			problems = append(problems, fmt.Errorf("layout %s: %w", view, err))
			continue
		case key == "":
			continue
		case taken:
			problems = append(problems, fmt.Errorf("two instances of the service would have the key %s", key))
			continue
		case known && old.view == view && old.of.equal(record):
			values[key] = old
			continue
		case !valid:
			if err := record.Validate(); err != nil {
				return err
			}
			valid = true
		}
		if !copied {
			record, copied = record.clone(), true
		}
		values[key] = &placed{view, view.value(record), record}
	}
	return errors.Join(problems...)
}

// Sweep removes what earlier runs have left in the store and nobody wants any more: the keys of this
// publisher's Owner, or of the same program with other settings, that are neither desired nor those
// of a record in spare with its address and port. What is spared stays until it is desired, or until
// it would have expired. It happens once, as soon as the store answers, never blocks, and needs a
// StandingOwner.
func (p *Publisher) Sweep(spare []Record) {
	spared := map[string]Record{}
	for _, record := range spare {
		record.State = StateUp
		for _, view := range p.cfg.Views {
			if key, err := view.key(record); err == nil && key != "" {
				spared[key] = record
			}
		}
	}
	p.want(func() { p.swept = spared })
}

// want changes what is desired and wakes Run.
func (p *Publisher) want(change func()) {
	p.mu.Lock()
	change()
	p.desired.generation++
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Settle blocks until the store agreed at least once with the set of the latest Set before this
// call, or a later one, and returns nil then. It returns early with an error when ctx ends or Run
// has ended. Records that Set has left out do not count; a key that somebody else has does.
func (p *Publisher) Settle(ctx context.Context) error {
	p.mu.Lock()
	target := p.desired.generation
	p.mu.Unlock()
	for {
		p.mu.Lock()
		done, ended, moved, problem := p.settled >= target, p.ended, p.moved, p.status.Err
		p.mu.Unlock()
		switch {
		case done:
			return nil
		case ended:
			return errors.Join(&kv.Error{Op: "settle", Kind: kv.Closed, Cause: "the publisher has ended"}, problem)
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), problem)
		}
	}
}

// adopt carries the desired set over to the entries.
func (p *Publisher) adopt() {
	want := p.desired
	if want.generation == p.generation {
		return
	}
	p.generation, p.dirty = want.generation, true
	if want.refused != nil {
		p.say(slog.LevelWarn, "records left out", "reason", want.refused)
	}
	for key, placed := range want.values {
		e := p.entries[key]
		if e == nil {
			e = p.newEntry(key, placed.view)
		}
		if e.wanted != placed.value {
			e.wanted, e.of, e.leftover, e.suspect = placed.value, placed.of, false, false
			p.hurry(e)
		}
	}
	for key, e := range p.entries {
		if _, wanted := want.values[key]; !wanted && e.wanted != "" {
			p.unwant(e)
		}
	}
}

// unwant has the key of e removed, if it is ours.
func (p *Publisher) unwant(e *entry) {
	e.wanted, e.leftover, e.suspect = "", false, false
	if e.known.foreign {
		e.known.foreign, e.known.unsure = false, false
	}
	p.hurry(e)
}

func (p *Publisher) newEntry(key string, view View) *entry {
	e := &entry{key: key, view: view, slot: noSlot}
	p.entries[key] = e
	return e
}

// sweep takes what earlier runs have left and nobody wants or spares, once it is known.
func (p *Publisher) sweep() {
	if p.swept == nil || !p.connected {
		return
	}
	for key, e := range p.entries {
		address, port := e.view.endpoint(e.known.value)
		spared, ok := p.swept[key]
		if e.leftover && !(ok && spared.Address == address && spared.Port == port) {
			e.leftover = false
			p.hurry(e)
		}
	}
	p.swept, p.isSwept = nil, true
	p.touchAll()
}
