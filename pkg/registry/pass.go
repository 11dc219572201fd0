package registry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

func (p *Publisher) loop(ctx context.Context) {
	for ctx.Err() == nil {
		p.adopt()
		timer := time.NewTimer(p.pass(ctx))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-p.wake:
		case c := <-p.changes:
			p.note(c)
		}
		timer.Stop()
	}
}

// withdraw removes every key that is ours, trying until ctx ends.
func (p *Publisher) withdraw(ctx context.Context) {
	p.adopt()
	now := time.Now()
	for _, e := range p.entries {
		e.wanted, e.due = "", now
	}
	p.retry.Reset()
	p.notBefore = time.Time{}
	for len(p.entries) > 0 && ctx.Err() == nil {
		timer := time.NewTimer(p.pass(ctx))
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (p *Publisher) leftover() error {
	var problems []error
	for key, e := range p.entries {
		if e.gone() {
			continue
		}
		cause := e.problem
		if cause == nil {
			cause = errors.New("there was no time left to try")
		}
		problems = append(problems, fmt.Errorf("%s was not removed and expires by itself within %v: %w", key, p.cfg.TTL, cause))
	}
	return errors.Join(problems...)
}

// adopt carries the desired set over to the entries.
func (p *Publisher) adopt() {
	p.mu.Lock()
	want := p.desired
	p.mu.Unlock()
	if want.generation == p.generation {
		return
	}
	p.generation = want.generation
	if want.refused != nil {
		p.cfg.Log.Warn("records left out", "reason", want.refused)
	}
	now := time.Now()
	for key, value := range want.values {
		e := p.entries[key]
		if e == nil {
			e = &entry{key: key}
			p.entries[key] = e
		}
		if e.wanted != value {
			e.wanted, e.due = value, now
		}
	}
	for key, e := range p.entries {
		if _, wanted := want.values[key]; !wanted {
			e.wanted, e.due = "", now
		}
	}
}

// pass visits every entry that is due and returns how long to wait for the next one.
func (p *Publisher) pass(ctx context.Context) time.Duration {
	now := time.Now()
	if wait := p.notBefore.Sub(now); wait > 0 {
		return wait
	}
	var visits errgroup.Group
	visits.SetLimit(requestsMax)
	var outage atomic.Bool
	for _, e := range p.entries {
		if e.due.After(now) {
			continue
		}
		visits.Go(func() error {
			if outage.Load() { // it would wait for nothing; it stays due
				return nil
			}
			p.visit(ctx, e)
			if e.problem != nil && isOutage(e.problem) {
				outage.Store(true)
			}
			return nil
		})
	}
	visits.Wait()
	if ctx.Err() == nil { // otherwise failures say nothing about the store
		p.report(outage.Load())
	}
	return p.wait()
}

// visit reconciles one entry and sets when it is due again.
func (p *Publisher) visit(ctx context.Context, e *entry) {
	ctx, cancel := context.WithTimeout(ctx, min(max(p.cfg.TTL/3, requestTimeoutMin), requestTimeoutMax))
	defer cancel()
	e.problem = e.reconcile(ctx, p.cfg.Store, p.cfg.Owner, p.cfg.TTL)
	if e.problem == nil || !isOutage(e.problem) {
		e.due = time.Now().Add(heartbeat(p.cfg.TTL))
	}
}

// heartbeat is a third of the TTL, spread by a tenth either way so that hosts that started
// together drift apart.
func heartbeat(ttl time.Duration) time.Duration {
	return time.Duration(float64(ttl) / 3 * (0.9 + 0.2*rand.Float64()))
}

// report forgets what is gone, logs what is new, and publishes the status.
func (p *Publisher) report(outage bool) {
	status, settled := Status{}, true
	now := time.Now()
	for key, e := range p.entries {
		if e.gone() {
			delete(p.entries, key)
			continue
		}
		if e.wanted != "" {
			status.Wanted++
		}
		if e.registered(now) {
			status.Registered++
		}
		if !e.inPlace() {
			settled = false
		}
		if e.problem != nil && (status.Err == nil || isOutage(e.problem)) {
			status.Err = e.problem
		}
		p.logProblem(e)
	}
	p.countOutage(outage, status.Err)
	p.publish(func() {
		if p.desired.refused != nil && p.desired.generation == p.generation {
			status.Err = errors.Join(status.Err, p.desired.refused)
			settled = false
		}
		if settled {
			p.settled = p.generation
		}
		p.status = status
	})
}

// logProblem logs what keeps one key from its place, once for each reason.
func (p *Publisher) logProblem(e *entry) {
	text := ""
	if e.problem != nil && !isOutage(e.problem) {
		text = e.problem.Error()
	}
	if text != "" && text != e.logged {
		p.cfg.Log.Warn("not registered", "reason", text)
	}
	if text == "" && e.logged != "" && e.inPlace() {
		p.cfg.Log.Info("registered after all", "key", e.key)
	}
	if text != "" || e.inPlace() {
		e.logged = text
	}
}

// countOutage sets when the store is tried again and logs the first and last failure of a row.
func (p *Publisher) countOutage(outage bool, cause error) {
	switch {
	case outage:
		if !p.outage {
			p.cfg.Log.Warn("store does not answer; trying until it does", "reason", cause)
		}
		p.notBefore = time.Now().Add(p.retry.Next())
	case p.outage:
		p.cfg.Log.Info("store answers again")
		p.retry.Reset()
		p.notBefore = time.Time{}
	}
	p.outage = outage
}

// wait is the time until the next entry is due, or until the store may be tried again.
func (p *Publisher) wait() time.Duration {
	next := time.Now().Add(p.cfg.TTL)
	for _, e := range p.entries {
		if e.due.Before(next) {
			next = e.due
		}
	}
	if p.notBefore.After(next) {
		next = p.notBefore
	}
	return max(time.Until(next), 0)
}
