// Package demo shows the whole chain at work on one machine: a store of three members, services that register
// themselves, a template agent, a real proxy and a client that counts its answers. Then it kills
// things, and checks that the proxy follows.
//
// It knows the other programs only as files beside its own, started as a user would start them,
// and talks to nothing but loopback. Every process it starts it stops, in reverse order, whatever
// happens; should it be killed itself, the kernel kills them.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/pkg/program"
)

// config is what the flags of `kvctl demo` set.
type config struct {
	json      bool
	hold      bool
	bin       string        // folder of the programs; "" is that of the running one
	proxy     string        // "auto" or one of those below
	docker    string        // "auto" or "off"
	ttl       time.Duration // of a registration
	slack     float64       // how many times longer than promised everything may take
	timeLimit time.Duration // of the whole demo, --hold aside
}

// exitNotHeld says that the demo ran and that something it promises did not happen.
const exitNotHeld = 7

// Command returns `kvctl demo`.
func Command() *cobra.Command {
	var cfg config
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "show the whole chain working on this machine, and check it",
		Long: `Starts three members of kvd, backends under kvsidekick, kvconfd and a proxy on free loopback ports,
sends requests through the proxy, and then adds, drains, kills and stops backends, with real
containers where a Docker engine answers. In the middle of writes it kills the leader of the three, starts it
again, and restarts all of them in turn. Prints what was expected and what was seen, and removes
everything.

Exits with 0 only if everything held, with 7 if something did not.`,
		Example: "  kvctl demo\n  kvctl demo --hold\n  kvctl demo --json | jq .pass",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd.Context(), cfg, program.EnvFrom(cmd.Context()))
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&cfg.json, "json", false, "print the result as JSON on standard output, and progress on standard error")
	flags.BoolVar(&cfg.hold, "hold", false, "keep everything running afterwards, until Ctrl-C")
	flags.StringVar(&cfg.bin, "bin", "", "`folder` with kvd, kvsidekick, kvconfd and kvagent (default: where kvctl is)")
	flags.StringVar(&cfg.proxy, "proxy", proxyAuto, "proxy to use: auto, haproxy, nginx or builtin")
	flags.StringVar(&cfg.docker, "docker", dockerAuto, "use a Docker engine: auto or off")
	flags.DurationVar(&cfg.ttl, "ttl", 2*time.Second, "how long a registration outlives its sidekick, in whole seconds")
	flags.Float64Var(&cfg.slack, "slack", 1, "allow `times` as long as promised for every step, on a machine busy with other things")
	flags.DurationVar(&cfg.timeLimit, "time-limit", 2*time.Minute, "give up after this long")
	cmd.AddCommand(backendCommand(), builtinCommand())
	return cmd
}

const (
	proxyAuto    = "auto"
	proxyHAProxy = "haproxy"
	proxyNginx   = "nginx"
	proxyBuiltin = "builtin"

	dockerAuto = "auto"
	dockerOff  = "off"
)

func (c config) validate() error {
	switch {
	case !slices.Contains([]string{proxyAuto, proxyHAProxy, proxyNginx, proxyBuiltin}, c.proxy):
		return fmt.Errorf("--proxy %q: use auto, haproxy, nginx or builtin", c.proxy)
	case c.docker != dockerAuto && c.docker != dockerOff:
		return fmt.Errorf("--docker %q: use auto or off", c.docker)
	case c.ttl < time.Second || c.ttl > time.Minute || c.ttl%time.Second != 0:
		return fmt.Errorf("--ttl %v: use whole seconds, 1s to 1m", c.ttl)
	case !(c.slack >= 1 && c.slack <= 100):
		return fmt.Errorf("--slack %v: use 1 to 100", c.slack)
	case c.timeLimit <= 0:
		return fmt.Errorf("--time-limit %v: use more than 0s", c.timeLimit)
	}
	return nil
}

// run plays the demo and returns nil only if everything held.
func run(ctx context.Context, cfg config, env *program.Env) error {
	if err := cfg.validate(); err != nil {
		return &program.ExitError{Code: program.ExitUsage, Err: err}
	}
	programs, err := findPrograms(cfg.bin)
	if err != nil {
		return &program.ExitError{Code: program.ExitUsage, Err: err}
	}
	folder, err := os.MkdirTemp("", "kvd-demo-")
	if err != nil {
		return err
	}
	var human io.Writer = env.Stdout
	if cfg.json {
		human = env.Stderr
	}
	s := &stage{cfg: cfg, programs: programs, folder: folder, service: filepath.Base(folder), show: newPrinter(human)}
	report, err := s.play(ctx)
	if report.Kept == "" || errors.Is(err, context.Canceled) {
		err = errors.Join(err, os.RemoveAll(folder))
	}
	switch {
	case errors.Is(err, context.Canceled):
		return &program.ExitError{Code: program.ExitSignal + 2, Err: errors.New("demo: interrupted; everything it started has been stopped")}
	case cfg.json:
		err = errors.Join(err, writeJSON(env.Stdout, report))
	}
	if err != nil || !report.Pass {
		return &program.ExitError{Code: exitNotHeld, Err: err}
	}
	return nil
}

// programs are the paths of the binaries that take part.
type programs struct{ kvctl, kvd, kvsidekick, kvconfd, kvagent string }

// findPrograms looks into folder; "" is the folder of the running program.
func findPrograms(folder string) (programs, error) {
	self, err := os.Executable()
	if err != nil {
		return programs{}, fmt.Errorf("find the other programs: %w", err)
	}
	if folder == "" {
		if self, err = filepath.EvalSymlinks(self); err != nil {
			return programs{}, fmt.Errorf("find the other programs: %w", err)
		}
		folder = filepath.Dir(self)
	}
	folder, err = filepath.Abs(folder)
	if err != nil {
		return programs{}, fmt.Errorf("--bin: %w", err)
	}
	in := func(name string) string { return filepath.Join(folder, name) }
	p := programs{kvctl: in("kvctl"), kvd: in("kvd"), kvsidekick: in("kvsidekick"), kvconfd: in("kvconfd"), kvagent: in("kvagent")}
	for _, path := range []string{p.kvctl, p.kvd, p.kvsidekick, p.kvconfd, p.kvagent} {
		if _, err := os.Stat(path); err != nil {
			return programs{}, fmt.Errorf("%s is missing; the demo needs all five programs in one folder: make build, or name the folder with --bin", path)
		}
	}
	return p, nil
}
