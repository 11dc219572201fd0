package ctl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/printable"
)

// childGrace is how long a command may go on after kvctl was told to end.
const childGrace = 10 * time.Second

func execWatchCommand(s *settings) *cobra.Command {
	var from watchFlags
	var cmd *cobra.Command
	cmd = &cobra.Command{
		Use: "exec-watch KEY -- COMMAND [ARGUMENT]...", Short: "run a command for each change of a key", GroupID: groupWatch,
		DisableFlagsInUseLine: true,
		Long: `Run a command for each change of a key until a signal ends it (exit 0), one at a time and in order.
The command finds the change in its environment: KV_WATCH_ACTION, KV_WATCH_KEY, KV_WATCH_VALUE,
KV_WATCH_PREV_VALUE, KV_WATCH_MODIFIED_INDEX and KV_WATCH_TTL; the first three and the index also as
ETCD_WATCH_*. Values are as stored. A command that fails is reported and the watch goes on; one
that is not there is refused at once, one that cannot be started ends it (exit 1). A signal that ends kvctl ends the command first.

As with etcdctl, KEY may come last when there is no "--": kvctl exec-watch ./reload.sh /services`,
		Example: `  kvctl exec-watch --recursive /services -- sh -c 'echo "$KV_WATCH_KEY is now $KV_WATCH_VALUE"'`,
		RunE: s.runUnbounded(func(ctx context.Context, c *session, args []string) error {
			key, argv, err := keyAndCommand(args, cmd.ArgsLenAtDash())
			if err != nil {
				return err
			}
			if _, err := exec.LookPath(argv[0]); err != nil {
				return &usageError{text: fmt.Sprintf("cannot run %s: %v", argv[0], errors.Unwrap(err))}
			}
			return c.follow(ctx, from.at(key), func(e kv.Event, _ kv.Index) (bool, error) {
				if e.Node.Dir {
					fmt.Fprintf(c.env.Stderr, "Ignored dir %s change\n", printable.Line(e.Node.Key))
					return true, nil
				}
				return true, c.handle(ctx, argv, e)
			})
		}),
	}
	from.add(cmd.Flags())
	return cmd
}

// handle runs argv for e and waits for its end.
func (c *session) handle(ctx context.Context, argv []string, e kv.Event) error {
	child := exec.CommandContext(ctx, argv[0], argv[1:]...)
	child.Stdout, child.Stderr = c.env.Stdout, c.env.Stderr
	child.Env = append(os.Environ(), watchEnvironment(e)...)
	// The child gets a process group of its own, and the end of kvctl as one SIGTERM to all of
	// it, whether that came from a terminal or not.
	child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	child.Cancel = func() error { return syscall.Kill(-child.Process.Pid, syscall.SIGTERM) }
	child.WaitDelay = childGrace
	if err := child.Start(); err != nil {
		return &usageError{text: fmt.Sprintf("cannot run %s for %s at index %d: %v", argv[0], e.Node.Key, e.Node.ModifiedIndex, errors.Unwrap(err))}
	}
	if err := child.Wait(); err != nil && ctx.Err() == nil {
		fmt.Fprintf(c.env.Stderr, "%s for %s at index %d: %v\n", argv[0], printable.Line(e.Node.Key), e.Node.ModifiedIndex, err)
	}
	return nil
}

// watchEnvironment returns the variables that describe e, values without any quoting.
func watchEnvironment(e kv.Event) []string {
	var environment []string
	add := func(name, value string) { environment = append(environment, name+"="+value) }
	for _, namespace := range []string{"ETCD_WATCH_", "KV_WATCH_"} {
		add(namespace+"ACTION", string(e.Action))
		add(namespace+"MODIFIED_INDEX", strconv.FormatUint(e.Node.ModifiedIndex, 10))
		add(namespace+"KEY", e.Node.Key)
		add(namespace+"VALUE", e.Node.Value)
	}
	previous := ""
	if e.PrevNode != nil {
		previous = e.PrevNode.Value
	}
	add("KV_WATCH_PREV_VALUE", previous)
	add("KV_WATCH_TTL", strconv.FormatInt(e.Node.TTL, 10))
	return environment
}
