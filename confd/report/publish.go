package report

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/kvd-io/kvd/pkg/agentstatus"
	"github.com/kvd-io/kvd/pkg/backoff"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

const (
	// publishTTL is how long what is published outlives an agent that is gone.
	publishTTL = 15 * time.Second
	// writesPerSecond bounds the writes of one agent in the long run, beside one for each moment that asks for it;
	// what changes faster is written as it is then. After a pause each record may be written twice at
	// once, as happens at a start.
	writesPerSecond = 5
	// An agent that is asked how far it is looks every momentLook whether it has got there, and less often
	// when momentHurry is over.
	momentLook  = 5 * time.Millisecond
	momentHurry = 200 * time.Millisecond
	// rivalMemory is how long another agent of the same name counts as there after it was seen.
	rivalMemory = 2 * publishTTL
	// turnRest is the time between two looks at everything, unless somebody waits.
	turnRest = 100 * time.Millisecond
	// requestMax bounds one request, farewellMax what is done at the end.
	requestMax  = 5 * time.Second
	farewellMax = 2 * time.Second

	publishRetryMin = 200 * time.Millisecond
	publishRetryMax = 4 * time.Second
	refusedRetry    = 15 * time.Second // rights come and go
)

// PublisherConfig says where status is published. Store is required.
type PublisherConfig struct {
	Store  kv.Store
	Leaser kv.Leaser // nil, or of a store that has none: each key has a TTL of its own
	Prefix string    // "" is agentstatus.DefaultPrefix
	// Moments holds a token when a moment was seen: then it is said at once how far the agent is. nil: never.
	Moments <-chan struct{}
}

// publisher keeps the status of one agent in a store. It belongs to the goroutine of Publish.
type publisher struct {
	PublisherConfig
	report *Report
	names  agentstatus.Names
	self   string     // its Instance
	lease  kv.LeaseID // 0: none yet, or the store has none
	tied   bool       // it is known whether there is a lease
	beaten time.Time  // the last heartbeat began

	said      time.Time // the host's record was written last
	owed      kv.Index  // somebody waits to hear that everything up to here is live; 0: nobody
	owedSince time.Time
	sent      map[string]sentence // what is in the store, as far as is known, by key
	tokens    float64             // writes that may be made now
	filled    time.Time           // tokens were counted; zero: never, there are as many as there may be
	refused   bool                // it was said that the store refuses
	warned    bool                // it was said that another agent has the same name
	retry     backoff.Backoff
}

// sentence is one published record.
type sentence struct {
	value string
	means string // what has to differ for it to be written again
}

// Publish keeps the status in a store until ctx ends, and removes it then. It never gives up on a store
// that is away; that a store refuses is logged once. It is called once.
func (r *Report) Publish(ctx context.Context, cfg PublisherConfig) {
	p := &publisher{
		PublisherConfig: cfg, report: r, names: agentstatus.NamesOf(cfg.Prefix), self: rand.Text(), sent: map[string]sentence{},
		retry: backoff.Backoff{Min: publishRetryMin, Max: publishRetryMax},
	}
	defer p.leave(ctx)
	timer, rest := time.NewTimer(0), time.NewTimer(0)
	defer timer.Stop()
	defer rest.Stop()
	wake := r.wake
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-rest.C:
			wake = r.wake
			continue
		case <-cfg.Moments:
			p.owe()
		case <-timer.C:
		}
		if ctx.Err() != nil {
			return
		}
		if wake == nil && !p.reached() {
			timer.Reset(min(turnRest, p.patience()))
			continue
		}
		wait, err := p.turn(ctx)
		switch {
		case err == nil:
			p.retry.Reset()
		case ctx.Err() == nil:
			p.fail(err)
			wait = p.retry.Next()
			if kvclient.Refused(err) {
				wait = refusedRetry
			}
		}
		timer.Reset(wait)
		wake = nil
		rest.Reset(turnRest)
	}
}

// reached reports whether an answer is owed that can be given.
func (p *publisher) reached() bool {
	agent := p.report.asked()
	return p.owed > 0 && agent != nil && agent.Live() >= p.owed
}

// owe notes that a moment asks for an answer: that everything is live which the stores have told by now.
func (p *publisher) owe() {
	agent := p.report.asked()
	if agent == nil {
		return
	}
	if store, ok := published(agent.Stores()); ok {
		p.owed, p.owedSince = store.Index, time.Now()
	}
}

// patience is how long to wait before it is looked again whether an answer that is owed can be given.
func (p *publisher) patience() time.Duration {
	switch since := time.Since(p.owedSince); {
	case since < momentHurry:
		return momentLook
	case since < agentstatus.MomentTTL:
		return momentHurry / 4
	}
	p.owed = 0 // who asked has gone
	return publishTTL / 3
}

// published returns the store in which status is kept.
func published(stores []Store) (Store, bool) {
	i := slices.IndexFunc(stores, func(s Store) bool { return s.Published })
	if i < 0 {
		return Store{}, false
	}
	return stores[i], true
}

// turn brings the store to what is so, as far as the rate allows, and returns when to look again.
func (p *publisher) turn(ctx context.Context) (wait time.Duration, err error) {
	host, wanted, ok := p.wanted()
	if !ok {
		return time.Second, nil
	}
	if err := p.beat(ctx); err != nil {
		return 0, err
	}
	key := p.names.Host(p.report.cfg.Host)
	answers := p.owed > 0 && host.Index >= p.owed
	if sent, there := p.sent[key]; there && !answers && sent.means == wanted[key].means && time.Since(p.said) < publishTTL/3 {
		wanted[key] = sent // it differs in its index alone, which nobody has asked for
	}
	if p.sent[key].value != wanted[key].value {
		if !answers && !p.take(len(wanted)) { // who asks is waiting, and asks for no more than one
			return p.next(time.Second), nil
		}
		if err := p.put(ctx, key, wanted[key].value); err != nil {
			return 0, err
		}
		p.sent[key], p.said = wanted[key], time.Now()
	}
	if answers {
		p.owed = 0
	}
	for _, target := range slices.Sorted(maps.Keys(wanted)) {
		want := wanted[target]
		if sent, there := p.sent[target]; target == key || there && sent.means == want.means {
			continue
		}
		if !p.take(len(wanted)) {
			return p.next(time.Second), nil
		}
		if err := p.put(ctx, target, want.value); err != nil {
			return 0, err
		}
		p.sent[target] = want
	}
	for _, key := range slices.Sorted(maps.Keys(p.sent)) {
		if _, there := wanted[key]; there {
			continue
		}
		if !p.take(len(wanted)) {
			return p.next(time.Second), nil
		}
		if err := p.write(ctx, kv.Write{Op: kv.OpDelete, Key: key}); err != nil && !kv.Is(err, kv.NotFound) {
			return 0, err
		}
		delete(p.sent, key)
	}
	return p.next(max(0, publishTTL/3-time.Since(p.beaten))), nil
}

// next is when to look again: usual, or before if an answer is owed.
func (p *publisher) next(usual time.Duration) time.Duration {
	if p.owed == 0 {
		return usual
	}
	return min(usual, p.patience())
}

// wanted returns the records that are to be in the store; false before there is anything to say.
func (p *publisher) wanted() (agentstatus.Host, map[string]sentence, bool) {
	s := p.report.Status()
	if p.report.asked() == nil {
		return agentstatus.Host{}, nil, false
	}
	store, _ := published(s.Stores)
	host := agentstatus.Host{Host: s.Host, Version: s.Version, Instance: p.self, Index: s.Index, Cluster: store.Cluster, Since: s.Started.Round(time.Second), Targets: len(s.Targets), Keys: []string{}}
	wanted := map[string]sentence{}
	for _, t := range s.Targets {
		record := agentstatus.Target{Name: t.Name, Dest: t.Dest, State: string(t.State), Step: t.Step, Index: t.Index, Hash: t.Hash, Err: t.Err, Since: t.Since, Next: t.Next, Keys: t.Keys}
		host.Keys = append(host.Keys, t.Keys...)
		switch {
		case t.State.runs():
			host.Converged++
		case len(host.Behind) < agentstatus.BehindMax:
			host.Behind = append(host.Behind, agentstatus.Target{Name: t.Name, State: string(t.State), Step: t.Step, Err: t.Err, Keys: t.Keys})
		default:
			host.BehindMore++
		}
		if means := record; isSettled(t.State) || t.State == Waiting { // the others are over in a moment
			means.Index, means.Since, means.Next, means.Err = 0, time.Time{}, time.Time{}, Lasting(t.Err)
			wanted[p.names.Target(s.Host, t.Name)] = sentence{record.Value(), means.Value()}
		} else if sent, there := p.sent[p.names.Target(s.Host, t.Name)]; there {
			wanted[p.names.Target(s.Host, t.Name)] = sent
		}
	}
	slices.Sort(host.Keys)
	host.Keys = slices.Compact(host.Keys)
	for _, problem := range s.Problems {
		if problem.Target == "" && len(host.Problems) < agentstatus.BehindMax {
			host.Problems = append(host.Problems, problem.String())
		}
	}
	means := host
	means.Index, means.Behind, means.Problems = 0, slices.Clone(host.Behind), slices.Clone(host.Problems)
	for i := range means.Behind {
		means.Behind[i].Err = Lasting(means.Behind[i].Err)
	}
	for i := range means.Problems {
		means.Problems[i] = Lasting(means.Problems[i])
	}
	wanted[p.names.Host(s.Host)] = sentence{host.Value(), means.Value()}
	return host, wanted, true
}

// take takes the right to one write of so many records.
func (p *publisher) take(records int) bool {
	now := time.Now()
	p.tokens = min(max(writesPerSecond, 2*float64(records)), p.tokens+now.Sub(p.filled).Seconds()*writesPerSecond)
	p.filled = now
	if p.tokens < 1 {
		return false
	}
	p.tokens--
	return true
}

// beat keeps what is published alive.
func (p *publisher) beat(ctx context.Context) error {
	if p.tied && time.Since(p.beaten) < publishTTL/3 {
		return nil
	}
	began := time.Now()
	var err error
	switch {
	case !p.tied:
		err = p.tie(ctx)
	case p.lease != 0:
		err = p.keepAlive(ctx)
	default:
		err = p.refresh(ctx)
	}
	if err == nil {
		p.beaten = began
	}
	return err
}

// look finds out whether another agent has written its record in the place of this one's: that one must be alive. This
// one's is then written again, so that the other finds out too.
func (p *publisher) look(ctx context.Context) {
	host := p.report.cfg.Host
	key := p.names.Host(host)
	if _, written := p.sent[key]; !written {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, requestMax)
	defer cancel()
	result, err := p.Store.Read(ctx, kv.Read{Key: key, Quorum: true})
	if err != nil {
		return // it was removed, or may not be read
	}
	record, err := agentstatus.Parse(result.Node.Value)
	if err == nil && record.Instance == p.self {
		return
	}
	delete(p.sent, key)
	p.report.meet()
	if !p.warned {
		p.report.cfg.Log.Warn("another kvconfd publishes its status under the name of this one, so what is told of this host is wrong: give one of them another name by --host", "host", host)
	}
	p.warned = true
}

// tie finds out whether the store has leases, and gets one.
func (p *publisher) tie(ctx context.Context) error {
	clear(p.sent)
	p.lease = 0
	if p.Leaser != nil {
		ctx, cancel := context.WithTimeout(ctx, requestMax)
		defer cancel()
		lease, err := p.Leaser.Grant(ctx, publishTTL)
		switch {
		case err == nil:
			p.lease = lease.ID
		case !kv.Is(err, kv.Internal) && !kv.Is(err, kv.NotFound) && !kv.Is(err, kv.Invalid): // those come from a store without leases
			return err
		}
	}
	p.tied = true
	return nil
}

func (p *publisher) keepAlive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestMax)
	defer cancel()
	lease, err := p.Leaser.KeepAlive(ctx, p.lease)
	switch {
	case kv.Is(err, kv.NoLease):
		return p.tie(ctx)
	case err == nil && lease.Attached != len(p.sent): // somebody has removed or replaced some
		p.look(ctx)
		clear(p.sent)
	}
	return err
}

// refresh renews each key by itself, without waking anybody.
func (p *publisher) refresh(ctx context.Context) error {
	p.look(ctx)
	for _, key := range slices.Sorted(maps.Keys(p.sent)) {
		err := p.write(ctx, kv.Write{Op: kv.OpUpdate, Key: key, Refresh: true, TTL: publishTTL})
		if kv.Is(err, kv.NotFound) {
			delete(p.sent, key)
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// put writes one record.
func (p *publisher) put(ctx context.Context, key, value string) error {
	w := kv.Write{Op: kv.OpSet, Key: key, Value: value, Lease: p.lease}
	if p.lease == 0 {
		w.TTL = publishTTL
	}
	err := p.write(ctx, w)
	if kv.Is(err, kv.NoLease) {
		p.tied = false
	}
	result := "ok"
	if err != nil {
		result = "failed"
	}
	p.report.metrics.published.WithLabelValues(result).Inc()
	return err
}

func (p *publisher) write(ctx context.Context, w kv.Write) error {
	ctx, cancel := context.WithTimeout(ctx, requestMax)
	defer cancel()
	w.NoValue = true
	_, err := p.Store.Write(ctx, w)
	return err
}

// fail tells of an error: of one that somebody has to do something about, once.
func (p *publisher) fail(err error) {
	log := p.report.cfg.Log
	if kv.Is(err, kv.NoLease) {
		p.tied = false
	}
	if !kvclient.Refused(err) {
		log.Debug("status cannot be published", "reason", err)
		return
	}
	if !p.refused {
		log.Warn("the store refuses to have status published; everything else goes on. Grant this user to write below the directory, or say --status-prefix \"\"", "directory", p.names.Dir(), "reason", err)
	}
	p.refused = true
}

// leave removes what is published.
func (p *publisher) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewellMax)
	defer cancel()
	if p.lease != 0 {
		_, err := p.Leaser.Revoke(ctx, p.lease)
		if err == nil || kv.Is(err, kv.NoLease) {
			return
		}
	}
	for key := range p.sent {
		if err := p.write(ctx, kv.Write{Op: kv.OpDelete, Key: key}); err != nil && errors.Is(err, context.DeadlineExceeded) {
			return // what is left expires
		}
	}
}
