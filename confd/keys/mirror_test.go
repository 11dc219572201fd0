package keys

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

// dump returns what a view of m has at and below keys.
func dump(m *Mirror, keys ...string) string {
	view := m.View()
	if !view.Ready(keys) {
		return "not ready"
	}
	text := ""
	for _, key := range keys {
		view.Each(key, func(key, value string) { text += key + "=" + value + " " })
	}
	return text
}

// woken returns what s tells, "" if it was not woken.
func woken(s *Subscription) string {
	select {
	case <-s.Wake():
	default:
		return ""
	}
	_, changes, all := s.Take()
	if all {
		return "all"
	}
	text := "woken"
	for _, c := range changes {
		text += " " + c.Key
		if c.Expired {
			text += " expired"
		} else if c.Removed {
			text += " removed"
		}
	}
	return text
}

func event(action kv.Action, key, value string, dir bool) kv.Event {
	return kv.Event{Action: action, Node: &kv.Node{Key: key, Value: value, Dir: dir, ModifiedIndex: 9}}
}

func TestAMirrorWakesExactlyThoseWhoseKeysChangeAndSaysWhichDid(t *testing.T) {
	m := NewMirror(Segments)
	app, app2, both := m.Subscribe([]string{"/app"}), m.Subscribe([]string{"/app2"}), m.Subscribe([]string{"/app2", "/app/x"})
	roots := []string{"/app", "/app2"}
	for i, step := range []struct {
		do              func()
		app, app2, both string
		want            string
	}{
		{func() {}, "all", "all", "all", "not ready"},
		{func() { m.Replace([]string{"/app"}, Origin{}, map[string]string{"/app/x": "1", "/app/y/z": "1"}) }, "all", "all", "all", "/app/x=1 /app/y/z=1 "},
		{func() { m.Replace(roots, Origin{}, map[string]string{"/app/x": "1", "/app/y/z": "1"}) }, "", "all", "all", "/app/x=1 /app/y/z=1 "},
		{func() { m.Replace(roots, Origin{}, map[string]string{"/app/x": "1", "/app/y/z": "1"}) }, "", "", "", "/app/x=1 /app/y/z=1 "},
		{func() { m.Apply(event(kv.ActionSet, "/app/x", "1", false)) }, "", "", "", "/app/x=1 /app/y/z=1 "},
		{func() { m.Apply(event(kv.ActionSet, "/app/y/z", "2", false)) }, "woken /app/y/z", "", "", "/app/x=1 /app/y/z=2 "},
		{func() { m.Apply(event(kv.ActionUpdate, "/app/y", "", true)) }, "", "", "", "/app/x=1 /app/y/z=2 "},
		{func() { m.Apply(event(kv.ActionSet, "/app/_hidden", "1", false)) }, "", "", "", "/app/x=1 /app/y/z=2 "},
		{func() { m.Apply(event(kv.ActionSet, "/other", "1", false)) }, "", "", "", "/app/x=1 /app/y/z=2 "},
		{func() { m.Apply(event(kv.ActionExpire, "/app/y", "", true)) }, "woken /app/y/z expired", "", "", "/app/x=1 "},
		{func() { m.Apply(event(kv.ActionSet, "/app/x", "", true)) }, "woken /app/x removed", "", "woken /app/x removed", ""},
		{func() { m.Apply(event(kv.ActionCreate, "/app/q", "1", false)) }, "woken /app/q", "", "", "/app/q=1 "},
		{func() {
			m.Apply(event(kv.ActionCreate, "/app/r", "1", false))
			m.Apply(event(kv.ActionDelete, "/app/q", "1", false))
			m.Apply(event(kv.ActionSet, "/app/r", "2", false))
			m.Apply(event(kv.ActionSet, "/app2/r", "2", false))
		}, "woken /app/q removed /app/r", "woken /app2/r", "woken /app2/r", "/app/r=2 "},
		{func() { m.Apply(event(kv.ActionDelete, "", "", true)) }, "woken /app/r removed", "woken /app2/r removed", "woken /app2/r removed", ""},
		{func() { m.Replace(roots, Origin{}, map[string]string{"/app2/x": "1"}) }, "", "woken /app2/x", "woken /app2/x", ""},
		{func() { m.Replace(roots, Origin{}, nil) }, "", "woken /app2/x removed", "woken /app2/x removed", ""},
		{func() { m.WakeAll() }, "woken", "woken", "woken", ""},
	} {
		step.do()
		if a, b, c := woken(app), woken(app2), woken(both); a != step.app || b != step.app2 || c != step.both {
			t.Errorf("step %d: woke %q %q %q, want %q %q %q", i, a, b, c, step.app, step.app2, step.both)
		}
		if got := dump(m, "/app"); got != step.want {
			t.Errorf("step %d: mirror has %q, want %q", i, got, step.want)
		}
	}
}

func TestAViewNeverChanges(t *testing.T) {
	m := NewMirror(Segments)
	m.Replace([]string{""}, Origin{"c1", 3}, map[string]string{"/a": "1", "/b": "1"})
	before := m.View()
	m.Apply(event(kv.ActionSet, "/a", "2", false))
	m.Apply(event(kv.ActionDelete, "/b", "", false))
	after := m.View()
	m.Replace([]string{"/c"}, Origin{"c1", 12}, nil)
	for i, v := range []struct {
		View
		want  string
		index kv.Index
	}{{before, "/a=1 /b=1 ", 3}, {after, "/a=2 ", 9}} {
		text := ""
		v.Each("", func(key, value string) { text += key + "=" + value + " " })
		if text != v.want || v.Index() != v.index {
			t.Errorf("view %d has %q at index %d, want %q at %d", i, text, v.Index(), v.want, v.index)
		}
	}
}

func TestWhoIsFarBehindLearnsThatEverythingMayHaveChanged(t *testing.T) {
	m := NewMirror(Segments)
	m.Replace([]string{""}, Origin{}, nil)
	slow, other := m.Subscribe([]string{"/a"}), m.Subscribe([]string{"/b"})
	woken(slow)
	woken(other)
	for i := range changesMax + 2 {
		m.Apply(event(kv.ActionSet, "/a/x", fmt.Sprint(i), false))
		if i == changesMax {
			m.Apply(event(kv.ActionSet, "/b/x", "1", false))
		}
	}
	if got := woken(other); got != "woken /b/x" {
		t.Errorf("who is at most %d changes behind learns %q", changesMax, got)
	}
	if got := woken(slow); got != "all" {
		t.Errorf("who is more than %d changes behind learns %q", changesMax, got)
	}
	m.Apply(event(kv.ActionSet, "/a/x", "last", false))
	if got := woken(slow); got != "woken /a/x" {
		t.Errorf("after that it learns %q", got)
	}
	other.Close()
	m.Apply(event(kv.ActionSet, "/b/x", "2", false))
	if got := woken(other); got != "" {
		t.Errorf("a closed subscription learns %q", got)
	}
}

func TestAnotherStoreInThePlaceOfTheOneBeforeIsNoticed(t *testing.T) {
	m := NewMirror(Segments)
	for i, step := range []struct {
		from    Origin
		another bool
	}{
		{Origin{"c1", 7}, false},
		{Origin{"c1", 8}, false},
		{Origin{"c2", 9}, true},
		{Origin{"c2", 10}, false},
		{Origin{"", 11}, false}, // does not say which it is
		{Origin{"c2", 3}, true}, // the data of an earlier day
		{Origin{"c1", 4}, true},
	} {
		before, _ := m.Replaced(time.Hour)
		if another := m.Replace([]string{"/a"}, step.from, nil); another != step.another {
			t.Errorf("step %d: another store: %v", i, another)
		}
		if now, _ := m.Replaced(time.Hour); (now != before) != step.another {
			t.Errorf("step %d: it was replaced at %v, before at %v", i, now, before)
		}
	}
}

func TestWhatTheStoreBeforeHeldIsKnownForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMirror(Segments)
		m.Replace([]string{"/a"}, Origin{"c1", 7}, map[string]string{"/a/x": "1", "/a/y": "2"})
		m.Replace([]string{"/a"}, Origin{"c2", 3}, nil)
		time.Sleep(59 * time.Second)
		if at, before := m.Replaced(time.Minute); at.IsZero() || before.Len() != 2 || m.View().Len() != 0 {
			t.Errorf("replaced at %v, where there were %d keys before, and %d now", at, before.Len(), m.View().Len())
		}
		time.Sleep(time.Second)
		if at, before := m.Replaced(time.Minute); !at.IsZero() || before.Len() != 0 {
			t.Errorf("after a minute it is still known to be replaced at %v, with %d keys before", at, before.Len())
		}
	})
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
		got := Roots(c.keys)
		if !slices.Equal(got, c.want) {
			t.Errorf("roots of %q: %q, want %q", c.keys, got, c.want)
		}
	}
}
