package confd

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/confd/keys"
	"github.com/kvd-io/kvd/confd/resource"
	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/kv"
)

func address(c *daemontest.Cluster) string { return strings.TrimPrefix(c.URL(), "http://") }

func TestAReplacedStoreIsToldOnceAndFilesWithoutKeysAreHeld(t *testing.T) {
	before, after := daemontest.Start(t, 1), daemontest.Start(t, 1)
	g := newGate(t, address(before))
	r := newRig(t, newClient(t, before.URL()))
	r.resource("a", `{{range gets "/a/*"}}{{.Value}} {{end}}`, `keys = ["/a"]`)
	r.resource("b", `{{range gets "/b/*"}}{{.Value}} {{end}}`, `keys = ["/b"]`)
	r.resource("both", `{{range gets "/*/*"}}{{.Value}} {{end}}`, `keys = ["/a", "/b"]`)
	r.resource("none", `none {{range gets "/none/*"}}{{.Value}} {{end}}`, `keys = ["/none"]`)
	r.set("/a/x", "1")
	r.set("/b/x", "2")
	r.deps.Store = newClient(t, g.listener.Addr().String())
	r.start()
	r.eventually("a.out", "1 ")
	r.eventually("both.out", "1 2 ")
	r.eventually("none.out", "none ")
	r.deps.Store = newClient(t, before.URL())
	r.set("/b/x", "watched") // so that the watch stands when the store is replaced
	r.eventually("b.out", "watched ")

	r.deps.Store = newClient(t, after.URL())
	r.set("/b/x", "3")
	g.lead(address(after))
	r.eventually("b.out", "3 ")
	r.until("the hold is told", func() bool { return strings.Contains(r.log.String(), "none of the keys of this file") })
	if got := r.read("a.out"); got != "1 " {
		t.Errorf("the file whose keys are all gone became %q", got)
	}
	r.until("the other hold is told", func() bool { return strings.Contains(r.log.String(), "1 of the 2 keys of this file") })
	if got := r.read("both.out"); got != "1 watched " {
		t.Errorf("the file that one of two keys is back of became %q", got)
	}
	r.set("/a/x", "back")
	r.eventually("a.out", "back ")
	r.eventually("both.out", "back 3 ")
	log := r.log.String()
	for text, want := range map[string]int{"the store was replaced by another one": 1, "none of the keys of this file": 1, "cannot follow": 0, "reading the store again": 0} {
		if got := strings.Count(log, text); got != want {
			t.Errorf("%q is logged %d times, want %d", text, got, want)
		}
	}
}

func TestAHeldFileFollowsTheTruthWhenTheGraceIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.resource("a", `{{range gets "/a/*"}}{{.Value}}{{end}}`, `keys = ["/a"]`)
		loaded, err := resource.Load(r.cfg.ConfDir, "")
		if err != nil {
			t.Fatal(err)
		}
		m := keys.NewMirror(keys.Segments)
		m.Replace([]string{"/a"}, keys.Origin{Cluster: "c1", Index: 9}, map[string]string{"/a/x": "1"})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		g := newGroup(newShared(r.cfg, r.deps), []task{{Resource: loaded[0].Resource, mirror: m}})
		go func() {
			defer close(ended)
			g.run(ctx)
		}()
		after := func(wait time.Duration, want string) {
			t.Helper()
			time.Sleep(wait)
			synctest.Wait()
			if got := r.read("a.out"); got != want {
				t.Errorf("a.out is %q, want %q", got, want)
			}
		}
		after(time.Second, "1")
		m.Replace([]string{"/a"}, keys.Origin{Cluster: "c2", Index: 2}, nil)
		after(replacedGrace-time.Second, "1")
		after(2*time.Second, "")
		m.Replace([]string{"/a"}, keys.Origin{Cluster: "c2", Index: 3}, map[string]string{"/a/x": "2"})
		after(time.Second, "2")
		m.Replace([]string{"/a"}, keys.Origin{Cluster: "c2", Index: 4}, nil) // by somebody who meant it
		after(time.Second, "")

		all := map[string]string{"/a/x": "1", "/a/y": "2", "/a/z": "3"}
		m.Replace([]string{"/a"}, keys.Origin{Cluster: "c2", Index: 5}, all)
		after(time.Second, "123")
		m.Replace([]string{"/a"}, keys.Origin{Cluster: "c3", Index: 1}, nil)
		after(time.Second, "123")
		back := func(index kv.Index, key, value string) {
			m.Apply(kv.Event{Action: kv.ActionSet, Node: &kv.Node{Key: key, Value: value, ModifiedIndex: index}})
		}
		back(2, "/a/x", "4") // the first that returns is not given all there is to do
		after(time.Second, "123")
		m.Replace([]string{"/a"}, keys.Origin{Cluster: "c4", Index: 1}, nil) // and again
		back(2, "/a/x", "4")
		back(3, "/a/y", "5")
		after(time.Second, "123")
		back(4, "/a/z", "6")
		after(time.Second, "456")
		m.Apply(kv.Event{Action: kv.ActionDelete, Node: &kv.Node{Key: "/a/z", ModifiedIndex: 5}}) // all were back
		after(time.Second, "45")
		m.Replace([]string{"/a"}, keys.Origin{Cluster: "c5", Index: 1}, nil)
		back(2, "/a/x", "7")
		after(replacedGrace-time.Second, "45")
		after(2*time.Second, "7")
		cancel()
		<-ended
	})
}
