package confd

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/kvd-io/kvd/confd/keys"
	"github.com/kvd-io/kvd/confd/report"
	"github.com/kvd-io/kvd/confd/resource"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// store is one place that keys come from, and the mirror of it. It belongs to the agent's goroutine.
type store struct {
	settings keys.Config
	source   keys.Source
	mirror   *keys.Mirror
	poke     chan struct{} // asks a source that cannot be watched to look again

	roots []string      // that are followed
	stop  func()        // nil while nothing is
	ended chan struct{} // closed when the following has ended
}

func newStore(settings keys.Config, deps keys.Deps) (*store, error) {
	source, err := keys.Open(settings, deps)
	if err != nil {
		return nil, err
	}
	return &store{settings: settings, source: source, mirror: keys.NewMirror(settings.Naming()), poke: make(chan struct{}, 1)}, nil
}

// follow has the mirror kept current for roots until ctx ends. What covers them already goes on, unless the
// store does not answer: it may refuse what is not wanted any more.
func (s *store) follow(ctx context.Context, roots []string) {
	if s.stop != nil && coversAll(s.roots, roots) && (slices.Equal(s.roots, roots) || s.mirror.Status().Err == nil) {
		return
	}
	s.pause()
	s.roots, s.ended = roots, make(chan struct{})
	ctx, s.stop = context.WithCancel(ctx)
	go func(ended chan<- struct{}) {
		defer close(ended)
		s.source.Run(ctx, s.mirror, roots, s.poke)
	}(s.ended)
}

// pause ends the following. The mirror stays as it is.
func (s *store) pause() {
	if s.stop == nil {
		return
	}
	s.stop()
	<-s.ended
	s.stop = nil
}

func (s *store) close() {
	s.pause()
	s.source.Close()
}

// look asks a source that cannot be watched to look again.
func (s *store) look() {
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// urge has a store that is not heard, or not of all keys, read now.
func (s *store) urge(ctx context.Context) {
	if s.mirror.Status().Err == nil {
		return
	}
	s.pause()
	s.follow(ctx, s.roots)
}

// coversAll reports whether everything that roots stand for is among what before stands for.
func coversAll(before, roots []string) bool {
	for _, root := range roots {
		if !slices.ContainsFunc(before, func(b string) bool { return root == b || kv.Below(root, b) && !kv.HiddenBelow(root, b) }) {
			return false
		}
	}
	return true
}

// status is what is told of s.
func (s *store) status(name string) report.Store {
	now := s.mirror.Status()
	status := report.Store{
		Name: name, Index: now.Index, Cluster: now.Cluster, Keys: now.Keys,
		BytesRead: now.BytesRead, Heard: now.Heard, Stale: now.Stale,
	}
	if now.Err != nil {
		status.Err = now.Err.Error()
	}
	return status
}

// sourceOf returns the settings of a resource's own backend.
func (c Config) sourceOf(b resource.Backend) keys.Config {
	srv := b.SRVRecord
	if srv == "" && b.SRVDomain != "" {
		srv = fmt.Sprintf("_%s._tcp.%s.", b.Backend, b.SRVDomain)
	}
	return keys.Config{
		Backend: b.Backend, Scheme: b.Scheme, SRV: srv, Files: b.Files, Filter: b.Filter, Watch: c.Watch, Interval: c.Interval, StateDir: c.stateDir(),
		Client: kvclient.Config{
			Endpoints: b.Nodes, Username: b.Username, Password: b.Password, PasswordFile: b.PasswordFile,
			CAFile: b.ClientCAKeys, CertFile: b.ClientCert, KeyFile: b.ClientKey,
		},
	}
}

// storeTitle is what a store is called in status.
func storeTitle(cfg keys.Config) string {
	switch {
	case cfg.Backend == keys.BackendEnv:
		return cfg.Backend
	case cfg.Backend == keys.BackendFile:
		return cfg.Backend + " " + strings.Join(cfg.Files, ",")
	}
	return cfg.Backend + " " + cmp.Or(cfg.SRV, strings.Join(cfg.Client.Endpoints, ","))
}
