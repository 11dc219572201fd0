package confd

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/confd/keys"
	"github.com/kvd-io/kvd/confd/report"
	"github.com/kvd-io/kvd/pkg/agentstatus"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/program"
	"github.com/kvd-io/kvd/pkg/unixsocket"
)

// DefaultSocket is where a running kvconfd answers kvconfd status and the like.
const DefaultSocket = "/run/kvconfd/kvconfd.sock"

// residentGCPercent is how much garbage there may be for what is in use: who holds all keys for months, and
// works for moments, should not hold them twice.
const residentGCPercent = 50

// run is the program without a command: the agent, and what tells others how it does.
func (o *options) run(ctx context.Context, env *program.Env) error {
	cfg, err := o.keyed()
	if err != nil {
		return err
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	if cfg.Watch && !cfg.Onetime && cfg.source().Polls() {
		env.Log.Info("this backend cannot be watched; it is read at every interval", "backend", cfg.Backend)
	}
	deps := Deps{Log: env.Log, Hangup: env.Hangup}
	if cfg.Onetime {
		return Run(ctx, cfg, deps)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(residentGCPercent)
	}
	v, err := o.view(cfg, env)
	if err != nil {
		return err
	}
	return v.run(ctx, cfg, deps)
}

// view is what tells others how the agent does.
type view struct {
	report  *report.Report
	servers []*unixsocket.Server
	publish *report.PublisherConfig // nil: nothing is published
	close   func()
}

// view opens what the settings ask for.
func (o *options) view(cfg Config, env *program.Env) (v *view, err error) {
	host := o.host
	if host == "" {
		host, _ = os.Hostname() // an empty one is refused below, where it matters
	}
	v = &view{report: report.New(report.Config{Host: host, Version: program.Version(), Log: env.Log}), close: func() {}}
	if o.socket != "" {
		server, err := v.report.Listen(o.socket)
		switch {
		case err == nil:
			v.servers = append(v.servers, server)
		case env.Origins["socket"] != program.OriginDefault:
			return nil, fmt.Errorf("--socket: %w", err)
		default:
			env.Log.Warn("kvconfd status, explain and release will not be answered", "reason", err)
		}
	}
	if o.httpListen != "" {
		server, err := v.report.ListenPage(o.httpListen)
		if err != nil {
			return nil, fmt.Errorf("--http-listen: %w", err)
		}
		env.Log.Info("health, metrics and status", "url", fmt.Sprintf("http://%s/", server.Addr()))
		v.servers = append(v.servers, server)
	}
	if prefix := o.statusPrefix; prefix != "" && isStore(cfg.Backend) && !cfg.Noop {
		if err := agentstatus.CheckHost(host); err != nil {
			return nil, err
		}
		client, err := keys.NewClient(cfg.source(), keys.Deps{Log: env.Log})
		if err != nil {
			return nil, err
		}
		v.close = func() { client.Close() }
		v.publish = &report.PublisherConfig{Store: client, Leaser: client.Leaser(), Prefix: prefix}
	}
	return v, nil
}

// isStore reports whether a backend is a store of the v2 API, in which status can be published.
func isStore(backend string) bool { return backend == keys.BackendEtcd || backend == keys.BackendKvd }

// run runs the agent and what tells of it, until ctx ends.
func (v *view) run(ctx context.Context, cfg Config, deps Deps) error {
	defer v.close()
	var beside sync.WaitGroup
	defer beside.Wait()
	serving, stop := context.WithCancel(context.WithoutCancel(ctx)) // while it ends, it can be asked
	defer stop()
	for _, server := range v.servers {
		beside.Go(func() {
			if err := server.Run(serving); err != nil {
				deps.Log.Error("not served any more", "address", server.Addr(), "reason", err)
			}
		})
	}
	hangups, reloading := make(chan os.Signal, 1), make(chan struct{}, 1)
	given := deps.Hangup
	beside.Go(func() { tee(serving, given, hangups, reloading) })
	deps.Hangup = hangups
	beside.Go(func() { v.report.Notify(serving, reloading) })
	var p *permission
	if v.publish != nil {
		moments := make(chan struct{}, 1)
		cfg.Moments = agentstatus.NamesOf(v.publish.Prefix).Sync()
		v.publish.Moments = moments
		p = &permission{store: v.publish.Store, key: cfg.Moments, log: deps.Log}
		p.ask(ctx)
		deps.MayFollow = p.may.Load
		deps.Moment = func() {
			select {
			case moments <- struct{}{}:
			default:
			}
		}
		beside.Go(func() { v.report.Publish(serving, *v.publish) })
	}
	deps.Report = v.report
	deps.Running = func(c Control) {
		v.report.Attach(c)
		if p != nil {
			beside.Go(func() { p.run(serving, c.Poke) })
		}
	}
	return Run(ctx, cfg, deps)
}

const (
	permissionMax   = time.Second      // the store may take to say whether something may be read
	permissionEvery = 15 * time.Second // it is asked again
)

// permission is whether this user may read a key: rights come and go.
type permission struct {
	store kv.Reader
	key   string
	log   *slog.Logger
	may   atomic.Bool
	told  bool
}

// ask asks the store, and reports whether the answer differs from the one before. A store that does not answer
// changes nothing.
func (p *permission) ask(ctx context.Context) (differs bool) {
	ctx, cancel := context.WithTimeout(ctx, permissionMax)
	defer cancel()
	_, err := p.store.Read(ctx, kv.Read{Key: p.key})
	switch {
	case err == nil || kv.Is(err, kv.NotFound):
		return !p.may.Swap(true)
	case !kvclient.Refused(err):
		return false
	}
	if !p.told {
		p.log.Warn("this user may not read where kvctl converged asks hosts how far they are, so this one does not answer; everything else goes on", "directory", p.key, "reason", err)
		p.told = true
	}
	return p.may.Swap(false)
}

// run asks again and again until ctx ends, and calls changed when the answer is another one.
func (p *permission) run(ctx context.Context, changed func()) {
	for {
		if p.ask(ctx) {
			changed()
		}
		wait := permissionEvery
		if !p.may.Load() && !p.told { // the store has not answered yet
			wait = permissionMax
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// tee passes on signals, and tells of each first, until ctx ends.
func tee(ctx context.Context, from <-chan os.Signal, to chan<- os.Signal, told chan<- struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case signal := <-from:
			select {
			case told <- struct{}{}:
			default:
			}
			select {
			case to <- signal:
			default: // one is pending
			}
		}
	}
}
