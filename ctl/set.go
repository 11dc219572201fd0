package ctl

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kvd-io/kvd/pkg/kv"
)

func setCommand(s *settings) *cobra.Command {
	w := &writer{write: kv.Write{Op: kv.OpSet}}
	cmd := w.command(s, "set KEY [VALUE]", "write a key, whether it exists or not")
	cmd.Flags().StringVar(&w.write.PrevValue, "swap-with-value", "", "only if the key holds this `value` now")
	cmd.Flags().Uint64Var(&w.write.PrevIndex, "swap-with-index", 0, "only if the key was last changed at this `index`")
	return cmd
}

func mkCommand(s *settings) *cobra.Command {
	w := &writer{write: kv.Write{Op: kv.OpCreate}}
	cmd := w.command(s, "mk KEY [VALUE]", "write a key that must not exist yet")
	cmd.Flags().BoolVar(&w.inOrder, "in-order", false, "make a key below the directory KEY, named by its index")
	return cmd
}

func updateCommand(s *settings) *cobra.Command {
	w := &writer{write: kv.Write{Op: kv.OpUpdate}}
	return w.command(s, "update KEY [VALUE]", "write a key that must exist; without --ttl it becomes permanent")
}

func mkdirCommand(s *settings) *cobra.Command {
	w := &writer{write: kv.Write{Op: kv.OpCreate, Dir: true}}
	return w.command(s, "mkdir KEY", "make a directory that must not exist yet")
}

func setdirCommand(s *settings) *cobra.Command {
	w := &writer{write: kv.Write{Op: kv.OpSet, Dir: true}}
	return w.command(s, "setdir KEY", "make a directory, in place of a value if there is one")
}

func updatedirCommand(s *settings) *cobra.Command {
	w := &writer{write: kv.Write{Op: kv.OpUpdate, Dir: true}}
	return w.command(s, "updatedir KEY", "change the TTL of a directory; without --ttl it becomes permanent")
}

// writer is a command that writes a key, or makes a directory when write.Dir is set.
type writer struct {
	write   kv.Write
	inOrder bool
	lease   string
	live    liveFlags
}

func (w *writer) command(s *settings, use, short string) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, GroupID: groupDirs,
		ValidArgsFunction: s.completeKey,
		RunE: s.runUnbounded(func(ctx context.Context, c *session, args []string) error {
			write, err := w.ready(ctx, c, args)
			if err != nil {
				return err
			}
			bounded, cancel := s.bound(ctx) // from now: who feeds a pipe may take longer
			defer cancel()
			result, err := c.client.Write(bounded, write)
			if err != nil {
				return err
			}
			c.event(result.Event, result.Index)
			return w.live.await(ctx, c, result.Node.Key, result.Index)
		}),
	}
	if !w.write.Dir {
		cmd.GroupID = groupKeys
		cmd.Long = short + `.

Without VALUE it is read from stdin, whole. A key or value that begins with "-" goes after "--":

  kvctl ` + cmd.Name() + ` -- /temperature -12`
		cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
			var unknown *pflag.NotExistError
			if errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() != "" {
				err = fmt.Errorf("%w; what begins with \"-\" and is no flag goes after \"--\", as in: kvctl %s -- KEY -%s", err, cmd.Name(), unknown.GetSpecifiedShortnames())
			}
			return cmd.Parent().FlagErrorFunc()(cmd, err)
		})
	}
	cmd.Flags().DurationVar(&w.write.TTL, "ttl", 0, "`time` until it is removed, such as 90 (seconds) or 15m; 0 is never")
	if !w.write.Dir {
		w.live.addTo(cmd.Flags())
	}
	cmd.Flags().StringVar(&w.lease, "lease", "", "`id` of a lease that it ends with, see kvctl lease")
	return cmd
}

// ready returns the write that flags and arguments ask for.
func (w *writer) ready(ctx context.Context, c *session, args []string) (kv.Write, error) {
	write := w.write
	if write.TTL < 0 {
		return write, &usageError{text: fmt.Sprintf("--ttl %v: it cannot be negative", write.TTL), hint: "0 is for ever"}
	}
	write.TTL = wholeSeconds(write.TTL)
	var err error
	if w.lease != "" {
		if write.Lease, err = leaseID(w.lease); err != nil {
			return write, err
		}
		if write.TTL != 0 {
			return write, &usageError{text: "--ttl and --lease: a key ends with one of them", hint: "the lease has a TTL of its own"}
		}
	}
	if write.Dir {
		write.Key, err = onlyKey(args)
	} else {
		write.Key, write.Value, err = keyAndValue(ctx, c.env, args)
	}
	switch {
	case w.inOrder:
		write.Op = kv.OpCreateInOrder
	case write.PrevValue != "" || write.PrevIndex != 0:
		write.Op = kv.OpCompareAndSwap
	}
	return write, err
}

// wholeSeconds rounds up to the unit of a store's TTLs, unless no time.Duration is that long.
func wholeSeconds(d time.Duration) time.Duration {
	whole := d.Truncate(time.Second)
	if whole < d && whole <= math.MaxInt64-time.Second {
		whole += time.Second
	}
	return whole
}
