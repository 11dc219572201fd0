package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/pkg/fuzztest"
)

// held returns what a Stable on d holds.
func held(d *disk, readOnly bool) (map[string]string, error) {
	s, err := OpenStable(StableConfig{Dir: d, Name: "stable", Create: !readOnly, ReadOnly: readOnly})
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	for key, value := range s.values {
		values[key] = string(value)
	}
	return values, s.Close()
}

func TestAfterACrashAtAnyMomentAStableHoldsWhatItAcknowledged(t *testing.T) {
	type moment struct{ before, after map[string]string }
	states := 0
	for seed := range uint64(4) {
		random := rand.New(rand.NewPCG(seed, 1))
		d := newDisk()
		now := map[string]string{}
		for range 3 { // lives
			s, err := OpenStable(StableConfig{Dir: d, Name: "stable", Create: true})
			if err != nil {
				t.Fatal(err)
			}
			for range 6 {
				key, value := fmt.Sprintf("key %d", random.IntN(3)), strings.Repeat("v", random.IntN(100))
				after := maps.Clone(now)
				after[key] = value
				d.note(moment{now, after})
				if err := s.Set([]byte(key), []byte(value)); err != nil {
					t.Fatal(err)
				}
				now = after
				d.note(moment{now, now})
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		w, is := newWreck(nil), moment{}
		for i, op := range d.operations() {
			if m, ok := op.note.(moment); ok {
				is = m
				continue
			}
			w.follow(op)
			check := func(d *disk, what string) (found map[string]string) {
				states++
				reading, err := held(d, true)
				if err != nil && !(errors.Is(err, fs.ErrNotExist) && len(is.before) == 0) {
					t.Fatalf("seed %d, operation %d, %s: to read: %v", seed, i, what, err)
				}
				found, err = held(d, false)
				if err != nil || !maps.Equal(found, is.before) && !maps.Equal(found, is.after) || reading != nil && !maps.Equal(found, reading) {
					t.Fatalf("seed %d, operation %d, %s: %v, %v, to read %v, want %v or %v", seed, i, what, found, err, reading, is.before, is.after)
				}
				return found
			}
			for variant := range 10 {
				check(w.crash(min(variant, loseSome), random), "crashed")
			}
			d, after := w.killed()
			found := check(d, "killed")
			for _, op := range d.operations() {
				after.follow(op)
			}
			is := is
			is.before, is.after = found, found
			if again, err := held(after.crash(loseSome, random), true); err != nil || !maps.Equal(again, found) {
				t.Fatalf("seed %d, operation %d, killed, opened, and the machine stopped: %v, %v, want %v", seed, i, again, err, found)
			}
		}
	}
	t.Logf("%d states", states)
}

func TestDamageToAStableIsFoundOrDoesNoHarm(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	d := newDisk()
	s, err := OpenStable(StableConfig{Dir: d, Name: "stable", Create: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(5) {
		if err := s.SetUint64([]byte("CurrentTerm"), i); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	want, err := held(copyOf(d), true)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for range 3000 {
		spoilt := copyOf(d)
		n := spoilt.names["stable"]
		how := spoil(n, random)
		if random.IntN(2) == 0 {
			how += " and " + spoil(&inode{n.content[:min(len(n.content)-1, slotBytes)+1]}, random)
		}
		got, err := held(spoilt, false)
		var damaged *DamageError
		switch {
		case errors.As(err, &damaged):
			refused++
		case err != nil:
			t.Fatal(err)
		case !maps.Equal(got, want):
			t.Fatalf("%s: not noticed, and it holds %v, want %v", how, got, want)
		}
	}
	if refused < 300 {
		t.Errorf("%d of 3000 were refused", refused)
	}
	// An old copy in the place of a record, as a disk leaves it that has lost a write it had confirmed.
	old := copyOf(d)
	again, err := OpenStable(StableConfig{Dir: d, Name: "stable"})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for i := range uint64(3) {
		if err := again.SetUint64([]byte("CurrentTerm"), 5+i); err != nil {
			t.Fatal(err)
		}
	}
	for slot := range int64(2) {
		lost := copyOf(d)
		copy(lost.names["stable"].content[slot*slotStride:][:slotBytes], old.names["stable"].content[slot*slotStride:])
		if got, err := held(lost, true); err == nil {
			t.Errorf("an old record in slot %d was not noticed: %v", slot, got)
		}
	}
}

func TestAStableRefusesWhatItCannotHoldAndGoesOn(t *testing.T) {
	s, err := OpenStable(StableConfig{Dir: newDisk(), Name: "stable", Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Get([]byte("none")); !errors.Is(err, ErrKeyNotFound) || err.Error() != "not found" {
		t.Errorf("%v; raft compares the text with \"not found\"", err)
	}
	if err := s.Set([]byte("candidate"), make([]byte, 470)); err != nil {
		t.Error(err)
	}
	if err := s.Set([]byte("more"), make([]byte, 20)); err == nil || !strings.Contains(err.Error(), "at most 494 can be stored") {
		t.Errorf("too much: %v", err)
	}
	if err := s.Set(make([]byte, 256), nil); err == nil || !strings.Contains(err.Error(), "at most 255") {
		t.Errorf("a long key: %v", err)
	}
	if _, err := s.GetUint64([]byte("candidate")); err == nil {
		t.Error("470 bytes are a number")
	}
	if err := s.SetUint64([]byte("n"), 7); err != nil {
		t.Error(err)
	}
	if n, err := s.GetUint64([]byte("n")); n != 7 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

func TestAStableThatIsNotThereIsAnErrorUnlessItIsToBeMade(t *testing.T) {
	if _, err := OpenStable(StableConfig{Dir: newDisk(), Name: "stable"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// FuzzStable opens what the fuzzer makes of the file. It is refused, or holds values that fit.
func FuzzStable(f *testing.F) {
	d := newDisk()
	if _, err := held(d, false); err != nil {
		f.Fatal(err)
	}
	f.Add(d.names["stable"].content, true)
	f.Add([]byte(stableMagic), false)
	f.Fuzz(func(t *testing.T, content []byte, mend bool) {
		content = slices.Clone(content)
		if mend && len(content) >= stableBytes {
			for slot := range uint64(2) {
				block := content[slotOffset(slot):][:blockBytes]
				copy(block[4:], stableMagic)
				binary.LittleEndian.PutUint64(block[8:], slot+2)
				block[17] &= 1 // a length that may fit
				binary.LittleEndian.PutUint32(block, crc32.Checksum(block[4:], crc32.MakeTable(crc32.Castagnoli)))
			}
		}
		d := newDisk()
		d.names["stable"] = &inode{content}
		var got map[string]string
		var err error
		fuzztest.WantBounded(t, 64*uint64(len(content))+fuzztest.Fixed, func() { got, err = held(d, false) })
		if err != nil {
			var damaged *DamageError
			if !errors.As(err, &damaged) {
				t.Fatalf("%v, want a DamageError", err)
			}
			return
		}
		if again, err := held(d, true); err != nil || !maps.Equal(again, got) {
			t.Fatalf("%v becomes %v, %v", got, again, err)
		}
	})
}
