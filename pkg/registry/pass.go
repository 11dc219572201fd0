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
		case err := <-p.links:
			if err == nil || len(p.entries) == 0 { // otherwise visits know better
				p.setOutage(err)
				p.report()
			}
		}
		timer.Stop()
	}
}

// withdraw removes every key that is ours, or with Keep those that are not wanted any more, trying
// until ctx ends.
func (p *Publisher) withdraw(ctx context.Context) {
	p.adopt()
	p.sweeping = nil // what was not found until now expires
	now := time.Now()
	for key, e := range p.entries {
		if p.cfg.Keep && e.wanted != "" {
			delete(p.entries, key)
			continue
		}
		e.wanted, e.due = "", now
	}
	p.retry.Reset()
	p.notBefore = time.Time{}
	for ctx.Err() == nil {
		wait := p.pass(ctx)
		if len(p.entries) == 0 {
			return
		}
		timer := time.NewTimer(wait)
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
	if p.swept != nil {
		p.sweeping, p.swept = p.swept, nil
	}
	p.mu.Unlock()
	if want.generation == p.generation {
		return
	}
	p.generation = want.generation
	if want.refused != nil {
		p.cfg.Log.Warn("records left out", "reason", want.refused)
	}
	now := time.Now()
	for key, want := range want.values {
		e := p.entries[key]
		if e == nil {
			e = &entry{key: key}
			p.entries[key] = e
		}
		e.view = want.view
		if e.wanted != want.value {
			e.wanted, e.due = want.value, now
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
		p.report() // what needs no store is settled all the same
		return wait
	}
	if err := p.sweep(ctx); err != nil {
		if ctx.Err() == nil {
			p.setOutage(err)
			p.report()
		}
		return p.wait()
	}
	var visits errgroup.Group
	visits.SetLimit(requestsMax)
	var outage atomic.Pointer[error]
	visited := 0
	for _, e := range p.entries {
		if e.due.After(now) {
			continue
		}
		visited++
		visits.Go(func() error {
			if outage.Load() != nil { // it would wait for nothing; it stays due
				return nil
			}
			p.visit(ctx, e)
			if problem := e.problem; problem != nil && isOutage(problem) {
				outage.Store(&problem)
			}
			return nil
		})
	}
	visits.Wait()
	if ctx.Err() != nil { // what failed says nothing about the store
		return 0
	}
	if cause := outage.Load(); cause != nil {
		p.setOutage(*cause)
	} else if visited > 0 {
		p.setOutage(nil)
	}
	p.report()
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
func (p *Publisher) report() {
	status, settled := Status{Err: p.outage}, p.sweeping == nil
	now := time.Now()
	for key, e := range p.entries {
		p.logNews(e)
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
		if status.Err == nil {
			status.Err = e.problem
		}
		p.logProblem(e)
	}
	p.publish(func() {
		if p.desired.refused != nil && p.desired.generation == p.generation {
			status.Err = errors.Join(status.Err, p.desired.refused)
			settled = false
		}
		if settled {
			p.settled = p.generation
		}
		status.Removed = p.removed
		p.status, p.turned = status, now
	})
}

// logNews logs what has become of one key.
func (p *Publisher) logNews(e *entry) {
	if e.news == "" {
		return
	}
	if e.news == removed {
		p.removed++
	}
	address, port := e.view.endpoint(e.written)
	p.cfg.Log.Info(e.news, "key", e.key, "address", address, "port", port)
	e.news, e.logged = "", ""
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

// setOutage notes whether the store answers, sets when it is tried again, and logs the first and
// the last failure of a row.
func (p *Publisher) setOutage(cause error) {
	switch {
	case cause != nil:
		if p.outage == nil {
			p.cfg.Log.Warn("store does not answer; trying until it does", "reason", cause)
		}
		p.notBefore = time.Now().Add(p.retry.Next())
	case p.outage != nil:
		p.cfg.Log.Info("store answers again")
		p.retry.Reset()
		p.notBefore = time.Time{}
	}
	p.outage = cause
}

// wait is the time until the next entry is due, or until the store may be tried again.
func (p *Publisher) wait() time.Duration {
	next := time.Now().Add(p.cfg.TTL)
	if p.sweeping != nil {
		next = time.Now()
	}
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
