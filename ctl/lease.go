package ctl

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

func leaseCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "lease COMMAND",
		Short:   "keep many keys alive with one request",
		GroupID: groupLeases,
		Long: `Keep many keys alive with one request.

A lease ends after its TTL unless it is kept alive, and takes with it all keys and directories
that were written with --lease. An etcd has no such leases in its v2 API.`,
		Example: `  id=$(kvctl lease grant 30)
  kvctl set --lease "$id" /services/web/a '{"address":"10.0.0.7","port":8080}'
  kvctl lease keep-alive "$id"
  kvctl lease revoke "$id"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		&cobra.Command{Use: "grant TTL", Short: "make a lease and print its id; TTL is 90 (seconds), 30s or 15m", RunE: s.run(grantLease)},
		&cobra.Command{Use: "keep-alive ID", Short: "give a lease its full TTL again", RunE: s.run(oneLease(func(ctx context.Context, c *session, id kv.LeaseID) error {
			l, err := c.client.Leaser().KeepAlive(ctx, id)
			return c.lease(l, err)
		}))},
		&cobra.Command{Use: "get ID", Short: "show what a lease has left, and its keys", RunE: s.run(oneLease(func(ctx context.Context, c *session, id kv.LeaseID) error {
			l, err := c.client.Leaser().Lease(ctx, id)
			return c.lease(l, err)
		}))},
		&cobra.Command{Use: "revoke ID", Short: "end a lease now, with all its keys", RunE: s.run(oneLease(func(ctx context.Context, c *session, id kv.LeaseID) error {
			_, err := c.client.Leaser().Revoke(ctx, id)
			return err
		}))},
		&cobra.Command{Use: "list", Short: "list all leases", RunE: s.run(listLeases)},
	)
	return cmd
}

func grantLease(ctx context.Context, c *session, args []string) error {
	if len(args) == 0 {
		return &usageError{text: "TTL required", hint: "for example 30, 30s or 15m"}
	}
	ttl, err := leaseTTL(args[0])
	if err != nil {
		return err
	}
	if err := noMore(args, 1); err != nil {
		return err
	}
	l, err := c.client.Leaser().Grant(ctx, ttl)
	if err == nil && c.format == simple {
		fmt.Fprintln(c.out, l.ID)
		return nil
	}
	return c.lease(l, err)
}

func leaseTTL(text string) (time.Duration, error) {
	ttl, err := time.ParseDuration(text)
	if n, numberErr := strconv.ParseInt(text, 10, 64); numberErr == nil {
		ttl, err = time.Duration(min(n, int64(kv.LeaseTTLMax/time.Second)+1))*time.Second, nil
	}
	if err != nil {
		return 0, &usageError{text: fmt.Sprintf("%q is no time", text), hint: "for example 30, 30s or 15m"}
	}
	return ttl, nil
}

func leaseID(text string) (kv.LeaseID, error) {
	id, err := kv.ParseLeaseID(text)
	if err != nil {
		return 0, &usageError{text: fmt.Sprintf("%q is no lease id", text), hint: "it is 16 hex digits, as kvctl lease grant prints them"}
	}
	return id, nil
}

// oneLease returns the action of a command whose argument is a lease id.
func oneLease(act func(context.Context, *session, kv.LeaseID) error) action {
	return func(ctx context.Context, c *session, args []string) error {
		if len(args) == 0 {
			return &usageError{text: "lease id required"}
		}
		if err := noMore(args, 1); err != nil {
			return err
		}
		id, err := leaseID(args[0])
		if err != nil {
			return err
		}
		return act(ctx, c, id)
	}
}

// listLeases asks until there are no more: one answer has a bound.
func listLeases(ctx context.Context, c *session, args []string) error {
	if err := noMore(args, 0); err != nil {
		return err
	}
	all := []kv.Lease{}
	for after := kv.LeaseID(0); ; {
		page, _, err := c.client.Leaser().Leases(ctx, after)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			break
		}
		all, after = append(all, page...), page[len(page)-1].ID
	}
	if c.format == asJSON {
		_ = json.NewEncoder(c.out).Encode(etcdv2.EncodeLeases(all))
		return nil
	}
	for _, l := range all {
		c.leaseLine(l)
	}
	return nil
}

// lease prints a lease, unless err says that there is none.
func (c *session) lease(l kv.Lease, err error) error {
	if err != nil {
		return err
	}
	if c.format == asJSON {
		_ = json.NewEncoder(c.out).Encode(etcdv2.EncodeLease(l)) // a failing output shows in flush
		return nil
	}
	c.leaseLine(l)
	for _, key := range l.Keys {
		fmt.Fprintln(c.out, key)
	}
	if more := l.Attached - len(l.Keys); more > 0 && l.Keys != nil {
		fmt.Fprintf(c.env.Stderr, "and %d more\n", more)
	}
	return nil
}

func (c *session) leaseLine(l kv.Lease) {
	fmt.Fprintf(c.out, "%v TTL %d remaining %d attached %d\n", l.ID, etcdv2.TTLSeconds(l.TTL), etcdv2.TTLSeconds(l.Remaining), l.Attached)
}
