package ctl

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/pkg/kv"
)

func getCommand(s *settings) *cobra.Command {
	var read kv.Read
	cmd := &cobra.Command{
		Use: "get KEY", Short: "print the value of a key", GroupID: groupKeys,
		ValidArgsFunction: s.completeKey,
		RunE: s.run(func(ctx context.Context, c *session, args []string) (err error) {
			if read.Key, err = onlyKey(args); err != nil {
				return err
			}
			result, err := c.client.Read(ctx, read)
			if err != nil {
				return err
			}
			if result.Node.Dir {
				return &isDirectory{result.Node.Key}
			}
			c.event(result.Event, result.Index)
			return nil
		}),
	}
	cmd.Flags().BoolVar(&read.Sorted, "sort", false, "accepted for etcdctl's sake: a value has no order")
	cmd.Flags().BoolVarP(&read.Quorum, "quorum", "q", false, "read what most members have, not what one of them knows")
	return cmd
}
