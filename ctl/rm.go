package ctl

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/pkg/kv"
)

func rmCommand(s *settings) *cobra.Command {
	write := kv.Write{Op: kv.OpDelete}
	cmd := remover(s, &write, "rm KEY", "remove a key, or a directory with -r", groupKeys)
	cmd.Flags().BoolVar(&write.Dir, "dir", false, "an empty directory may go too")
	cmd.Flags().BoolVarP(&write.Recursive, "recursive", "r", false, "a directory may go with all below it")
	cmd.Flags().StringVar(&write.PrevValue, "with-value", "", "only if the key holds this `value` now")
	cmd.Flags().Uint64Var(&write.PrevIndex, "with-index", 0, "only if the key was last changed at this `index`")
	return cmd
}

func rmdirCommand(s *settings) *cobra.Command {
	return remover(s, &kv.Write{Op: kv.OpDelete, Dir: true}, "rmdir KEY", "remove an empty directory, or a key", groupDirs)
}

// remover is a command that does what write says when it runs.
func remover(s *settings, write *kv.Write, use, short, group string) *cobra.Command {
	var live liveFlags
	cmd := &cobra.Command{
		Use: use, Short: short, GroupID: group,
		ValidArgsFunction: s.completeKey,
		RunE: s.runUnbounded(func(ctx context.Context, c *session, args []string) (err error) {
			w := *write
			if w.Key, err = onlyKey(args); err != nil {
				return err
			}
			if w.PrevValue != "" || w.PrevIndex != 0 {
				w.Op = kv.OpCompareAndDelete
			}
			bounded, cancel := s.bound(ctx)
			defer cancel()
			result, err := c.client.Write(bounded, w)
			if err != nil {
				return err
			}
			c.event(result.Event, result.Index)
			return live.await(ctx, c, w.Key, result.Index)
		}),
	}
	if group == groupKeys {
		live.addTo(cmd.Flags())
	}
	return cmd
}
