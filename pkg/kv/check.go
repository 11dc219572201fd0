package kv

import (
	"fmt"
	"strings"
)

// levelsMax is how deep a key may be that is written. Each level of a key becomes a directory that
// holds the path to it, so that without a bound a key of a few kilobytes would take the room of
// its square.
const levelsMax = 128

// Check returns what is wrong with w whatever the store holds, nil if nothing is. Every Store does
// this before anything else. Errors by Kind: Invalid, TooLarge.
func (w Write) Check() error {
	refuse := func(kind Kind, cause string) error {
		return &Error{Op: w.Op.String(), Key: w.Key, Kind: kind, Cause: cause}
	}
	compares := w.Op == OpCompareAndSwap || w.Op == OpCompareAndDelete
	switch {
	case w.Op < OpSet || w.Op > OpCompareAndDelete:
		return refuse(Invalid, "there is no such operation")
	case compares && w.PrevValue == "" && w.PrevIndex == 0:
		return refuse(Invalid, "neither a previous value nor a previous index to compare with; an empty value can be compared only by its index")
	case w.Refresh && w.TTL == 0:
		return refuse(Invalid, "a refresh without a TTL to renew")
	case w.Lease != 0 && w.TTL != 0:
		return refuse(Invalid, "both a TTL and a lease: a key ends with one of them")
	}
	if levels := strings.Count(Clean(w.Key), "/"); levels > levelsMax {
		return refuse(TooLarge, fmt.Sprintf("the key has %d levels, more than %d", levels, levelsMax))
	}
	return nil
}
