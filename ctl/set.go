package ctl

import (
	"context"
	"math"
	"time"

	"github.com/spf13/cobra"

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
	write      kv.Write
	ttlSeconds int64
	inOrder    bool
}

// ttlSecondsMax is the longest TTL that a time.Duration holds, 292 years.
const ttlSecondsMax = int64(math.MaxInt64 / time.Second)

func (w *writer) command(s *settings, use, short string) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, GroupID: groupDirs,
		ValidArgsFunction: s.completeKey,
		RunE: s.run(func(ctx context.Context, c *session, args []string) error {
			write, err := w.ready(c, args)
			if err != nil {
				return err
			}
			result, err := c.client.Write(ctx, write)
			if err != nil {
				return err
			}
			c.event(result.Event, result.Index)
			return nil
		}),
	}
	if !w.write.Dir {
		cmd.GroupID = groupKeys
		cmd.Long = short + `.

Without VALUE it is read from stdin, whole. A key or value that begins with "-" goes after "--":

  kvctl ` + cmd.Name() + ` -- /temperature -12`
	}
	cmd.Flags().Int64Var(&w.ttlSeconds, "ttl", 0, "`seconds` until it is removed; 0 is never")
	return cmd
}

// ready returns the write that flags and arguments ask for.
func (w *writer) ready(c *session, args []string) (kv.Write, error) {
	write := w.write
	var err error
	if write.Dir {
		write.Key, err = onlyKey(args)
	} else {
		write.Key, write.Value, err = keyAndValue(c.env, args)
	}
	if w.ttlSeconds > 0 {
		write.TTL = time.Duration(min(w.ttlSeconds, ttlSecondsMax)) * time.Second
	}
	switch {
	case w.inOrder:
		write.Op = kv.OpCreateInOrder
	case write.PrevValue != "" || write.PrevIndex != 0:
		write.Op = kv.OpCompareAndSwap
	}
	return write, err
}
