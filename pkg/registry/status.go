package registry

import (
	"cmp"
	"errors"
	"log/slog"
	"slices"
	"time"
)

// KeyState says how far a key of a publisher has come.
type KeyState string

// The states of a key.
const (
	KeyWaiting    KeyState = "waiting"    // wanted, and not in the store as it should be, as far as is known
	KeyRegistered KeyState = "registered" // in the store as it should be
	KeyHeld       KeyState = "held"       // somebody else has it
	KeyLeaving    KeyState = "leaving"    // not wanted any more, and not known to be gone
)

// KeyStatus is what a publisher knows about one key.
type KeyStatus struct {
	Key      string
	Service  string
	Instance string // of the record, whatever the key is called in this view
	View     View
	State    KeyState
	Since    time.Time // when State began
	Err      error     // why the latest attempt failed; nil after a success
	Owner    string    // of a key that is held; "" if its value names none
	Expired  bool      // it was registered and not renewed in time, as far as is known; then it is waiting
}

// Status returns the state of the latest turn.
func (p *Publisher) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// Keys returns every key that is desired or still to be removed, in key order. It knows of what was
// Set after Run has taken notice of it, and of nothing once Run has ended.
func (p *Publisher) Keys() []KeyStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	keys := make([]KeyStatus, 0, len(p.entries))
	for _, e := range p.entries {
		if e.leftover {
			continue
		}
		keys = append(keys, KeyStatus{
			Key: e.key, Service: e.of.Service, Instance: e.of.Instance, View: e.view,
			State: e.state, Since: e.since, Err: e.problem, Owner: e.known.owner,
			Expired: e.state == KeyWaiting && e.known.held && e.known.index != 0 && e.known.value == e.wanted,
		})
	}
	slices.SortFunc(keys, func(a, b KeyStatus) int { return cmp.Compare(a.Key, b.Key) })
	return keys
}

// LastPass is when Run last looked at what is to be done: at most one TTL ago while it makes progress,
// as long as requests to the store end when their time is over. It is zero before Run.
func (p *Publisher) LastPass() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.turned
}

// report forgets what is gone, and publishes the status if anything has happened. It reports whether
// something has changed that OnStatus is told.
func (p *Publisher) report() (tell bool) {
	now := time.Now()
	if !p.isStuck(now) {
		p.turned = now
	}
	if !p.dirty {
		return false
	}
	if p.allTouched {
		for _, e := range p.entries {
			p.review(e, now)
		}
	} else {
		for _, e := range p.touched {
			p.review(e, now)
		}
	}
	for _, e := range p.touched {
		e.touched = false
	}
	clear(p.touched)
	p.touched, p.allTouched, p.dirty = p.touched[:0], false, false
	before := p.status
	s := &p.status
	s.Wanted, s.Registered, s.Lease, s.Err = p.tally.wanted, p.tally.registered, p.lease, p.outage
	if s.Err == nil {
		s.Err = p.trouble()
	}
	if p.desired.refused != nil {
		s.Err = errors.Join(s.Err, p.desired.refused)
	}
	if p.swept == nil && p.tally.unsettled == 0 {
		p.settled = p.generation
	}
	p.stir()
	return !before.equal(p.status)
}

// tally is how many entries count as what.
type tally struct{ wanted, registered, unsettled, troubled int }

// counted is as what one entry counts.
type counted struct{ wanted, registered, unsettled, troubled bool }

// count adds n for everything that an entry counts as.
func (t *tally) count(c counted, n int) {
	for _, one := range []struct {
		is    bool
		total *int
	}{{c.wanted, &t.wanted}, {c.registered, &t.registered}, {c.unsettled, &t.unsettled}, {c.troubled, &t.troubled}} {
		if one.is {
			*one.total += n
		}
	}
}

// touch has e looked at by the next report.
func (p *Publisher) touch(e *entry) {
	p.dirty = true
	if !e.touched {
		e.touched = true
		p.touched = append(p.touched, e)
	}
}

// touchAll has every entry looked at by the next report.
func (p *Publisher) touchAll() { p.dirty, p.allTouched = true, true }

// review notes how far e has come, and forgets it if it is gone.
func (p *Publisher) review(e *entry, now time.Time) {
	if p.entries[e.key] != e {
		return
	}
	if e.gone() {
		p.forget(e)
		return
	}
	p.grade(e, now)
	p.complain(e)
	is := counted{
		wanted: e.wanted != "", registered: p.registered(e, now),
		unsettled: !e.leftover && !p.inPlace(e), troubled: e.problem != nil,
	}
	if is != e.counted {
		p.tally.count(e.counted, -1)
		p.tally.count(is, 1)
		e.counted = is
	}
}

// discount takes an entry that is dropped out of the tally.
func (p *Publisher) discount(e *entry) {
	p.tally.count(e.counted, -1)
	e.counted = counted{}
}

// trouble is what keeps the first key from its place that has any, nil if none has.
func (p *Publisher) trouble() error {
	if p.tally.troubled == 0 {
		return nil
	}
	var first *entry
	for _, e := range p.entries {
		if e.problem != nil && (first == nil || e.key < first.key) {
			first = e
		}
	}
	if first == nil {
		return nil
	}
	return first.problem
}

// isStuck reports whether a request takes longer than any may.
func (p *Publisher) isStuck(now time.Time) bool {
	for _, began := range p.pending {
		if now.Sub(began) > overdueAfter {
			return true
		}
	}
	return false
}

// grade notes how far the key of e has come.
func (p *Publisher) grade(e *entry, now time.Time) {
	state := KeyWaiting
	switch {
	case e.wanted == "":
		state = KeyLeaving
	case e.known.foreign:
		state = KeyHeld
	case p.registered(e, now):
		state = KeyRegistered
	}
	if state != e.state {
		e.state, e.since = state, now
	}
}

// announce logs what has become of one key, which had the value before if it has changed.
func (p *Publisher) announce(e *entry, news, before string) {
	if news == "" {
		return
	}
	if news == newsRemoved {
		p.status.Removed++
	}
	address, port := e.view.endpoint(e.known.value)
	args := []any{"key", e.key, "address", address, "port", port}
	if news == newsChanged {
		args = append(args, "what", changes(before, e.known.value))
	}
	p.say(slog.LevelInfo, news, args...)
	e.logged = ""
}

// complain logs what keeps one key from its place, once for each reason.
func (p *Publisher) complain(e *entry) {
	text := ""
	if e.problem != nil && !isOutage(e.problem) {
		text = e.problem.Error()
	}
	if text != "" && text != e.logged {
		p.say(slog.LevelWarn, "not registered", "reason", text)
	}
	if text == "" && e.logged != "" && p.inPlace(e) {
		p.say(slog.LevelInfo, "registered after all", "key", e.key)
	}
	if text != "" || p.inPlace(e) {
		e.logged = text
	}
}

// equal reports whether the two say the same of what OnStatus is told.
func (s Status) equal(other Status) bool {
	text := func(err error) string {
		if err == nil {
			return ""
		}
		return err.Error()
	}
	return s.Wanted == other.Wanted && s.Registered == other.Registered && text(s.Err) == text(other.Err)
}
