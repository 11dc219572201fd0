package wal

import (
	"testing"

	"github.com/hashicorp/raft"
)

func TestALogKnowsFromWhereOnItFitsIntoARoom(t *testing.T) {
	cfg := Config{Dir: DirAt(t.TempDir()), SegmentBytes: 1 << 20, Create: true}
	l, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { l.Close() }()
	if got := l.FirstWithin(1 << 40); got != 0 {
		t.Errorf("of an empty log: %d", got)
	}
	for i := range uint64(100) {
		if err := l.StoreLog(&raft.Log{Index: i + 1, Term: 1, Data: make([]byte, 100<<10)}); err != nil {
			t.Fatal(err)
		}
	}
	all := l.Bytes()
	if got := l.FirstWithin(all); got != 1 {
		t.Errorf("all of the log begins with entry %d", got)
	}
	before := uint64(1)
	for _, room := range []int64{all - 1, 4 << 20, 1 << 20, 0} {
		first := l.FirstWithin(room)
		if first < before || first < 2 || first > 100 {
			t.Fatalf("in %d bytes: from entry %d", room, first)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if l, err = Open(cfg); err != nil {
			t.Fatal(err)
		}
		if got := l.FirstWithin(room); got != first {
			t.Errorf("in %d bytes: from entry %d, and %d after a start", room, first, got)
		}
		if err := l.DeleteRange(1, first-1); err != nil {
			t.Fatal(err)
		}
		if got := l.Bytes(); got > max(room, 1<<20) || got+1<<20 < room {
			t.Errorf("in %d bytes: the log from entry %d takes %d", room, first, got)
		}
		before = first
	}
}
