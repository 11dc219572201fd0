package confd

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/confd/report"
	"github.com/kvd-io/kvd/pkg/kv"
)

func TestAFileThatTheCheckNeedsIsNotRemoved(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	r.sites(strings.ReplaceAll("check_dirs = [\"$DIR/sites\"]\ncheck_cmd = \"test -e {{.dir}}$DIR/sites/needed\"\nreload_cmd = \"echo x >>$DIR/reloads\"", "$DIR", r.dir))
	for _, name := range []string{"a", "b", "needed"} {
		r.write("sites/needed", "by hand, until it is made")
		r.set("/sites/"+name, "1")
	}
	r.start()
	for _, name := range []string{"a", "b", "needed"} {
		r.becomes(w, "site/"+name, report.Converged)
	}
	reloads := r.reloads()
	r.remove("/sites/needed")
	r.becomes(w, "site/needed", report.Failed)
	if step := w.status("site/needed").Step; step != report.StepCheck || !r.exists("sites/needed") || r.reloads() != reloads {
		t.Errorf("failed at %q; the file is there: %v; %d reloads", step, r.exists("sites/needed"), r.reloads()-reloads)
	}
	r.remove("/sites/a")
	r.until("another one is removed", func() bool { return !r.exists("sites/a") && r.reloads() == reloads+1 })
	if !r.exists("sites/needed") {
		t.Error("what the check needs went along")
	}
	r.set("/sites/needed", "2")
	r.eventually("sites/needed", "needed 2")
	r.becomes(w, "site/needed", report.Converged)
}

func TestAFileThatCannotBeRemovedIsTriedAgainAndNobodyIsTold(t *testing.T) {
	for name, c := range map[string]struct{ keep, free func(r *rig) }{
		"immutable": {
			func(r *rig) {
				if out, err := exec.Command("chattr", "+i", r.path("sites/a")).CombinedOutput(); err != nil {
					t.Skipf("chattr: %v %s", err, out)
				}
				t.Cleanup(func() { exec.Command("chattr", "-i", r.path("sites/a")).Run() })
			},
			func(r *rig) { exec.Command("chattr", "-i", r.path("sites/a")).Run() },
		},
		"edited": {
			func(r *rig) { r.write("sites/a", "by hand") },
			func(r *rig) { os.Remove(r.path("sites/a")) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := storeRig(t)
			w := r.witnessed()
			r.sites(strings.ReplaceAll("retry_max = \"1s\"\nreload_cmd = \"echo x >>$DIR/reloads\"", "$DIR", r.dir))
			r.set("/sites/a", "1")
			r.set("/sites/b", "1")
			stop := r.start()
			r.becomes(w, "site/a", report.Converged)
			r.becomes(w, "site/b", report.Converged)
			reloads := r.reloads()
			c.keep(r)
			r.remove("/sites/a")
			r.becomes(w, "site/a", report.Failed)
			if step := w.status("site/a").Step; step != report.StepWrite || r.reloads() != reloads || r.exists("sites/.site.reload-pending") {
				t.Errorf("failed at %q, %d reloads, one is due: %v", step, r.reloads()-reloads, r.exists("sites/.site.reload-pending"))
			}
			r.set("/sites/b", "2") // somebody else's reload does not settle it
			r.until("the other one is reloaded", func() bool { return r.reloads() == reloads+1 })
			r.becomes(w, "site/b", report.Converged)
			if got := w.status("site/a"); got.State != report.Failed || got.Next.IsZero() {
				t.Errorf("it is %s, next at %v", got.State, got.Next)
			}
			stop()
			if err := r.once(); err == nil || r.reloads() != reloads+1 {
				t.Errorf("with -onetime: %v, %d reloads", err, r.reloads()-reloads)
			}
			r.start()
			r.becomes(w, "site/a", report.Failed)
			c.free(r)
			r.until("it is removed, and that is told", func() bool { return !r.exists("sites/a") && r.reloads() == reloads+2 })
		})
	}
}

func TestARemovalThatIsRefusedWithItsGroupIsNotTakenForLive(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	running := make(chan Control, 1)
	r.deps.Running = func(c Control) { running <- c }
	r.sites("reload_group = \"g\"")
	r.resource("other", `{{getv "/x"}}`, "keys = [\"/x\"]\nreload_group = \"g\"\nreload_cmd = \"true\"\ncheck_cmd = \"! grep bad {{.src}}\"")
	r.set("/sites/a", "1")
	r.set("/sites/b", "1")
	r.set("/x", "good")
	r.start()
	control := <-running
	for _, name := range []string{"site/a", "site/b", "other"} {
		r.becomes(w, name, report.Converged)
	}
	checks := w.count("other", report.StepCheck)
	r.set("/x", "bad")
	r.until("it backs off", func() bool { return w.count("other", report.StepCheck) >= checks+3 })
	result, err := r.deps.Store.Write(t.Context(), kv.Write{Op: kv.OpDelete, Key: "/sites/b"})
	if err != nil {
		t.Fatal(err)
	}
	r.until("it was tried", func() bool { return control.Live() >= result.Index })
	if state := w.status("site/b").State; state != report.Failed || !r.exists("sites/b") {
		t.Errorf("what waits to be removed is said to be %s; it is there: %v", state, r.exists("sites/b"))
	}
	r.set("/x", "better")
	r.until("it is removed", func() bool { return !r.exists("sites/b") && r.read("other.out") == "better" })
}

// stopIn runs the agent until a file of the rig is there, stops it, lets what waits for the file go go on, and waits
// for the end.
func (r *rig) stopIn(name string) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, r.cfg, r.deps) }()
	r.until(name+" is there", func() bool { return r.exists(name) })
	cancel()
	r.write("go", "")
	if err := <-ended; err != nil {
		r.t.Error(err)
	}
}

func TestAnEndDuringACheckWritesNothingAndTellsOfWhatIsWritten(t *testing.T) {
	r := storeRig(t)
	reload := "keys = [\"/x\"]\nreload_cmd = \"cp $DIR/a.out $DIR/live\"\n"
	r.resource("a", `{{getv "/x"}}`, reload)
	r.resource("b", `{{getv "/x"}}`, reload)
	r.set("/x", "1")
	if err := r.once(); err != nil {
		t.Fatal(err)
	}
	r.resource("b", `{{getv "/x"}}`, reload+"check_cmd = \": {{.src}}; touch $DIR/checking; until test -e $DIR/go; do sleep 0.01; done\"")
	r.set("/x", "2")
	r.stopIn("checking")
	if a, b, live := r.read("a.out"), r.read("b.out"), r.read("live"); a != "2" || b != "1" || live != "2" {
		t.Errorf("the file that was written has %q, and %q is live; the one whose check was under way has %q", a, live, b)
	}
	if r.exists(".a.out.reload-pending") || r.exists(".b.out.reload-pending") {
		t.Error("a reload is due")
	}
}
