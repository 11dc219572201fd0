package confd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/confd/report"
	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/e2e/parts"
)

// A check that names neither {{.src}} nor {{.dir}} can find the new version in its place alone.

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
	r.becomes(w, "a", report.Failed)
	if step := w.status("a").Step; step != report.StepCheck || r.exists("a.out") || r.reloads() != 0 {
		t.Errorf("it failed at %q, the first version is there: %v, %d reloads", step, r.exists("a.out"), r.reloads())
	}
	for i, mode := range []string{"tcp", "http", "tcp"} {
		r.set("/x", mode)
		r.until("the good version runs", func() bool { return r.read("live") == config(mode) && w.status("a").State == report.Converged })
		r.set("/x", "htpt")
		r.becomes(w, "a", report.Failed)
		status := w.status("a")
		if r.read("a.out") != config(mode) || status.Step != report.StepCheck || !strings.Contains(status.Err, "htpt") {
			t.Errorf("a refused version: the file is %q, and it is said that %s", r.read("a.out"), status.Err)
		}
		if r.reloads() != i+1 {
			t.Errorf("%d reloads for %d good versions", r.reloads(), i+1)
		}
	}
	r.write("a.out", config("htpt")) // what somebody has broken stands in nobody's way
	r.set("/x", "http")
	r.eventually("live", config("http"))
	r.until("nothing is left", func() bool { return !r.exists(".a.out.on-trial") && !r.exists(".a.out.reload-pending") })
}

func TestFilesThatGoTogetherAreOnTrialTogether(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	group := "keys = [\"/x\"]\nreload_group = \"g\"\nreload_cmd = \"cat $DIR/a.out $DIR/b.out >$DIR/live\"\n"
	r.resource("a", `{{getv "/x"}}`, group)
	r.resource("b", `{{getv "/x"}}`, group+`check_cmd = "cmp $DIR/a.out $DIR/b.out && ! grep -q bad $DIR/a.out"`)
	r.set("/x", "1")
	r.start()
	r.eventually("live", "11")
	r.set("/x", "bad")
	r.becomes(w, "a", report.Failed)
	r.becomes(w, "b", report.Failed)
	if a, b := r.read("a.out"), r.read("b.out"); a != "1" || b != "1" || r.read("live") != "11" {
		t.Errorf("the files are %q and %q, %q runs", a, b, r.read("live"))
	}
	r.set("/x", "2")
	r.eventually("live", "22")
}

func TestWhatWasAppliedIsTakenBackWhenACheckOfWhatIsInPlaceRefusesIt(t *testing.T) {
	r, _ := engineRig(t, `check_cmd = "! grep -q 13 $DIR/a.out"`)
	w := r.witnessed()
	r.set("/x", "web 1")
	r.start()
	r.becomes(w, "a", report.Converged)
	r.set("/x", "web 13")
	r.becomes(w, "a", report.Failed)
	r.until("the program runs the file again", func() bool { return r.read("live") == "web 1" && r.read("a.out") == "web 1" })
	r.set("/x", "web 2")
	r.eventually("live", "web 2")
	r.eventually("a.out", "web 2")
	r.becomes(w, "a", report.Converged)
}

func TestAVersionThatCannotBeTakenBackIsNotReloaded(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	r.deps.Step = func(_, step string) {
		if step == "withdraw" && !r.exists("mended") {
			_ = os.Remove(r.path("a.out"))
			_ = os.MkdirAll(r.path("a.out/full"), 0o755) // nothing is renamed onto that
		}
	}
	r.resource("a", `{{getv "/x"}}`, "keys = [\"/x\"]\ncheck_cmd = \"! grep -q bad $DIR/a.out\"\nreload_cmd = \"cat $DIR/a.out >>$DIR/live\"")
	r.set("/x", "1")
	r.start()
	r.becomes(w, "a", report.Converged)
	r.set("/x", "bad")
	r.until("it is told", func() bool { return strings.Contains(w.status("a").Err, "cannot be taken back") })
	r.write("mended", "")
	if err := os.RemoveAll(r.path("a.out")); err != nil {
		t.Fatal(err)
	}
	r.until("it is taken back", func() bool { return r.read("a.out") == "1" && w.status("a").Step == report.StepCheck })
	r.set("/x", "2")
	r.eventually("a.out", "2")
	r.becomes(w, "a", report.Converged)
	if strings.Contains(r.read("live"), "bad") {
		t.Errorf("%q ran", r.read("live"))
	}
}

func TestARefusedVersionThatWasOnTrialIsLeftAsAStagedFileWhereThatIsWanted(t *testing.T) {
	r := fileRig(t, "x: bad")
	r.cfg.KeepStageFile = true
	r.resource("a", `{{getv "/x"}}`, "keys = [\"/x\"]\ncheck_cmd = \"! grep -q bad $DIR/a.out\"")
	if err := r.once(); err == nil {
		t.Error("a refused version is no error")
	}
	staged, err := filepath.Glob(r.path(".a.out.[0-9]*"))
	if err != nil || len(staged) != 1 || r.exists("a.out") {
		t.Fatalf("staged: %q, %v; in place: %v", staged, err, r.exists("a.out"))
	}
	if got := r.read(filepath.Base(staged[0])); got != "bad" {
		t.Errorf("it has %q", got)
	}
}

func TestAnAgentKilledInATrialLeavesNoVersionThatWasNotChecked(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	for _, step := range []string{"try", "check", "withdraw", "write", "reload"} {
		for _, first := range []bool{false, true} {
			t.Run(fmt.Sprint(step, "-first-", first), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, newClient(t, url))
				key := "/" + strings.ReplaceAll(t.Name(), "/", "-")
				r.resource("a", `{{getv "`+key+`"}}`, `keys = ["`+key+`"]
check_cmd = "! grep -q bad $DIR/a.out"
reload_cmd = "cat $DIR/a.out >>$DIR/live"`)
				ran := ""
				if !first {
					r.set(key, "1")
					if err := r.once(); err != nil {
						t.Fatal(err)
					}
					ran = "1"
				}
				refused := step != "write" && step != "reload"
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
					r.becomes(w, "a", report.Failed)
					stop()
					if r.read("a.out") != ran || r.exists("a.out") == first || strings.Contains(r.read("live"), "bad") {
						t.Errorf("the file is %q, and %q ran", r.read("a.out"), r.read("live"))
					}
					r.set(key, "2")
					r.start()
				}
				r.becomes(w, "a", report.Converged)
				r.eventually("a.out", "2")
				r.until("nothing is left", func() bool {
					return !r.exists(".a.out.on-trial") && !r.exists(".a.out.on-trial-new") && !r.exists(".a.out.reload-pending")
				})
			})
		}
	}
}
