package confd

import "time"

// pace decides when changes are acted on: at once after a pause, gathered in a burst. Each pass that
// follows soon on another waits twice as long for quiet, until longest after the other began, so that
// changes which never stop cost one pass per longest, whatever their rhythm. When longest has
// passed already, a change has quiet for what comes with it, and a pass that was busy for long is followed by as
// long a pause, but longest at most. It knows no clock: it is told the time.
type pace struct {
	quiet, longest time.Duration
	gather         time.Duration // for which even the first change after a pause waits for what was sent with it

	next     time.Duration // quiet to wait for before the next pass, if it comes soon
	began    time.Time     // when the last pass began; zero: there was none
	last     time.Time     // end of the last pass; zero: there was none
	pause    time.Duration // for which the machine is left to others after it
	deadline time.Time     // when the changes that are waiting must be acted on; zero: none are
	due      time.Time     // when they are to be, unless more come
}

// changed notes a change. It is due when it returns, or when due says.
func (p *pace) changed(now time.Time) {
	burst := now.Sub(p.last) < p.longest
	switch {
	case p.deadline.IsZero() && !burst:
		p.next = p.quiet
		p.deadline = now.Add(p.gather)
		p.due = p.deadline
	case p.deadline.IsZero():
		p.deadline = p.began.Add(p.longest)
		for _, soonest := range []time.Time{now.Add(p.quiet), p.last.Add(p.pause)} {
			if p.deadline.Before(soonest) {
				p.deadline = soonest
			}
		}
		p.due = now.Add(p.next)
	default:
		p.due = now.Add(p.next)
	}
	if p.due.After(p.deadline) {
		p.due = p.deadline
	}
}

// later notes a change that nobody waits for: it is due in a while, when no more have come or longest has
// passed.
func (p *pace) later(now time.Time) {
	if p.deadline.IsZero() {
		if now.Sub(p.last) >= p.longest {
			p.next = p.quiet
		}
		p.deadline = now.Add(p.longest)
	}
	if p.due = now.Add(p.next); p.due.After(p.deadline) {
		p.due = p.deadline
	}
}

// hurry makes what is waiting, or nothing, due at once.
func (p *pace) hurry(now time.Time) { p.deadline, p.due = now, now }

// isDue reports whether there are changes whose time has come.
func (p *pace) isDue(now time.Time) bool { return !p.deadline.IsZero() && !now.Before(p.due) }

// taken notes that the changes which were waiting are being acted on.
func (p *pace) taken(now time.Time) {
	if now.Sub(p.last) < p.longest {
		p.next = min(2*max(p.next, p.quiet), p.longest)
	}
	p.began = now
	p.drop()
}

// drop notes that the changes which were waiting need no pass.
func (p *pace) drop() { p.deadline, p.due = time.Time{}, time.Time{} }

// rest has the next pass come a pause after the last one at the soonest.
func (p *pace) rest(pause time.Duration) { p.quiet, p.longest, p.next = pause, pause, pause }

// waits reports whether there are changes that were not acted on.
func (p *pace) waits() bool { return !p.deadline.IsZero() }

// passed notes that a pass has ended, in which this machine was busy with our work for some time.
func (p *pace) passed(now time.Time, busy time.Duration) { p.last, p.pause = now, min(busy, p.longest) }

// bucket limits how often something may happen: burst times at once, and then once per interval. What
// comes sooner is to wait, not to be dropped.
type bucket struct {
	burst    int
	interval time.Duration // 0: no limit

	full time.Time // when it is, or was, full again
}

// ready returns when the next one may happen: now, or later.
func (b *bucket) ready(now time.Time) time.Time {
	room := time.Duration(b.burst-1) * b.interval
	if at := b.full.Add(-room); b.interval > 0 && at.After(now) {
		return at
	}
	return now
}

// take notes that one happens, whether it was its time or not.
func (b *bucket) take(now time.Time) {
	if b.full.Before(now) {
		b.full = now
	}
	b.full = b.full.Add(b.interval)
}
