package confd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/kvd-io/kvd/confd/report"
	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/e2e/parts"
)

// A check that names neither {{.src}} nor {{.dir}} can find the new version in its place alone.

// refusesBad is such a check. It counts how often it is asked.
const refusesBad = "check_cmd = \"echo x >>$DIR/checks; ! grep -q bad $DIR/a.out\"\n"

func (r *rig) checks() int { return strings.Count(r.read("checks"), "x") }

// takenBack waits until the status says that a version of a target was refused and taken back.
func (r *rig) takenBack(w *witness, name string) {
	r.t.Helper()
	r.until(name+" is taken back", func() bool {
		status := w.status(name)
		return status.State == report.Failed && status.Step == report.StepCheck && strings.Contains(status.Err, "the version before is in place again")
	})
}

func TestHAProxyIsCheckedByACommandThatKnowsNothingOfTheNewVersion(t *testing.T) {
	parts.Need(t, "haproxy")
	r := storeRig(t)
	w := r.witnessed()
	config := func(mode string) string {
		return fmt.Sprintf("defaults\n mode %s\n timeout connect 1s\n timeout client 1s\n timeout server 1s\nlisten a\n bind unix@%s\n", mode, r.path("listen"))
	}
	r.resource("a", strings.Replace(config("MODE"), "MODE", `{{getv "/x"}}`, 1), `keys = ["/x"]
check_cmd = "haproxy -c -f $DIR/a.out"
reload_cmd = "cp $DIR/a.out $DIR/live; echo x >>$DIR/reloads"`)
	r.set("/x", "tpc")
	r.start()
	r.until("it is said", func() bool { return strings.Contains(w.status("a").Err, "there is no version to go back to") })
	if step := w.status("a").Step; step != report.StepCheck || r.read("a.out") != config("tpc") || r.reloads() != 0 {
		t.Errorf("it failed at %q, the first version is %q, %d reloads", step, r.read("a.out"), r.reloads())
	}
	w.trace("a")
	for i, mode := range []string{"tcp", "http", "tcp"} {
		r.set("/x", mode)
		r.until("the good version runs", func() bool { return r.read("live") == config(mode) && w.status("a").State == report.Converged })
		if got, want := w.trace("a"), "rendered, written, checked, reloaded, converged"; !strings.HasSuffix(got, want) {
			t.Errorf("it went through %q, want %q", got, want)
		}
		r.set("/x", "htpt")
		r.takenBack(w, "a")
		status := w.status("a")
		if r.read("a.out") != config(mode) || status.Next.IsZero() || !strings.Contains(status.Err, "htpt") {
			t.Errorf("a refused version: the file is %q, status %+v", r.read("a.out"), status)
		}
		if r.exists(".a.out.reload-pending") || r.reloads() != i+1 {
			t.Errorf("a reload is due: %v, %d reloads for %d good versions", r.exists(".a.out.reload-pending"), r.reloads(), i+1)
		}
	}
	r.write("a.out", config("htpt")) // what somebody has broken stands in nobody's way
	r.set("/x", "http")
	r.eventually("live", config("http"))
	r.becomes(w, "a", report.Converged)
}

func TestAFileThatVanishesIsGoneWhenWhatIsInPlaceIsChecked(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	group := strings.ReplaceAll("reload_group = \"g\"\nreload_cmd = \"cp $DIR/main.out $DIR/live\"\n", "$DIR", r.dir)
	// The names in the main file are those of the files.
	check := strings.ReplaceAll(`check_cmd = "test \"$(ls $DIR/sites)\" = \"$(cat $DIR/main.out)\" && ! grep -q bad $DIR/sites/*"`, "$DIR", r.dir)
	r.sites(group)
	r.resource("main", `{{join (ls "/sites") "\n"}}`, "keys = [\"/sites\"]\n"+group+check)
	r.set("/sites/a", "1")
	r.set("/sites/b", "1")
	r.start()
	r.eventually("live", "a\nb")
	r.becomes(w, "main", report.Converged)
	w.trace("main")
	r.remove("/sites/b")
	r.eventually("live", "a")
	r.becomes(w, "main", report.Converged)
	r.becomes(w, "site/a", report.Converged)
	if trace := w.trace("main"); strings.Contains(trace, "failed") || r.exists("sites/b") {
		t.Errorf("it went through %q; b is there: %v", trace, r.exists("sites/b"))
	}
	r.set("/sites/a", "bad")
	r.takenBack(w, "site/a")
	if r.read("sites/a") != "a 1" || r.read("live") != "a" {
		t.Errorf("the file is %q, %q runs", r.read("sites/a"), r.read("live"))
	}
	r.set("/sites/a", "2")
	r.eventually("sites/a", "a 2")
	r.becomes(w, "site/a", report.Converged)
}

func TestFilesThatGoTogetherAreTakenBackTogether(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	group := "keys = [\"/x\"]\nreload_group = \"g\"\nreload_cmd = \"cat $DIR/a.out $DIR/b.out >$DIR/live\"\n"
	r.resource("a", `{{getv "/x"}}`, group)
	r.resource("b", `{{getv "/x"}}`, group+`check_cmd = "cmp $DIR/a.out $DIR/b.out && ! grep -q bad $DIR/a.out"`)
	r.set("/x", "1")
	r.start()
	r.eventually("live", "11")
	r.set("/x", "bad")
	r.takenBack(w, "a")
	r.takenBack(w, "b")
	if a, b := r.read("a.out"), r.read("b.out"); a != "1" || b != "1" || r.read("live") != "11" {
		t.Errorf("the files are %q and %q, %q runs", a, b, r.read("live"))
	}
	r.set("/x", "2")
	r.eventually("live", "22")
}

func TestACheckOfWhatIsInPlaceThatRefusesDoesNotHoldUpOthersWithTheSameReload(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	reload := "keys = [\"/\"]\nreload_cmd = \"cat $DIR/a.out $DIR/b.out >>$DIR/live; echo >>$DIR/live\"\n"
	r.resource("a", `{{getv "/x"}}`, reload+refusesBad)
	r.resource("b", `{{getv "/x"}}`, reload)
	r.set("/x", "1")
	r.start()
	r.becomes(w, "a", report.Converged)
	r.becomes(w, "b", report.Converged)
	r.set("/x", "bad")
	r.until("b is reloaded", func() bool { return strings.HasSuffix(r.read("live"), "1bad\n") })
	r.takenBack(w, "a")
	r.becomes(w, "b", report.Converged)
	if r.read("a.out") != "1" || strings.Contains(r.read("live"), "badbad") {
		t.Errorf("the refused file is %q, and %q ran", r.read("a.out"), r.read("live"))
	}
}

func TestAProgramIsNotChangedAtRunTimeWhenTheCheckLooksAtWhatIsInPlaceAlone(t *testing.T) {
	r, e := engineRig(t, `check_cmd = "! grep -q 13 $DIR/a.out"`)
	w := r.witnessed()
	r.set("/x", "web 1")
	r.start()
	r.becomes(w, "a", report.Converged)
	r.set("/x", "web 13")
	r.takenBack(w, "a")
	r.set("/x", "web 2")
	r.eventually("live", "web 2")
	r.becomes(w, "a", report.Converged)
	e.set(func(e *engine) {
		if status := w.status("a"); e.applied != 0 || r.reloads() != 2 || status.How != "reload" || !strings.Contains(status.Why, "name {{.src}} in it") {
			t.Errorf("%d changes at run time, %d reloads, status %+v", e.applied, r.reloads(), status)
		}
	})
}

func TestARefusedVersionThatCannotBeTakenBackIsNeverReloaded(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	var mending sync.Mutex
	r.deps.Step = func(_, step string) {
		mending.Lock()
		defer mending.Unlock()
		if step == report.StepRollback && !r.exists("mended") {
			_ = os.Rename(r.path(".a.out.last-good"), r.path("good"))
			_ = os.WriteFile(r.path(".a.out.last-good"), []byte("garbage"), 0o600)
		}
	}
	reload := "keys = [\"/\"]\nreload_cmd = \"cat $DIR/a.out >>$DIR/live\"\nretry_max = 1\n"
	r.resource("a", `{{getv "/x"}}`, reload+refusesBad)
	r.resource("b", `{{getv "/y" "none"}}`, reload)
	r.set("/x", "1")
	r.start()
	r.becomes(w, "a", report.Converged)
	r.becomes(w, "b", report.Converged)
	r.set("/x", "bad")
	r.until("it is told", func() bool { return strings.Contains(w.status("a").Err, "cannot be taken back") })
	good := r.read("good")
	r.set("/y", "new")
	r.until("the other is told of it", func() bool { return strings.Contains(w.status("b").Err, "not reloaded, as a is not") })
	before := r.checks()
	r.until("it is tried again", func() bool { return r.checks() > before+1 })
	if r.read("a.out") != "bad" || strings.Contains(r.read("live"), "bad") {
		t.Errorf("the file is %q, and %q ran", r.read("a.out"), r.read("live"))
	}
	mending.Lock()
	r.write("mended", "")
	r.write(".a.out.last-good", good)
	mending.Unlock()
	r.eventually("a.out", "1")
	r.becomes(w, "b", report.Converged)
	r.set("/x", "2")
	r.eventually("a.out", "2")
	r.becomes(w, "a", report.Converged)
	if strings.Contains(r.read("live"), "bad") {
		t.Errorf("%q ran", r.read("live"))
	}
}

func TestWhatIsOwedFromBeforeIsReloadedWhenARefusedVersionIsTakenBack(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	// Nobody knows what a reload that fails has done.
	r.resource("a", `{{getv "/x"}}`, "keys = [\"/x\"]\nretry_max = 60\nreload_cmd = \"cp $DIR/a.out $DIR/live; ! grep -q half $DIR/a.out\"\n"+refusesBad)
	r.set("/x", "1")
	r.start()
	r.becomes(w, "a", report.Converged)
	r.set("/x", "half")
	r.eventually("live", "half")
	r.becomes(w, "a", report.Failed)
	r.set("/x", "bad")
	r.takenBack(w, "a")
	r.eventually("live", "1")
	r.until("nothing is owed", func() bool { return !r.exists(".a.out.reload-pending") })
	if status := w.status("a"); status.State != report.Failed || status.Step != report.StepCheck || r.read("a.out") != "1" {
		t.Errorf("the file is %q, status %+v", r.read("a.out"), status)
	}
}

func TestAVersionThatWasCheckedAndNeverReloadedIsGoneBackTo(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	r.resource("a", `{{getv "/x"}}`, "keys = [\"/x\"]\nreload_cmd = \"test -f $DIR/started && cp $DIR/a.out $DIR/live\"\n"+refusesBad)
	r.set("/x", "1")
	r.start()
	r.until("the reload has failed", func() bool { return w.status("a").Step == report.StepReload })
	r.set("/x", "bad")
	r.until("the first version is back", func() bool { return strings.Contains(r.log.String(), "rolled back") && r.read("a.out") == "1" })
	r.write("started", "")
	r.eventually("live", "1")
}

func TestARefusedVersionIsNotPutInPlaceAgainBeforeItsInputChanges(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	hangup := make(chan os.Signal)
	r.deps.Hangup = hangup
	r.resource("a", `{{getv "/x"}}{{$_ := getv "/y" ""}}`, "keys = [\"/\"]\nreload_cmd = \"true\"\n"+refusesBad)
	r.set("/x", "1")
	r.start()
	r.becomes(w, "a", report.Converged)
	r.set("/x", "bad")
	r.takenBack(w, "a")
	checks := r.checks()
	for i := range 3 {
		renders := w.count("a", report.StepRender)
		r.set("/y", fmt.Sprint(i))
		r.until("it is rendered", func() bool { return w.count("a", report.StepRender) > renders })
	}
	written := w.count("a", report.StepWrite)
	r.set("/x", "2")
	r.becomes(w, "a", report.Converged)
	if got := r.checks(); got != checks+1 || written != 2 {
		t.Errorf("%d checks and %d writes of what was refused", got-checks, written)
	}
	r.set("/x", "bad again")
	r.takenBack(w, "a")
	checks = r.checks()
	hangup <- syscall.SIGHUP
	r.until("it is tried again", func() bool { return r.checks() > checks })
}

func TestACheckOfWhatIsInPlaceThatIsKilledOrTakesTooLongHasRefused(t *testing.T) {
	for name, dies := range map[string]string{"killed": "kill -9 $$", "late": "sleep 60"} {
		t.Run(name, func(t *testing.T) {
			r := storeRig(t)
			w := r.witnessed()
			r.resource("a", `{{getv "/x"}}`, "keys = [\"/x\"]\ncheck_cmd_timeout = 1\nreload_cmd = \"cat $DIR/a.out >>$DIR/live\"\ncheck_cmd = \"if grep -q bad $DIR/a.out; then "+dies+"; fi\"")
			r.set("/x", "1")
			r.start()
			r.becomes(w, "a", report.Converged)
			r.set("/x", "bad")
			r.takenBack(w, "a")
			if r.read("a.out") != "1" || r.read("live") != "1" {
				t.Errorf("the file is %q, and %q ran", r.read("a.out"), r.read("live"))
			}
		})
	}
}

func TestWithoutAReloadAVersionIsCheckedInPlaceAllTheSame(t *testing.T) {
	r := fileRig(t, "x: 1")
	r.resource("a", `{{getv "/x"}}`, "keys = [\"/x\"]\n"+refusesBad)
	if err := r.once(); err != nil {
		t.Fatal(err)
	}
	r.cfg.KeepStageFile = true
	r.write("keys.yaml", "x: bad")
	if err := r.once(); err == nil {
		t.Error("a refused version is no error")
	}
	if staged, _ := filepath.Glob(r.path(".a.out.[0-9]*")); r.read("a.out") != "1" || r.exists(".a.out.reload-pending") || len(staged) != 0 {
		t.Errorf("the file is %q, a debt is left: %v, staged: %q", r.read("a.out"), r.exists(".a.out.reload-pending"), staged)
	}
	checks := r.checks()
	for _, change := range []func(*Config){func(c *Config) { c.Noop = true }, func(c *Config) { c.Noop, c.SyncOnly = false, true }} {
		change(&r.cfg)
		if err := r.once(); err != nil {
			t.Error(err)
		}
	}
	if r.checks() != checks || r.read("a.out") != "bad" {
		t.Errorf("%d checks with -noop and --sync-only, the file is %q", r.checks()-checks, r.read("a.out"))
	}
	r.cfg.SyncOnly = false
	r.write("keys.yaml", "x: 2")
	if err := r.once(); err != nil || r.read("a.out") != "2" || r.exists(".a.out.reload-pending") {
		t.Errorf("a good version: %v, the file is %q", err, r.read("a.out"))
	}
}

func TestAnAgentKilledAtAnyStepOfACheckInPlaceReloadsNothingThatWasRefused(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	for _, step := range []string{"owe", "write", "check", "rollback", "reload", "paid"} {
		for _, first := range []bool{false, true} {
			t.Run(fmt.Sprint(step, "-first-", first), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, newClient(t, url))
				key := "/" + strings.ReplaceAll(t.Name(), "/", "-")
				r.resource("a", `{{getv "`+key+`"}}`, "keys = [\""+key+"\"]\nreload_cmd = \"cat $DIR/a.out >>$DIR/live\"\n"+refusesBad)
				before := ""
				if !first {
					before = "1"
					r.set(key, before)
					if err := r.once(); err != nil {
						t.Fatal(err)
					}
				}
				refused := step != "reload" && step != "paid"
				if r.set(key, "2"); refused {
					r.set(key, "bad")
				}
				killed := r.machine(url, step, "")
				if err := killed.Wait(); err == nil || killed.ProcessState.ExitCode() != -1 {
					t.Fatalf("the agent was not killed: %v", err)
				}
				w := r.witnessed()
				stop := r.start()
				if refused {
					if first {
						before = "bad" // there is nothing else
						r.until("it is said", func() bool { return strings.Contains(w.status("a").Err, "there is no version to go back to") })
					} else {
						r.takenBack(w, "a")
						r.until("nothing is owed", func() bool { return !r.exists(".a.out.reload-pending") })
					}
					stop()
					if r.read("a.out") != before || strings.Contains(r.read("live"), "bad") {
						t.Errorf("the file is %q, and %q ran", r.read("a.out"), r.read("live"))
					}
					r.set(key, "2")
					r.start()
				}
				r.becomes(w, "a", report.Converged)
				r.until("2 runs", func() bool { return strings.HasSuffix(r.read("live"), "2") && r.read("a.out") == "2" })
				r.until("nothing is owed", func() bool { return !r.exists(".a.out.reload-pending") })
				if strings.Contains(r.read("live"), "bad") {
					t.Errorf("%q ran", r.read("live"))
				}
			})
		}
	}
}

func TestWhatWasNotCheckedIsCheckedAndTakenBackThoughTheStoreIsAway(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	for _, step := range []string{"check", "rollback"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, newClient(t, url))
			key := "/away-" + step
			r.write("conf/templates/site.tmpl", `{{.Name}} {{.Value}}`)
			if err := os.MkdirAll(r.path("sites"), 0o755); err != nil {
				t.Fatal(err)
			}
			settings := "[template]\nsrc = \"site.tmpl\"\nfor_each = \"" + key + "/*\"\ndest = \"$DIR/sites/{{.Name}}\"\nkeys = [\"" + key + "\"]\ncheck_cmd = \"! grep -q bad $DIR/sites/*\"\nreload_cmd = \"cat $DIR/sites/* >>$DIR/live\"\n"
			r.write("conf/conf.d/site.toml", strings.ReplaceAll(settings, "$DIR", r.dir))
			r.set(key+"/a", "1")
			r.set(key+"/b", "1")
			if err := r.once(); err != nil {
				t.Fatal(err)
			}
			r.set(key+"/a", "bad")
			killed := r.machine(url, step, "")
			if err := killed.Wait(); err == nil || killed.ProcessState.ExitCode() != -1 {
				t.Fatalf("the agent was not killed: %v", err)
			}
			if r.read("sites/a") != "a bad" {
				t.Fatalf("the file is %q", r.read("sites/a"))
			}
			w := r.witnessed()
			r.deps.Store = newClient(t, "http://"+freeAddress(t))
			r.start()
			r.eventually("sites/a", "a 1")
			r.until("nothing is owed", func() bool { return !r.exists("sites/.site.reload-pending") })
			if status := w.status("site/a"); strings.Contains(r.read("live"), "bad") || status.State != report.Failed || !strings.Contains(status.Err, "check_cmd refused") {
				t.Errorf("%q ran, status %+v", r.read("live"), status)
			}
		})
	}
}

func TestWhatIsReloadedWhileTheStoreIsAwayIsTheVersionToGoBackTo(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	r := newRig(t, newClient(t, url))
	r.resource("a", `{{getv "/x"}}`, "keys = [\"/x\"]\nreload_cmd = \"cat $DIR/a.out >>$DIR/live\"\n"+refusesBad)
	r.set("/x", "1")
	if err := r.once(); err != nil {
		t.Fatal(err)
	}
	r.set("/x", "2")
	killed := r.machine(url, "reload", "")
	if err := killed.Wait(); err == nil || killed.ProcessState.ExitCode() != -1 {
		t.Fatalf("the agent was not killed: %v", err)
	}
	w := r.witnessed()
	store := r.deps.Store
	r.deps.Store = newClient(t, "http://"+freeAddress(t))
	stop := r.start()
	r.eventually("live", "12")
	r.until("nothing is owed", func() bool { return !r.exists(".a.out.reload-pending") })
	stop()
	r.deps.Store = store
	r.set("/x", "bad")
	r.start()
	r.takenBack(w, "a")
	if r.read("a.out") != "2" || r.read("live") != "12" {
		t.Errorf("the file is %q, and %q ran", r.read("a.out"), r.read("live"))
	}
}
