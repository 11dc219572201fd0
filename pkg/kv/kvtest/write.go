package kvtest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/pkg/kv"
)

// wantChange compares the answer of a write.
func (s *store) wantChange(got kv.Result, action kv.Action, created bool) {
	s.t.Helper()
	if got.Action != action || got.Created != created {
		s.t.Errorf("action %q, created %v; want %q, %v", got.Action, got.Created, action, created)
	}
	if got.Node == nil || got.Node.ModifiedIndex != got.Index || got.Index == 0 {
		s.t.Errorf("node %+v, want it modified at the write's index %d", got.Node, got.Index)
	}
}

var writes = map[string]func(*testing.T, *store){
	"set creates, then replaces and shows what was there": func(t *testing.T, s *store) {
		first := s.set("/a", "1")
		s.wantChange(first, kv.ActionSet, true)
		if first.PrevNode != nil {
			t.Errorf("previous node %+v of a new key", first.PrevNode)
		}
		second := s.set("/a", "2")
		s.wantChange(second, kv.ActionSet, false)
		s.wantNode("node", second.Node, "/a", "2")
		s.wantNode("previous", second.PrevNode, "/a", "1")
		if second.Node.CreatedIndex != second.Index {
			t.Errorf("created at %d, want anew at %d", second.Node.CreatedIndex, second.Index)
		}
	},
	"each write takes a higher index and a failed one takes none": func(t *testing.T, s *store) {
		first := s.set("/a", "1")
		s.refuse(kv.Write{Op: kv.OpCreate, Key: "/a"}, kv.Exists, "")
		second := s.set("/a", "2")
		if second.Index <= first.Index {
			t.Errorf("index %d after %d", second.Index, first.Index)
		}
	},
	"set refuses directories and keys below values": func(t *testing.T, s *store) {
		s.set("/d/a", "1")
		s.refuse(kv.Write{Op: kv.OpSet, Key: "/d", Value: "x"}, kv.NotFile, s.key("/d"))
		s.refuse(kv.Write{Op: kv.OpSet, Key: "/d/a/b", Value: "x"}, kv.NotDir, s.key("/d/a"))
	},
	"set with Dir makes a directory, even of a value, but not of a directory": func(t *testing.T, s *store) {
		s.set("/a", "1")
		made := s.do(kv.Write{Op: kv.OpSet, Key: "/a", Dir: true})
		s.wantChange(made, kv.ActionSet, false)
		if !made.Node.Dir {
			t.Error("not a directory")
		}
		s.refuse(kv.Write{Op: kv.OpSet, Key: "/a", Dir: true}, kv.NotFile, s.key("/a"))
	},
	"create makes only what is absent": func(t *testing.T, s *store) {
		made := s.do(kv.Write{Op: kv.OpCreate, Key: "/a", Value: "1"})
		s.wantChange(made, kv.ActionCreate, true)
		s.refuse(kv.Write{Op: kv.OpCreate, Key: "/a", Value: "2"}, kv.Exists, s.key("/a"))
		s.wantNode("get", s.get("/a").Node, "/a", "1")
		s.do(kv.Write{Op: kv.OpCreate, Key: "/d", Dir: true})
		s.refuse(kv.Write{Op: kv.OpCreate, Key: "/d", Dir: true}, kv.Exists, s.key("/d"))
		s.refuse(kv.Write{Op: kv.OpCreate, Key: "/a/b"}, kv.NotDir, s.key("/a"))
	},
	"create in order names children by their index": func(t *testing.T, s *store) {
		var last string
		for i := range 3 {
			made := s.do(kv.Write{Op: kv.OpCreateInOrder, Key: "/queue", Value: fmt.Sprint(i)})
			s.wantChange(made, kv.ActionCreate, true)
			if want := fmt.Sprintf("%s/%020d", s.key("/queue"), made.Index); made.Node.Key != want {
				t.Errorf("key %s, want %s", made.Node.Key, want)
			}
			if made.Node.Key <= last {
				t.Errorf("key %s after %s", made.Node.Key, last)
			}
			last = made.Node.Key
		}
		s.set("/file", "1")
		s.refuse(kv.Write{Op: kv.OpCreateInOrder, Key: "/file", Value: "x"}, kv.NotDir, s.key("/file"))
	},
	"update changes only what exists and keeps its created index": func(t *testing.T, s *store) {
		s.refuse(kv.Write{Op: kv.OpUpdate, Key: "/a", Value: "1"}, kv.NotFound, "")
		first := s.set("/a", "1")
		second := s.do(kv.Write{Op: kv.OpUpdate, Key: "/a", Value: "2"})
		s.wantChange(second, kv.ActionUpdate, false)
		s.wantNode("previous", second.PrevNode, "/a", "1")
		if second.Node.CreatedIndex != first.Index {
			t.Errorf("created at %d, want still %d", second.Node.CreatedIndex, first.Index)
		}
		s.set("/d/x", "1")
		s.refuse(kv.Write{Op: kv.OpUpdate, Key: "/d", Value: "2"}, kv.NotFile, s.key("/d"))
	},
	"compare-and-swap happens only if value and index hold": func(t *testing.T, s *store) {
		first := s.set("/a", "1")
		swap := kv.Write{Op: kv.OpCompareAndSwap, Key: "/a", Value: "2"}

		wrong := swap
		wrong.PrevValue = "x"
		s.refuse(wrong, kv.CompareFailed, "[x != 1]")
		wrong.PrevIndex = first.Index + 1000
		s.refuse(wrong, kv.CompareFailed, fmt.Sprintf("[x != 1] [%d != %d]", first.Index+1000, first.Index))
		wrong.PrevValue = "1"
		s.refuse(wrong, kv.CompareFailed, fmt.Sprintf("[%d != %d]", first.Index+1000, first.Index))

		right := swap
		right.PrevValue, right.PrevIndex = "1", first.Index
		swapped := s.do(right)
		s.wantChange(swapped, kv.ActionCompareAndSwap, false)
		s.wantNode("previous", swapped.PrevNode, "/a", "1")
		if swapped.Node.CreatedIndex != first.Index {
			t.Errorf("created at %d, want still %d", swapped.Node.CreatedIndex, first.Index)
		}

		missing := right
		missing.Key = "/none"
		s.refuse(missing, kv.NotFound, s.key("/none"))
		s.set("/d/x", "1")
		directory := right
		directory.Key = "/d"
		s.refuse(directory, kv.NotFile, s.key("/d"))
	},
	"delete shows what was there and leaves nothing": func(t *testing.T, s *store) {
		first := s.set("/a", "1")
		gone := s.do(kv.Write{Op: kv.OpDelete, Key: "/a"})
		s.wantChange(gone, kv.ActionDelete, false)
		s.wantNode("node", gone.Node, "/a", "")
		s.wantNode("previous", gone.PrevNode, "/a", "1")
		if gone.Node.CreatedIndex != first.Index {
			t.Errorf("created at %d, want %d", gone.Node.CreatedIndex, first.Index)
		}
		s.refuseRead("/a", kv.NotFound, s.key("/a"))
		s.refuse(kv.Write{Op: kv.OpDelete, Key: "/a"}, kv.NotFound, s.key("/a"))
	},
	"delete of a directory has to say how much may go": func(t *testing.T, s *store) {
		s.set("/d/x", "1")
		s.refuse(kv.Write{Op: kv.OpDelete, Key: "/d"}, kv.NotFile, s.key("/d"))
		s.refuse(kv.Write{Op: kv.OpDelete, Key: "/d", Dir: true}, kv.DirNotEmpty, s.key("/d"))
		gone := s.do(kv.Write{Op: kv.OpDelete, Key: "/d", Dir: true, Recursive: true})
		if !gone.Node.Dir || gone.PrevNode == nil || !gone.PrevNode.Dir {
			t.Errorf("deleted %+v, want a directory", gone.Node)
		}
		s.refuseRead("/d/x", kv.NotFound, s.key("/d"))

		s.do(kv.Write{Op: kv.OpCreate, Key: "/e", Dir: true})
		s.do(kv.Write{Op: kv.OpDelete, Key: "/e", Dir: true})
		s.refuseRead("/e", kv.NotFound, s.key("/e"))
	},
	"a directory with only hidden children is not empty": func(t *testing.T, s *store) {
		s.set("/d/_x", "1")
		s.refuse(kv.Write{Op: kv.OpDelete, Key: "/d", Dir: true}, kv.DirNotEmpty, s.key("/d"))
	},
	"compare-and-delete happens only if value and index hold": func(t *testing.T, s *store) {
		first := s.set("/a", "1")
		s.refuse(kv.Write{Op: kv.OpCompareAndDelete, Key: "/a", PrevValue: "x"}, kv.CompareFailed, "[x != 1]")
		s.refuse(kv.Write{Op: kv.OpCompareAndDelete, Key: "/a", PrevIndex: first.Index + 1000}, kv.CompareFailed, "")
		gone := s.do(kv.Write{Op: kv.OpCompareAndDelete, Key: "/a", PrevValue: "1", PrevIndex: first.Index})
		s.wantChange(gone, kv.ActionCompareAndDelete, false)
		s.wantNode("previous", gone.PrevNode, "/a", "1")
		s.refuse(kv.Write{Op: kv.OpCompareAndDelete, Key: "/a", PrevValue: "1"}, kv.NotFound, s.key("/a"))
		s.set("/d/x", "1")
		s.refuse(kv.Write{Op: kv.OpCompareAndDelete, Key: "/d", PrevIndex: first.Index}, kv.NotFile, s.key("/d"))
	},
	"the root refuses every write": func(t *testing.T, s *store) {
		for _, w := range []kv.Write{
			{Op: kv.OpSet, Key: "/", Value: "x"},
			{Op: kv.OpSet, Key: "/", Dir: true},
			{Op: kv.OpCreate, Key: "/", Dir: true},
			{Op: kv.OpUpdate, Key: "/", Value: "x"},
			{Op: kv.OpDelete, Key: "/", Dir: true, Recursive: true},
		} {
			s.refuse(w, kv.RootReadOnly, "/")
		}
	},
	"NoValue shortens the answer and nothing else": func(t *testing.T, s *store) {
		got := s.do(kv.Write{Op: kv.OpSet, Key: "/a", Value: "1", NoValue: true})
		if got.Action != kv.ActionSet || got.Node != nil || got.PrevNode != nil || got.Index == 0 {
			t.Errorf("got %+v", got)
		}
		s.wantNode("get", s.get("/a").Node, "/a", "1")
	},
	"a write that makes no sense is refused and changes nothing": func(t *testing.T, s *store) {
		first := s.set("/a", "1")
		for _, c := range []struct {
			write kv.Write
			kind  kv.Kind
		}{
			{kv.Write{Op: 0, Key: "/a", Value: "2"}, kv.Invalid},
			{kv.Write{Op: 99, Key: "/a", Value: "2"}, kv.Invalid},
			{kv.Write{Op: kv.OpCompareAndSwap, Key: "/a", Value: "2"}, kv.Invalid},
			{kv.Write{Op: kv.OpCompareAndDelete, Key: "/a"}, kv.Invalid},
			{kv.Write{Op: kv.OpSet, Key: "/a", Refresh: true}, kv.Invalid},
			{kv.Write{Op: kv.OpUpdate, Key: "/a", Refresh: true, Value: "2"}, kv.Invalid},
			{kv.Write{Op: kv.OpSet, Key: strings.Repeat("/a", 200), Value: "2"}, kv.TooLarge},
			{kv.Write{Op: kv.OpCreateInOrder, Key: strings.Repeat("/a", 200), Value: "2"}, kv.TooLarge},
		} {
			c.write.Key = s.key(c.write.Key)
			if _, err := s.Write(s.context(), c.write); !kv.Is(err, c.kind) {
				t.Errorf("%+v: got %v, want the kind %q", c.write, err, c.kind)
			}
		}
		if got := s.get("/a"); got.Node.ModifiedIndex != first.Index || got.Node.Value != "1" {
			t.Errorf("now it is %+v", got.Node)
		}
	},
	"two creations at once make one key": func(t *testing.T, s *store) {
		const writers = 8
		kinds := make(chan error, writers)
		for i := range writers {
			go func() {
				_, err := s.Write(s.context(), kv.Write{Op: kv.OpCreate, Key: s.key("/lock"), Value: fmt.Sprint(i)})
				kinds <- err
			}()
		}
		won := 0
		for range writers {
			if err := <-kinds; err == nil {
				won++
			} else if !kv.Is(err, kv.Exists) {
				t.Error(err)
			}
		}
		if won != 1 {
			t.Errorf("%d writers made the key, want one", won)
		}
	},
}
