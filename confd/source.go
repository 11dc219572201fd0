package confd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kvd-io/kvd/pkg/backoff"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// source keeps a mirror equal to where the keys come from.
type source interface {
	// load reads everything at or below roots once. On error it has read what it could.
	load(ctx context.Context, m *mirror, roots []string) error
	// run keeps m current until ctx ends. poke asks it to look again before its time.
	run(ctx context.Context, m *mirror, roots []string, poke <-chan struct{})
}

// How long a source waits before it tries again after a failure.
const (
	sourceRetryMin = 100 * time.Millisecond
	sourceRetryMax = 5 * time.Second
)

// openSource returns the source that cfg names, and what to call when it is no longer used.
func openSource(cfg Config, deps Deps) (source, func(), error) {
	nothing := func() {}
	switch cfg.Backend {
	case backendEnv:
		return &polled{read: environmentReader(os.Environ), interval: cfg.Interval, log: deps.Log}, nothing, nil
	case backendFile:
		return &polled{read: fileReader(cfg.Files, cfg.Filter), interval: cfg.Interval, log: deps.Log}, nothing, nil
	}
	store, end := deps.Store, nothing
	if store == nil {
		endpoints, err := endpoints(cfg, deps)
		if err != nil {
			return nil, nil, err
		}
		cfg.Client.Endpoints, cfg.Client.Log = endpoints, deps.Log
		client, err := kvclient.New(cfg.Client)
		if err != nil {
			return nil, nil, err
		}
		store, end = client, func() { client.Close() }
	}
	return &followed{store: store, watch: cfg.Watch, interval: cfg.Interval, log: deps.Log}, end, nil
}

// endpoints returns the members of the store, each with its scheme.
func endpoints(cfg Config, deps Deps) ([]string, error) {
	found := cfg.Client.Endpoints
	if cfg.SRV != "" {
		lookup := deps.Lookup
		if lookup == nil {
			lookup = lookupSRV
		}
		var err error
		if found, err = lookup(cfg.SRV); err != nil {
			return nil, fmt.Errorf("cannot find the store by the SRV record %s: %w", cfg.SRV, err)
		}
	}
	full := make([]string, len(found))
	for i, endpoint := range found {
		full[i] = endpoint
		if cfg.Scheme != "" && !strings.Contains(endpoint, "://") {
			full[i] = cfg.Scheme + "://" + endpoint
		}
	}
	return full, nil
}

func lookupSRV(record string) ([]string, error) {
	_, targets, err := net.LookupSRV("", "", record)
	if err != nil {
		return nil, err
	}
	var hosts []string
	for _, t := range targets {
		hosts = append(hosts, net.JoinHostPort(strings.TrimSuffix(t.Target, "."), strconv.Itoa(int(t.Port))))
	}
	return hosts, nil
}

// followed is a kv.Store as a source.
type followed struct {
	store    kv.Store
	watch    bool
	interval time.Duration
	log      *slog.Logger

	mu        sync.Mutex // guards inTrouble
	inTrouble int        // followers that cannot read or watch
}

func (f *followed) load(ctx context.Context, m *mirror, roots []string) error {
	var problems []error
	for _, root := range roots {
		_, err := f.list(ctx, m, root)
		problems = append(problems, err)
		if err != nil && kv.Temporary(err) {
			break // the next root would find the store as unreachable
		}
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	if !m.whole() {
		return errors.New("the store was replaced by another one while it was read; try again")
	}
	return nil
}

func (f *followed) run(ctx context.Context, m *mirror, roots []string, _ <-chan struct{}) {
	if !f.watch {
		f.keep(ctx, func(recovered func()) error { return f.look(ctx, m, roots, recovered) })
		return
	}
	var followers sync.WaitGroup
	for _, root := range roots {
		followers.Go(func() {
			f.keep(ctx, func(recovered func()) error { return f.follow(ctx, m, root, recovered) })
		})
	}
	followers.Wait()
}

// keep repeats round until ctx ends, at once after a success and with pauses after failures. A
// round calls recovered when it has got so far that an earlier trouble is over.
func (f *followed) keep(ctx context.Context, round func(recovered func()) error) {
	retry := backoff.Backoff{Min: sourceRetryMin, Max: sourceRetryMax}
	var failing, historyGone bool // since the last good round
	recovered := func() {
		if failing {
			failing = false
			f.troubled(-1, nil)
		}
	}
	for ctx.Err() == nil {
		began := time.Now()
		err := round(recovered)
		// A store that can be listed and not watched must not be listed over and over.
		if err == nil || time.Since(began) >= sourceRetryMax {
			retry.Reset()
			historyGone = false
		}
		switch {
		case err == nil || ctx.Err() != nil:
			continue
		case kv.Is(err, kv.HistoryGone) && !historyGone: // no trouble: the next round reads everything
			historyGone = true
			f.log.Debug("everything is read again", "reason", err)
		case failing:
			f.log.Debug("the store cannot be followed yet", "reason", err)
		default:
			failing = true
			f.troubled(1, err)
		}
		retry.Wait(ctx)
	}
	if failing {
		f.troubled(-1, nil)
	}
}

// troubled counts a follower in trouble, or one less. One line tells of the trouble, another of
// its end, however many keys are followed.
func (f *followed) troubled(change int, reason error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inTrouble += change
	switch {
	case reason != nil && f.inTrouble == 1:
		f.log.Warn("cannot follow the store; files stay as they are until it answers", "reason", reason)
	case reason != nil:
		f.log.Debug("the store cannot be followed", "reason", reason)
	case f.inTrouble == 0:
		f.log.Info("reading the store again")
	}
}

// look reads all roots and then waits for the interval to be over.
func (f *followed) look(ctx context.Context, m *mirror, roots []string, recovered func()) error {
	if err := f.load(ctx, m, roots); err != nil {
		return err
	}
	recovered()
	rest, cancel := context.WithTimeout(ctx, f.interval)
	defer cancel()
	<-rest.Done()
	return nil
}

// list reads root into m and returns the store's index. A root that is absent is empty.
func (f *followed) list(ctx context.Context, m *mirror, root string) (kv.Index, error) {
	pairs := map[string]string{}
	result, err := f.store.Read(ctx, kv.Read{Key: root, Recursive: true, Quorum: true})
	from := origin{result.Cluster, result.Index}
	switch {
	case err == nil:
		flatten(result.Node, pairs)
	case kv.Is(err, kv.NotFound):
		from = originOf(err)
	default:
		return 0, err
	}
	if from.index == 0 {
		return 0, fmt.Errorf("cannot read %s: the answer does not say at which index the store is", keyName(root))
	}
	if m.replace(root, from, pairs) {
		f.log.Warn("the store was replaced by another one: everything is read again; files whose keys are all gone are held for a while", "hold", replacedGrace, "cluster", from.cluster, "index", from.index)
	}
	return from.index, nil
}

// follow keeps one root current: list at index i, watch from i+1. It returns nil when the interval
// is over, and an error when the watch cannot go on: then it is time to list again. It never
// watches from "now", so it never skips a change.
func (f *followed) follow(ctx context.Context, m *mirror, root string, recovered func()) error {
	index, err := f.list(ctx, m, root)
	if err != nil {
		return err
	}
	timed, cancel := context.WithTimeout(ctx, f.interval)
	defer cancel()
	watch, err := f.store.Watch(timed, kv.WatchFrom{Key: root, Recursive: true, Index: index + 1})
	if err != nil {
		return err
	}
	defer watch.Close()
	recovered()
	for {
		event, err := watch.Next(timed)
		if timed.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		m.apply(root, event)
	}
}

// flatten collects the values at and below node.
func flatten(node *kv.Node, pairs map[string]string) {
	if !node.Dir {
		pairs[node.Key] = node.Value
		return
	}
	for _, child := range node.Nodes {
		flatten(child, pairs)
	}
}

// keyName is key as a person writes it.
func keyName(key string) string {
	if key == "" {
		return "/"
	}
	return key
}

// originOf returns where err says that it comes from.
func originOf(err error) origin {
	var e *kv.Error
	if errors.As(err, &e) {
		return origin{e.Cluster, e.Index}
	}
	return origin{}
}
