package confd

import (
	"context"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/confd/install"
	"github.com/kvd-io/kvd/confd/keys"
	"github.com/kvd-io/kvd/confd/report"
	"github.com/kvd-io/kvd/confd/resource"
	"github.com/kvd-io/kvd/pkg/kv"
)

// lacking is a source that says which keys it has not.
type lacking struct {
	keys.Source
	missing *[]string
}

func (l lacking) Absent(context.Context, []string, kv.Index) ([]string, error) {
	return *l.missing, nil
}

func TestCalledAsConfdAFileWhoseKeyIsMissingIsFailedAndTriedUntilItIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.cfg.Present = true
		w := r.witnessed()
		r.resource("a", `{{getv "/x"}}`, `keys = ["/x", "/flag"]`)
		loaded, err := resource.Load(r.cfg.ConfDir, "")
		if err != nil {
			t.Fatal(err)
		}
		m := keys.NewMirror(keys.Segments)
		m.Replace([]string{"/x", "/flag"}, keys.Origin{Cluster: "c", Index: 1}, map[string]string{"/x": "1", "/flag": ""})
		index := kv.Index(1)
		put := func(action kv.Action, key, value string) {
			index++
			m.Apply(kv.Event{Action: action, Node: &kv.Node{Key: key, Value: value, ModifiedIndex: index}})
			synctest.Wait()
		}
		var missing []string
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		g := newGroup(newShared(r.cfg, r.deps), []task{{Resource: loaded[0].Resource, mirror: m, source: lacking{missing: &missing}}})
		go func() { defer close(ended); g.run(ctx) }()
		defer func() { cancel(); <-ended }()
		time.Sleep(time.Minute)
		missing = []string{"/flag"}
		put(kv.ActionDelete, "/flag", "")
		put(kv.ActionSet, "/x", "2")
		for range 5 {
			time.Sleep(time.Minute)
			synctest.Wait()
			if s := w.status("a"); r.read("a.out") != "1" || s.State != report.Failed || !strings.Contains(s.Err, "not in the store: /flag") || s.Next.IsZero() {
				t.Fatalf("the file is %q, %+v", r.read("a.out"), s)
			}
		}
		missing = nil
		put(kv.ActionSet, "/flag", "")
		time.Sleep(2 * time.Minute) // its next try
		synctest.Wait()
		if r.read("a.out") != "2" || w.status("a").State != report.Converged {
			t.Errorf("the file is %q, %s", r.read("a.out"), w.status("a").State)
		}
	})
}

func TestAStopWhileAReloadOfAnotherKvconfdIsWaitedForBeginsNone(t *testing.T) {
	r := storeRig(t)
	r.resource("a", `1`, `keys = []
reload_cmd = "echo x >>$DIR/reloads"`)
	earlier := install.File{Path: r.path("a.out"), UID: -1, GID: -1}
	if err := earlier.Owe(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		earlier.Tell(ctx, install.Command{Shell: "touch " + r.path("begun") + "; until test -e " + r.path("done") + "; do sleep 0.01; done"})
	}()
	defer func() { os.WriteFile(r.path("done"), nil, 0o600); cancel(); <-ended }()
	r.until("the earlier one is known", func() bool { return earlier.Teller().Runs() })
	stop := r.start()
	r.until("it is waited for", func() bool { return strings.Contains(r.log.String(), "is waited for") })
	stop()
	if got := r.read("reloads"); got != "" {
		t.Errorf("there was another reload beside it: %q", got)
	}
	if !earlier.Teller().Runs() {
		t.Error("who comes next does not know of it")
	}
}
