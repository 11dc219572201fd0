package snapfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/kvd-io/kvd/pkg/fuzztest"
)

var label = Label{Cluster: 7, Member: 8, Name: "n1", Version: "v1", Time: time.Unix(5, 6).UTC(), Keys: 2}

// sample returns a snapshot as the store writes it, and the records in it. change may add items before
// the end.
func sample(change func(*Writer)) ([]byte, []Record) {
	records := []Record{
		{Key: "/a", Value: "1", Create: 2, Mod: 3, Version: 2, Lease: 9, Created: 2, Modified: 3},
		{Key: "/b", Value: strings.Repeat("packed well ", 40), Create: 4, Mod: 4, Version: 1, Created: 4, Modified: 4},
	}
	var sum Sum
	summed := func(b []byte) func([]byte) []byte {
		h := xxh3.Hash128(b)
		sum.Hi, sum.Lo = sum.Hi+h.Hi, sum.Lo+h.Lo
		return func(to []byte) []byte { return append(to, b...) }
	}
	uints := func(b []byte, list ...uint64) []byte {
		for _, n := range list {
			b = binary.AppendUvarint(b, n)
		}
		return b
	}
	var out bytes.Buffer
	w := NewWriter(&out)
	w.Item(Header, func(b []byte) []byte { return append(uints(b, 2, 40, 3, 4), 0, 0) })
	w.Item(Labels, label.AppendTo)
	for _, r := range records {
		b := appendText(appendText([]byte{ItemRecord}, r.Key), r.Value)
		w.Item(Records, summed(uints(b, r.Create, r.Mod, r.Version, r.Lease, r.Created, r.Modified)))
	}
	w.Item(Dirs, summed(uints(appendText([]byte{ItemDir}, ""), 0, 0, 0, 2)))
	w.Item(Leases, summed(binary.AppendVarint(binary.AppendVarint(binary.AppendVarint(uints([]byte{ItemLease}, 9), int64(time.Minute)), 77), 0)))
	w.Item(History, func(b []byte) []byte { return uints(b, 0) })
	w.Item(Auth, summed([]byte("any")))
	if change != nil {
		change(w)
	}
	w.Item(End, func(b []byte) []byte {
		b = uints(b, 2, 1, 1, 0, 0, 0, 0)
		return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(b, sum.Hi), sum.Lo)
	})
	w.Close()
	return out.Bytes(), records
}

func TestAScanShowsEverythingInOrderAndSaysWhatItWas(t *testing.T) {
	file, want := sample(nil)
	var shown []any
	var records []Record
	facts, err := Scan(iotest.OneByteReader(bytes.NewReader(file)), Visitor{
		Facts:  func(f Facts) error { shown = append(shown, f.Label, f.Index, f.RaftIndex); return nil },
		Record: func(r Record) error { records = append(records, r); return nil },
		Lease:  func(l Lease) error { shown = append(shown, l); return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	if wantShown := []any{label, uint64(4), uint64(40), Lease{9, time.Minute, 77}}; !reflect.DeepEqual(shown, wantShown) || !reflect.DeepEqual(records, want) {
		t.Errorf("shown %v and %v", shown, records)
	}
	if facts.Records != 2 || facts.Dirs != 1 || facts.Leases != 1 || facts.Bytes != int64(len(file)) || facts.Label != label || facts.RaftTerm != 3 {
		t.Errorf("facts %+v", facts)
	}
}

func TestEveryByteThatIsAlteredCutOrAddedIsFound(t *testing.T) {
	file, _ := sample(nil)
	refuse := func(what string, altered []byte) {
		if _, err := Scan(bytes.NewReader(altered), Visitor{}); !errors.Is(err, ErrDamaged) {
			t.Fatalf("%s: got %v, want ErrDamaged", what, err)
		}
	}
	for i := range file {
		for _, flip := range []byte{0xff, 1 << (i % 8), 0x80} {
			altered := bytes.Clone(file)
			altered[i] ^= flip
			refuse(fmt.Sprintf("byte %d flipped by %#x", i, flip), altered)
		}
		refuse(fmt.Sprintf("cut to %d bytes", i), file[:i])
	}
	refuse("a byte more", append(bytes.Clone(file), 0))
}

func TestALaterFormatIsToldFromDamage(t *testing.T) {
	file, _ := sample(nil)
	file[len(Magic)]++
	if _, err := Scan(bytes.NewReader(file), Visitor{}); !errors.Is(err, ErrNewer) || !errors.Is(err, ErrDamaged) {
		t.Errorf("a later format: %v", err)
	}
	file, _ = sample(func(w *Writer) { w.Item(Critical|0x20, func(b []byte) []byte { return append(b, 1) }) })
	if _, err := Scan(bytes.NewReader(file), Visitor{}); !errors.Is(err, ErrNewer) {
		t.Errorf("a section of a later version: %v", err)
	}
	file, _ = sample(func(w *Writer) { w.Item(0x20, func(b []byte) []byte { return append(b, 1) }) })
	if _, err := Scan(bytes.NewReader(file), Visitor{}); err != nil {
		t.Errorf("an optional section of a later version: %v", err)
	}
	if _, err := Scan(strings.NewReader("SQLite format 3\x00"), Visitor{}); errors.Is(err, ErrNewer) || !errors.Is(err, ErrDamaged) {
		t.Errorf("another file: %v", err)
	}
}

func TestALabelOfALaterFormIsLeftOut(t *testing.T) {
	file, _ := sample(func(w *Writer) { w.Item(Labels, func(b []byte) []byte { return append(b, labelForm+1, 1, 2, 3) }) })
	facts, err := Scan(bytes.NewReader(file), Visitor{})
	if err != nil || facts.Label != label {
		t.Errorf("%v, %+v", err, facts)
	}
}

func TestTheErrorOfAReaderAndOfAVisitorComesThrough(t *testing.T) {
	file, _ := sample(nil)
	broken := errors.New("broken")
	for i := range file {
		if _, err := Scan(io.MultiReader(bytes.NewReader(file[:i]), iotest.ErrReader(broken)), Visitor{}); !errors.Is(err, broken) {
			t.Fatalf("after %d bytes: %v", i, err)
		}
	}
	if _, err := Scan(bytes.NewReader(file), Visitor{Record: func(Record) error { return broken }}); err != broken {
		t.Errorf("got %v", err)
	}
}

func TestABlockThatCouldNotBeReadIsNotWritten(t *testing.T) {
	w := NewWriter(io.Discard)
	w.blockMax = 2 * BlockSize
	w.Item(Records, func(b []byte) []byte { return append(b, make([]byte, 2*BlockSize)...) })
	if _, err := w.Close(); err == nil {
		t.Error("written")
	}
}

func FuzzScan(f *testing.F) {
	file, _ := sample(nil)
	f.Add(file)
	f.Add(file[:len(file)/2])
	f.Fuzz(func(t *testing.T, data []byte) {
		fuzztest.WantBounded(t, 4*BlockSizeMax+1024*uint64(len(data)), func() {
			if _, err := Scan(bytes.NewReader(data), Visitor{}); err != nil && !errors.Is(err, ErrDamaged) {
				t.Fatalf("got %v, want ErrDamaged", err)
			}
		})
	})
}
