package kvclient

import (
	"context"
	"net/http"
	"time"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

// Leaser is a client as a kv.Leaser. It is safe for concurrent use, and ends with its client.
type Leaser struct{ client *Client }

var _ kv.Leaser = Leaser{}

// Leaser returns the leases of the store that c reaches.
func (c *Client) Leaser() Leaser { return Leaser{c} }

// Grant implements kv.Leaser. Like a write it asks the next endpoint only while the last one has
// surely granted nothing. An etcd has no leases: Internal.
func (l Leaser) Grant(ctx context.Context, ttl time.Duration) (kv.Lease, error) {
	ttl, err := kv.LeaseTTL(ttl)
	if err != nil {
		return kv.Lease{}, err
	}
	return l.lease(ctx, "lease grant", etcdv2.GrantRequest(ttl), false)
}

// KeepAlive implements kv.Leaser. It asks the endpoints in turn until one answers.
func (l Leaser) KeepAlive(ctx context.Context, id kv.LeaseID) (kv.Lease, error) {
	return l.lease(ctx, "lease keep-alive", etcdv2.KeepAliveRequest(id), true)
}

// Lease implements kv.Leaser.
func (l Leaser) Lease(ctx context.Context, id kv.LeaseID) (kv.Lease, error) {
	return l.lease(ctx, "lease get", etcdv2.LeaseRequest(id), true)
}

// Leases implements kv.Leaser.
func (l Leaser) Leases(ctx context.Context, after kv.LeaseID) ([]kv.Lease, kv.Index, error) {
	var wire etcdv2.Leases
	index, err := l.leases(ctx, "lease list", etcdv2.LeasesRequest(after), true, &wire)
	if err != nil {
		return nil, 0, err
	}
	list := make([]kv.Lease, 0, len(wire.Leases))
	for _, one := range wire.Leases {
		lease, err := one.Decode()
		if err != nil {
			return nil, 0, about(err, "lease list", "")
		}
		lease.Index = index
		list = append(list, lease)
	}
	return list, index, nil
}

// Revoke implements kv.Leaser. It is not repeated blindly: a second one would find no lease.
func (l Leaser) Revoke(ctx context.Context, id kv.LeaseID) (kv.Index, error) {
	return l.leases(ctx, "lease revoke", etcdv2.RevokeRequest(id), false, &etcdv2.Lease{})
}

// lease makes one call that is answered with a lease.
func (l Leaser) lease(ctx context.Context, op string, r etcdv2.Request, repeatable bool) (kv.Lease, error) {
	var wire etcdv2.Lease
	index, err := l.leases(ctx, op, r, repeatable, &wire)
	if err != nil {
		return kv.Lease{}, err
	}
	lease, err := wire.Decode()
	if err != nil {
		return kv.Lease{}, about(err, op, "")
	}
	lease.Index = index
	return lease, nil
}

// leases makes one call about leases, whose answer it decodes into v, and returns the store's index.
func (l Leaser) leases(ctx context.Context, op string, r etcdv2.Request, repeatable bool, v any) (index kv.Index, err error) {
	err = l.client.exchange(ctx, r, repeatable, func(a *answer) error {
		l.client.observe(a.position())
		index = a.position().index
		if a.status == http.StatusCreated {
			a.status = http.StatusOK
		}
		return a.decode(v)
	})
	if err != nil {
		return 0, about(err, op, "")
	}
	return index, nil
}
