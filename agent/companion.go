package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/spf13/pflag"

	"github.com/kvd-io/kvd/pkg/kvclient"
)

// companion is a server that kvagent runs beside registering, with flags of its own.
type companion interface {
	// name is what logs and the status page call it.
	name() string
	// addFlags defines its flags.
	addFlags(flags *pflag.FlagSet)
	// open returns what is to run, nil when its flags do not ask for it. It binds what it listens on,
	// so that an address that is taken ends the start. The error is a mistake in its settings.
	open(host host) (runner, error)
}

// runner is a companion that was opened. Run serves until ctx ends, and returns nil then. An error is
// logged and shown in the status; it takes nothing else down.
type runner interface {
	Run(ctx context.Context) error
}

// reporter is a runner that tells more than whether it runs. Name and Err of its report are not its to tell.
type reporter interface {
	report() ServerReport
}

// host is what a companion may use of the agent it runs in.
type host struct {
	Store   *kvclient.Client
	Config  kvclient.Config // as Store was made with
	Prefix  string          // directory of all services
	Name    string          // of this machine
	Address netip.Addr      // under which others reach this machine
	Engine  string          // address of the container engine
	Log     *slog.Logger
}

// companions returns all there are. Each call makes new ones: they hold the values of their flags.
func companions() []companion {
	return []companion{&dnsCompanion{}, &gatewayCompanion{}}
}

// running are the companions that were opened.
type running struct {
	names   []string
	runners []runner

	mu       sync.Mutex // guards failures
	failures map[string]error
}

// open opens the companions whose flags ask for it.
func open(all []companion, host host) (*running, error) {
	r := &running{failures: map[string]error{}}
	for _, c := range all {
		runner, err := c.open(host)
		if err != nil {
			return nil, err
		}
		if runner != nil {
			r.names, r.runners = append(r.names, c.name()), append(r.runners, runner)
		}
	}
	return r, nil
}

// add adds another one before they run.
func (r *running) add(name string, runner runner) {
	r.names, r.runners = append(r.names, name), append(r.runners, runner)
}

// report says which there are and how they fare.
func (r *running) report() []ServerReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]ServerReport, len(r.names))
	for i, name := range r.names {
		if told, ok := r.runners[i].(reporter); ok {
			list[i] = told.report()
		}
		list[i].Name, list[i].Err = name, text(r.failures[name])
	}
	return list
}

// run runs them until ctx ends.
func (r *running) run(ctx context.Context, log *slog.Logger) {
	var group sync.WaitGroup
	for i, runner := range r.runners {
		group.Go(func() {
			err := runner.Run(ctx)
			if ctx.Err() != nil && (err == nil || errors.Is(err, ctx.Err())) {
				return
			}
			if err == nil {
				err = errors.New("it ended by itself")
			}
			log.Error("a server of kvagent has ended; everything else goes on", "server", r.names[i], "err", err)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.failures[r.names[i]] = err
		})
	}
	group.Wait()
}
