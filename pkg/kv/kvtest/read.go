package kvtest

import (
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
