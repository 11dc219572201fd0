package confd

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/confd/render"
	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/kv"
)

func TestAFailedReloadIsTriedAgainWithoutANewWrite(t *testing.T) {
	r := newRig(t, newClient(t, daemontest.Start(t, 1).URL()))
	r.resource("a", `{{getv "/x"}}`, `keys = ["/x"]
reload_cmd = "if test -e $DIR/failed; then cp $DIR/a.out $DIR/live; else touch $DIR/failed; exit 1; fi"`)
	r.set("/x", "1")
	r.start()
	r.eventually("live", "1")
	r.until("the debt is paid", func() bool { return !r.exists(".a.out.reload-pending") })
}

// faultyStore fails its next reads and the next steps of its watches.
type faultyStore struct {
	kv.Store
	reads, steps atomic.Int32 // still to fail
}

func (f *faultyStore) Read(ctx context.Context, read kv.Read) (kv.Result, error) {
	if f.reads.Add(-1) >= 0 {
		return kv.Result{}, &kv.Error{Op: "get", Key: read.Key, Kind: kv.Timeout}
	}
	return f.Store.Read(ctx, read)
}

func (f *faultyStore) Watch(ctx context.Context, from kv.WatchFrom) (kv.Watch, error) {
	watch, err := f.Store.Watch(ctx, from)
	return &faultyWatch{watch, f}, err
}

type faultyWatch struct {
	kv.Watch
	store *faultyStore
}

func (w *faultyWatch) Next(ctx context.Context) (kv.Event, error) {
	event, err := w.Watch.Next(ctx)
	if err == nil && w.store.steps.Add(-1) >= 0 {
		return kv.Event{}, &kv.Error{Op: "watch", Kind: kv.Unknown}
	}
	return event, err
}

func TestAnEventWhoseDataCannotBeFetchedIsNotLost(t *testing.T) {
	store := &faultyStore{Store: newClient(t, daemontest.Start(t, 1).URL())}
	r := newRig(t, store)
	r.resource("a", `{{getv "/x"}}`, `keys = ["/x"]`)
	r.set("/x", "1")
	store.reads.Store(3)
	r.start()
	r.eventually("a.out", "1")
	store.reads.Store(3)
	store.steps.Store(1) // the event of the next write goes down with its watch
	r.set("/x", "2")
	r.eventually("a.out", "2")
}

func TestWhatWasWrittenInAnOutageArrivesEvenWhenHistoryIsGone(t *testing.T) {
	s := startServer(t)
	direct, g := newClient(t, s.address), newGate(t, s.address)
	r := newRig(t, direct)
	r.resource("a", `{{range gets "/a/*"}}{{.Key}}={{.Value}} {{end}}`, `keys = ["/a"]`)
	r.resource("b", `{{range gets "/b/*"}}{{.Key}}={{.Value}} {{end}}`, `keys = ["/b"]`)
	r.set("/a/kept", "1")
	r.set("/a/removed", "1")
	r.set("/b/kept", "1")
	r.deps.Store = newClient(t, g.listener.Addr().String())
	r.start()
	r.deps.Store = direct // for the test's own writes
	r.eventually("a.out", "/a/kept=1 /a/removed=1 ")
	r.eventually("b.out", "/b/kept=1 ")

	g.set(true)
	r.set("/a/kept", "2")
	r.remove("/a/removed")
	r.set("/b/new", "1")
	for i := range 1100 { // etcd keeps 1000 events
		r.set("/other", strconv.Itoa(i))
	}
	s.kill()
	s.run()
	g.set(false)
	r.eventually("a.out", "/a/kept=2 ")
	r.eventually("b.out", "/b/kept=1 /b/new=1 ")
}

func TestTheGuardHoldsTheFileWhenThePrefixIsEmptied(t *testing.T) {
	r := newRig(t, newClient(t, daemontest.Start(t, 1).URL()))
	r.resource("a", `{{range gets "/up/*"}}{{.Value}} {{end}}`, "keys = [\"/up\"]\nmin_keys = 2")
	r.resource("b", `{{range gets "/up/*"}}{{.Value}} {{end}}`, `keys = ["/up"]`)
	r.set("/up/1", "one")
	r.set("/up/2", "two")
	r.start()
	r.eventually("a.out", "one two ")
	r.remove("/up")
	r.until("the hold is reported", func() bool { return strings.Contains(r.log.String(), "only 0 keys found, min_keys is 2") })
	r.eventually("b.out", "") // without a guard
	if got := r.read("a.out"); got != "one two " {
		t.Errorf("the held file became %q", got)
	}
	r.set("/up/3", "three")
	r.set("/up/4", "four")
	r.eventually("a.out", "three four ")
}

func TestABurstOfWritesMakesFewReloadsAndTheLastOneWins(t *testing.T) {
	r := newRig(t, newClient(t, daemontest.Start(t, 1).URL()))
	r.resource("a", `{{getv "/x" "none"}}`, `keys = ["/x"]
reload_cmd = "echo x >>$DIR/reloads; cp $DIR/a.out $DIR/live"`)
	r.start()
	r.eventually("live", "none")
	started := time.Now()
	for i := range 1000 {
		r.set("/x", strconv.Itoa(i))
	}
	r.eventually("live", "999")
	// One before the burst, three while quiet grows, one per QuietMax, one for the rest.
	bound := 5 + int(time.Since(started)/r.cfg.QuietMax)
	if reloads := strings.Count(r.read("reloads"), "x"); reloads > bound {
		t.Errorf("%d reloads for a burst of %v, want at most %d", reloads, time.Since(started), bound)
	}
}

func TestBadFilesThatAppearWhileRunningDisturbNobody(t *testing.T) {
	r := newRig(t, newClient(t, daemontest.Start(t, 1).URL()))
	r.resource("a", `a {{getv "/x"}}`, `keys = ["/x"]`)
	r.resource("b", `b {{getv "/x"}}`, `keys = ["/x"]`)
	r.set("/x", "1")
	r.start()
	r.eventually("a.out", "a 1")
	r.eventually("b.out", "b 1")

	good := r.read("conf/conf.d/b.toml")
	r.write("conf/conf.d/b.toml", "[template\n")
	r.write("conf/conf.d/new.toml", "[template]\nsrc = 1\n")
	r.write("conf/templates/a.tmpl", "{{if}}")
	r.until("all three are reported", func() bool {
		log := r.log.String()
		return strings.Contains(log, "b.toml: line 2: not valid TOML") && strings.Contains(log, "new.toml: line 2: template.src") && strings.Contains(log, "missing value for if")
	})
	r.set("/x", "2")
	r.eventually("a.out", "a 2") // the template before
	r.eventually("b.out", "b 2") // the resource before

	r.write("conf/conf.d/b.toml", good+"mode = \"0600\"\n")
	r.write("conf/templates/a.tmpl", `new a {{getv "/x"}}`)
	r.resource("new", `new {{getv "/y"}}`, `keys = ["/y"]`)
	r.set("/y", "3")
	r.eventually("a.out", "new a 2")
	r.eventually("new.out", "new 3")
	r.until("the mode has changed", func() bool {
		info, err := os.Stat(r.path("b.out"))
		return err == nil && info.Mode().Perm() == 0o600
	})
	if err := os.Remove(r.path("conf/conf.d/a.toml")); err != nil {
		t.Fatal(err)
	}
	r.until("the set of resources has shrunk", func() bool { return strings.Contains(r.log.String(), `"resources changed" resources=2`) })
	r.set("/x", "4")
	r.eventually("b.out", "b 4")
	if got := r.read("a.out"); got != "new a 2" {
		t.Errorf("a removed resource still wrote %q", got)
	}
}

func TestAWriteToANeighbourWakesNobodyElse(t *testing.T) {
	r := newRig(t, newClient(t, daemontest.Start(t, 1).URL()))
	var renders atomic.Int32
	r.deps.World = render.World{Hostname: func() (string, error) { renders.Add(1); return "h", nil }}
	r.resource("app", `{{hostname}} {{getv "/app/x"}}`, `keys = ["/app"]`)
	r.resource("app2", `{{getv "/app2/x" "none"}}`, `keys = ["/app2"]`)
	r.set("/app/x", "1")
	r.set("/app2/x", "1")
	r.start()
	r.eventually("app.out", "h 1")
	r.eventually("app2.out", "1")
	before := renders.Load()
	for i := range 5 {
		r.set("/app2/x", "again "+strconv.Itoa(i))
		r.set("/application", "also beside it")
		r.eventually("app2.out", "again "+strconv.Itoa(i))
	}
	if after := renders.Load(); after != before {
		t.Errorf("/app was rendered %d times for writes beside it", after-before)
	}
}

func TestResourcesWithOneReloadCommandNeverRunItAtTheSameTimeAndRunItOncePerPass(t *testing.T) {
	r := newRig(t, newClient(t, daemontest.Start(t, 1).URL()))
	reload := `reload_cmd = "mkdir $DIR/lock || touch $DIR/overlap; echo x >>$DIR/reloads; sleep 0.05; rmdir $DIR/lock"`
	for _, name := range []string{"a", "b", "c"} {
		r.resource(name, `{{getv "/x"}}`, "keys = [\"/x\"]\n"+reload)
	}
	r.set("/x", "0")
	r.start()
	for i := range 5 {
		r.set("/x", strconv.Itoa(i))
		for _, name := range []string{"a", "b", "c"} {
			r.eventually(name+".out", strconv.Itoa(i))
		}
	}
	r.until("all is reloaded", func() bool { return !r.exists(".a.out.reload-pending") && !r.exists(".c.out.reload-pending") })
	if reloads := strings.Count(r.read("reloads"), "x"); reloads > 6 {
		t.Errorf("%d reloads for 5 changes of 3 files", reloads)
	}
	if r.exists("overlap") {
		t.Error("two reloads ran at the same time")
	}
}

func TestAnAgentKilledBetweenRenameAndReloadReloadsWhenItIsBack(t *testing.T) {
	store := daemontest.Start(t, 1).URL()
	r := newRig(t, newClient(t, store))
	r.resource("a", `{{getv "/x"}}`, `keys = ["/x"]
reload_cmd = "if test -e $DIR/shell; then cp $DIR/a.out $DIR/live; else echo $$ >$DIR/shell.new; mv $DIR/shell.new $DIR/shell; sleep 600; fi"`)
	r.set("/x", "1")
	run := func() *exec.Cmd {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self, "-watch", "-node", store, "-confdir", r.path("conf"))
		cmd.Env = append(os.Environ(), asProgram+"=1")
		cmd.Stderr = &r.log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	first := run()
	r.until("the reload has begun", func() bool { return r.exists("shell") })
	first.Process.Kill()
	first.Wait()
	shell, err := strconv.Atoi(strings.TrimSpace(r.read("shell")))
	if err != nil {
		t.Fatal(err)
	}
	syscall.Kill(-shell, syscall.SIGKILL)
	if r.read("a.out") != "1" || r.exists("live") {
		t.Fatalf("the agent was not killed between the two: file %q, live %q", r.read("a.out"), r.read("live"))
	}

	second := run()
	r.eventually("live", "1")
	second.Process.Signal(syscall.SIGTERM)
	if err := second.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

func TestOwnerAndModeAreSetAndRepaired(t *testing.T) {
	parts.Need(t, "root")
	r := newRig(t, newClient(t, daemontest.Start(t, 1).URL()))
	r.resource("a", "text", "owner = \"nobody\"\ngroup = \"daemon\"\nmode = \"0640\"")
	r.cfg.Interval = 100 * time.Millisecond // how often drift is looked for
	r.start()
	dressed := func() bool {
		info, err := os.Stat(r.path("a.out"))
		if err != nil {
			return false
		}
		owner := info.Sys().(*syscall.Stat_t)
		return owner.Uid == 65534 && owner.Gid == 1 && info.Mode() == 0o640
	}
	r.until("owner and mode are set", dressed)
	if err := os.Chmod(r.path("a.out"), 0o666); err != nil {
		t.Fatal(err)
	}
	r.until("the mode is repaired", dressed)
	if err := os.Chown(r.path("a.out"), 0, 0); err != nil {
		t.Fatal(err)
	}
	r.until("the owner is repaired", dressed)
	if err := os.WriteFile(r.path("a.out"), []byte("edited"), 0o640); err != nil {
		t.Fatal(err)
	}
	r.eventually("a.out", "text")
}

func TestAMountedConfigMapIsFollowedToItsNextVersion(t *testing.T) {
	r := newRig(t, newClient(t, daemontest.Start(t, 1).URL()))
	version := func(n int) {
		t.Helper()
		dir := fmt.Sprintf("..version_%d", n)
		if err := os.Mkdir(r.path("conf/conf.d/"+dir), 0o755); err != nil {
			t.Fatal(err)
		}
		r.write("conf/conf.d/"+dir+"/a.toml", fmt.Sprintf("[template]\nsrc = \"%d.tmpl\"\ndest = %q\nkeys = [\"/x\"]\n", n, r.path("a.out")))
		r.write(fmt.Sprintf("conf/templates/%d.tmpl", n), fmt.Sprintf(`version %d`, n))
		if err := os.Symlink(dir, r.path("conf/conf.d/..new")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(r.path("conf/conf.d/..new"), r.path("conf/conf.d/..data")); err != nil {
			t.Fatal(err)
		}
	}
	version(1)
	if err := os.Symlink("..data/a.toml", r.path("conf/conf.d/a.toml")); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.eventually("a.out", "version 1")
	version(2)
	r.eventually("a.out", "version 2")
}

func TestARestartOfTheStoreLosesNothing(t *testing.T) {
	c := daemontest.Start(t, 1)
	r := newRig(t, newClient(t, c.URL()))
	r.resource("a", `{{getv "/x"}}`, `keys = ["/x"]`)
	r.set("/x", "1")
	r.start()
	r.eventually("a.out", "1")
	for i := range 3 {
		c.Restart()
		r.set("/x", "after restart "+strconv.Itoa(i))
		r.eventually("a.out", "after restart "+strconv.Itoa(i))
	}
}

// gapStore lets something happen between a listing and the watch that follows it.
type gapStore struct {
	kv.Store
	between func()
}

func (g *gapStore) Watch(ctx context.Context, from kv.WatchFrom) (kv.Watch, error) {
	g.between()
	return g.Store.Watch(ctx, from)
}

func TestAChangeBetweenListingAndWatchIsNotLost(t *testing.T) {
	store := newClient(t, daemontest.Start(t, 1).URL())
	r := newRig(t, store)
	r.resource("a", `{{getv "/x"}}`, `keys = ["/x"]`)
	r.set("/x", "1")
	r.deps.Store = &gapStore{store, sync.OnceFunc(func() { r.set("/x", "2") })}
	r.start()
	r.eventually("a.out", "2")
}

func TestARetryThatFailsForTheSameReasonIsNotToldAgain(t *testing.T) {
	r := fileRig(t, "x: 1")
	r.resource("a", `{{getv "/x"}}`, `keys = ["/x"]
reload_cmd = "test -e $DIR/other && echo other; false"`)
	r.resource("b", `{{getv "/x"}}`, "keys = [\"/x\"]\ncheck_cmd = \"false {{.src}}\"")
	r.start()
	for _, message := range []string{`msg="not reloaded"`, `msg="not up to date"`} {
		r.until("it has failed three times: "+message, func() bool { return strings.Count(r.log.String(), message) >= 3 })
		if got := strings.Count(r.log.String(), "level=ERROR "+message); got != 1 {
			t.Errorf("%s: the same reason is told %d times", message, got)
		}
	}
	r.write("other", "")
	r.until("another reason is told", func() bool { return strings.Count(r.log.String(), `level=ERROR msg="not reloaded"`) == 2 })
}
