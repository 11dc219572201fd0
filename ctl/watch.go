package ctl

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kvd-io/kvd/pkg/kv"
)

func watchCommand(s *settings) *cobra.Command {
	var from watchFlags
	var forever bool
	cmd := &cobra.Command{
		Use: "watch KEY", Short: "print the next change of a key, or all of them", GroupID: groupWatch,
		Long: `Print the next change of a key, or with --forever all of them until a signal ends it (exit 0).
With --recursive a line "[action] KEY" comes before each change. Changes of directories are left out.
A watch survives restarts and changes of the endpoints without losing or repeating a change.`,
		ValidArgsFunction: s.completeKey,
		RunE: s.runUnbounded(func(ctx context.Context, c *session, args []string) error {
			key, err := onlyKey(args)
			if err != nil {
				return err
			}
			return c.follow(ctx, from.at(key), func(e kv.Event, index kv.Index) (more bool, err error) {
				if e.Node.Dir {
					return true, nil
				}
				if from.recursive {
					fmt.Fprintf(c.out, "[%s] %s\n", e.Action, e.Node.Key)
				}
				c.event(e, index)
				return forever, c.flush()
			})
		}),
	}
	from.add(cmd.Flags())
	cmd.Flags().BoolVarP(&forever, "forever", "f", false, "go on after the first change")
	return cmd
}

// watchFlags say where a watch begins.
type watchFlags struct {
	recursive  bool
	afterIndex kv.Index
}

func (w *watchFlags) add(flags *pflag.FlagSet) {
	flags.BoolVarP(&w.recursive, "recursive", "r", false, "all keys below KEY")
	flags.Uint64Var(&w.afterIndex, "after-index", 0, "begin with the first change after this `index`; 0 is now")
}

func (w *watchFlags) at(key string) kv.WatchFrom {
	from := kv.WatchFrom{Key: key, Recursive: w.recursive}
	if w.afterIndex != 0 {
		from.Index = w.afterIndex + 1
	}
	return from
}

// follow passes changes to act until it wants no more or fails, or a signal ends it, which is no
// error. index is where the store was known to stand when the change was waited for.
func (c *session) follow(ctx context.Context, from kv.WatchFrom, act func(e kv.Event, index kv.Index) (more bool, err error)) error {
	opening, cancel := c.bound(ctx)
	watch, err := c.client.Watch(opening, from)
	cancel()
	if err != nil {
		return unlessEnded(ctx, err)
	}
	defer watch.Close()
	for index, more := watch.Index(), true; more; {
		event, err := watch.Next(ctx)
		if err != nil {
			return unlessEnded(ctx, err)
		}
		if more, err = act(event, index); err != nil {
			return unlessEnded(ctx, err)
		}
		index = max(index, event.Node.ModifiedIndex)
	}
	return nil
}

// unlessEnded returns err unless it is only the end of ctx.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
