package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/fuzztest"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/snapfile"
)

// furnished returns a replica with something in every section of a snapshot.
func furnished(t *testing.T) *replica {
	r := newReplica(t)
	r.now = 5 * time.Second
	r.apply(set("/a/b", "value"), lasting(time.Minute, set("/a/ttl", "")), lasting(kv.TTLDue, asDir(set("/d", ""))), set("/_h/é\xff", "\x00"))
	r.apply(update("/a/b", strings.Repeat("packed well ", 20)), remove("/_h/é\xff"), refresh(time.Hour, set("/a/ttl", "")))
	r.apply(command.LeaseGrant{ID: 77, TTL: time.Hour}, attached(77, set("/l/a", "1")), attached(77, asDir(set("/l/d", ""))), command.LeaseGrant{ID: 78, TTL: time.Second})
	r.apply(command.LeaseCheckpoint{Leases: []command.LeaseEnd{{Lease: 77, Deadline: int64(10 * time.Minute)}}})
	r.apply(command.Member{ID: 1 << 63, Name: "m", PeerURLs: []string{"http://p:1", "http://q:2"}, ClientURLs: []string{"http://c"}, Voter: true})
	r.apply(
		command.AuthUser{Op: command.AuthCreate, Name: "root", Hash: "hash of root"},
		command.AuthUser{Op: command.AuthCreate, Name: "u", Hash: "hash of u", Roles: []string{"r", "absent"}},
		command.AuthUser{Op: command.AuthCreate, Name: "idle", Hash: "h", Roles: []string{}},
		command.AuthRole{Op: command.AuthCreate, Name: "r", Rights: command.Rights{Read: []kv.KeyRange{kv.PatternRange("/a/*"), kv.PatternRange("/b"), {From: "/x", To: "/z"}}}},
		command.AuthEnable{Enabled: true},
	)
	r.apply(command.Member{ID: 12, Learner: true}, command.MemberRemove{ID: 12}, command.MemberRemove{ID: 1 << 62})
	r.apply(invitationOf(1, time.Hour), invitationOf(2, time.Hour), invitationOf(1, 0))
	for _, sequence := range []uint64{1, 3, 2, 5000} {
		r.applyAll(command.Command{Origin: 1 << 63, Sequence: sequence, Body: command.Tick{}}, command.Command{Origin: 9, Sequence: sequence % 4, Body: command.Tick{}})
	}
	return r
}

// evidence is all that can be seen of a machine.
func evidence(r *replica) string {
	events, dropped, index := r.History()
	var history []string
	for _, e := range events {
		history = append(history, renderEvent(e))
	}
	applied, term := r.Applied()
	clock, offset := r.LeaseClock()
	leases, _ := r.SharedLeases(0, 0, 100)
	return fmt.Sprint(r.get("", true), r.get("/_h", true), history, dropped, index, applied, term, clock, offset, r.Due(1<<62, 1000), leases, r.Members(), r.state.removed, r.state.invited, r.state.origins.list(), r.Sum(), r.Leases(), authEvidence(r.Auth()))
}

// authEvidence shows access control data with its secrets, and what is nil.
func authEvidence(a *Auth) string {
	s := fmt.Sprint(a.Revision, a.Enabled)
	for _, u := range a.Users() {
		s += fmt.Sprintf(" %q %q %#v", u.Name, string(u.Hash), u.Roles)
	}
	return s + fmt.Sprintf(" %#v", a.Roles())
}

func TestRestoreMakesTheSameMachine(t *testing.T) {
	r := furnished(t)
	written := r.snapshot()
	for name, reader := range map[string]io.Reader{
		"whole": bytes.NewReader(written), "byte by byte": iotest.OneByteReader(bytes.NewReader(written)), "data with EOF": iotest.DataErrReader(bytes.NewReader(written)),
	} {
		t.Run(name, func(t *testing.T) {
			got := newReplica(t)
			got.apply(set("/before", ""))
			got.now = r.now
			if err := got.Restore(reader); err != nil {
				t.Fatal(err)
			}
			if evidence(got) != evidence(r) {
				t.Errorf("got %s\nwant %s", evidence(got), evidence(r))
			}
			if events, index := got.TakeEvents(); len(events) != 0 || index != r.Index() {
				t.Errorf("events of before are left: %v at %d", events, index)
			}
			if err := audit(got.Machine); err != nil {
				t.Error(err)
			}
			if again := got.snapshot(); !bytes.Equal(again, written) {
				t.Error("it writes another snapshot")
			}
		})
	}
}

func TestSnapshotIsOfTheMomentItWasTaken(t *testing.T) {
	r := furnished(t)
	want := r.snapshot()
	taken := r.Snapshot()
	r.apply(set("/a/b", "later"), rmr("/a"), set("/new", ""), command.Member{ID: 5})
	r.apply(refresh(time.Second, update("/new", "")))
	var got bytes.Buffer
	if _, err := taken.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%v: the snapshot changed with the machine", err)
	}
}

func TestSnapshotOfManyBlocksAndLargeItemsIsRestored(t *testing.T) {
	r := newReplica(t)
	random := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 2<<20)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	r.apply(set("/m/noise", string(noise)), set("/m/text", strings.Repeat("all the same ", 1<<18)))
	for i := range 3000 {
		r.apply(set(fmt.Sprintf("/k/%d/x", i), strings.Repeat("v", i%500)), lasting(time.Duration(i+1), create(fmt.Sprintf("/k/%d/y", i), string(noise[i:2*i]))))
	}
	got := newReplica(t)
	if err := got.Restore(bytes.NewReader(r.snapshot())); err != nil {
		t.Fatal(err)
	}
	if got.Sum() != r.Sum() || !bytes.Equal(got.snapshot(), r.snapshot()) {
		t.Error("it is not the same")
	}
	if err := audit(got.Machine); err != nil {
		t.Error(err)
	}
}

func TestTheLargestRequestsOverOneKeyAreRestored(t *testing.T) {
	const largest = 32 << 20 // what the daemon may be set to accept
	const small = 1 << 20    // what takes no gigabyte to try
	// A block may be nearly full when it gets an event with two values; more than blockSize is not needed beside them.
	const room = snapfile.BlockSizeMax - 2*largest
	if room < 2*snapfile.BlockSize {
		t.Fatalf("beside the two largest values there is room for %d bytes", room)
	}
	r := newReplica(t)
	value := strings.Repeat("v", small)
	r.apply(set("/a", value), set("/a", value))
	written := r.snapshot()
	_, parts := dismantle(written)
	for _, p := range parts {
		if p.raw > 2*small+2*snapfile.BlockSize {
			t.Errorf("a block of section %d has %d bytes", p.section&^snapfile.Critical, p.raw)
		}
	}
	got := newReplica(t)
	if err := got.Restore(bytes.NewReader(written)); err != nil {
		t.Fatal(err)
	}
	if got.Sum() != r.Sum() {
		t.Error("it is not the same")
	}
}

func TestHistoryIsCutToTheLengthOfTheMachineThatRestores(t *testing.T) {
	r := furnished(t)
	all, _, index := r.History()
	for _, length := range []int{1, 3, len(all), 100} {
		m := New(length)
		if err := m.Restore(bytes.NewReader(r.snapshot())); err != nil {
			t.Fatal(err)
		}
		kept, dropped, at := m.History()
		want, wantDropped := all, kv.Index(0)
		if excess := len(all) - length; excess > 0 {
			want, wantDropped = all[excess:], all[excess-1].Node.ModifiedIndex
		}
		if !reflect.DeepEqual(kept, want) || dropped != wantDropped || at != index {
			t.Errorf("length %d: kept %d events, dropped %d; want %d, %d", length, len(kept), dropped, len(want), wantDropped)
		}
	}
}

func TestEveryDamageToASnapshotIsRefusedAndChangesNothing(t *testing.T) {
	written := furnished(t).snapshot()
	target := newReplica(t)
	target.apply(lasting(time.Hour, set("/mine", "1")))
	want, wantSnapshot := evidence(target), target.snapshot()
	refuse := func(what string, damagedSnapshot []byte) {
		if err := target.Restore(bytes.NewReader(damagedSnapshot)); !errors.Is(err, ErrSnapshot) {
			t.Fatalf("%s: got %v, want ErrSnapshot", what, err)
		}
		if got := evidence(target); got != want {
			t.Fatalf("%s: the machine became %s\nit was %s", what, got, want)
		}
	}
	for i := range written {
		for _, flip := range []byte{0xff, 1 << (i % 8), 0x80} {
			b := bytes.Clone(written)
			b[i] ^= flip
			refuse(fmt.Sprintf("byte %d flipped by %#x", i, flip), b)
		}
		refuse(fmt.Sprintf("cut to %d bytes", i), written[:i])
	}
	refuse("a byte more", append(bytes.Clone(written), 0))
	refuse("twice", append(bytes.Clone(written), written...))
	if !bytes.Equal(target.snapshot(), wantSnapshot) {
		t.Error("the machine writes another snapshot")
	}
}

func TestRestoreReturnsTheErrorOfItsReader(t *testing.T) {
	written := furnished(t).snapshot()
	broken := errors.New("disk on fire")
	r := newReplica(t)
	want := evidence(r)
	for i := range len(written) + 1 {
		err := r.Restore(io.MultiReader(bytes.NewReader(written[:i]), iotest.ErrReader(broken)))
		if !errors.Is(err, broken) || errors.Is(err, ErrSnapshot) {
			t.Fatalf("after %d bytes: got %v, want the reader's error", i, err)
		}
	}
	if evidence(r) != want {
		t.Error("the machine changed")
	}
}

func TestWriteToReturnsTheErrorOfItsWriter(t *testing.T) {
	r := furnished(t)
	size := len(r.snapshot())
	for room := 0; room < size; room++ {
		w := &narrow{room: room}
		n, err := r.Snapshot().WriteTo(w)
		if !errors.Is(err, io.ErrShortWrite) || n != int64(room) {
			t.Fatalf("room for %d bytes: wrote %d, %v", room, n, err)
		}
	}
}

// narrow is a writer that is full after room bytes.
type narrow struct{ room int }

func (w *narrow) Write(b []byte) (int, error) {
	n := min(len(b), w.room)
	w.room -= n
	if n < len(b) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

// part is one block of a snapshot, taken apart.
type part struct {
	section, codec byte
	items          uint32
	raw            uint32
	data           []byte
}

// dismantle takes a snapshot apart without a look at its sums.
func dismantle(snapshot []byte) (head []byte, parts []part) {
	head, rest := snapshot[:snapfile.HeadSize], snapshot[snapfile.HeadSize:]
	for len(rest) >= snapfile.BlockHeaderSize {
		p := part{section: rest[0], codec: rest[1], items: binary.LittleEndian.Uint32(rest[4:]), raw: binary.LittleEndian.Uint32(rest[8:])}
		length := min(int(binary.LittleEndian.Uint32(rest[12:])), len(rest)-snapfile.BlockHeaderSize)
		p.data, rest = rest[snapfile.BlockHeaderSize:snapfile.BlockHeaderSize+length], rest[snapfile.BlockHeaderSize+length:]
		parts = append(parts, p)
		if p.section == snapfile.End {
			break
		}
	}
	return head, parts
}

// assemble is the reverse: the sums are right, whatever the parts are.
func assemble(head []byte, parts []part) []byte {
	b := bytes.Clone(head)
	for _, p := range parts {
		b = append(b, p.section, p.codec, 0, 0)
		for _, n := range []uint32{p.items, p.raw, uint32(len(p.data)), crc32.Checksum(p.data, snapfile.Castagnoli)} {
			b = binary.LittleEndian.AppendUint32(b, n)
		}
		b = append(b, p.data...)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// unpacked returns the same snapshot with no block compressed.
func unpacked(t testing.TB, snapshot []byte) []byte {
	decoder, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	head, parts := dismantle(snapshot)
	for i := range parts {
		if parts[i].codec == snapfile.CodecZstd {
			if parts[i].data, err = decoder.DecodeAll(parts[i].data, nil); err != nil {
				t.Fatal(err)
			}
			parts[i].codec = snapfile.CodecNone
		}
	}
	return assemble(head, parts)
}

// first returns a copy of the first item of a part.
func first(p part) []byte {
	return bytes.Clone(p.data[4 : 4+binary.LittleEndian.Uint32(p.data)])
}

func items(section byte, items ...string) part {
	p := part{section: section, items: uint32(len(items))}
	for _, item := range items {
		p.data = append(binary.LittleEndian.AppendUint32(p.data, uint32(len(item))), item...)
	}
	p.raw = uint32(len(p.data))
	return p
}

func TestSectionsOfLaterVersionsAreSkippedUnlessCritical(t *testing.T) {
	r := furnished(t)
	want := evidence(r)
	head, parts := dismantle(r.snapshot())
	end := len(parts) - 1
	with := func(p part) []byte {
		return assemble(head, append(append(append([]part{}, parts[:end]...), p), parts[end]))
	}
	got := newReplica(t)
	got.now = r.now
	if err := got.Restore(bytes.NewReader(with(items(0x20, "what is this?")))); err != nil {
		t.Errorf("an optional section: %v", err)
	}
	if evidence(got) != want {
		t.Error("an optional section changed what was restored")
	}
	err := got.Restore(bytes.NewReader(with(items(snapfile.Critical|0x20, "what is this?"))))
	if !errors.Is(err, ErrSnapshot) || !strings.Contains(err.Error(), "32") {
		t.Errorf("a critical section: %v", err)
	}
	for _, section := range []byte{0x20, snapfile.Critical | 0x20} {
		if err := got.Restore(bytes.NewReader(with(items(section)))); !errors.Is(err, ErrSnapshot) {
			t.Errorf("section %#x without items: %v", section, err)
		}
	}
}

func TestWhatIsWellSealedButMakesNoSenseIsRefused(t *testing.T) {
	r := furnished(t)
	for name, change := range map[string]func(head []byte, parts *[]part){
		"another format":      func(head []byte, _ *[]part) { head[len(snapfile.Magic)]++ },
		"another magic":       func(head []byte, _ *[]part) { head[0]++ },
		"an unknown codec":    func(_ []byte, p *[]part) { (*p)[1].codec = 9 },
		"not what is packed":  func(_ []byte, p *[]part) { (*p)[1].codec = snapfile.CodecZstd },
		"another raw length":  func(_ []byte, p *[]part) { (*p)[1].raw++ },
		"an enormous block":   func(_ []byte, p *[]part) { (*p)[1].raw = snapfile.BlockSizeMax + 1 },
		"an item too many":    func(_ []byte, p *[]part) { (*p)[1].items++ },
		"an item too few":     func(_ []byte, p *[]part) { (*p)[1].items-- },
		"a block twice":       func(_ []byte, p *[]part) { (*p)[2] = (*p)[1] },
		"a block is missing":  func(_ []byte, p *[]part) { *p = append((*p)[:1], (*p)[2:]...) },
		"no header":           func(_ []byte, p *[]part) { *p = (*p)[1:] },
		"a longer item":       func(_ []byte, p *[]part) { (*p)[1].data[0]++ },
		"a shorter item":      func(_ []byte, p *[]part) { (*p)[1].data[0]-- },
		"a changed value":     func(_ []byte, p *[]part) { (*p)[1].data[12]++ },
		"a newer level":       func(_ []byte, p *[]part) { (*p)[0].data[4] = command.Level + 1 },
		"a record as a dir":   func(_ []byte, p *[]part) { (*p)[1].section = snapfile.Dirs },
		"no root directory":   func(_ []byte, p *[]part) { *p = []part{(*p)[0], items(snapfile.End, string(make([]byte, 9+32)))} },
		"a member of letters": func(_ []byte, p *[]part) { (*p)[4] = items(snapfile.Members, "member") },
		"a write as a member": func(_ []byte, p *[]part) {
			b := command.Batch{Commands: []command.Command{{Body: set("/a", "")}}}
			(*p)[4] = items(snapfile.Members, string(b.Append(nil)))
		},
		"no access control":          func(_ []byte, p *[]part) { *p = append((*p)[:6], (*p)[7:]...) },
		"access control twice":       func(_ []byte, p *[]part) { *p = append((*p)[:7], (*p)[6:]...) },
		"auth of neither on nor off": func(_ []byte, p *[]part) { (*p)[6].data[4+2] = 2 },
		"a right of no kind":         func(_ []byte, p *[]part) { (*p)[6].data[4] = 'x' },
		"an empty right":             func(_ []byte, p *[]part) { (*p)[6] = items(snapfile.Auth, "") },
		"a changed right":            func(_ []byte, p *[]part) { data := (*p)[6].data; data[len(data)-3]++ },
		"a key twice":                func(_ []byte, p *[]part) { k := string(first((*p)[1])); (*p)[1] = items(snapfile.Records, k, k) },
		"a lease twice":              func(_ []byte, p *[]part) { l := string(first((*p)[3])); (*p)[3] = items(snapfile.Leases, l, l) },
		"a directory twice":          func(_ []byte, p *[]part) { d := string(first((*p)[2])); (*p)[2] = items(snapfile.Dirs, d, d) },
		"an origin twice":            func(_ []byte, p *[]part) { o := string(first((*p)[7])); (*p)[7] = items(snapfile.Origins, o, o) },
		"an origin of id 0":          func(_ []byte, p *[]part) { o := first((*p)[7]); o[1] = 0; (*p)[7] = items(snapfile.Origins, string(o)) },
		"an origin of nothing": func(_ []byte, p *[]part) {
			(*p)[7] = items(snapfile.Origins, "p\x01\x01\x01"+string(make([]byte, window/8)))
		},
		"an origin before its start": func(_ []byte, p *[]part) {
			(*p)[7] = items(snapfile.Origins, "p\x01\x01\x01\x06"+string(make([]byte, window/8-1)))
		},
		"another sequence":   func(_ []byte, p *[]part) { data := (*p)[7].data; data[len(data)-window/8] ^= 8 },
		"a removed id twice": func(_ []byte, p *[]part) { (*p)[8] = items(snapfile.Removed, "\x0c", "\x0c") },
		"a removed id 0":     func(_ []byte, p *[]part) { (*p)[8] = items(snapfile.Removed, "\x00", "\x0c") },
		"a removed member": func(_ []byte, p *[]part) {
			(*p)[8] = items(snapfile.Removed, "\x0c", string(binary.AppendUvarint(nil, 1<<63)))
		},
		"one removed less":        func(_ []byte, p *[]part) { (*p)[8] = items(snapfile.Removed, "\x0c") },
		"another origins' sum":    func(_ []byte, p *[]part) { data := (*p)[10].data; data[len(data)-1]++ },
		"an event without node":   func(_ []byte, p *[]part) { (*p)[5] = items(snapfile.History, "\x00", "\x03set\x00\x00") },
		"an event of a directory": func(_ []byte, p *[]part) { (*p)[5] = items(snapfile.History, "\x00", "\x03set\x02\x00") },
	} {
		t.Run(name, func(t *testing.T) {
			head, parts := dismantle(unpacked(t, r.snapshot()))
			for i, section := range []byte{snapfile.Header, snapfile.Records, snapfile.Dirs, snapfile.Leases, snapfile.Members, snapfile.History, snapfile.Auth, snapfile.Origins, snapfile.Removed, snapfile.Invited, snapfile.End} {
				if parts[i].section != section {
					t.Fatalf("part %d is of section %d", i, parts[i].section&^snapfile.Critical)
				}
			}
			target := newReplica(t)
			if err := target.Restore(bytes.NewReader(assemble(head, parts))); err != nil {
				t.Fatalf("before the change: %v", err)
			}
			before := evidence(target)
			change(head, &parts)
			if err := target.Restore(bytes.NewReader(assemble(head, parts))); !errors.Is(err, ErrSnapshot) {
				t.Errorf("got %v, want ErrSnapshot", err)
			}
			if evidence(target) != before {
				t.Error("the machine changed")
			}
		})
	}
}

// FuzzRestore seals what it is given, and with sealed gives it the counts and the sum that its items
// have, so that none of them hides what comes after it.
func FuzzRestore(f *testing.F) {
	r := &replica{t: f, Machine: New(0)}
	f.Add(unpacked(f, r.snapshot()), true)
	r.apply(command.LeaseGrant{ID: 7, TTL: time.Second}, attached(7, set("/l", "1")), attached(7, asDir(set("/m", ""))))
	r.apply(set("/a/b", "1"), lasting(time.Second, set("/c", "2")), lasting(time.Second, asDir(set("/d", ""))), remove("/a/b"), command.Member{ID: 1, Name: "m"})
	f.Add(unpacked(f, r.snapshot()), true)
	f.Add(r.snapshot(), false)
	f.Fuzz(func(t *testing.T, data []byte, sealed bool) {
		if len(data) < snapfile.HeadSize {
			return
		}
		snapshot := assemble(dismantle(data))
		if sealed {
			snapshot = sealEnd(snapshot)
		}
		target := newReplica(t)
		target.apply(set("/mine", ""))
		before := evidence(target)
		var err error
		// The sizes that a block tells are believed up to snapfile.BlockSizeMax, when zstd confirms them.
		fuzztest.WantBounded(t, 4*snapfile.BlockSizeMax+1024*uint64(len(data)), func() { err = target.Restore(bytes.NewReader(snapshot)) })
		switch {
		case err == nil:
			checkRestored(t, target)
		case !errors.Is(err, ErrSnapshot):
			t.Fatalf("got %v, want ErrSnapshot", err)
		case evidence(target) != before:
			t.Fatal("a refused snapshot changed the machine")
		}
	})
}

// checkRestored uses a machine whose snapshot may make no sense. It is as it was after another
// snapshot, and one that is sound stays so.
func checkRestored(t *testing.T, target *replica) {
	first := target.snapshot()
	if err := target.Restore(bytes.NewReader(first)); err != nil {
		t.Fatalf("it does not restore its own snapshot: %v", err)
	}
	if !bytes.Equal(target.snapshot(), first) {
		t.Fatal("it writes another snapshot")
	}
	sound := target.Audit() == nil
	evidence(target)
	index, _ := target.Applied()
	if !sound || index > 1<<60 || target.Index() > 1<<60 {
		return
	}
	target.index, target.now = index, time.Minute
	target.apply(set("/a/b", "after"), rmr("/d"), lasting(time.Second, set("/new/x", "")))
	if err := target.Audit(); err != nil {
		t.Fatalf("it was sound before three writes: %v", err)
	}
}

// sealEnd returns the snapshot with the counts and the sum of what is in it.
func sealEnd(snapshot []byte) []byte {
	head, parts := dismantle(snapshot)
	l := loader{state: newState(DefaultHistoryLength)}
	l.state.dirs.Clear()
	l.state.items, l.state.bytes = Sum{}, 0
	for i, p := range parts {
		if p.section == snapfile.End {
			l.state.include(l.state.auth)
			var end []byte
			for _, n := range l.counts() {
				end = binary.AppendUvarint(end, uint64(n))
			}
			sums := []Sum{l.state.sum(), l.state.origins.sum}
			if l.level < snapfile.LevelOrigins {
				sums = sums[:1]
			}
			for _, sum := range sums {
				end = binary.LittleEndian.AppendUint64(end, sum.hi)
				end = binary.LittleEndian.AppendUint64(end, sum.lo)
			}
			parts[i] = items(snapfile.End, string(end))
			break
		}
		if p.codec != snapfile.CodecNone || snapfile.Items(p.items, p.data, func(item []byte) error { return l.item(p.section, item) }) != nil {
			break
		}
	}
	return assemble(head, parts)
}
