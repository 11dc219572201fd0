package command

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kvd-io/kvd/pkg/kv"
)

// Secret is text that is never shown: a password, or what was made of one. Printed or logged in any
// way it is "***".
type Secret string

const hidden = "***"

// String returns "***".
func (Secret) String() string { return hidden }

// GoString returns "***".
func (Secret) GoString() string { return hidden }

// MarshalText returns "***".
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// AuthOp says what an AuthUser or AuthRole does.
type AuthOp uint8

// The operations on users and roles. Their numbers are part of the log format.
const (
	AuthCreate AuthOp = 1
	AuthUpdate AuthOp = 2
	AuthPut    AuthOp = 3 // creates a user, or updates the one that is there
	AuthDelete AuthOp = 4
)

// AuthEnable turns access control on or off.
type AuthEnable struct{ Enabled bool }

// AuthUser creates, changes or deletes a user.
type AuthUser struct {
	Op   AuthOp
	Name string
	Hash Secret // bcrypt, made by the proposer; "" in a change keeps the old one

	// Roles is for a new user. An API can tell a list that is empty from one that is not given.
	Roles []string

	Grant, Revoke []string // for a change
}

// AuthRole creates, changes or deletes a role.
type AuthRole struct {
	Op            AuthOp
	Name          string
	Rights        Rights // for a new role
	Grant, Revoke Rights // for a change
}

// Rights are the keys that may be read and written. An API can tell a list that is empty from one
// that is not given.
type Rights struct{ Read, Write []kv.KeyRange }

func (u AuthUser) size() int {
	size := len(u.Name) + len(u.Hash)
	for _, names := range [...][]string{u.Roles, u.Grant, u.Revoke} {
		for _, name := range names {
			size += len(name) + 4
		}
	}
	return size
}

func (r AuthRole) size() int {
	size := len(r.Name)
	for _, rights := range [...]Rights{r.Rights, r.Grant, r.Revoke} {
		for _, ranges := range [...][]kv.KeyRange{rights.Read, rights.Write} {
			for _, r := range ranges {
				size += len(r.From) + len(r.To) + 8
			}
		}
	}
	return size
}

func appendAuthUser(dst []byte, u AuthUser) []byte {
	dst = appendUint(dst, 1, uint64(u.Op))
	dst = appendString(dst, 2, u.Name)
	dst = appendString(dst, 3, string(u.Hash))
	for i, names := range [...][]string{u.Roles, u.Grant, u.Revoke} {
		if names == nil {
			continue
		}
		var list []byte
		for _, name := range names {
			list = appendBytes(list, 1, []byte(name))
		}
		dst = appendBytes(dst, protowire.Number(4+i), list)
	}
	return dst
}

func decodeAuthUser(data []byte) (Body, error) {
	var u AuthUser
	err := fields(data, func(number protowire.Number, v value) (err error) {
		switch number {
		case 1:
			u.Op, err = decodeAuthOp(v.number)
		case 2:
			u.Name = string(v.bytes)
		case 3:
			u.Hash = Secret(v.bytes)
		case 4:
			u.Roles, err = decodeNames(v.bytes)
		case 5:
			u.Grant, err = decodeNames(v.bytes)
		case 6:
			u.Revoke, err = decodeNames(v.bytes)
		default:
			err = formatErrorf("unknown field %d of a user", number)
		}
		return err
	})
	if err == nil && u.Op == 0 {
		err = formatErrorf("a user without an operation")
	}
	return u, err
}

func decodeAuthOp(number uint64) (AuthOp, error) {
	if number < uint64(AuthCreate) || number > uint64(AuthDelete) {
		return 0, formatErrorf("unknown operation %d on access control", number)
	}
	return AuthOp(number), nil
}

func decodeNames(data []byte) ([]string, error) {
	names := []string{}
	err := fields(data, func(number protowire.Number, v value) error {
		if number != 1 {
			return formatErrorf("unknown field %d of a list of names", number)
		}
		names = append(names, string(v.bytes))
		return nil
	})
	return names, err
}

func appendAuthRole(dst []byte, r AuthRole) []byte {
	dst = appendUint(dst, 1, uint64(r.Op))
	dst = appendString(dst, 2, r.Name)
	for i, rights := range [...]Rights{r.Rights, r.Grant, r.Revoke} {
		if rights.Read != nil || rights.Write != nil {
			dst = appendBytes(dst, protowire.Number(3+i), appendRights(nil, rights))
		}
	}
	return dst
}

func appendRights(dst []byte, rights Rights) []byte {
	for i, ranges := range [...][]kv.KeyRange{rights.Read, rights.Write} {
		if ranges == nil {
			continue
		}
		var list []byte
		for _, r := range ranges {
			list = appendBytes(list, 1, appendString(appendString(nil, 1, r.From), 2, r.To))
		}
		dst = appendBytes(dst, protowire.Number(1+i), list)
	}
	return dst
}

func decodeAuthRole(data []byte) (Body, error) {
	var r AuthRole
	err := fields(data, func(number protowire.Number, v value) (err error) {
		switch number {
		case 1:
			r.Op, err = decodeAuthOp(v.number)
		case 2:
			r.Name = string(v.bytes)
		case 3:
			r.Rights, err = decodeRights(v.bytes)
		case 4:
			r.Grant, err = decodeRights(v.bytes)
		case 5:
			r.Revoke, err = decodeRights(v.bytes)
		default:
			err = formatErrorf("unknown field %d of a role", number)
		}
		return err
	})
	if err == nil && (r.Op == 0 || r.Op == AuthPut) {
		err = formatErrorf("a role without an operation")
	}
	return r, err
}

func decodeRights(data []byte) (Rights, error) {
	var rights Rights
	err := fields(data, func(number protowire.Number, v value) (err error) {
		switch number {
		case 1:
			rights.Read, err = decodeRanges(v.bytes)
		case 2:
			rights.Write, err = decodeRanges(v.bytes)
		default:
			err = formatErrorf("unknown field %d of rights", number)
		}
		return err
	})
	return rights, err
}

func decodeRanges(data []byte) ([]kv.KeyRange, error) {
	ranges := []kv.KeyRange{}
	err := fields(data, func(number protowire.Number, v value) error {
		if number != 1 {
			return formatErrorf("unknown field %d of a list of ranges", number)
		}
		var r kv.KeyRange
		err := fields(v.bytes, func(number protowire.Number, v value) error {
			switch number {
			case 1:
				r.From = string(v.bytes)
			case 2:
				r.To = string(v.bytes)
			default:
				return formatErrorf("unknown field %d of a range", number)
			}
			return nil
		})
		ranges = append(ranges, r)
		return err
	})
	return ranges, err
}

func decodeAuthEnable(data []byte) (Body, error) {
	var e AuthEnable
	err := fields(data, func(number protowire.Number, v value) error {
		if number != 1 {
			return formatErrorf("unknown field %d of an enable", number)
		}
		e.Enabled = v.number != 0
		return nil
	})
	return e, err
}
