package keys

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

const (
	// patience is how long a start waits for its store before it makes do with what an earlier run has left.
	patience = 2 * time.Second
	// saveInterval is the least time between two snapshots of one mirror.
	saveInterval = 10 * time.Second
	// saveShare bounds the time that writing snapshots takes: one part in so many.
	saveShare = 200
)

// kept is a source that keeps what it knows on disk.
type kept struct {
	Source
	cfg Config
	log *slog.Logger
}

func (k *kept) Run(ctx context.Context, m *Mirror, roots []string, poke <-chan struct{}) {
	var keeping sync.WaitGroup
	defer keeping.Wait()
	keeping.Go(func() { newKeeper(k.cfg, m, k.log).run(ctx) })
	k.Source.Run(ctx, m, roots, poke)
}

// keeper keeps a snapshot of one mirror on disk. It belongs to one goroutine.
type keeper struct {
	path   string
	store  string // of which the mirror is
	mirror *Mirror
	log    *slog.Logger

	tried  bool   // to restore
	saved  uint64 // version of the mirror that is on disk; 0: none of this run
	broken string // why it could not be saved, so that it is told once
}

func newKeeper(cfg Config, m *Mirror, log *slog.Logger) *keeper {
	store := cfg.name()
	sum := sha256.Sum256([]byte(store))
	return &keeper{
		path:  filepath.Join(cfg.StateDir, "keys-"+hex.EncodeToString(sum[:8])+".json"),
		store: store, mirror: m, log: log,
	}
}

// name says which store c is about, without secrets: the same for all settings that lead to the same keys.
func (c Config) name() string {
	where := slices.Sorted(slices.Values(c.Client.Endpoints))
	if c.SRV != "" {
		where = []string{c.SRV}
	}
	name := fmt.Sprintf("%s %q", c.Backend, where)
	if c.Backend == BackendKvd {
		name = fmt.Sprintf("%s %q", BackendEtcd, where)
	}
	if c.Client.Username != "" {
		name += fmt.Sprintf(" as %q", c.Client.Username)
	}
	return name
}

// run makes do with the snapshot of an earlier run if the store does not answer, and saves what is new from
// time to time and when ctx ends.
func (k *keeper) run(ctx context.Context) {
	sweepSnapshots(k.path)
	pause := patience
	for {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			k.save()
			return
		}
		if !k.tried && k.mirror.silent() {
			k.tried = true
			k.restore()
		}
		pause = max(saveInterval, k.save()*saveShare)
	}
}

// restore gives the mirror what an earlier run has left, if it can be trusted.
func (k *keeper) restore() {
	snapshot, err := LoadSnapshot(k.path)
	if err == nil && snapshot.Store != k.store {
		err = fmt.Errorf("cannot use %s: it is of another store, %s", k.path, cut(snapshot.Store))
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		k.log.Warn("the store does not answer, and what an earlier run has left cannot be used; files stay as they are", "reason", err)
	case k.mirror.restore(snapshot):
		k.log.Warn("the store does not answer; keys are as an earlier run has left them", "stale_since", snapshot.Time.Local().Format(time.RFC3339), "index", snapshot.View.Index(), "keys", snapshot.View.Len())
	}
}

// save writes what is new, and returns how long that took.
func (k *keeper) save() time.Duration {
	view, version, dirty := k.mirror.toSave(k.saved)
	if !dirty {
		return 0
	}
	began := time.Now()
	err := os.MkdirAll(filepath.Dir(k.path), 0o700)
	if err == nil {
		err = saveSnapshot(k.path, view, k.store, began)
	}
	switch {
	case err == nil:
		k.saved, k.broken = version, ""
	case err.Error() != k.broken:
		k.broken = err.Error()
		k.log.Warn("cannot keep the keys for a start without the store", "reason", err)
	}
	return time.Since(began)
}
