package confd

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/confd/proxy"
	"github.com/kvd-io/kvd/confd/report"
	"github.com/kvd-io/kvd/confd/resource"
	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/kv"
)

// witness is a Reporter that remembers everything.
type witness struct {
	mu     sync.Mutex
	now    map[string]report.TargetStatus
	states map[string][]string // by target: the states it went through, failures with their step
	steps  map[string]int      // by target and step
	lived  []time.Duration
}

func newWitness() *witness {
	return &witness{now: map[string]report.TargetStatus{}, states: map[string][]string{}, steps: map[string]int{}}
}

func (w *witness) Target(s report.TargetStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := string(s.State)
	if s.State == report.Failed {
		text += " " + s.Step
	}
	if was := w.states[s.Name]; len(was) == 0 || was[len(was)-1] != text {
		w.states[s.Name] = append(was, text)
	}
	if s.LiveAfter > 0 && (s.State == report.Applied || s.State == report.Converged && w.now[s.Name].State != report.Applied) {
		w.lived = append(w.lived, s.LiveAfter)
	}
	w.now[s.Name] = s
}

func (w *witness) Gone(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.now, name)
}

func (w *witness) Step(name, step string, _ time.Duration, _ error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.steps[name+" "+step]++
}

func (w *witness) status(name string) report.TargetStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now[name]
}

func (w *witness) count(name, step string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.steps[name+" "+step]
}

// trace returns the states of a target since the last call.
func (w *witness) trace(name string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := strings.Join(w.states[name], ", ")
	w.states[name] = nil
	return text
}

func (w *witness) names() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var names []string
	for name := range w.now {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// witnessed gives r a witness.
func (r *rig) witnessed() *witness {
	w := newWitness()
	r.deps.Report = w
	return w
}

// converged waits until a target is in a state with the file that is there now.
func (r *rig) becomes(w *witness, name string, state report.State) {
	r.t.Helper()
	r.until(fmt.Sprintf("%s is %s", name, state), func() bool { return w.status(name).State == state })
}

// storeRig is a rig with a store of its own, for a test that runs beside others.
func storeRig(t *testing.T) *rig {
	t.Helper()
	t.Parallel()
	return newRig(t, newClient(t, daemontest.Start(t, 1).URL()))
}

func TestATargetGoesThroughItsStatesAndSaysHowLongAChangeTook(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	r.resource("a", `{{getv "/x"}}`, "keys = [\"/x\"]\ncheck_cmd = \"test -f {{.src}}\"\nreload_cmd = \"cp $DIR/a.out $DIR/live\"")
	r.set("/x", "1")
	r.start()
	r.becomes(w, "a", report.Converged)
	if got, want := w.trace("a"), "waiting, rendered, checked, written, reloaded, converged"; got != want && got != strings.TrimPrefix(want, "waiting, ") {
		t.Errorf("got %q, want %q", got, want)
	}
	r.set("/x", "2")
	r.until("a is converged with 2", func() bool { return r.read("live") == "2" && w.status("a").State == report.Converged })
	if got, want := w.trace("a"), "rendered, checked, written, reloaded, converged"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	status := w.status("a")
	if status.LiveAfter <= 0 || status.LiveAfter > patience || status.How != "reload" || status.Hash == "" || status.Index == 0 || !slices.Equal(status.Keys, []string{"/x"}) {
		t.Errorf("status: %+v", status)
	}
}

func TestOnlyTargetsWhoseReadSetAChangeTouchesAreRendered(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	r.resource("x", `{{getv "/x"}}`, `keys = ["/"]`)
	r.resource("y", `{{getv "/y" "none"}}`, `keys = ["/"]`)
	r.resource("all", `{{range gets "/*"}}{{base .Key}} {{end}}`, `keys = ["/"]`)
	r.set("/x", "1")
	r.start()
	r.eventually("all.out", "x ")
	r.becomes(w, "x", report.Converged)
	r.becomes(w, "y", report.Converged)
	x, y := w.count("x", report.StepRender), w.count("y", report.StepRender)
	r.set("/y", "came") // was looked for, and was not there
	r.eventually("y.out", "came")
	r.set("/dir/z", "2")
	r.set("/z", "2")
	r.eventually("all.out", "x y z ")
	if n := w.count("x", report.StepRender); n != x {
		t.Errorf("x was rendered %d times for keys that it does not read", n-x)
	}
	if n := w.count("y", report.StepRender); n != y+1 {
		t.Errorf("y was rendered %d times for one change", n-y)
	}
}

func TestAReloadGroupIsCheckedTogetherAndReloadedOnce(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	group := "keys = [\"/x\"]\nreload_group = \"proxy\"\nreload_cmd = \"echo x >>$DIR/reloads; cat $DIR/a.out $DIR/b.out >$DIR/live\"\n"
	r.resource("a", `a{{getv "/x"}}`, group)
	// The check sees the new version of both files, and no version in which they differ.
	r.resource("b", `b{{getv "/x"}}`, group+`check_cmd = "grep -q bad {{.src}} && exit 1; test $(cut -c2- {{.src}}) = $(cut -c2- {{.dir}}$DIR/a.out)"`)
	r.set("/x", "1")
	r.start()
	r.eventually("live", "a1b1")
	for i := 2; i < 5; i++ {
		r.set("/x", strconv.Itoa(i))
		r.eventually("live", fmt.Sprintf("a%db%d", i, i))
	}
	r.becomes(w, "a", report.Converged)
	if got := strings.Count(r.read("reloads"), "x"); got != 4 {
		t.Errorf("%d reloads for 4 versions of two files", got)
	}
	r.set("/x", "bad")
	r.becomes(w, "b", report.Failed)
	if step := w.status("a").Step; w.status("a").State != report.Failed || step != report.StepCheck {
		t.Errorf("a is %s at %q though the check of its group failed", w.status("a").State, step)
	}
	if a, b := r.read("a.out"), r.read("b.out"); a != "a4" || b != "b4" {
		t.Errorf("the files are %q and %q after a refused check", a, b)
	}
	r.set("/x", "6")
	r.eventually("live", "a6b6")
}

func TestOneTemplateMakesAFileForEachKeyAndRemovesThoseThatVanish(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	if err := os.MkdirAll(r.path("sites"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.write("sites/other.conf", "not ours")
	sites := func() string {
		found, _ := filepath.Glob(r.path("sites/*.conf"))
		text := ""
		for _, path := range found {
			text += filepath.Base(path) + "=" + r.read("sites/"+filepath.Base(path)) + " "
		}
		return text
	}
	r.write("conf/templates/site.tmpl", `{{.Name}} {{getv (printf "%s/port" .Key)}}`)
	r.write("conf/conf.d/site.toml", fmt.Sprintf("[template]\nsrc = \"site.tmpl\"\nfor_each = \"/sites/*\"\ndest = %q\nkeys = [\"/sites\"]\nreload_cmd = %q\n",
		r.path("sites/s-{{.Name}}.conf"), "echo x >>"+r.path("reloads")+"; cat "+r.path("sites/s-")+"*.conf >"+r.path("live")+" 2>/dev/null; true"))
	r.set("/sites/a/port", "1")
	r.set("/sites/b/port", "2")
	r.start()
	is := func(want string) {
		t.Helper()
		r.until("the sites are "+want, func() bool { return sites() == want })
	}
	is("other.conf=not ours s-a.conf=a 1 s-b.conf=b 2 ")
	r.until("one reload tells of both", func() bool { return r.read("live") == "a 1b 2" })
	if got := strings.Count(r.read("reloads"), "x"); got != 1 {
		t.Errorf("%d reloads for two new files of one pass", got)
	}
	r.becomes(w, "site/a", report.Converged)
	if got := strings.Count(r.log.String(), "msg=reloaded"); got != 1 {
		t.Errorf("one reload is told %d times", got)
	}
	renders := w.count("site/a", report.StepRender)

	r.set("/sites/b/port", "3")
	is("other.conf=not ours s-a.conf=a 1 s-b.conf=b 3 ")
	r.set("/sites/c/nothing", "") // no port: cannot be rendered
	r.set("/sites/x y/port", "4") // cannot name a file
	r.set("/sites/d/port", "4")
	is("other.conf=not ours s-a.conf=a 1 s-b.conf=b 3 s-d.conf=d 4 ")
	r.becomes(w, "site/c", report.Failed)
	r.becomes(w, "site/x y", report.Failed)
	if n := w.count("site/a", report.StepRender); n != renders {
		t.Errorf("a was rendered %d times for changes of others", n-renders)
	}

	r.remove("/sites/a")
	is("other.conf=not ours s-b.conf=b 3 s-d.conf=d 4 ")
	r.until("the removal is reloaded", func() bool { return r.read("live") == "b 3d 4" })
	r.until("a is forgotten", func() bool { return !slices.Contains(w.names(), "site/a") })
	r.write("sites/s-d.conf", "edited by hand")
	r.remove("/sites/d")
	r.until("the hand-made version is told of", func() bool { return strings.Contains(r.log.String(), "somebody has changed it") })
	is("other.conf=not ours s-b.conf=b 3 s-d.conf=edited by hand ")
	r.becomes(w, "site/d", report.Failed)
	for name, removed := range map[string]bool{"a": true, "d": false} {
		if told := strings.Contains(r.log.String(), "msg=\"file removed\" resource=site/"+name); told != removed {
			t.Errorf("the removal of %s is told: %t", name, told)
		}
	}
	if err := os.Remove(r.path("sites/s-d.conf")); err != nil {
		t.Fatal(err)
	}
	r.set("/sites/b/port", "5") // whatever changes has it tried
	r.until("d is forgotten", func() bool { return !slices.Contains(w.names(), "site/d") })
}

func TestAFileThatCannotBeRemovedDoesNotHoldUpTheRemovalOfOthers(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	if err := os.Mkdir(r.path("sites"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.write("conf/templates/site.tmpl", `{{.Name}}`)
	r.write("conf/conf.d/site.toml", fmt.Sprintf("[template]\nsrc = \"site.tmpl\"\nfor_each = \"/sites/*\"\ndest = %q\n", r.path("sites/{{.Name}}.conf")))
	r.set("/sites/a", "")
	r.set("/sites/b", "")
	r.start()
	r.eventually("sites/b.conf", "b")
	r.becomes(w, "site/a", report.Converged)
	r.becomes(w, "site/b", report.Converged)
	if err := os.MkdirAll(r.path("sites/.a.conf.last-good/full"), 0o755); err != nil { // cannot be removed as a file
		t.Fatal(err)
	}
	r.remove("/sites")
	r.until("b is removed", func() bool { return !r.exists("sites/b.conf") })
	r.becomes(w, "site/a", report.Failed)
	r.until("b is forgotten", func() bool { return !slices.Contains(w.names(), "site/b") })
	if err := os.RemoveAll(r.path("sites/.a.conf.last-good")); err != nil {
		t.Fatal(err)
	}
	r.until("a is forgotten", func() bool { return !slices.Contains(w.names(), "site/a") })
}

func TestWhatVanishedWhileTheAgentWasAwayIsRemovedWhenItIsBack(t *testing.T) {
	r := fileRig(t, "sites: {a: 1, b: 2}")
	if err := os.MkdirAll(r.path("sites"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.write("conf/templates/site.tmpl", `{{.Name}} {{.Value}}`)
	r.write("conf/conf.d/site.toml", fmt.Sprintf("[template]\nsrc = \"site.tmpl\"\nfor_each = \"/sites/*\"\ndest = %q\nkeys = [\"/sites\"]\n", r.path("sites/{{.Name}}")))
	if err := r.once(); err != nil {
		t.Fatal(err)
	}
	r.write("keys.yaml", "sites: {b: 3}")
	if err := r.once(); err != nil {
		t.Fatal(err)
	}
	if r.exists("sites/a") || r.read("sites/b") != "b 3" {
		t.Errorf("a is there: %v, b is %q", r.exists("sites/a"), r.read("sites/b"))
	}
}

func TestAVersionThatWasTakenBackIsNotTriedAgainBeforeItsInputChanges(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	r.resource("a", `{{getv "/x"}}`, `keys = ["/"]
on_reload_failure = "rollback"
reload_cmd = "cat $DIR/a.out >>$DIR/tried; echo >>$DIR/tried; if grep -q bad $DIR/a.out; then exit 1; fi; cp $DIR/a.out $DIR/live"`)
	r.set("/x", "good")
	r.start()
	r.eventually("live", "good")
	r.becomes(w, "a", report.Converged)
	r.set("/x", "bad")
	r.eventually("tried", "good\nbad\ngood\n")
	r.becomes(w, "a", report.Failed)
	r.until("the file is back", func() bool { return r.read("a.out") == "good" && !r.exists(".a.out.reload-pending") })
	if status := w.status("a"); status.Step != report.StepReload || status.Next.IsZero() {
		t.Errorf("status: %+v", status)
	}
	r.until("the version before is not said to be made by the change", func() bool { return w.status("a").Changed == nil })
	r.set("/x", "bad") // the same again
	r.set("/x", "better")
	r.eventually("tried", "good\nbad\ngood\nbetter\n")
	r.becomes(w, "a", report.Converged)
}

func TestAFirstVersionThatIsNotReloadedStaysAndThatIsSaid(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	r.resource("a", `{{getv "/x"}}`, "keys = [\"/\"]\non_reload_failure = \"rollback\"\nreload_cmd = \"test -e $DIR/started && cp $DIR/a.out $DIR/live\"")
	r.set("/x", "1")
	r.start()
	r.becomes(w, "a", report.Failed)
	r.until("it is said", func() bool { return strings.Contains(w.status("a").Err, "there is no version to go back to") })
	if status := w.status("a"); r.read("a.out") != "1" || status.Step != report.StepReload || !strings.Contains(status.Err, "exit status 1") {
		t.Errorf("the file is %q, status %+v", r.read("a.out"), status)
	}
	r.write("started", "")
	r.eventually("live", "1")
	r.becomes(w, "a", report.Converged)
	if err := os.Remove(r.path("started")); err != nil {
		t.Fatal(err)
	}
	r.set("/x", "2")
	r.becomes(w, "a", report.Failed)
	r.eventually("a.out", "1")
}

func TestAReloadThatIsNotConfirmedIsTakenBack(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	r.resource("a", `{{getv "/x"}}`, `keys = ["/"]
on_reload_failure = "rollback"
reload_cmd = "grep -q ignored $DIR/a.out || cp $DIR/a.out $DIR/live"
confirm_cmd = "cmp $DIR/a.out $DIR/live"
confirm_cmd_timeout = 1`)
	r.set("/x", "1")
	r.start()
	r.becomes(w, "a", report.Converged)
	r.set("/x", "ignored")
	r.becomes(w, "a", report.Failed)
	r.until("the file is back", func() bool { return r.read("a.out") == "1" && !r.exists(".a.out.reload-pending") })
	if step := w.status("a").Step; step != report.StepConfirm {
		t.Errorf("failed at %q", step)
	}
	r.set("/x", "2")
	r.eventually("live", "2")
	r.becomes(w, "a", report.Converged)
}

// engine stands for a running program: what it runs is in a file, so that it outlives the agent. A change
// of numbers alone can be applied to it; all else takes a reload.
type engine struct {
	path string

	mu       sync.Mutex
	applied  int
	refuses  bool // to apply
	pretends bool // to have applied
}

func (e *engine) Plan(_ context.Context, live, next []byte) (proxy.Plan, error) {
	words := func(text []byte) string { return strings.Trim(string(text), "0123456789") }
	switch {
	case live == nil:
		return proxy.Plan{Kind: proxy.Reload, Reason: "what runs is not known"}, nil
	case words(live) != words(next):
		return proxy.Plan{Kind: proxy.Reload, Reason: "other words"}, nil
	}
	return proxy.Plan{Kind: proxy.Runtime, Steps: []string{string(next)}}, nil
}

func (e *engine) Apply(_ context.Context, plan proxy.Plan) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.refuses:
		return errors.New("refused")
	case e.pretends:
		return nil
	}
	e.applied++
	return os.WriteFile(e.path, []byte(plan.Steps[0]), 0o644)
}

func (e *engine) Mark(context.Context) (proxy.Mark, error) { return proxy.Mark{}, nil }

func (e *engine) Confirm(_ context.Context, next []byte, _ proxy.Mark) error {
	live, err := os.ReadFile(e.path)
	if err == nil && !bytes.Equal(live, next) {
		err = fmt.Errorf("it runs %q", live)
	}
	return err
}

func (e *engine) set(change func(*engine)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change(e)
}

// engineRig is a rig with a program that can be changed while it runs.
func engineRig(t *testing.T, settings string) (*rig, *engine) {
	r := storeRig(t)
	e := &engine{path: r.path("live")}
	r.deps.Applier = func(resource.Resource) proxy.Applier { return e }
	r.resource("a", `{{getv "/x"}}`, "keys = [\"/x\"]\nreload_cmd = \"cp $DIR/a.out $DIR/live; echo x >>$DIR/reloads\"\n"+settings)
	return r, e
}

func (r *rig) reloads() int { return strings.Count(r.read("reloads"), "x") }

func TestAChangeThatTheRunningProgramCanTakeNeedsNoReload(t *testing.T) {
	r, e := engineRig(t, "")
	w := r.witnessed()
	r.set("/x", "web 1")
	r.start()
	r.becomes(w, "a", report.Converged)
	for i := 2; i < 5; i++ {
		r.set("/x", fmt.Sprint("web ", i))
		r.until("it is live and in the file", func() bool {
			return r.read("live") == fmt.Sprint("web ", i) && r.read("a.out") == r.read("live") && w.status("a").State == report.Converged
		})
		if status := w.status("a"); status.How != "runtime" || status.LiveAfter <= 0 {
			t.Errorf("status: %+v", status)
		}
	}
	if r.reloads() != 1 {
		t.Errorf("%d reloads, want the first alone", r.reloads())
	}
	r.set("/x", "api 5")
	r.until("another word is live", func() bool { return r.read("live") == "api 5" && w.status("a").State == report.Converged })
	if status := w.status("a"); r.reloads() != 2 || status.How != "reload" || status.Why != "other words" {
		t.Errorf("%d reloads, status %+v", r.reloads(), status)
	}
	for _, spoil := range []func(*engine){func(e *engine) { e.refuses = true }, func(e *engine) { e.refuses, e.pretends = false, true }} {
		e.set(spoil)
		before, next := r.reloads(), fmt.Sprint("api ", r.reloads()+10)
		r.set("/x", next)
		r.until("a reload does what could not be applied", func() bool { return r.read("live") == next && w.status("a").State == report.Converged })
		if r.reloads() != before+1 {
			t.Errorf("%d reloads for a change that could not be applied", r.reloads()-before)
		}
	}
}

func TestWhatWasAppliedIsTakenBackWhenTheCheckRefusesTheFile(t *testing.T) {
	r, _ := engineRig(t, `check_cmd = "! grep -q 13 {{.src}}"`)
	w := r.witnessed()
	r.set("/x", "web 1")
	r.start()
	r.becomes(w, "a", report.Converged)
	r.set("/x", "web 13")
	r.becomes(w, "a", report.Failed)
	r.until("the program runs the file again", func() bool { return r.read("live") == "web 1" && r.read("a.out") == "web 1" })
	if r.reloads() != 1 || w.status("a").Step != report.StepCheck {
		t.Errorf("%d reloads, failed at %q", r.reloads(), w.status("a").Step)
	}
	r.until("nothing is owed", func() bool { return !r.exists(".a.out.reload-pending") })
	if n := strings.Count(r.log.String(), "took back what was changed in the running program"); n == 0 {
		t.Error("the log does not say that it was taken back")
	}
	if changed := w.status("a").Changed; changed != nil {
		t.Errorf("the version before is said to be made by a change of %q", changed)
	}
	r.set("/x", "web 2")
	r.eventually("live", "web 2")
}

func TestAProgramThatDoesNotRunWhatTheFileSaysIsReloadedAtTheStart(t *testing.T) {
	r, _ := engineRig(t, "")
	w := r.witnessed()
	r.set("/x", "web 1")
	r.write("a.out", "web 1")
	r.write("live", "web 0")
	r.start()
	r.eventually("live", "web 1")
	r.becomes(w, "a", report.Converged)
}

// asMachine makes the test binary be an agent that kills itself before a step.
const asMachine = "KVCONFD_TEST_AS_MACHINE"

func TestAnAgentKilledBeforeAnyStepConvergesWhenItIsBack(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	for _, c := range []struct{ change, engine string }{
		{"render", ""}, {"check", ""}, {"owe", ""}, {"write", ""}, {"reload", ""}, {"confirm", ""}, {"paid", ""},
		{"owe", "1"}, {"apply", "1"}, {"confirm", "1"}, {"check", "1"}, {"write", "1"}, {"paid", "1"},
	} {
		t.Run(c.change+cmp.Or(c.engine, "-with-reload"), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, newClient(t, url))
			key := "/" + strings.ReplaceAll(t.Name(), "/", "-")
			r.resource("a", `{{getv "`+key+`"}}`, `keys = ["`+key+`"]
check_cmd = "test -s {{.src}}"
confirm_cmd = "cmp $DIR/a.out $DIR/live"
on_reload_failure = "rollback"
reload_cmd = "cp $DIR/a.out $DIR/live.new; mv $DIR/live.new $DIR/live"`)
			r.set(key, "web 1")
			e := &engine{path: r.path("live")}
			if c.engine != "" {
				r.deps.Applier = func(resource.Resource) proxy.Applier { return e }
			}
			if err := r.once(); err != nil {
				t.Fatal(err)
			}
			r.set(key, "web 2")
			first := r.machine(url, c.change, c.engine)
			if err := first.Wait(); err == nil || first.ProcessState.ExitCode() != -1 {
				t.Fatalf("the agent was not killed: %v", err)
			}
			w := r.witnessed()
			r.start()
			r.becomes(w, "a", report.Converged)
			live, file := r.read("live"), r.read("a.out")
			if live != "web 2" || file != "web 2" || r.exists(".a.out.reload-pending") {
				t.Errorf("live %q, file %q, owes %v", live, file, r.exists(".a.out.reload-pending"))
			}
		})
	}
}

func TestAnotherResourceDoesNotDisturbThoseThatAreThere(t *testing.T) {
	store := &countingStore{Store: newClient(t, daemontest.Start(t, 1).URL())}
	r := newRig(t, store)
	w := r.witnessed()
	r.resource("a", `a {{getv "/app/x"}}`, "keys = [\"/app\"]\nreload_cmd = \"echo x >>$DIR/reloads\"")
	r.set("/app/x", "1")
	r.start()
	r.becomes(w, "a", report.Converged)
	reads, renders := store.reads.Load(), w.count("a", report.StepRender)

	r.resource("b", `b {{getv "/app/x"}}`, `keys = ["/app/x"]`)
	r.eventually("b.out", "b 1")
	r.resource("c", `c {{getv "/app/x"}}`, "keys = [\"/app\"]\nreload_cmd = \"echo x >>$DIR/reloads\"") // joins a's reload
	r.eventually("c.out", "c 1")
	r.becomes(w, "c", report.Converged)
	if n := store.reads.Load() - reads; n != 0 {
		t.Errorf("the store was read %d times for resources whose keys are there", n)
	}
	if n := w.count("a", report.StepRender) - renders; n != 0 {
		t.Errorf("a was rendered %d times because of others", n)
	}
	if r.reloads() != 2 {
		t.Errorf("%d reloads, want one for each of two new files", r.reloads())
	}
	r.set("/app/x", "2")
	for name, want := range map[string]string{"a.out": "a 2", "b.out": "b 2", "c.out": "c 2"} {
		r.eventually(name, want)
	}
	if err := os.Remove(r.path("conf/conf.d/b.toml")); err != nil {
		t.Fatal(err)
	}
	r.until("b is forgotten", func() bool { return !slices.Contains(w.names(), "b") })
	r.set("/other/x", "1")
	r.resource("d", `d {{getv "/other/x"}}`, `keys = ["/other"]`) // keys that are not there yet
	r.eventually("d.out", "d 1")
	r.set("/app/x", "3")
	r.eventually("a.out", "a 3")
	if got := r.read("b.out"); got != "b 2" {
		t.Errorf("a removed resource still wrote %q", got)
	}
}

func TestAFileThatPassesToAnotherCommandIsNeverInTwoHands(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	reload := func(n int) string {
		return fmt.Sprintf("keys = [\"/x\"]\nreload_cmd = \"mkdir $DIR/lock || touch $DIR/overlap; sleep 0.2; rmdir $DIR/lock; cp $DIR/a.out $DIR/live%d\"", n)
	}
	r.resource("a", `{{getv "/x"}}`, reload(0))
	r.set("/x", "0")
	r.start()
	r.eventually("live0", "0")
	for i := 1; i < 4; i++ {
		r.set("/x", strconv.Itoa(i))
		r.resource("a", `{{getv "/x"}}`, reload(i)) // while the other command runs
		r.eventually("a.out", strconv.Itoa(i))
		r.until("somebody has reloaded it", func() bool { return !r.exists(".a.out.reload-pending") && w.status("a").State == report.Converged })
	}
	if r.exists("overlap") {
		t.Error("two commands for one file ran at the same time")
	}
}

func TestAMistakeInAResourceFileDoesNotGiveItsDestToAnother(t *testing.T) {
	r := storeRig(t)
	r.resource("a", `a {{getv "/x"}}`, `keys = ["/x"]`)
	r.resource("b", `b {{getv "/x"}}`, `keys = ["/x"]`)
	r.write("conf/conf.d/b.toml", strings.ReplaceAll(r.read("conf/conf.d/b.toml"), "b.out", "a.out"))
	r.set("/x", "1")
	r.start()
	r.eventually("a.out", "a 1")
	r.write("conf/conf.d/a.toml", r.read("conf/conf.d/a.toml")+"garbage\n")
	r.until("the mistake is told", func() bool { return strings.Contains(r.log.String(), "of which the last good version is at work") })
	r.set("/x", "2")
	r.eventually("a.out", "a 2")
}

func TestADebtStaysWithItsFileWhenTheResourceIsTakenAwayAndBroughtBack(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	settings := "keys = [\"/x\"]\nreload_cmd = \"test -e $DIR/go && cp $DIR/a.out $DIR/live\""
	r.resource("a", `{{getv "/x"}}`, settings)
	r.set("/x", "1")
	r.start()
	r.becomes(w, "a", report.Failed)
	if err := os.Remove(r.path("conf/conf.d/a.toml")); err != nil {
		t.Fatal(err)
	}
	r.until("a is forgotten", func() bool { return !slices.Contains(w.names(), "a") })
	r.write("go", "")
	if !r.exists(".a.out.reload-pending") || r.exists("live") {
		t.Error("the debt was settled or forgotten without a resource")
	}
	r.resource("a", `{{getv "/x"}}`, settings)
	r.eventually("live", "1")
}

func TestWhatIsLiveIsKnownByIndex(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	running := make(chan Control, 1)
	r.deps.Running = func(c Control) { running <- c }
	r.resource("a", `{{getv "/x"}}`, "keys = [\"/x\"]\nreload_cmd = \"while test -e $DIR/wait; do sleep 0.01; done; cp $DIR/a.out $DIR/live\"")
	r.resource("b", `{{getv "/y" "none"}}`, `keys = ["/y"]`)
	r.set("/x", "1")
	r.start()
	control := <-running
	r.becomes(w, "a", report.Converged)
	r.becomes(w, "b", report.Converged)
	r.write("wait", "")
	result, err := r.deps.Store.Write(t.Context(), kv.Write{Op: kv.OpSet, Key: "/x", Value: "2"})
	if err != nil {
		t.Fatal(err)
	}
	r.until("the file is written", func() bool { return r.read("a.out") == "2" })
	if live := control.Live(); live >= result.Index {
		t.Errorf("index %d is said to be live while %d is being reloaded", live, result.Index)
	}
	os.Remove(r.path("wait"))
	r.until("it is live", func() bool { return control.Live() >= result.Index })
	if got := r.read("live"); got != "2" {
		t.Errorf("live is %q", got)
	}
	if stuck := control.Stuck(time.Now()); stuck != "" {
		t.Errorf("%s is said to be stuck", stuck)
	}
	stores := control.Stores()
	if len(stores) != 1 || stores[0].Index < result.Index || stores[0].Err != "" {
		t.Errorf("stores: %+v", stores)
	}
	explained, err := control.Explain(t.Context(), r.path("a.out"), 1)
	if err != nil || explained.Target.Name != "a" || !slices.Equal(explained.Reads, []string{"/x"}) {
		t.Errorf("explained: %+v, %v", explained, err)
	}
	if _, err := control.Explain(t.Context(), "/nothing", 1); !kv.Is(err, kv.NotFound) {
		t.Errorf("a file that nobody makes: %v", err)
	}
	if err := control.Release("a"); err == nil || !strings.Contains(err.Error(), "not held") {
		t.Errorf("a release of what is not held: %v", err)
	}
	if err := control.Release("nobody"); !kv.Is(err, kv.NotFound) {
		t.Errorf("a release of nobody: %v", err)
	}
}

func TestAMemberOfAGroupThatCannotBeRenderedIsTriedAgainThoughTheOthersAreLive(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	group := "keys = [\"/x\"]\nreload_group = \"g\"\nreload_cmd = \"cat $DIR/b.out >$DIR/live\"\n"
	r.resource("a", `{{if fileExists "`+r.path("switch")+`"}}{{getv "/x"}}{{else}}{{getv "/none"}}{{end}}`, group)
	r.resource("b", `{{getv "/x"}}`, group)
	r.set("/x", "1")
	r.start()
	r.eventually("live", "1")
	r.becomes(w, "b", report.Converged)
	r.write("switch", "")
	r.eventually("a.out", "1")
}

func TestAVersionThatWasTakenBackIsTriedAgainThoughANewFileOfItsGroupCouldNotBe(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	group := "keys = [\"/x\"]\nreload_group = \"g\"\non_reload_failure = \"rollback\"\nretry_max = \"1s\"\nreload_cmd = \"test -e $DIR/switch || ! grep -q bad $DIR/a.out\"\n"
	r.resource("a", `{{getv "/x"}}`, group)
	r.set("/x", "good")
	stop := r.start()
	r.becomes(w, "a", report.Converged)
	stop()
	r.resource("b", `{{getv "/x"}}`, group) // has no version to go back to
	r.set("/x", "bad")
	r.start()
	r.eventually("b.out", "bad")
	r.becomes(w, "a", report.Failed)
	r.until("the file is back", func() bool { return r.read("a.out") == "good" && !r.exists(".a.out.reload-pending") })
	r.write("switch", "")
	r.eventually("a.out", "bad")
	r.becomes(w, "a", report.Converged)
}

func TestAFileThatCouldNotBeWrittenIsNotReloaded(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	r.deps.Step = func(_, step string) {
		if step == report.StepWrite { // what is renamed onto a directory is refused
			_ = os.MkdirAll(r.path("a.out"), 0o755)
		}
	}
	r.resource("a", `{{getv "/x"}}`, "keys = [\"/x\"]\nreload_cmd = \"echo x >>$DIR/reloads\"")
	r.set("/x", "1")
	r.start()
	r.becomes(w, "a", report.Failed)
	r.until("it was tried again", func() bool { return w.count("a", report.StepRender) > 1 })
	if status := w.status("a"); r.reloads() != 0 || status.State != report.Failed || status.Step != report.StepWrite {
		t.Errorf("%d reloads, it is %s at %q", r.reloads(), status.State, status.Step)
	}
}

// quoting is an engine that quotes the file in its reasons, as proxies do.
type quoting struct{ *engine }

func (q quoting) Plan(ctx context.Context, live, next []byte) (proxy.Plan, error) {
	plan, err := q.engine.Plan(ctx, live, next)
	if plan.Kind == proxy.Reload {
		plan.Reason += ": " + string(next)
	}
	return plan, err
}

func TestNothingThatAProgramSaysOfASensitiveFileIsTold(t *testing.T) {
	r, e := engineRig(t, "sensitive = true")
	r.deps.Applier = func(resource.Resource) proxy.Applier { return quoting{e} }
	w := r.witnessed()
	r.set("/x", "hush 1")
	r.start()
	runs := func(text string) {
		t.Helper()
		r.until(text+" runs", func() bool { return r.read("live") == text && w.status("a").State == report.Converged })
		if said := fmt.Sprintf("%+v", w.status("a")); strings.Contains(said, "hush") {
			t.Errorf("the status has the content: %s", said)
		}
	}
	runs("hush 1")
	r.set("/x", "hush 2")
	runs("hush 2")
	e.set(func(e *engine) { e.pretends = true })
	r.set("/x", "hush 3")
	runs("hush 3")
	r.set("/x", "hush, hush 4")
	runs("hush, hush 4")
	if strings.Contains(r.log.String(), "hush") {
		t.Error("the log has the content")
	}
	if why := w.status("a").Why; !strings.Contains(why, "sensitive") {
		t.Errorf("why it is reloaded is said to be %q", why)
	}
}

func TestWhatHasComeMeanwhileIsPartOfTheReloadThatIsTriedAgain(t *testing.T) {
	r := storeRig(t)
	w := r.witnessed()
	r.cfg.Quiet, r.cfg.QuietMax = time.Hour, time.Hour
	r.resource("a", `{{getv "/x"}}`, "keys = [\"/x\"]\nreload_cmd = \"test -e $DIR/sound && cat $DIR/a.out >>$DIR/live\"")
	r.set("/x", "1")
	r.start()
	r.becomes(w, "a", report.Failed)
	r.set("/x", "2")
	r.until("the file is that of the second change", func() bool { return r.read("a.out") == "2" })
	r.write("sound", "")
	r.until("it is reloaded", func() bool { return r.read("live") == "2" })
}

func TestAFailureThatDiffersInTimesAndProcessNumbersAloneIsToldOnce(t *testing.T) {
	for _, reasons := range [][2]string{
		{"2026/11/23 03:39:38 [emerg] 244#244: host not found in /etc/x.conf:10", "2026/11/23 03:39:41 [emerg] 246#246: host not found in /etc/x.conf:10"},
		{"[ALERT]    (91) : config : no such backend", "[ALERT]    (1091) : config : no such backend"},
		{"2026-11-23T03:39:38.123Z app[12]: pid 77: no", "2026-11-24T13:39:38.9Z app[13]: pid 9: no"},
	} {
		if a, b := report.Lasting(reasons[0]), report.Lasting(reasons[1]); a != b {
			t.Errorf("%q and %q", a, b)
		}
	}
	if report.Lasting("x.conf:10: no") == report.Lasting("x.conf:11: no") {
		t.Error("another line is no news")
	}
}
