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
	return errors.Join(problems...)
}

func (f *followed) run(ctx context.Context, m *mirror, roots []string, _ <-chan struct{}) {
	var followers sync.WaitGroup
	for _, root := range roots {
		followers.Go(func() { f.follow(ctx, m, root) })
	}
	followers.Wait()
}

// follow keeps one root current: list at index i, watch from i+1, and list again when the watch
// cannot go on or the interval is over. It never watches from "now", so it never skips a change.
func (f *followed) follow(ctx context.Context, m *mirror, root string) {
	retry := backoff.Backoff{Min: sourceRetryMin, Max: sourceRetryMax}
	failing := false
	for ctx.Err() == nil {
		began := time.Now()
		index, err := f.list(ctx, m, root)
		if err == nil {
			if failing {
				f.log.Info("reading the store again", "key", keyName(root), "index", index)
			}
			failing = false
			err = f.wait(ctx, m, root, index+1)
		}
		// A store that can be listed and not watched must not be listed over and over.
		if err == nil || time.Since(began) >= sourceRetryMax {
			retry.Reset()
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		level := slog.LevelWarn
		if failing {
			level = slog.LevelDebug // said once; the rest is repetition
		}
		f.log.Log(ctx, level, "cannot follow the store; files stay as they are until it answers", "key", keyName(root), "reason", err)
		failing = true
		retry.Wait(ctx)
	}
}

// list reads root into m and returns the store's index. A root that is absent is empty.
func (f *followed) list(ctx context.Context, m *mirror, root string) (kv.Index, error) {
	pairs := map[string]string{}
	result, err := f.store.Read(ctx, kv.Read{Key: root, Recursive: true, Quorum: true})
	switch {
	case err == nil:
		flatten(result.Node, pairs)
	case kv.Is(err, kv.NotFound):
		result.Index = indexOf(err)
	default:
		return 0, err
	}
	if result.Index == 0 {
		return 0, fmt.Errorf("cannot read %s: the answer does not say at which index the store is", keyName(root))
	}
	m.replace(root, pairs)
	return result.Index, nil
}

// wait returns nil when it is time to list again.
func (f *followed) wait(ctx context.Context, m *mirror, root string, from kv.Index) error {
	timed, cancel := context.WithTimeout(ctx, f.interval)
	defer cancel()
	if !f.watch {
		<-timed.Done()
		return nil
	}
	watch, err := f.store.Watch(timed, kv.WatchFrom{Key: root, Recursive: true, Index: from})
	if err != nil {
		return err
	}
	defer watch.Close()
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

// indexOf returns the store's index that err tells, 0 if it tells none.
func indexOf(err error) kv.Index {
	var e *kv.Error
	if errors.As(err, &e) {
		return e.Index
	}
	return 0
}
