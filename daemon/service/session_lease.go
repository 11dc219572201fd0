package service

import (
	"context"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/store"
	"github.com/kvd-io/kvd/pkg/kv"
)

var _ kv.Leaser = (*Session)(nil)

// Grant implements kv.Leaser. It needs the right to write some key.
func (c *Session) Grant(ctx context.Context, ttl time.Duration) (kv.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, c.service.timeout())
	defer cancel()
	auth := c.auth()
	if !auth.Rights(c.user).WritesAny() {
		return kv.Lease{}, c.deny("lease grant", "")
	}
	lease, err := c.service.grant(ctx, ttl, command.Command{User: c.user, AuthRevision: auth.Revision})
	return lease, c.noteDenied(err, "lease grant")
}

// KeepAlive implements kv.Leaser. It needs the right to write all that is attached.
func (c *Session) KeepAlive(ctx context.Context, id kv.LeaseID) (kv.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, c.service.timeout())
	defer cancel()
	return c.service.keepAlive(ctx, id, func() error {
		rights := c.auth().Rights(c.user)
		if !rights.WritesAny() || !c.service.state.machine.MayEnd(rights, id) {
			return c.deny("lease keep-alive", "")
		}
		return nil
	})
}

// Lease implements kv.Leaser. Keys that may not be read are left out.
func (c *Session) Lease(ctx context.Context, id kv.LeaseID) (kv.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, c.service.timeout())
	defer cancel()
	lease, err := c.service.Lease(ctx, id)
	rights := c.auth().Rights(c.user) // as of after the wait for what others had changed
	if rights.Root() {
		return lease, err
	}
	if !rights.WritesAny() {
		return kv.Lease{}, c.deny("lease get", "")
	}
	var visible []string
	for _, key := range lease.Keys {
		if rights.Decide(store.Need{Key: key}) == store.Allowed {
			visible = append(visible, key)
		}
	}
	lease.Keys = visible
	return lease, err
}

// Leases implements kv.Leaser. It is for root: it tells of everybody's leases.
func (c *Session) Leases(ctx context.Context, after kv.LeaseID) ([]kv.Lease, kv.Index, error) {
	if !c.Administrator() {
		return nil, 0, c.deny("lease list", "")
	}
	ctx, cancel := context.WithTimeout(ctx, c.service.timeout())
	defer cancel()
	return c.service.Leases(ctx, after)
}

// Revoke implements kv.Leaser. It needs the right to write all that is attached.
func (c *Session) Revoke(ctx context.Context, id kv.LeaseID) (kv.Index, error) {
	ctx, cancel := context.WithTimeout(ctx, c.service.timeout())
	defer cancel()
	index, err := c.service.revoke(ctx, command.Command{User: c.user, AuthRevision: c.auth().Revision, Body: command.LeaseRevoke{ID: uint64(id)}})
	return index, c.noteDenied(err, "lease revoke")
}

// noteDenied has it noted if err says that something was not permitted.
func (c *Session) noteDenied(err error, operation string) error {
	if kv.Is(err, kv.Denied) {
		return c.deny(operation, "")
	}
	return err
}
