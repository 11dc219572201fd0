// Package guard decides whether a file may follow the keys, or is to stay as it is because the keys
// have shrunk in a way that is rarely meant: emptied, expired all at once, or gone with the store that
// held them.
//
// It knows counts and times and nothing else: no clock, no keys, no files. What it has to remember
// from one decision to the next is in the Hold that it returns and is given back.
//
//	hold := guard.Decide(now, limits, seen, hold)
//	if hold.Reason != "" { ... stay; look again at hold.Until }
package guard

import (
	"fmt"
	"strconv"
	"time"
)

// Limits say what is held, and for how long.
type Limits struct {
	// MinKeys is how many keys there must be; while there are fewer the file is held, however long
	// that takes. 0 holds nothing.
	MinKeys int
	// MaxShrinkPercent is how much of the keys, in percent of those in the last applied version, may
	// be gone; while more are, the file is held for ShrinkGrace. 0 holds nothing.
	MaxShrinkPercent int
	ShrinkGrace      time.Duration // 0 or less: until the keys are back or it is released
	// MaxExpiredPercent is the same for keys that have expired and are not back: whoever kept them
	// alive may have lost the store rather than its service. 0 holds nothing.
	MaxExpiredPercent int
	ExpiryGrace       time.Duration // 0 or less: until the keys are back or it is released
	// ReplacedGrace is for how long a file is held that has fewer keys since the store was replaced by another
	// one. 0 or less holds nothing.
	ReplacedGrace time.Duration
}

// Unknown stands for a count of keys that nobody knows.
const Unknown = -1

// Seen is what there is now, beside what was applied last.
type Seen struct {
	Keys    int // that the file could be made from now
	Applied int // that the applied versions of late were made from, at the most; Unknown if nobody knows
	Expired int // that have expired of late, and are not back

	Exists     bool      // there is a file to hold
	Stale      bool      // the keys come from a snapshot on disk; the store has not been heard
	Older      bool      // the keys are of an index before that of the last applied version
	ReplacedAt time.Time // when the store was found to be another one; zero: never
	Lost       int       // keys that there were in the store before that one

	Released bool // somebody has said that this version is meant
}

// Reason is why a file is held. The words are part of what users see.
type Reason string

// The reasons, in the order in which they are looked at.
const (
	Stale       Reason = "stale"
	Replaced    Reason = "replaced"
	MinKeys     Reason = "min_keys"
	MassExpiry  Reason = "max_expired_percent"
	MassRemoval Reason = "max_shrink_percent"
)

// Hold is a decision. The zero value is "go on".
type Hold struct {
	Reason Reason    // "" lets the version through
	Text   string    // what has happened and what ends it, for a person
	Since  time.Time // the file has been held for this reason
	Until  time.Time // when it is let through by itself; zero: never
}

// Decide says whether the file is to be held. before is the decision of the last time, which says
// since when; the grace of a reason is counted from its first decision on. A version made from a
// snapshot is held even if it was released: there is nothing yet that could be released.
func Decide(now time.Time, limits Limits, seen Seen, before Hold) Hold {
	whole := max(seen.Applied, seen.Keys+seen.Expired)
	reasons := []struct {
		reason Reason
		holds  bool
		from   time.Time // zero: since it is held
		grace  time.Duration
		text   string
	}{
		{Stale, seen.Stale && seen.Exists && (seen.Older || seen.Applied == Unknown || seen.Keys < max(seen.Applied, limits.MinKeys)), time.Time{}, 0,
			"the store has not been heard, and the snapshot on disk may have less than the file was made from"},
		{Replaced, seen.Keys < seen.Lost && !seen.ReplacedAt.IsZero() && limits.ReplacedGrace > 0, seen.ReplacedAt, max(limits.ReplacedGrace, 1),
			replacedText(seen)},
		{MinKeys, seen.Keys < limits.MinKeys, time.Time{}, 0,
			fmt.Sprintf("only %s found, min_keys is %d", keysText(seen.Keys), limits.MinKeys)},
		{MassExpiry, beyond(seen.Expired, whole, limits.MaxExpiredPercent), time.Time{}, limits.ExpiryGrace,
			fmt.Sprintf("%d of %s expired, max_expired_percent is %d", seen.Expired, keysText(whole), limits.MaxExpiredPercent)},
		{MassRemoval, beyond(seen.Applied-seen.Keys, seen.Applied, limits.MaxShrinkPercent), time.Time{}, limits.ShrinkGrace,
			fmt.Sprintf("%d of %s went, max_shrink_percent is %d", seen.Applied-seen.Keys, keysText(seen.Applied), limits.MaxShrinkPercent)},
	}
	for _, r := range reasons {
		if !r.holds || seen.Released && r.reason != Stale {
			continue
		}
		hold := Hold{Reason: r.reason, Text: r.text, Since: now}
		if before.Reason == r.reason {
			hold.Since = before.Since
		}
		if r.from.IsZero() {
			r.from = hold.Since
		}
		if r.grace > 0 {
			hold.Until = r.from.Add(r.grace)
			if !now.Before(hold.Until) {
				continue
			}
		}
		return hold
	}
	return Hold{}
}

// beyond reports whether part is more than percent of whole.
func beyond(part, whole, percent int) bool {
	return percent > 0 && whole > 0 && part*100 > whole*percent
}

// replacedText says what a store that was replaced has of a file.
func replacedText(seen Seen) string {
	if seen.Keys == 0 {
		return "the store was replaced by one that has none of the keys of this file"
	}
	return fmt.Sprintf("the store was replaced by one that has %d of the %s of this file", seen.Keys, keysText(seen.Lost))
}

// keysText says a number of keys.
func keysText(n int) string {
	if n == 1 {
		return "1 key"
	}
	return strconv.Itoa(n) + " keys"
}
