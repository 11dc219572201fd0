package confd

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/confd/keys"
	"github.com/kvd-io/kvd/confd/proxy"
	"github.com/kvd-io/kvd/confd/report"
	"github.com/kvd-io/kvd/confd/resource"
	"github.com/kvd-io/kvd/pkg/kv"
)

// instantRig is a group with one target, for a program that can be changed while it runs, in a bubble of
// time. set changes the one key that it reads.
func instantRig(t *testing.T, settings string) (r *rig, e *engine, w *witness, set func(string), stop func()) {
	r, e, w, put, stop := instantRigWith(t, settings, nil)
	return r, e, w, func(value string) { put("/x", value) }, stop
}

// instantRigWith has besides targets that take a reload of the same program and read /y, by these names. put changes a key.
func instantRigWith(t *testing.T, settings string, others []string) (r *rig, e *engine, w *witness, put func(key, value string), stop func()) {
	r = newRig(t, nil)
	e = &engine{path: r.path("live")}
	r.deps.Applier = func(of resource.Resource) proxy.Applier {
		if of.Name != "a" {
			return nil
		}
		return e
	}
	w = r.witnessed()
	const reload = "reload_cmd = \"cp $DIR/a.out $DIR/live; echo x >>$DIR/reloads\"\n"
	r.resource("a", `{{getv "/x"}}`, "keys = [\"/x\"]\n"+reload+"check_cmd = \"! grep -qe worse -e 666 {{.src}}\"\n"+settings)
	for _, name := range others {
		r.resource(name, `{{getv "/y"}}`, "keys = [\"/y\"]\n"+reload)
	}
	loaded, err := resource.Load(r.cfg.ConfDir, "")
	if err != nil {
		t.Fatal(err)
	}
	m := keys.NewMirror(keys.Segments)
	m.Replace([]string{"/x", "/y"}, keys.Origin{Cluster: "c", Index: 1}, map[string]string{"/x": "web 0", "/y": "0"})
	index := kv.Index(1)
	put = func(key, value string) {
		index++
		m.Apply(kv.Event{Action: kv.ActionSet, Node: &kv.Node{Key: key, Value: value, ModifiedIndex: index}})
		synctest.Wait()
	}
	var tasks []task
	for _, one := range loaded {
		if one.Err != nil {
			t.Fatal(one.Err)
		}
		tasks = append(tasks, task{Resource: one.Resource, mirror: m})
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	g := newGroup(newShared(r.cfg, r.deps), tasks)
	go func() { defer close(ended); g.run(ctx) }()
	synctest.Wait()
	if got := r.read("live"); got != "web 0" {
		t.Fatalf("live is %q after the first pass", got)
	}
	time.Sleep(runtimePause)
	return r, e, w, put, func() { cancel(); <-ended }
}

func (e *engine) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.applied
}

func TestWhatARunningProgramTakesIsLiveAtOnceAndItsFileIsWrittenForManyTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, w, set, stop := instantRig(t, "")
		defer stop()
		checks := w.count("a", report.StepCheck)
		const changes = 40
		for i := range changes {
			time.Sleep(250 * time.Millisecond)
			value := fmt.Sprint("web ", i+1)
			set(value)
			if got := r.read("live"); got != value {
				t.Fatalf("live is %q at the moment of %q", got, value)
			}
			if status := w.status("a"); status.State != report.Applied && status.State != report.Converged || status.How != "runtime" {
				t.Fatalf("it is %s by %s", status.State, status.How)
			}
		}
		if n := w.count("a", report.StepCheck) - checks; n > changes/2+3 {
			t.Errorf("%d checks for %d changes", n, changes)
		}
		time.Sleep(DefaultQuietMax)
		synctest.Wait()
		if got := r.read("a.out"); got != fmt.Sprint("web ", changes) || w.status("a").State != report.Converged || r.exists(".a.out.reload-pending") {
			t.Errorf("the file is %q, it is %s, and a reload is due: %v", got, w.status("a").State, r.exists(".a.out.reload-pending"))
		}
		if r.reloads() != 1 {
			t.Errorf("%d reloads", r.reloads())
		}
		if n := len(w.lived); n < changes {
			t.Errorf("it was told of %d changes how long they took", n)
		}
	})
}

func TestAThousandChangesInASecondAreFiftyDialoguesAtMostAndAFewFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, e, w, set, stop := instantRig(t, "")
		defer stop()
		writes := w.count("a", report.StepWrite)
		for i := range 1000 {
			time.Sleep(time.Millisecond)
			set(fmt.Sprint("web ", i+1))
		}
		time.Sleep(runtimePause)
		synctest.Wait()
		if got := r.read("live"); got != "web 1000" {
			t.Errorf("live is %q a moment after the last change", got)
		}
		if n := e.count(); n > 52 {
			t.Errorf("the program was changed %d times", n)
		}
		time.Sleep(DefaultQuietMax)
		synctest.Wait()
		if n := w.count("a", report.StepWrite) - writes; n > 6 || r.read("a.out") != "web 1000" {
			t.Errorf("%d writes, and the file is %q", n, r.read("a.out"))
		}
	})
}

func TestReloadsAreAsRareAsEverForAProgramThatTakesOtherChangesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, _, set, stop := instantRig(t, "")
		defer stop()
		time.Sleep(time.Minute)
		for i := range 1000 {
			time.Sleep(time.Millisecond)
			set(strings.Repeat("x", i%7+1) + fmt.Sprint(i)) // takes a reload
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := r.reloads() - 1; n > 5 {
			t.Errorf("%d reloads", n)
		}
		if want := strings.Repeat("x", 999%7+1) + "999"; r.read("live") != want || r.read("a.out") != want {
			t.Errorf("a second after the last change live is %q, the file %q, want %q", r.read("live"), r.read("a.out"), want)
		}
	})
}

func TestAChangeThatTakesAReloadTakesWithItWhatRunsAheadOfTheFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, w, set, stop := instantRig(t, "")
		defer stop()
		set("web 1")
		set("api 2")
		time.Sleep(time.Second)
		synctest.Wait()
		if r.read("live") != "api 2" || r.read("a.out") != "api 2" || r.reloads() != 2 || w.status("a").State != report.Converged {
			t.Errorf("live %q, file %q, %d reloads, %s", r.read("live"), r.read("a.out"), r.reloads(), w.status("a").State)
		}
		set("api 3")
		set("api 2") // back to what the file holds
		time.Sleep(time.Second)
		synctest.Wait()
		if r.read("live") != "api 2" || r.read("a.out") != "api 2" || r.reloads() != 2 || w.status("a").State != report.Converged {
			t.Errorf("live %q, file %q, %d reloads, %s", r.read("live"), r.read("a.out"), r.reloads(), w.status("a").State)
		}
	})
}

func TestAnAgentThatEndsWritesTheFileOfWhatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, _, set, stop := instantRig(t, "")
		set("web 1")
		stop()
		if r.read("live") != "web 1" || r.read("a.out") != "web 1" || r.exists(".a.out.reload-pending") {
			t.Errorf("live %q, file %q, a reload is due: %v", r.read("live"), r.read("a.out"), r.exists(".a.out.reload-pending"))
		}
	})
}

func TestADebounceOfAResourceHoldsUpChangesAtRunTimeToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, e, _, set, stop := instantRig(t, "debounce = \"1s\"\n")
		defer stop()
		time.Sleep(time.Minute)
		for i := range 20 {
			time.Sleep(100 * time.Millisecond)
			set(fmt.Sprint("web ", i+1))
		}
		if n := e.count(); n > 2 {
			t.Errorf("the program was changed %d times in a burst", n)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if got := r.read("live"); got != "web 20" {
			t.Errorf("live is %q", got)
		}
	})
}

func TestAFileCatchesUpWithWhatRunsThoughTheNextVersionCannotBeHad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, w, set, stop := instantRig(t, "")
		defer stop()
		set("web 1")
		time.Sleep(runtimePause)
		set("worse")
		time.Sleep(time.Second)
		synctest.Wait()
		if r.read("live") != "web 1" || r.read("a.out") != "web 1" || w.status("a").State != report.Failed || w.status("a").Step != report.StepCheck {
			t.Errorf("live %q, file %q, %s", r.read("live"), r.read("a.out"), w.status("a").State)
		}
		time.Sleep(time.Minute)
		r.write("conf/templates/a.tmpl", `{{if eq (getv "/x") "bad"}}{{getv "/none"}}{{end}}{{getv "/x"}}`)
		set("web 3")
		time.Sleep(time.Minute)
		set("web 1")
		set("bad")
		time.Sleep(400 * time.Millisecond)
		synctest.Wait()
		if r.read("live") != "web 1" || r.read("a.out") != "web 1" || w.status("a").State != report.Failed {
			t.Errorf("live %q, file %q, %s", r.read("live"), r.read("a.out"), w.status("a").State)
		}
		set("web 2")
		time.Sleep(time.Second)
		synctest.Wait()
		if r.read("live") != "web 2" || r.read("a.out") != "web 2" || r.reloads() != 1 || w.status("a").State != report.Converged {
			t.Errorf("live %q, file %q, %d reloads, %s", r.read("live"), r.read("a.out"), r.reloads(), w.status("a").State)
		}
	})
}

func TestAReloadForAnotherFileTakesNothingBackThatRunsAheadOfItsOwn(t *testing.T) {
	for _, other := range []string{"before", "z"} { // in the order of the files, "a" is between
		t.Run(other, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, e, w, put, stop := instantRigWith(t, "", []string{other})
				defer stop()
				time.Sleep(time.Minute)
				for i, pause := range []time.Duration{0, 5, 30, 60, 90, 120, 250, 490} {
					reloads := r.reloads()
					put("/x", fmt.Sprintf("web %d0", i))
					time.Sleep(pause * time.Millisecond)
					put("/y", fmt.Sprint(i+1))
					want := fmt.Sprintf("web %d1", i)
					put("/x", want)
					time.Sleep(900 * time.Millisecond)
					synctest.Wait()
					if r.read("live") != want || r.read("a.out") != want || r.read(other+".out") != fmt.Sprint(i+1) || r.reloads() != reloads+1 {
						t.Errorf("after %v ms live is %q, the files %q and %q after %d reloads", int(pause), r.read("live"), r.read("a.out"), r.read(other+".out"), r.reloads()-reloads)
					}
					if w.status("a").State != report.Converged || w.status(other).State != report.Converged || r.exists(".a.out.reload-pending") {
						t.Errorf("they are %s and %s", w.status("a").State, w.status(other).State)
					}
					time.Sleep(time.Minute)
				}
				if e.count() == 0 {
					t.Error("nothing was changed at run time")
				}
			})
		})
	}
}

func TestAReloadForAnotherFileGoesOnWhenWhatRunsAheadIsRefusedByItsCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, w, put, stop := instantRigWith(t, "", []string{"z"})
		defer stop()
		time.Sleep(time.Minute)
		put("/x", "web 1")
		put("/y", "1")
		put("/x", "worse") // takes a reload, and is refused
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if r.read("live") != "web 1" || r.read("a.out") != "web 1" || r.read("z.out") != "1" || w.status("z").State != report.Converged {
			t.Errorf("live %q, files %q and %q, %s", r.read("live"), r.read("a.out"), r.read("z.out"), w.status("z").State)
		}
		if w.status("a").State != report.Failed {
			t.Errorf("what was refused is %s", w.status("a").State)
		}
		put("/x", "web 2")
		time.Sleep(time.Minute)
		put("/x", "web 666") // runs, and is refused
		put("/y", "2")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if r.read("live") != "web 2" || r.read("a.out") != "web 2" || r.read("z.out") != "2" || w.status("z").State != report.Converged || w.status("a").State != report.Failed {
			t.Errorf("live %q, files %q and %q, %s and %s", r.read("live"), r.read("a.out"), r.read("z.out"), w.status("a").State, w.status("z").State)
		}
	})
}

func TestAReloadBySomebodyElseThatReadTheFileOfBeforeIsFoundSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, w, set, stop := instantRig(t, "")
		defer stop()
		time.Sleep(time.Minute)
		set("web 1")
		if live, file := r.read("live"), r.read("a.out"); live != "web 1" || file == live {
			t.Fatalf("live is %q, and the file %q is not behind", live, file)
		}
		r.write("live", r.read("a.out"))
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if r.read("live") != "web 1" || r.read("a.out") != "web 1" || r.reloads() != 2 || w.status("a").State != report.Converged {
			t.Errorf("live %q, file %q, %d reloads, %s", r.read("live"), r.read("a.out"), r.reloads(), w.status("a").State)
		}
	})
}

func TestAReloadForAnotherFileGoesOnWhenTheNextVersionOfWhatRunsAheadCannotBeHad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, w, put, stop := instantRigWith(t, "min_reload_interval = \"10s\"\n", []string{"z"})
		defer stop()
		r.write("conf/templates/a.tmpl", `{{if eq (getv "/x") "bad"}}{{getv "/none"}}{{end}}{{getv "/x"}}`)
		time.Sleep(time.Minute)
		put("/x", "api 1") // takes a reload
		time.Sleep(time.Second)
		put("/x", "api 2") // runs at once
		put("/x", "web 3") // is to wait for the time of a reload
		time.Sleep(50 * time.Millisecond)
		put("/x", "bad") // cannot be rendered
		put("/y", "7")
		time.Sleep(time.Minute)
		synctest.Wait()
		if r.read("live") != "api 2" || r.read("a.out") != "api 2" || w.status("a").State != report.Failed {
			t.Errorf("live %q, file %q, %s", r.read("live"), r.read("a.out"), w.status("a").State)
		}
		if r.read("z.out") != "7" || w.status("z").State != report.Converged {
			t.Errorf("the other file is %q, %s", r.read("z.out"), w.status("z").State)
		}
	})
}

func TestAReloadForAnotherFileGoesOnWhenAVersionComesBackThatWasRolledBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, w, put, stop := instantRigWith(t, "on_reload_failure = \"rollback\"\nconfirm_cmd = \"! grep -q boom $DIR/live\"\nconfirm_cmd_timeout = \"1s\"\n", []string{"z"})
		defer stop()
		time.Sleep(time.Minute)
		put("/x", "boom 1")
		time.Sleep(1500 * time.Millisecond)
		put("/x", "web 2")
		time.Sleep(30 * time.Millisecond)
		put("/x", "boom 1")
		time.Sleep(30 * time.Millisecond)
		put("/y", "9")
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if r.read("z.out") != "9" || w.status("z").State != report.Converged || r.read("live") != r.read("a.out") {
			t.Errorf("the other file is %q, %s; live %q, file %q", r.read("z.out"), w.status("z").State, r.read("live"), r.read("a.out"))
		}
	})
}

func TestARenderDuringWhichTheMachineWasSuspendedDelaysTheNextOneByQuietMaxAtMost(t *testing.T) {
	for rendering, want := range map[time.Duration]time.Duration{
		0:                      runtimePause,
		100 * time.Millisecond: 200 * time.Millisecond,
		time.Hour:              DefaultQuietMax,
	} {
		one := &target{instant: true, shared: &shared{cfg: Config{QuietMax: DefaultQuietMax}}}
		began := time.Unix(1000, 0)
		ended := began.Add(rendering)
		one.made(ended, rendering, rendering)
		one.brisk.changed(ended)
		if got := one.brisk.due.Sub(ended); got != want {
			t.Errorf("after a render of %v a change waits %v, want %v", rendering, got, want)
		}
	}
}
