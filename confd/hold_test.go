package confd

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/confd/keys"
	"github.com/kvd-io/kvd/confd/report"
	"github.com/kvd-io/kvd/confd/resource"
	"github.com/kvd-io/kvd/pkg/kv"
)

// holding is one resource at work on a mirror that the test changes, with a clock of its own.
type holding struct {
	*rig
	m     *keys.Mirror
	g     *group
	w     *witness
	index kv.Index
	stop  func() // ends the agent's group
}

// hold runs a resource a, which lists /a, in a bubble of synctest.
func hold(t *testing.T, settings string, test func(h *holding)) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		h := &holding{rig: r, m: keys.NewMirror(keys.Segments), w: r.witnessed(), index: 1}
		r.resource("a", `{{range gets "/a/*"}}{{.Value}} {{end}}`, "keys = [\"/a\"]\n"+settings)
		h.stop = h.begin()
		defer func() { h.stop() }()
		test(h)
	})
}

// begin starts the agent's group.
func (h *holding) begin() (stop func()) {
	h.t.Helper()
	loaded, err := resource.Load(h.cfg.ConfDir, "")
	if err != nil || loaded[0].Err != nil {
		h.t.Fatal(err, loaded[0].Err)
	}
	ctx, cancel := context.WithCancel(h.t.Context())
	ended := make(chan struct{})
	h.g = newGroup(newShared(h.cfg, h.deps), []task{{Resource: loaded[0].Resource, mirror: h.m}})
	go func() {
		defer close(ended)
		h.g.run(ctx)
	}()
	return func() {
		cancel()
		<-ended
	}
}

// has makes the mirror one of n keys.
func (h *holding) has(n int) {
	pairs := map[string]string{}
	for i := range n {
		pairs[fmt.Sprintf("/a/%d", i)] = fmt.Sprint(i)
	}
	h.index++
	h.m.Replace([]string{"/a"}, keys.Origin{Cluster: "c", Index: h.index}, pairs)
}

// lose lets a key expire, or removes it.
func (h *holding) lose(i int, action kv.Action) {
	h.index++
	h.m.Apply(kv.Event{Action: action, Node: &kv.Node{Key: fmt.Sprintf("/a/%d", i), ModifiedIndex: h.index}})
}

// after waits, and then the file must have n words and the target be in a state.
func (h *holding) after(wait time.Duration, n int, state report.State) {
	h.t.Helper()
	time.Sleep(wait)
	synctest.Wait()
	if got := len(strings.Fields(h.read("a.out"))); got != n {
		h.t.Errorf("after %v: the file was made from %d keys, want %d", wait, got, n)
	}
	if got := h.w.status("a").State; got != state {
		h.t.Errorf("after %v: the target is %s, want %s", wait, got, state)
	}
}

func TestWhatMadeAVersionIsToldThoughNothingElseIsNews(t *testing.T) {
	hold(t, "", func(h *holding) {
		h.has(1)
		h.after(time.Second, 1, report.Converged)
		o := h.g.targets[0].outputs[0]
		o.status.Changed = []string{"/a/0"}
		o.become(report.Converged, "", nil)
		if changed := h.w.status("a").Changed; len(changed) != 1 {
			t.Errorf("%q is told", changed)
		}
	})
}

func TestAFileThatShrinksTooMuchIsHeldForItsGraceOrUntilItIsReleased(t *testing.T) {
	hold(t, "max_shrink_percent = 50\nshrink_grace = \"1m\"", func(h *holding) {
		h.has(10)
		h.after(time.Second, 10, report.Converged)
		h.has(6)
		h.after(time.Second, 6, report.Converged)
		h.has(5)
		h.after(time.Second, 5, report.Converged)
		h.has(4) // in small steps
		h.after(time.Second, 5, report.Held)
		h.has(5)
		h.after(time.Hour, 5, report.Converged)
		h.has(1)
		h.after(59*time.Second, 5, report.Held)
		if next := h.w.status("a").Next; time.Until(next) > 2*time.Second {
			t.Errorf("the hold is said to end at %v", next)
		}
		h.after(2*time.Second, 1, report.Converged)

		h.has(10)
		h.after(time.Second, 10, report.Converged)
		h.has(2)
		h.after(time.Second, 10, report.Held)
		if held, known := h.g.board.release("a"); !held || !known {
			t.Error("it cannot be released")
		}
		h.g.poke(true, false)
		h.after(time.Second, 2, report.Converged)
		h.has(0) // the release was for once
		h.after(30*time.Second, 2, report.Held)
		h.has(4)
		h.after(time.Second, 4, report.Converged)
	})
}

func TestKeysThatExpireAllAtOnceAreHeldAndRemovedOnesAreNot(t *testing.T) {
	hold(t, "max_expired_percent = 30\nexpiry_grace = \"1m\"", func(h *holding) {
		h.has(10)
		h.after(time.Second, 10, report.Converged)
		for i := range 5 {
			h.lose(i, kv.ActionDelete)
		}
		h.after(time.Second, 5, report.Converged)
		h.has(10)
		h.after(time.Second, 10, report.Converged)
		for i := range 3 {
			h.lose(i, kv.ActionExpire)
		}
		h.after(time.Second, 7, report.Converged)
		for i := range 4 {
			h.lose(3+i, kv.ActionExpire)
		}
		h.after(30*time.Second, 7, report.Held)
		h.has(10) // they are back
		h.after(time.Second, 10, report.Converged)
		for i := range 10 { // one by one
			h.lose(i, kv.ActionExpire)
			time.Sleep(time.Second)
		}
		h.after(0, 7, report.Held)
		h.after(50*time.Second, 7, report.Held)
		h.after(11*time.Second, 0, report.Converged)
	})
}

func TestHowManyKeysThereWereIsKnownAfterARestart(t *testing.T) {
	hold(t, "max_shrink_percent = 50\nshrink_grace = \"1m\"", func(h *holding) {
		h.has(10)
		h.after(time.Second, 10, report.Converged)
		h.has(1)
		stop := h.begin() // a second one in the place of the first, which has nothing to do any more
		defer stop()
		h.after(30*time.Second, 10, report.Held)
	})
}

func TestABurstMakesFewReloadsAndItsLastChangeIsLiveSoon(t *testing.T) {
	hold(t, "", func(h *holding) {
		h.cfg.SyncOnly = false
		h.has(1)
		h.after(10*time.Second, 1, report.Converged)
		writes := h.w.count("a", report.StepWrite)
		for i := range 1000 {
			h.has(i%500 + 1)
			time.Sleep(time.Millisecond)
		}
		h.has(7)
		h.after(600*time.Millisecond, 7, report.Converged)
		if n := h.w.count("a", report.StepWrite) - writes; n > 5 {
			t.Errorf("%d versions were written for a burst of one second", n)
		}
	})
}

func TestADebounceOfAResourceGathersItsChangesForItsTimeAndNoLonger(t *testing.T) {
	hold(t, "debounce = \"2s\"\ndebounce_max = \"6s\"", func(h *holding) {
		h.has(1)
		h.after(time.Minute, 1, report.Converged)
		h.has(2)
		h.after(time.Millisecond, 2, report.Converged) // after a pause: at once
		h.has(3)
		h.after(1900*time.Millisecond, 2, report.Converged)
		h.after(200*time.Millisecond, 3, report.Converged)
		start, writes := time.Now(), h.w.count("a", report.StepWrite)
		for i := range 120 {
			h.has(4 + i%2)
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		if n := h.w.count("a", report.StepWrite) - writes; n < 1 || n > 3 {
			t.Errorf("%d versions were written in %v of changes that do not stop", n, time.Since(start))
		}
	})
}

func TestReloadsArePostponedByTheirIntervalAndTheLastVersionGetsThere(t *testing.T) {
	hold(t, "min_reload_interval = \"2s\"\nreload_cmd = \"cp $DIR/a.out $DIR/live\"", func(h *holding) {
		h.has(1)
		h.after(time.Minute, 1, report.Converged)
		reloads := h.w.count("a", report.StepReload)
		for i := range 100 {
			h.has(2 + i%7)
			time.Sleep(100 * time.Millisecond)
		}
		h.has(9)
		h.after(2*time.Second, 9, report.Converged)
		if n := h.w.count("a", report.StepReload) - reloads; n < 5 || n > 7 {
			t.Errorf("%d reloads in 12 s, want one in 2 s", n)
		}
		if h.read("live") != h.read("a.out") {
			t.Errorf("live is %q, the file %q", h.read("live"), h.read("a.out"))
		}
	})
}

func TestAReloadThatWaitsForItsIntervalIsNoProblemAndItIsSaidWhenItMayBegin(t *testing.T) {
	hold(t, "min_reload_interval = \"10m\"\nreload_cmd = \"cp $DIR/a.out $DIR/live\"", func(h *holding) {
		h.has(1)
		h.after(time.Second, 1, report.Converged)
		begun := time.Now()
		for _, n := range []int{2, 3} {
			h.has(n)
			h.after(time.Minute, 1, report.Rendered)
			if next := h.w.status("a").Next.Sub(begun); next < 9*time.Minute || next > 10*time.Minute {
				t.Errorf("it may begin in %v", next)
			}
		}
		h.after(8*time.Minute, 3, report.Converged)
		if next := h.w.status("a").Next; !next.IsZero() {
			t.Errorf("it goes on at %v", next)
		}
	})
}

func TestWhatFailsAgainSaysWhenItIsTriedNext(t *testing.T) {
	hold(t, "check_cmd = \"! grep -q 1 {{.src}}\"", func(h *holding) {
		h.has(1)
		h.after(time.Second, 1, report.Converged)
		h.has(2)
		h.after(10*time.Second, 1, report.Failed)
		if next := h.w.status("a").Next; !next.After(time.Now()) {
			t.Errorf("at %v it is said to be tried at %v", time.Now(), next)
		}
	})
}

func TestATurnOfManyStepsMakesProgressAndAStepThatDoesNotEndNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		h := &holding{rig: r, m: keys.NewMirror(keys.Segments), w: r.witnessed(), index: 1}
		var wait atomic.Int64
		wait.Store(int64(50 * time.Second))
		r.deps.Step = func(string, string) { time.Sleep(time.Duration(wait.Load())) }
		var tasks []task
		for _, name := range []string{"a", "b", "c"} {
			r.resource(name, `{{range gets "/a/*"}}{{.Value}} {{end}}`, "keys = [\"/a\"]\nreload_group = \"g\"")
		}
		loaded, err := resource.Load(h.cfg.ConfDir, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range loaded {
			tasks = append(tasks, task{Resource: l.Resource, mirror: h.m})
		}
		g := newGroup(newShared(h.cfg, h.deps), tasks)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			g.run(ctx)
		}()
		h.has(1)
		for h.w.status("c").State != report.Converged {
			time.Sleep(5 * time.Second)
			if g.stuck(time.Now()) {
				t.Fatal("it is taken for stuck while it works")
			}
		}
		wait.Store(int64(time.Hour))
		h.has(2)
		time.Sleep(5 * time.Minute)
		if !g.stuck(time.Now()) {
			t.Error("a step of five minutes is not noticed")
		}
		cancel()
		<-ended
	})
}

func TestAReloadDueFromAnEarlierRunHappensAsSoonAsTheKeysAreThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &holding{rig: newRig(t, nil), m: keys.NewMirror(keys.Segments), index: 1}
		h.w = h.witnessed()
		h.resource("a", `{{range gets "/a/*"}}{{.Value}} {{end}}`, "keys = [\"/a\"]\nreload_cmd = \"echo x >>$DIR/reloads\"")
		h.has(2)
		stop := h.begin()
		h.after(time.Second, 2, report.Converged)
		stop()

		h.write(".a.out.reload-pending", "")
		h.m = keys.NewMirror(keys.Segments)
		stop = h.begin()
		defer func() { stop() }()
		h.after(keysPatience/4, 2, report.Waiting)
		if got := h.read("reloads"); got != "x\n" {
			t.Errorf("without the keys there were %d reloads, want 1", len(got)/2)
		}
		h.has(2)
		h.after(keysPatience/4, 2, report.Converged)
		if got := h.read("reloads"); got != "x\nx\n" || h.exists(".a.out.reload-pending") {
			t.Errorf("there were %d reloads, want 2; one is due: %v", len(got)/2, h.exists(".a.out.reload-pending"))
		}
	})
}

func TestAHeldFileOfAnEarlierRunHasItsIndexAndTheLogHasNoEmptyWords(t *testing.T) {
	hold(t, "min_keys = 2\nmax_shrink_percent = 90\nreload_cmd = \"true\"", func(h *holding) {
		h.has(5)
		h.after(time.Second, 5, report.Converged)
		index := h.w.status("a").Index
		h.stop()
		h.has(1)
		h.stop = h.begin()
		h.after(time.Second, 5, report.Held)
		if got := h.w.status("a").Index; got != index || index == 0 {
			t.Errorf("its index is %d, want %d", got, index)
		}
		log := h.log.String()
		for _, empty := range []string{`why=""`, `output=""`, "0001-01-01", ".toml"} {
			if strings.Contains(log, empty) {
				t.Errorf("the log has %s", empty)
			}
		}
	})
}

func TestAFileThatIsWhatTheKeysSayIsNotHeld(t *testing.T) {
	hold(t, "min_keys = 3", func(h *holding) {
		h.has(3)
		h.after(time.Second, 3, report.Converged)
		h.has(2)
		h.after(time.Second, 3, report.Held)
		if held, known := h.g.board.release("a"); !held || !known {
			t.Error("it cannot be released")
		}
		h.g.poke(true, false)
		h.after(time.Second, 2, report.Converged)
		h.g.poke(true, false) // as at the interval
		h.after(time.Second, 2, report.Converged)
		h.stop()
		h.stop = h.begin()
		h.after(time.Second, 2, report.Converged)
		h.has(1) // the release was for once
		h.after(time.Second, 2, report.Held)
		h.has(2)
		h.after(time.Second, 2, report.Converged)
	})
}
