package confd

import (
	"fmt"
	"slices"
	"testing"

	"github.com/kvd-io/kvd/confd/resource"
	"github.com/kvd-io/kvd/pkg/kv"
)

func dump(t *testing.T, m *mirror, keys ...string) string {
	t.Helper()
	seen := m.views(m.subscribe(nil), []scope{{keys: keys}})[0]
	if !seen.ready {
		return "not ready"
	}
	text := ""
	for _, pattern := range []string{"/*", "/*/*", "/*/*/*"} {
		pairs, err := seen.tree.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, pair := range pairs {
			text += pair.Key + "=" + pair.Value + " "
		}
	}
	return text
}

func woken(s *subscription) bool {
	select {
	case <-s.wake:
		return true
	default:
		return false
	}
}

func TestAMirrorWakesExactlyThoseWhoseKeysChange(t *testing.T) {
	m := newMirror(false)
	app, app2, both := m.subscribe([]string{"/app"}), m.subscribe([]string{"/app2"}), m.subscribe([]string{"/app/x", "/app2"})
	event := func(action kv.Action, key, value string, dir bool) kv.Event {
		return kv.Event{Action: action, Node: &kv.Node{Key: key, Value: value, Dir: dir}}
	}
	for i, step := range []struct {
		do             func()
		app, app2, all bool
		want           string
	}{
		{func() {}, true, true, true, "not ready"},
		{func() { m.replace("/app", origin{}, map[string]string{"/app/x": "1", "/app/y/z": "1"}) }, true, false, true, "/app/x=1 /app/y/z=1 "},
		{func() { m.replace("/app", origin{}, map[string]string{"/app/x": "1", "/app/y/z": "1"}) }, false, false, false, "/app/x=1 /app/y/z=1 "},
		{func() { m.apply("/app", event(kv.ActionSet, "/app/x", "1", false)) }, false, false, false, "/app/x=1 /app/y/z=1 "},
		{func() { m.apply("/app", event(kv.ActionSet, "/app/y/z", "2", false)) }, true, false, false, "/app/x=1 /app/y/z=2 "},
		{func() { m.apply("/app", event(kv.ActionUpdate, "/app/y", "", true)) }, false, false, false, "/app/x=1 /app/y/z=2 "},
		{func() { m.apply("/app", event(kv.ActionExpire, "/app/y", "", true)) }, true, false, false, "/app/x=1 "},
		{func() { m.apply("/app", event(kv.ActionSet, "/app/x", "", true)) }, true, false, true, ""},
		{func() { m.apply("/app", event(kv.ActionCreate, "/app/q", "1", false)) }, true, false, false, "/app/q=1 "},
		{func() { m.apply("/app", event(kv.ActionDelete, "", "", true)) }, true, false, false, ""},
		{func() { m.replace("/app2", origin{}, map[string]string{"/app2/x": "1"}) }, false, true, true, ""},
		{func() { m.replace("/app2", origin{}, nil) }, false, true, true, ""},
	} {
		step.do()
		if a, b, c := woken(app), woken(app2), woken(both); a != step.app || b != step.app2 || c != step.all {
			t.Errorf("step %d: woke %v %v %v, want %v %v %v", i, a, b, c, step.app, step.app2, step.all)
		}
		if got := dump(t, m, "/app"); got != step.want {
			t.Errorf("step %d: mirror has %q, want %q", i, got, step.want)
		}
	}
}

func TestAMirrorShowsNothingWhileItsRootsComeFromTwoStores(t *testing.T) {
	m := newMirror(false)
	before, after := origin{"c1", 7}, origin{"c2", 9}
	m.replace("/a", before, map[string]string{"/a/x": "old"})
	m.replace("/b", before, map[string]string{"/b/x": "old"})
	reader := m.subscribe([]string{"/a", "/b"})
	for i, step := range []struct {
		root    string
		from    origin
		another bool // is news of another store
		want    string
	}{
		{"/a", origin{"c1", 8}, false, "/a/x=new /b/x=old "},
		{"/a", after, true, "not ready"},
		{"/b", after, false, "/a/x=new /b/x=new "},
		{"/b", origin{"c2", 10}, false, "/a/x=new /b/x=new "},
		{"/a", origin{"", 11}, false, "/a/x=new /b/x=new "}, // does not say which it is
		{"/b", origin{"c2", 3}, true, "/a/x=new /b/x=new "}, // the data of an earlier day
	} {
		woken(reader)
		wasReady := dump(t, m, "/a", "/b") != "not ready"
		if another := m.replace(step.root, step.from, map[string]string{step.root + "/x": "new"}); another != step.another {
			t.Errorf("step %d: another store: %v", i, another)
		}
		if got := dump(t, m, "/a", "/b"); got != step.want {
			t.Errorf("step %d: mirror has %q, want %q", i, got, step.want)
		}
		if !wasReady && !woken(reader) {
			t.Errorf("step %d: nobody is told that the mirror is whole again", i)
		}
	}
	if m.replacedAt().IsZero() {
		t.Error("the mirror does not know that the store was replaced")
	}
}

func TestRootsAreTheKeysUnlessTheyAreTooMany(t *testing.T) {
	var many, deep []string
	for i := range rootsMax + 1 {
		many = append(many, fmt.Sprintf("/a/b/%d/c", i))
		deep = append(deep, fmt.Sprintf("/%d/b", i))
	}
	for _, c := range []struct{ keys, want []string }{
		{[]string{"/b", "/a/x", "/a"}, []string{"/a", "/b"}},
		{nil, []string{}},
		{[]string{""}, []string{""}},
		{append([]string{"/z/y"}, many...), []string{"/a/b", "/z/y"}},
		{append([]string{"/a/_hidden/x"}, many...), []string{"/a/_hidden", "/a/b"}},
		{deep, []string{""}},
	} {
		got := topRoots([]resource.Resource{{Keys: c.keys}})
		if !slices.Equal(got, c.want) {
			t.Errorf("roots of %q: %q, want %q", c.keys, got, c.want)
		}
	}
}
