package layers

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/kvd-io/kvd"

// imports is one package with what its shipped files and its test files import.
type imports struct {
	path  string // below the module, "daemon/store"
	files []string
	tests []string
}

func TestPackagesImportOnlyWhatTheirRoomMayKnow(t *testing.T) {
	var graph []imports
	for _, p := range modulePackages(t) {
		graph = append(graph, p.imports())
	}
	for _, violation := range violations(graph) {
		t.Error(violation)
	}
}

func TestForbiddenImportsAreCaught(t *testing.T) {
	ours := func(paths ...string) []string {
		full := make([]string, len(paths))
		for i, path := range paths {
			full[i] = module + "/" + path
		}
		return full
	}
	for _, c := range []struct {
		name string
		give imports
		want string // part of the violation; "" means none
	}{
		{"the store may read commands", imports{path: "daemon/store", files: ours("daemon/command", "pkg/kv")}, ""},
		{"the store may not see raft", imports{path: "daemon/store", files: ours("daemon/raftnode")}, "daemon/store imports daemon/raftnode"},
		{"the store may not open files", imports{path: "daemon/store", files: []string{"os"}}, `daemon/store imports "os"`},
		{"the store may not use the network below net", imports{path: "daemon/store", files: []string{"net/netip"}}, `daemon/store imports "net/netip"`},
		{"the store may not hold the consensus library", imports{path: "daemon/store", files: []string{"github.com/hashicorp/raft"}}, `imports "github.com/hashicorp/raft"`},
		{"raft may not look into the store", imports{path: "daemon/raftnode", files: ours("daemon/store")}, "daemon/raftnode imports daemon/store"},
		{"an API may not import another", imports{path: "daemon/httpv2", files: ours("daemon/admin")}, "daemon/httpv2 imports daemon/admin"},
		{"an API may not go around the service", imports{path: "daemon/httpv2", files: ours("daemon/store")}, "daemon/httpv2 imports daemon/store"},
		{"a client may not link the daemon", imports{path: "ctl", files: ours("daemon")}, "ctl imports daemon"},
		{"an agent may not import another", imports{path: "agent", files: ours("sidekick")}, "agent imports sidekick"},
		{"a test may start a daemon", imports{path: "agent", tests: ours("daemon/daemontest", "e2e/parts")}, ""},
		{"a shipped file may not", imports{path: "agent", files: ours("daemon/daemontest")}, "agent imports daemon/daemontest"},
		{"a library may not import a fake", imports{path: "pkg/registry", files: ours("pkg/kv/kvfake")}, "pkg/registry imports pkg/kv/kvfake"},
		{"the vocabulary imports nobody", imports{path: "pkg/kv", files: ours("pkg/etcdv2")}, "pkg/kv imports pkg/etcdv2"},
		{"the vocabulary has no dependency", imports{path: "pkg/kv", files: []string{"golang.org/x/sys/unix"}}, "outside the standard library"},
		{"a main serves one library", imports{path: "cmd/kvd", files: ours("ctl")}, "cmd/kvd imports ctl"},
		{"viper stays in its room", imports{path: "daemon", files: []string{"github.com/spf13/viper"}}, `daemon imports "github.com/spf13/viper"`},
		{"raft-boltdb is not raft", imports{path: "daemon/raftnode/log", files: []string{"github.com/hashicorp/raft-boltdb"}}, ""},
		{"a package without a room is told", imports{path: "helpers"}, "helpers has no line in the plan"},
		{"a name that only begins alike is another room", imports{path: "daemonology"}, "daemonology has no line in the plan"},
	} {
		t.Run(c.name, func(t *testing.T) {
			found := violations([]imports{c.give})
			switch {
			case c.want == "" && len(found) > 0:
				t.Errorf("unexpected: %q", found)
			case c.want != "" && !slices.ContainsFunc(found, func(v string) bool { return strings.Contains(v, c.want) }):
				t.Errorf("got %q, want one with %q", found, c.want)
			}
		})
	}
}

// violations returns a sentence for each import that the tables forbid.
func violations(graph []imports) []string {
	var found []string
	for _, p := range graph {
		room, ok := roomOf(p.path)
		if !ok {
			found = append(found, fmt.Sprintf("%s has no line in the plan of rules_test.go: give it one, with the reason", p.path))
			continue
		}
		for _, path := range p.files {
			found = append(found, judge(p.path, room, path, false)...)
		}
		for _, path := range p.tests {
			found = append(found, judge(p.path, room, path, true)...)
		}
	}
	return found
}

// judge returns what is wrong with one import of package from.
func judge(from string, room layer, path string, inTest bool) []string {
	target, isOurs := strings.CutPrefix(path, module+"/")
	switch {
	case isOurs && inTest && matchAny(slices.Concat(testsMayAlso, room.may), target), from == target:
		return nil
	case isOurs && !inTest && matchAny(testOnly, target) && !matchAny(testOnly, from):
		return []string{fmt.Sprintf("%s imports %s, which is for tests only", from, target)}
	case isOurs && !matchAny(room.may, target):
		return []string{fmt.Sprintf("%s imports %s; room %s may import %q: %s", from, target, room.room, room.may, room.why)}
	case isOurs, inTest:
		return nil
	}
	var found []string
	for _, w := range walls {
		if within(w.module, path) && !matchAny(w.rooms, from) {
			found = append(found, fmt.Sprintf("%s imports %q, which is for %q: %s", from, path, w.rooms, w.why))
		}
	}
	if matchAny(pureRooms, from) && slices.ContainsFunc(impureImports, func(p string) bool { return within(p, path) }) {
		found = append(found, fmt.Sprintf("%s imports %q, but must be deterministic", from, path))
	}
	if first, _, _ := strings.Cut(path, "/"); from == "pkg/kv" && strings.Contains(first, ".") {
		found = append(found, fmt.Sprintf("%s imports %q from outside the standard library", from, path))
	}
	return found
}

// roomOf returns the line of the plan with the longest room that holds the package at path.
func roomOf(path string) (layer, bool) {
	var best layer
	for _, l := range plan {
		if within(l.room, path) && len(l.room) > len(best.room) {
			best = l
		}
	}
	return best, best.room != ""
}

func matchAny(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		parent, deep := strings.CutSuffix(pattern, "/...")
		return path == parent || deep && within(parent, path)
	})
}

// within reports whether path is parent or lies below it.
func within(parent, path string) bool {
	return path == parent || strings.HasPrefix(path, parent+"/")
}
