package store

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"slices"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/snapfile"
)

// originsMax is how many origins are remembered. The one that was used longest ago goes first, so one
// that still has commands on its way is safe: within the seconds that a command is tried again for,
// this many others would have to come into being, and each is the start of a member that came to
// write. An origin that was only silent for long begins a new window with its next command. The end
// of a member ends no origin: what it had on its way may still come twice.
const originsMax = 256

// window is how many sequences of an origin are told apart.
const window = command.SequenceWindow

// origin is a process that commands come from, and which of them were executed.
type origin struct {
	id     uint64
	newest uint64 // the highest sequence executed
	used   uint64 // origins.used when a command of it was last executed

	// executed has bit n%window for each sequence n in (newest-window, newest] that was executed. All
	// below count as executed.
	executed [window / 64]uint64
}

// slot returns where the bit of a sequence is.
func slot(sequence uint64) (word int, bit uint64) {
	n := sequence % window
	return int(n / 64), 1 << (n % 64)
}

func (o *origin) has(sequence uint64) bool {
	if sequence > o.newest {
		return false
	}
	word, bit := slot(sequence)
	return o.newest-sequence >= window || o.executed[word]&bit != 0
}

// sequences calls each for those in the window that were executed, until it returns false. A bit that
// stands for a sequence below 0 comes as one above newest.
func (o *origin) sequences(each func(sequence uint64) bool) {
	for word, set := range o.executed {
		for ; set != 0; set &= set - 1 {
			n := uint64(word*64 + bits.TrailingZeros64(set))
			if !each(o.newest - (o.newest-n)%window) {
				return
			}
		}
	}
}

// origins are all that are remembered. Their sum is over the sequences in the windows, so that a
// command costs one hash, and one more for what leaves the window. The order of use is not in it.
type origins struct {
	at   map[uint64]*origin
	max  int    // originsMax; tests have a smaller one
	used uint64 // commands executed
	sum  Sum
}

func newOrigins() origins { return origins{at: map[uint64]*origin{}, max: originsMax} }

// executed reports whether a command was executed, or counts as executed.
func (os *origins) executed(id, sequence uint64) bool {
	o := os.at[id]
	return o != nil && o.has(sequence)
}

// take notes that a command is executed. It returns false if that was so before.
func (os *origins) take(id, sequence uint64) bool {
	if id == 0 {
		return true
	}
	o := os.at[id]
	if o == nil {
		os.makeRoom()
		o = &origin{id: id, newest: sequence}
		os.at[id] = o
	} else if o.has(sequence) {
		return false
	}
	os.advance(o, sequence)
	word, bit := slot(sequence)
	o.executed[word] |= bit
	os.sum.add(sequenceItem(id, sequence))
	os.used++
	o.used = os.used
	return true
}

// advance moves the window up to a sequence.
func (os *origins) advance(o *origin, sequence uint64) {
	if sequence <= o.newest {
		return
	}
	if sequence-o.newest >= window {
		os.exclude(o)
		o.executed = [window / 64]uint64{}
	}
	for o.newest < sequence && sequence-o.newest < window {
		o.newest++
		if word, bit := slot(o.newest); o.executed[word]&bit != 0 {
			o.executed[word] &^= bit
			os.sum.sub(sequenceItem(o.id, o.newest-window))
		}
	}
	o.newest = sequence
}

func (os *origins) makeRoom() {
	if len(os.at) < os.max {
		return
	}
	var oldest *origin
	// In any order: no two are the same in used and id.
	for _, o := range os.at {
		if oldest == nil || o.used < oldest.used || o.used == oldest.used && o.id < oldest.id {
			oldest = o
		}
	}
	os.exclude(oldest)
	delete(os.at, oldest.id)
}

func (os *origins) include(o *origin) {
	o.sequences(func(sequence uint64) bool {
		os.sum.add(sequenceItem(o.id, sequence))
		return true
	})
}

func (os *origins) exclude(o *origin) {
	o.sequences(func(sequence uint64) bool {
		os.sum.sub(sequenceItem(o.id, sequence))
		return true
	})
}

// list returns copies by ascending id.
func (os *origins) list() []origin {
	list := make([]origin, 0, len(os.at))
	// In any order: sorted below.
	for _, o := range os.at {
		list = append(list, *o)
	}
	slices.SortFunc(list, func(a, b origin) int { return cmp.Compare(a.id, b.id) })
	return list
}

// sequenceItem is what the sum is over.
func sequenceItem(id, sequence uint64) []byte {
	var b [17]byte
	b[0] = itemSequence
	binary.LittleEndian.PutUint64(b[1:], id)
	binary.LittleEndian.PutUint64(b[9:], sequence)
	return b[:]
}

func (o *origin) appendTo(b []byte) []byte {
	b = append(b, snapfile.ItemOrigin)
	for _, n := range [...]uint64{o.id, o.newest, o.used} {
		b = binary.AppendUvarint(b, n)
	}
	for _, word := range o.executed {
		b = binary.LittleEndian.AppendUint64(b, word)
	}
	return b
}

// readOrigin reads what appendTo has written. It fails on one that cannot have come about.
func readOrigin(r *snapfile.Item) *origin {
	r.Tag(snapfile.ItemOrigin)
	o := &origin{id: r.Uint(), newest: r.Uint(), used: r.Uint()}
	for i := range o.executed {
		o.executed[i] = r.Fixed()
	}
	word, bit := slot(o.newest)
	if o.id == 0 || o.executed[word]&bit == 0 {
		r.Fail()
	}
	o.sequences(func(sequence uint64) bool {
		if sequence > o.newest {
			r.Fail()
		}
		return !r.Failed()
	})
	return o
}

// load puts in an origin from a snapshot. It returns false if there is one with its id, or no room.
func (os *origins) load(o *origin) bool {
	if os.at[o.id] != nil || len(os.at) >= os.max {
		return false
	}
	os.at[o.id] = o
	os.used = max(os.used, o.used)
	os.include(o)
	return true
}

// Executed reports whether the state holds what came of a command, or the command is so old that it
// counts as executed: then it will not be executed again. An origin uses it after a Restore, which
// may have brought what it was waiting for.
func (m *Machine) Executed(origin, sequence uint64) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.state.origins.executed(origin, sequence)
}
