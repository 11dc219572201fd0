package kv

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// LeaseID names a shared lease: one that was granted, and that any number of nodes can be attached
// to. 0 is none. What a TTL makes is not one.
type LeaseID uint64

// String returns the id in 16 lower-case hex digits, the one spelling that it has.
func (id LeaseID) String() string { return fmt.Sprintf("%016x", uint64(id)) }

// ParseLeaseID is the reverse of String. Errors by Kind: Invalid.
func ParseLeaseID(text string) (LeaseID, error) {
	n, err := strconv.ParseUint(text, 16, 64)
	if id := LeaseID(n); err == nil && n != 0 && id.String() == text {
		return id, nil
	}
	return 0, &Error{Kind: Invalid, Cause: fmt.Sprintf("%q is no lease id: that is 16 hex digits in lower case", text)}
}

// What a lease may last for.
const (
	LeaseTTLMin = time.Second
	LeaseTTLMax = 9_000_000_000 * time.Second
)

// LeaseTTL returns ttl as a lease takes it, rounded up to whole seconds. Errors by Kind: Invalid.
func LeaseTTL(ttl time.Duration) (time.Duration, error) {
	if ttl < LeaseTTLMin || ttl > LeaseTTLMax {
		return 0, &Error{Op: "lease grant", Kind: Invalid, Cause: fmt.Sprintf("a lease lasts from %d to %d seconds", LeaseTTLMin/time.Second, LeaseTTLMax/time.Second)}
	}
	return (ttl + time.Second - 1).Truncate(time.Second), nil
}

// Lease is a shared lease at one moment.
type Lease struct {
	ID        LeaseID
	TTL       time.Duration // from a grant or keep-alive to its end; whole seconds
	Remaining time.Duration // left at that moment, 0 if it is due
	Attached  int           // nodes that go when it ends
	Keys      []string      // the first LeaseKeysMax of these, in key order; only from Leaser.Lease
	Index     Index         // of the store when the answer was made
}

// LeaseKeysMax is how many keys of a lease, and LeasesMax how many leases, one answer names.
const (
	LeaseKeysMax = 10_000
	LeasesMax    = 1000
)

// Leaser keeps leases. A node that is written with Write.Lease goes when its lease ends, whatever
// else is attached. All methods may return the kinds of Reader; NoLease means that there is no such
// lease, or none any more.
type Leaser interface {
	// Grant makes a lease that ends after ttl, which is rounded up to whole seconds. After Timeout or
	// Unknown there may be one that nobody knows of: it ends by itself. Errors by Kind: Invalid.
	Grant(ctx context.Context, ttl time.Duration) (Lease, error)
	// KeepAlive gives the lease its full TTL again, counted from before it returns. It changes no
	// node, takes no index and wakes no watcher; it may be repeated at will. Errors by Kind: NoLease.
	KeepAlive(ctx context.Context, id LeaseID) (Lease, error)
	// Lease returns one lease with its keys. Errors by Kind: NoLease.
	Lease(ctx context.Context, id LeaseID) (Lease, error)
	// Leases returns the leases above after by ascending id, LeasesMax at most, and the store's index.
	Leases(ctx context.Context, after LeaseID) ([]Lease, Index, error)
	// Revoke ends the lease now: it removes what is attached to it, with ActionDelete, each node at
	// an index of its own, of which it returns the last. Errors by Kind: NoLease.
	Revoke(ctx context.Context, id LeaseID) (Index, error)
}
