package command

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kvd-io/kvd/pkg/kv"
)

// format is the first byte of every entry.
const format = 1

const (
	flagDir = 1 << iota
	flagRecursive
	flagRefresh
	flagsKnown = flagDir | flagRecursive | flagRefresh
)

// Append appends the entry's bytes to dst and returns the extended slice. It panics on a Body
// that is none of this package's.
func (b *Batch) Append(dst []byte) []byte {
	dst = append(dst, format)
	dst = appendUint(dst, 1, uint64(b.Level))
	dst = appendInt(dst, 2, b.Clock)
	dst = appendInt(dst, 3, b.WallOffset)
	var scratch []byte
	for i := range b.Commands {
		scratch = b.Commands[i].append(scratch[:0])
		dst = appendBytes(dst, 4, scratch)
	}
	return appendUint(dst, 5, b.Term)
}

// Size is about how many bytes the command takes in an entry.
func (c *Command) Size() int {
	const header = 64
	const leaseEnd = 24
	switch v := c.Body.(type) {
	case kv.Write:
		return header + len(v.Key) + len(v.Value) + len(v.PrevValue)
	case Expire:
		return header + leaseEnd*len(v.Leases)
	case LeaseCheckpoint:
		return header + leaseEnd*len(v.Leases)
	case AuthUser:
		return header + v.size()
	case AuthRole:
		return header + v.size()
	}
	return header
}

func (c *Command) append(dst []byte) []byte {
	var kind Type
	var body []byte
	switch v := c.Body.(type) {
	case kv.Write:
		kind, body = TypeWrite, appendWrite(make([]byte, 0, c.Size()), v)
	case Expire:
		kind, body = TypeExpire, appendLeaseEnds(make([]byte, 0, c.Size()), v.Leases)
	case Tick:
		kind = TypeTick
	case Member:
		kind, body = TypeMember, appendMember(nil, v)
	case MemberRemove:
		kind, body = TypeMemberRemove, appendUint(nil, 1, v.ID)
	case Check:
		kind, body = TypeCheck, appendBytes(appendUint(appendUint(nil, 1, v.Member), 2, v.Index), 3, v.Sum[:])
	case Invitation:
		kind, body = TypeInvitation, appendInt(appendBytes(nil, 1, v.Hash[:]), 2, int64(v.TTL))
	case LeaseGrant:
		kind, body = TypeLeaseGrant, appendInt(appendUint(nil, 1, v.ID), 2, int64(v.TTL))
	case LeaseRevoke:
		kind, body = TypeLeaseRevoke, appendUint(nil, 1, v.ID)
	case LeaseCheckpoint:
		kind, body = TypeLeaseCheckpoint, appendLeaseEnds(make([]byte, 0, c.Size()), v.Leases)
	case AuthEnable:
		kind = TypeAuthEnable
		if v.Enabled {
			body = appendUint(nil, 1, 1)
		}
	case AuthUser:
		kind, body = TypeAuthUser, appendAuthUser(nil, v)
	case AuthRole:
		kind, body = TypeAuthRole, appendAuthRole(nil, v)
	default:
		panic(fmt.Sprintf("command body of type %T", c.Body))
	}
	dst = appendUint(dst, 1, uint64(kind))
	dst = appendUint(dst, 2, c.Origin)
	dst = appendUint(dst, 3, c.Sequence)
	dst = appendString(dst, 4, c.User)
	dst = appendUint(dst, 5, c.AuthRevision)
	if len(body) > 0 {
		dst = appendBytes(dst, 6, body)
	}
	if c.AsDir {
		dst = appendUint(dst, 7, 1)
	}
	return dst
}

func appendWrite(dst []byte, w kv.Write) []byte {
	dst = appendUint(dst, 1, uint64(w.Op))
	dst = appendString(dst, 2, w.Key)
	dst = appendString(dst, 3, w.Value)
	var flags uint64
	if w.Dir {
		flags |= flagDir
	}
	if w.Recursive {
		flags |= flagRecursive
	}
	if w.Refresh {
		flags |= flagRefresh
	}
	dst = appendUint(dst, 4, flags)
	dst = appendInt(dst, 5, int64(w.TTL))
	dst = appendString(dst, 6, w.PrevValue)
	dst = appendUint(dst, 7, w.PrevIndex)
	return appendUint(dst, 8, uint64(w.Lease))
}

func appendLeaseEnds(dst []byte, ends []LeaseEnd) []byte {
	var scratch []byte
	for _, end := range ends {
		scratch = appendInt(appendUint(scratch[:0], 1, end.Lease), 2, end.Deadline)
		dst = appendBytes(dst, 1, scratch)
	}
	return dst
}

func appendMember(dst []byte, m Member) []byte {
	dst = appendUint(dst, 1, m.ID)
	dst = appendString(dst, 2, m.Name)
	for _, url := range m.PeerURLs {
		dst = appendBytes(dst, 3, []byte(url))
	}
	for _, url := range m.ClientURLs {
		dst = appendBytes(dst, 4, []byte(url))
	}
	if m.Voter {
		dst = appendUint(dst, 5, 1)
	}
	if m.Learner {
		dst = appendUint(dst, 6, 1)
	}
	return appendUint(dst, 7, uint64(m.Part))
}

// The proto3 rule: a zero value is not written.

func appendUint(dst []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return protowire.AppendVarint(protowire.AppendTag(dst, field, protowire.VarintType), v)
}

func appendInt(dst []byte, field protowire.Number, v int64) []byte {
	return appendUint(dst, field, protowire.EncodeZigZag(v))
}

func appendString(dst []byte, field protowire.Number, v string) []byte {
	if v == "" {
		return dst
	}
	return protowire.AppendString(protowire.AppendTag(dst, field, protowire.BytesType), v)
}

func appendBytes(dst []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(dst, field, protowire.BytesType), v)
}
