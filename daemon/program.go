package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/daemon/raftnode"
	"github.com/kvd-io/kvd/pkg/program"
)

// Exit codes of kvd. program.ExitUsage is for settings that cannot be used: a service manager
// should not start kvd again after that one.
const (
	ExitStart = 2                  // cannot start: an address or the data directory cannot be had
	ExitFault = raftnode.ExitFault // the disk failed, or the log is damaged
)

// Program returns kvd as a program.
func Program() program.Program {
	return program.Program{Name: "kvd", Command: newCommand, EnvAliases: envAliases(), EnvPrefixes: []string{"KVD_", "ETCD_"}, Elsewhere: advice()}
}

func newCommand() *cobra.Command {
	cfg := DefaultConfig()
	cmd := &cobra.Command{
		Use:   "kvd",
		Short: "a replicated tree of keys, with TTLs, watches and etcd's v2 HTTP API",
		Long: `kvd keeps a tree of keys, durable on disk, and serves it over etcd's v2 HTTP API.
Without arguments it is a single member for this machine, on ` + defaultClientURL + `.

Every setting is a flag, an environment variable KVD_FLAG (or ETCD_FLAG where etcd has it),
or a line of the --config file; a flag wins over the environment, and that over the file.

Exit codes: 0 stopped by a signal, 1 a setting cannot be used, 2 cannot start, 3 the disk
failed or the log is damaged.`,
		Example: `  kvd
  kvd --data-dir /var/lib/kvd --listen-client-urls http://0.0.0.0:2379
  kvd --print-config
  kvd verify --data-dir /var/lib/kvd
  kvd restore store.snap --data-dir /var/lib/kvd
  kvd recover --data-dir /var/lib/kvd`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), cfg) },
	}
	cfg.AddFlags(cmd.Flags())
	cmd.AddCommand(newVerifyCommand(), newRestoreCommand(), newRecoverCommand())
	cmd.CompletionOptions.HiddenDefaultCmd = true
	return cmd
}

// run is the life of the daemon: start, tell that it is ready, wait for the signal, stop.
func run(ctx context.Context, cfg Config) error {
	start := time.Now()
	env := program.EnvFrom(ctx)
	syscall.Umask(0o077) // whatever a library creates in the data directory is ours alone
	human := forPeople(env)
	log := env.Log
	if human {
		log = slog.New(slog.NewTextHandler(env.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	tellUnused(log, env.Unused)
	d, err := Open(ctx, cfg, Deps{Log: log})
	if err != nil {
		return startError(ctx, err)
	}
	tuning, stopTuning := context.WithCancel(ctx)
	var tuner sync.WaitGroup
	tuner.Go(func() { collectSeldom(tuning) })
	defer tuner.Wait()
	defer stopTuning()
	if human {
		fmt.Fprint(env.Stderr, welcome(d, time.Since(start)))
	}
	log.Info("ready", "clients", d.listening, "advertised", d.clientURLs, "data", d.DataDir(), "version", program.Version(), "took", time.Since(start).String())
	manager := notifyManager(d, log)
	var terminalGone <-chan os.Signal // never, for a service
	if human {
		terminalGone = env.Hangup
	}
	select {
	case <-ctx.Done():
		log.Info("stopping", "reason", context.Cause(ctx))
	case <-terminalGone:
	case <-d.Removed():
		manager.stop()
		return &program.ExitError{Code: program.ExitUsage, Err: errors.Join(errRemoved, d.Close())}
	}
	manager.stop()
	if err := d.Close(); err != nil {
		return &program.ExitError{Code: ExitStart, Err: fmt.Errorf("stop: %w", err)}
	}
	if human {
		fmt.Fprintln(env.Stderr, "kvd has stopped; the keys are safe in", d.DataDir())
	}
	return nil
}

// errRemoved ends a member that can do nothing any more; to start it again would not help.
var errRemoved = errors.New("this member was removed from its cluster: add it as a new member with kvctl member add, and start it with an empty --data-dir")

// startError gives a failed start its exit code. A start that was interrupted is none.
func startError(ctx context.Context, err error) error {
	var setting *ConfigError
	var mismatch *raftnode.MismatchError
	switch {
	case ctx.Err() != nil:
		return context.Canceled
	case errors.As(err, &setting):
		return &program.ExitError{Code: program.ExitUsage, Err: fmt.Errorf("%w\ntry: kvd --help", err)}
	case errors.As(err, &mismatch):
		return &program.ExitError{Code: program.ExitUsage, Err: err}
	}
	return &program.ExitError{Code: ExitStart, Err: err}
}
