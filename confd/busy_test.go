package confd

import (
	"context"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/confd/keys"
	"github.com/kvd-io/kvd/confd/report"
	"github.com/kvd-io/kvd/confd/resource"
	"github.com/kvd-io/kvd/pkg/kv"
)

func TestAPauseAfterAPassIsForWhatKvconfdWasBusyWithAndNotForAReload(t *testing.T) {
	for slow, want := range map[string]time.Duration{report.StepReload: DefaultQuiet, report.StepWrite: DefaultQuietMax} {
		synctest.Test(t, func(t *testing.T) {
			const takes = 2 * time.Second
			r := newRig(t, nil)
			var ended time.Time
			var pause time.Duration
			r.deps.Step = func(_, step string) {
				if step == report.StepRender && !ended.IsZero() {
					pause = time.Since(ended)
				}
				if step == slow {
					time.Sleep(takes)
				}
				ended = time.Now()
			}
			r.resource("a", `{{getv "/x"}}`, "keys = [\"/x\"]\nreload_cmd = \"true\"")
			loaded, err := resource.Load(r.cfg.ConfDir, "")
			if err != nil {
				t.Fatal(err)
			}
			m := keys.NewMirror(keys.Segments)
			m.Replace([]string{"/x"}, keys.Origin{Cluster: "c", Index: 1}, map[string]string{"/x": "0"})
			ctx, cancel := context.WithCancel(t.Context())
			stopped := make(chan struct{})
			g := newGroup(newShared(r.cfg, r.deps), []task{{Resource: loaded[0].Resource, mirror: m}})
			go func() { defer close(stopped); g.run(ctx) }()
			for n := range 3000 { // half a minute of changes
				m.Apply(kv.Event{Action: kv.ActionSet, Node: &kv.Node{Key: "/x", Value: strconv.Itoa(n), ModifiedIndex: kv.Index(n + 2)}})
				time.Sleep(10 * time.Millisecond)
			}
			cancel()
			<-stopped
			if pause < want || pause > want+50*time.Millisecond {
				t.Errorf("a %s that takes %v is followed by a pause of %v, want %v", slow, takes, pause, want)
			}
		})
	}
}
