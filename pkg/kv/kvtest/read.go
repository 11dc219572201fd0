package kvtest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/kvd-io/kvd/pkg/kv"
)

// tree fills a directory with two levels, one hidden key and one empty directory.
func (s *store) tree() {
	s.t.Helper()
	s.set("/d/b", "2")
	s.set("/d/a", "1")
	s.set("/d/sub/x", "3")
	s.set("/d/sub/_secret", "4")
	s.set("/d/_hidden/y", "5")
	s.do(kv.Write{Op: kv.OpCreate, Key: "/d/empty", Dir: true})
}

// names returns the keys of a listing relative to the test's directory, depth first.
func (s *store) names(n *kv.Node) []string {
	var all []string
	for _, child := range n.Nodes {
		all = append(all, child.Key[len(s.root):])
		all = append(all, s.names(child)...)
	}
	return all
}

func (s *store) list(name string, r kv.Read) []string {
	s.t.Helper()
	r.Key = s.key(name)
	result, err := s.Read(s.context(), r)
	if err != nil {
		s.t.Fatalf("list %s: %v", name, err)
	}
	if !result.Node.Dir {
		s.t.Fatalf("list %s: not a directory", name)
	}
	return s.names(result.Node)
}

var reads = map[string]func(*testing.T, *store){
	"a read of several keys shows each as a read of it alone would": func(t *testing.T, s *store) {
		s.tree()
		s.set("/d2", "6")
		s.set("/e/f", "7")
		written := s.set("/last", "8")
		result, err := s.Read(s.context(), kv.Read{Key: s.root, Recursive: true, Quorum: true, Only: []string{
			s.key("/d/sub"), s.key("/e"), s.key("/d/_hidden"), s.key("/d/a"), s.key("/e/f"), s.key("/absent/x"), s.key("/d/a/below"), s.key("/e/"),
		}})
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"/d/_hidden", "/d/_hidden/y", "/d/a", "/d/sub", "/d/sub/x", "/e", "/e/f"}
		if got := s.names(result.Node); !slices.Equal(got, want) {
			t.Errorf("it shows %q, want %q", got, want)
		}
		if result.Node.Key != s.root || !result.Node.Dir || result.Index < written.Index {
			t.Errorf("the answer is about %+v at %d, want %s at %d or later", result.Node, result.Index, s.root, written.Index)
		}
		for _, node := range result.Node.Nodes {
			alone, err := s.Read(s.context(), kv.Read{Key: node.Key, Recursive: true, Quorum: true, Sorted: true})
			if err != nil || alone.Node.ModifiedIndex != node.ModifiedIndex || alone.Node.Value != node.Value || alone.Node.Dir != node.Dir {
				t.Errorf("%+v, but alone %+v, %v", node, alone.Node, err)
			}
		}
		empty, err := s.Read(s.context(), kv.Read{Key: s.key("/none"), Recursive: true, Quorum: true, Only: []string{s.key("/none/a"), s.key("/none/b")}})
		if err != nil || len(empty.Node.Nodes) > 0 || empty.Index < written.Index || empty.Node.Key != s.key("/none") {
			t.Errorf("of what is not there: %+v, %v", empty, err)
		}
	},
	"a read of keys elsewhere, or of too many, is refused": func(t *testing.T, s *store) {
		for what, only := range map[string][]string{"a key elsewhere": {s.key("/d/a"), s.key("/e")}, "too many": make([]string, kv.OnlyMax+1)} {
			for i := range only {
				if only[i] == "" {
					only[i] = s.key(fmt.Sprintf("/d/%d", i))
				}
			}
			if _, err := s.Read(s.context(), kv.Read{Key: s.key("/d"), Recursive: true, Only: only}); !kv.Is(err, kv.Invalid) {
				t.Errorf("%s: read: %v", what, err)
			}
			if _, err := s.Watch(s.context(), kv.WatchFrom{Key: s.key("/d"), Recursive: true, Only: only}); !kv.Is(err, kv.Invalid) {
				t.Errorf("%s: watched: %v", what, err)
			}
		}
	},
	"what was written is read with its indices": func(t *testing.T, s *store) {
		written := s.set("/a", "1")
		read := s.get("/a")
		s.wantNode("get", read.Node, "/a", "1")
		if read.Action != kv.ActionGet || read.PrevNode != nil {
			t.Errorf("action %q, previous %v", read.Action, read.PrevNode)
		}
		if read.Node.ModifiedIndex != written.Index || read.Node.CreatedIndex != written.Index {
			t.Errorf("indices %d %d, want %d twice", read.Node.ModifiedIndex, read.Node.CreatedIndex, written.Index)
		}
		if read.Index < written.Index {
			t.Errorf("store at %d, behind the write %d", read.Index, written.Index)
		}
	},
	"values and keys survive every byte that a string of text can hold": func(t *testing.T, s *store) {
		value := "\x00\t\n \"<>&%+;=/?#é世\u2028界"
		s.set("/odd/%2F +;=?#&é世", value)
		s.wantNode("get", s.get("/odd/%2F +;=?#&é世").Node, "/odd/%2F +;=?#&é世", value)
	},
	"an empty value is a value": func(t *testing.T, s *store) {
		s.set("/a", "")
		s.wantNode("get", s.get("/a").Node, "/a", "")
	},
	"a missing key names the first missing part of its path": func(t *testing.T, s *store) {
		s.set("/a/b", "1")
		s.refuseRead("/a/none/x/y", kv.NotFound, s.key("/a/none"))
	},
	"a key below a value is not found in a directory": func(t *testing.T, s *store) {
		s.set("/a", "1")
		s.refuseRead("/a/b", kv.NotDir, s.key("/a"))
	},
	"spellings of a key are one key": func(t *testing.T, s *store) {
		s.set("/a/b", "1")
		s.wantNode("get", s.get("//a/./c/../b/").Node, "/a/b", "1")
	},
	"a directory lists one level without hidden names": func(t *testing.T, s *store) {
		s.tree()
		got := s.list("/d", kv.Read{Sorted: true})
		if want := []string{"/d/a", "/d/b", "/d/empty", "/d/sub"}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	},
	"a recursive listing shows all levels without hidden names": func(t *testing.T, s *store) {
		s.tree()
		got := s.list("/d", kv.Read{Sorted: true, Recursive: true})
		if want := []string{"/d/a", "/d/b", "/d/empty", "/d/sub", "/d/sub/x"}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		unsorted := s.list("/d", kv.Read{Recursive: true})
		slices.Sort(unsorted)
		if !slices.Equal(got, unsorted) {
			t.Errorf("unsorted %v, sorted %v", unsorted, got)
		}
	},
	"hidden keys are read by their own name": func(t *testing.T, s *store) {
		s.tree()
		s.wantNode("get", s.get("/d/sub/_secret").Node, "/d/sub/_secret", "4")
		if got, want := s.list("/d/_hidden", kv.Read{}), []string{"/d/_hidden/y"}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	},
	"the root is a directory without key and indices": func(t *testing.T, s *store) {
		s.set("/a", "1")
		for _, root := range []string{"", "/"} {
			result, err := s.Read(s.context(), kv.Read{Key: root})
			if err != nil {
				t.Fatal(err)
			}
			if n := result.Node; n.Key != "" || !n.Dir || n.ModifiedIndex != 0 || n.CreatedIndex != 0 || len(n.Nodes) == 0 {
				t.Errorf("root %q: %+v", root, *n)
			}
		}
	},
}
