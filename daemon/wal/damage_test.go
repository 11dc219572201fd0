package wal

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/pkg/fuzztest"
)

// copyOf returns a disk with the same files.
func copyOf(d *disk) *disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	return newWreck(d).crash(keepAll, nil)
}

// files returns the names of the segments on d.
func files(t testing.TB, d *disk) []string {
	t.Helper()
	names, err := d.Names()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(names, func(name string) bool { return strings.HasSuffix(name, unfinished) })
}

// spoil changes one byte of a file, or one block to zeros, or cuts the file.
func spoil(n *inode, random *rand.Rand) (how string) {
	at := random.IntN(len(n.content))
	switch random.IntN(4) {
	case 0:
		n.content = n.content[:at]
		return "cut"
	case 1:
		clear(n.content[at/512*512 : min(len(n.content), (at/512+1)*512)])
		return "zeroed"
	}
	n.content[at] ^= byte(1 + random.IntN(255))
	return "flipped"
}

func TestDamageToALogThatWasClosedIsFoundOrDoesNoHarm(t *testing.T) {
	rounds := 4000
	if testing.Short() {
		rounds = 400
	}
	var refused, harmless int
	for seed := range uint64(5) {
		random := rand.New(rand.NewPCG(seed, 2))
		term := uint64(1)
		d := newDisk()
		m := live(t, d, random, model{}, &term, 40)
		for range rounds / 5 {
			spoilt := copyOf(d)
			names := files(t, spoilt)
			name := names[random.IntN(len(names))]
			before := slices.Clone(spoilt.names[name].content)
			how := spoil(spoilt.names[name], random)
			log, err := Open(testConfig(spoilt, random))
			var damaged *DamageError
			switch {
			case errors.As(err, &damaged):
				refused++
				if !strings.HasPrefix(damaged.Path, "/disk/") || damaged.Problem == "" {
					t.Fatalf("seed %d: %v", seed, err)
				}
				continue
			case err != nil:
				t.Fatalf("seed %d: %s %s: %v, want a DamageError", seed, name, how, err)
			}
			harmless++
			if problem := m.difference(log); problem != "" {
				i := 0
				for i < len(spoilt.names[name].content) && before[i] == spoilt.names[name].content[i] {
					i++
				}
				t.Fatalf("seed %d: %s %s at byte %d of %d: not noticed, and %s", seed, name, how, i, len(before), problem)
			}
			if err := log.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d refused, %d harmless", refused, harmless)
	if refused < rounds/4 || harmless < rounds/20 {
		t.Errorf("%d refused and %d harmless: the test sees one side only", refused, harmless)
	}
}

func TestDamageAfterACrashTakesAtMostTheLastAppend(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 3))
		d := newDisk()
		log, err := Open(testConfig(d, random))
		if err != nil {
			t.Fatal(err)
		}
		var m, before model
		for range 10 {
			c := draw(random, m, new(uint64))
			if err := c.do(log); err != nil {
				t.Fatal(err)
			}
			before, m = m, c.of(m)
		}
		spoilt := copyOf(d) // as a crash leaves it
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		names := files(t, spoilt)
		how := spoil(spoilt.names[names[random.IntN(len(names))]], random)
		again, err := Open(testConfig(spoilt, random))
		var damaged *DamageError
		if errors.As(err, &damaged) {
			continue
		}
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if problem, other := m.difference(again), before.difference(again); problem != "" && other != "" {
			t.Fatalf("seed %d, %s: %s; without the last append: %s", seed, how, problem, other)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAnEntryThatIsDamagedWhileTheLogIsOpenIsNotReturned(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 4))
	term := uint64(1)
	d := newDisk()
	m := live(t, d, random, model{}, &term, 40)
	cfg := testConfig(d, random)
	cfg.RecentBytes = 1 // nothing comes from memory
	log, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	found := 0
	for range 2000 {
		names := files(t, d)
		n := d.names[names[random.IntN(len(names))]]
		sound := slices.Clone(n.content)
		spoil(n, random)
		for _, want := range m.entries {
			var got raft.Log
			err := log.GetLog(want.Index, &got)
			var damaged *DamageError
			switch {
			case errors.As(err, &damaged):
				found++
			case err != nil:
				t.Fatal(err)
			case string(got.Data) != string(want.Data) || got.Term != want.Term || got.Index != want.Index:
				t.Fatalf("entry %d is %+v, want %+v", want.Index, got, want)
			}
		}
		n.content = sound
	}
	if found < 100 {
		t.Errorf("%d damaged entries were seen", found)
	}
}

func TestDamageIsToldWithItsPlaceAndWithWhatProvesIt(t *testing.T) {
	lived := newDisk()
	log, err := Open(testConfig(lived, rand.New(rand.NewPCG(1, 5))))
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(37) {
		if err := log.StoreLog(&raft.Log{Index: i + 1, Term: 1, Data: []byte("value")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		spoil func(d *disk)
		want  []string
	}{
		"an entry":             {func(d *disk) { d.names[segmentName(3)].content[1580] ^= 1 }, []string{"/disk/0000000003.segment is damaged at byte 1536", "behind entry 14"}},
		"the header":           {func(d *disk) { d.names[segmentName(2)].content[9] ^= 1 }, []string{"0000000002.segment is damaged at byte 0", "its header does not match its checksum"}},
		"another file":         {func(d *disk) { copy(d.names[segmentName(2)].content, "something") }, []string{"does not begin like a segment of a log"}},
		"the length":           {func(d *disk) { n := d.names[segmentName(1)]; n.content = n.content[:4000] }, []string{"0000000001.segment is damaged at byte 4000", "it is cut short: it had 4096 bytes"}},
		"nothing left":         {func(d *disk) { d.names[segmentName(7)].content = nil }, []string{"0000000007.segment is damaged at byte 0", "cut short after 0 bytes"}},
		"a file in the middle": {func(d *disk) { delete(d.names, segmentName(3)) }, []string{"0000000003.segment is damaged", "the file is missing, though there is 0000000004.segment"}},
		"the first file":       {func(d *disk) { delete(d.names, segmentName(1)) }, []string{"0000000002.segment is damaged", "entries from 1 on should be there"}},
		"the last file":        {func(d *disk) { delete(d.names, segmentName(7)) }, []string{"0000000007.segment is damaged", "the file is missing, though the log goes on there behind 0000000006.segment"}},
		"two files exchanged": {func(d *disk) {
			d.names[segmentName(2)], d.names[segmentName(3)] = d.names[segmentName(3)], d.names[segmentName(2)]
		}, []string{"it is segment 3 by its header"}},
		"the end of a file":    {func(d *disk) { clear(d.names[segmentName(2)].content[2048:]) }, []string{"0000000002.segment is damaged at byte 2048", "in 0000000003.segment at byte 512"}},
		"the beginning of all": {func(d *disk) { clear(d.names[segmentName(1)].content[512:1024]) }, []string{"0000000001.segment is damaged at byte 512"}},
	} {
		t.Run(name, func(t *testing.T) {
			d := copyOf(lived)
			c.spoil(d)
			_, err := Open(testConfig(d, rand.New(rand.NewPCG(1, 6))))
			var damaged *DamageError
			if !errors.As(err, &damaged) {
				t.Fatalf("error %v, files %v", err, files(t, d))
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q, want %q in it", err, want)
				}
			}
		})
	}
}

// FuzzSegment opens a log whose only segment is what the fuzzer makes of it. It is refused, or can be
// used; nothing panics, and no length in it is believed. Where a valid checksum would keep the fuzzer
// out, it is put in.
func FuzzSegment(f *testing.F) {
	const id = 0x1122334455667788
	random := rand.New(rand.NewPCG(1, 7))
	d := newDisk()
	cfg := testConfig(d, random)
	cfg.Random = func() uint64 { return id }
	log, err := Open(cfg)
	if err != nil {
		f.Fatal(err)
	}
	for _, entries := range [][]*raft.Log{{{Index: 1, Term: 1, Data: []byte("a")}, {Index: 2, Term: 1}}, {{Index: 3, Term: 2, Extensions: []byte{1}}}} {
		if err := log.StoreLogs(entries); err != nil {
			f.Fatal(err)
		}
	}
	if err := errors.Join(log.DeleteRange(3, 3), log.Close()); err != nil {
		f.Fatal(err)
	}
	sound := d.names[segmentName(1)].content
	f.Add(sound, true)
	f.Add(sound[:3000], false)
	f.Add([]byte(segmentMagic), true)
	f.Fuzz(func(t *testing.T, content []byte, mend bool) {
		content = slices.Clone(content)
		if mend {
			mendChecksums(content, id)
		}
		d := newDisk()
		d.names[segmentName(1)] = &inode{content}
		cfg := testConfig(d, rand.New(rand.NewPCG(1, 8)))
		var log *Log
		var err error
		fuzztest.WantBounded(t, 64*uint64(len(content))+fuzztest.Fixed, func() { log, err = Open(cfg) })
		if err != nil {
			var damaged *DamageError
			if !errors.As(err, &damaged) {
				t.Fatalf("%v, want a DamageError", err)
			}
			return
		}
		first, _ := log.FirstIndex()
		last, _ := log.LastIndex()
		for index := first; index <= last && index > 0; index++ {
			var entry raft.Log
			if err := log.GetLog(index, &entry); err != nil || entry.Index != index {
				t.Fatalf("entry %d of %d to %d: %+v, %v", index, first, last, entry, err)
			}
		}
		if last < 1<<63 {
			if err := log.StoreLog(&raft.Log{Index: last + 1}); err != nil {
				t.Fatal(err)
			}
		}
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// mendChecksums gives the header and everything that could be a frame a valid checksum.
func mendChecksums(content []byte, id uint64) {
	if len(content) < blockBytes {
		return
	}
	seq, size := uint64(1), int64(min(len(content), 4096))
	copy(content, (&segment{seq: seq, id: id, size: size}).header())
	for off := blockBytes; off+frameBytes <= len(content); {
		b := content[off:]
		f := frame{}
		copy(b[4:8], []byte{0x88, 0x77, 0x66, 0x55})
		f.dataBytes, f.extBytes = uint32(b[8])|uint32(b[9])<<8, uint32(b[12])
		copy(b[8:16], []byte{b[8], b[9], 0, 0, b[12], 0, 0, 0})
		if f.bytes() > int64(len(b)) {
			return
		}
		sum := checksum(id, b[:f.bytes()])
		copy(b, []byte{byte(sum), byte(sum >> 8), byte(sum >> 16), byte(sum >> 24)})
		off += int(f.paddedBytes())
		if b[20] == 0 { // the last of its batch
			off = int(align(int64(off), blockBytes))
		}
	}
}
