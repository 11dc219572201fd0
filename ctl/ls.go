package ctl

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/pkg/kv"
)

func lsCommand(s *settings) *cobra.Command {
	var read kv.Read
	var slash bool
	cmd := &cobra.Command{
		Use: "ls [KEY]", Short: "list the keys of a directory", GroupID: groupDirs,
		ValidArgsFunction: s.completeKey,
		RunE: s.run(func(ctx context.Context, c *session, args []string) error {
			read.Key = "/"
			if len(args) > 0 {
				read.Key = args[0]
			}
			if err := noMore(args, 1); err != nil {
				return err
			}
			result, err := c.client.Read(ctx, read)
			if err != nil {
				return err
			}
			switch {
			case c.format != simple:
				c.event(result.Event, result.Index)
			case result.Node.Dir:
				c.list(result.Node, slash)
			default:
				fmt.Fprintln(c.out, result.Node.Key)
			}
			return nil
		}),
	}
	cmd.Flags().BoolVar(&read.Sorted, "sort", false, "in the order of the keys")
	cmd.Flags().BoolVarP(&read.Recursive, "recursive", "r", false, "all levels")
	cmd.Flags().BoolVarP(&slash, "slash", "p", false, "append / to directories")
	cmd.Flags().BoolVarP(&read.Quorum, "quorum", "q", false, "read what most members have, not what one of them knows")
	return cmd
}

// list prints the keys below a directory, depth first.
func (p *printer) list(dir *kv.Node, slash bool) {
	for _, child := range dir.Nodes {
		fmt.Fprint(p.out, child.Key)
		if child.Dir && slash {
			fmt.Fprint(p.out, "/")
		}
		fmt.Fprintln(p.out)
		p.list(child, slash)
	}
}
