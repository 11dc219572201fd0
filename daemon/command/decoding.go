package command

import (
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kvd-io/kvd/pkg/kv"
)

// Decode returns the batch of an entry. The batch shares no memory with data. Every error is a
// *FormatError: damage, or a type, level or field of a newer version.
func Decode(data []byte) (*Batch, error) {
	if len(data) == 0 || data[0] != format {
		return nil, formatErrorf("it does not begin with format %d", format)
	}
	b := &Batch{}
	err := fields(data[1:], func(number protowire.Number, v value) error {
		switch number {
		case 1:
			if v.number > Level {
				return formatErrorf("it needs feature level %d, this version has %d: upgrade this member", v.number, Level)
			}
			b.Level = uint32(v.number)
		case 2:
			b.Clock = protowire.DecodeZigZag(v.number)
		case 3:
			b.WallOffset = protowire.DecodeZigZag(v.number)
		case 4:
			c, err := decodeCommand(v.bytes)
			if err != nil {
				return err
			}
			b.Commands = append(b.Commands, c)
		case 5:
			b.Term = v.number
		default:
			return formatErrorf("unknown field %d of a batch", number)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

func decodeCommand(data []byte) (Command, error) {
	var c Command
	var kind Type
	var body []byte
	err := fields(data, func(number protowire.Number, v value) error {
		switch number {
		case 1:
			kind = Type(v.number)
		case 2:
			c.Origin = v.number
		case 3:
			c.Sequence = v.number
		case 4:
			c.User = string(v.bytes)
		case 5:
			c.AuthRevision = v.number
		case 6:
			body = v.bytes
		case 7:
			c.AsDir = v.number != 0
		default:
			return formatErrorf("unknown field %d of a command", number)
		}
		return nil
	})
	if err != nil {
		return Command{}, err
	}
	c.Body, err = decodeBody(kind, body)
	return c, err
}

func decodeBody(kind Type, data []byte) (Body, error) {
	switch kind {
	case TypeWrite:
		return decodeWrite(data)
	case TypeExpire:
		ends, err := decodeLeaseEnds("an expire", data)
		return Expire{ends}, err
	case TypeTick:
		if len(data) > 0 {
			return nil, formatErrorf("a tick with a body")
		}
		return Tick{}, nil
	case TypeMember:
		return decodeMember(data)
	case TypeMemberRemove:
		id, err := decodeID("a member's removal", data)
		return MemberRemove{id}, err
	case TypeCheck:
		return decodeCheck(data)
	case TypeInvitation:
		return decodeInvitation(data)
	case TypeAuthEnable:
		return decodeAuthEnable(data)
	case TypeAuthUser:
		return decodeAuthUser(data)
	case TypeAuthRole:
		return decodeAuthRole(data)
	case TypeLeaseGrant:
		id, ttl, err := decodePair("a lease grant", data)
		return LeaseGrant{id, time.Duration(ttl)}, err
	case TypeLeaseRevoke:
		id, err := decodeID("a lease revoke", data)
		return LeaseRevoke{id}, err
	case TypeLeaseCheckpoint:
		ends, err := decodeLeaseEnds("a lease checkpoint", data)
		return LeaseCheckpoint{ends}, err
	}
	return nil, formatErrorf("unknown command type %d", kind)
}

func decodeWrite(data []byte) (Body, error) {
	var w kv.Write
	err := fields(data, func(number protowire.Number, v value) error {
		switch number {
		case 1:
			if v.number < uint64(kv.OpSet) || v.number > uint64(kv.OpCompareAndDelete) {
				return formatErrorf("unknown operation %d", v.number)
			}
			w.Op = kv.Op(v.number)
		case 2:
			w.Key = string(v.bytes)
		case 3:
			w.Value = string(v.bytes)
		case 4:
			if v.number&^flagsKnown != 0 {
				return formatErrorf("unknown flags %#x of a write", v.number)
			}
			w.Dir = v.number&flagDir != 0
			w.Recursive = v.number&flagRecursive != 0
			w.Refresh = v.number&flagRefresh != 0
		case 5:
			w.TTL = time.Duration(protowire.DecodeZigZag(v.number))
		case 6:
			w.PrevValue = string(v.bytes)
		case 7:
			w.PrevIndex = v.number
		case 8:
			w.Lease = kv.LeaseID(v.number)
		default:
			return formatErrorf("unknown field %d of a write", number)
		}
		return nil
	})
	if err == nil && w.Op == 0 {
		err = formatErrorf("a write without an operation")
	}
	return w, err
}

// decodeID reads the one number of a message.
func decodeID(what string, data []byte) (id uint64, err error) {
	err = fields(data, func(number protowire.Number, v value) error {
		if number != 1 {
			return formatErrorf("unknown field %d of %s", number, what)
		}
		id = v.number
		return nil
	})
	return id, err
}

// decodePair reads the two numbers of a message about a lease.
func decodePair(what string, data []byte) (lease uint64, number int64, err error) {
	err = fields(data, func(field protowire.Number, v value) error {
		switch field {
		case 1:
			lease = v.number
		case 2:
			number = protowire.DecodeZigZag(v.number)
		default:
			return formatErrorf("unknown field %d of %s", field, what)
		}
		return nil
	})
	return lease, number, err
}

func decodeLeaseEnds(what string, data []byte) (ends []LeaseEnd, err error) {
	err = fields(data, func(field protowire.Number, v value) error {
		if field != 1 {
			return formatErrorf("unknown field %d of %s", field, what)
		}
		lease, deadline, err := decodePair(what, v.bytes)
		ends = append(ends, LeaseEnd{lease, deadline})
		return err
	})
	return ends, err
}

func decodeMember(data []byte) (Body, error) {
	var m Member
	err := fields(data, func(number protowire.Number, v value) error {
		switch number {
		case 1:
			m.ID = v.number
		case 2:
			m.Name = string(v.bytes)
		case 3:
			m.PeerURLs = append(m.PeerURLs, string(v.bytes))
		case 4:
			m.ClientURLs = append(m.ClientURLs, string(v.bytes))
		case 5:
			m.Voter = v.number != 0
		case 6:
			m.Learner = v.number != 0
		case 7:
			if v.number > uint64(MemberStanding) {
				return formatErrorf("unknown part %d of a member", v.number)
			}
			m.Part = MemberPart(v.number)
		default:
			return formatErrorf("unknown field %d of a member", number)
		}
		return nil
	})
	return m, err
}

func decodeInvitation(data []byte) (Body, error) {
	var i Invitation
	hashed := false
	err := fields(data, func(number protowire.Number, v value) error {
		switch number {
		case 1:
			if len(v.bytes) != len(i.Hash) {
				return formatErrorf("a hash of %d bytes", len(v.bytes))
			}
			copy(i.Hash[:], v.bytes)
			hashed = true
		case 2:
			i.TTL = time.Duration(protowire.DecodeZigZag(v.number))
		default:
			return formatErrorf("unknown field %d of an invitation", number)
		}
		return nil
	})
	if err == nil && !hashed {
		err = formatErrorf("an invitation without a hash")
	}
	return i, err
}

func decodeCheck(data []byte) (Body, error) {
	var c Check
	summed := false
	err := fields(data, func(number protowire.Number, v value) error {
		switch number {
		case 1:
			c.Member = v.number
		case 2:
			c.Index = v.number
		case 3:
			if len(v.bytes) != len(c.Sum) {
				return formatErrorf("a sum of %d bytes", len(v.bytes))
			}
			copy(c.Sum[:], v.bytes)
			summed = true
		default:
			return formatErrorf("unknown field %d of a check", number)
		}
		return nil
	})
	if err == nil && !summed {
		err = formatErrorf("a check without a sum")
	}
	return c, err
}

// value is a field's payload: number for varints, bytes for the rest.
type value struct {
	number uint64
	bytes  []byte
}

// fields calls each for every field of a message. Only the two wire types of this format pass.
func fields(data []byte, each func(protowire.Number, value) error) error {
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return formatErrorf("damaged tag")
		}
		data = data[n:]
		var v value
		switch kind {
		case protowire.VarintType:
			v.number, n = protowire.ConsumeVarint(data)
		case protowire.BytesType:
			v.bytes, n = protowire.ConsumeBytes(data)
		default:
			return formatErrorf("wire type %d of field %d", kind, number)
		}
		if n < 0 || n > math.MaxInt32 {
			return formatErrorf("damaged field %d", number)
		}
		data = data[n:]
		if err := each(number, v); err != nil {
			return err
		}
	}
	return nil
}
