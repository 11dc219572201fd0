package confd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/confd/keys"
	"github.com/kvd-io/kvd/confd/report"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// fileRig is a rig whose keys come from keys.yaml.
func fileRig(t *testing.T, content string) *rig {
	t.Helper()
	r := newRig(t, nil)
	r.cfg.Backend, r.cfg.Files = keys.BackendFile, []string{r.path("keys.yaml")}
	r.write("keys.yaml", content)
	return r
}

func TestOnetimeDoesTheGoodOnesAndFailsForTheBadOnes(t *testing.T) {
	r := fileRig(t, "x: 1")
	r.resource("a", `{{getv "/none"}}`, `keys = ["/"]`)
	r.resource("b", `b {{getv "/x"}}`, `keys = ["/"]`)
	r.resource("c", `c {{getv "/x"}}`, "keys = [\"/\"]\ncheck_cmd = \"grep -q nothing {{.src}}\"")
	r.resource("d", `d {{getv "/x"}}`, "keys = [\"/\"]\nreload_cmd = \"echo reload output; false\"")
	r.write("conf/conf.d/e.toml", "[template\n")
	r.write("c.out", "old c")
	if err := r.once(); err == nil {
		t.Error("no error")
	}
	for name, want := range map[string]string{"a.out": "", "b.out": "b 1", "c.out": "old c", "d.out": "d 1"} {
		if got := r.read(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for _, want := range []string{"key does not exist: /none", "check_cmd refused", "reload output", "e.toml: line 2: not valid TOML"} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("the log does not say %q", want)
		}
	}
	if matches, _ := filepath.Glob(r.path(".*.out.[0-9]*")); len(matches) > 0 {
		t.Errorf("staged files left: %q", matches)
	}
	for _, name := range []string{"a", "c", "e"} {
		if err := os.Remove(r.path("conf/conf.d/" + name + ".toml")); err != nil {
			t.Fatal(err)
		}
	}
	r.resource("d", `d {{getv "/x"}}`, "keys = [\"/\"]\nreload_cmd = \"true\"")
	if err := r.once(); err != nil {
		t.Errorf("with the bad ones gone: %v", err)
	}
	if r.exists(".d.out.reload-pending") {
		t.Error("the reload that failed in the first run is still owed after the second")
	}
}

func TestARefusingStoreIsReportedByOnetimeAndWaitedForByTheAgent(t *testing.T) {
	address := freeAddress(t)
	r := newRig(t, nil)
	r.cfg.Client = kvclient.Config{Endpoints: []string{address}}
	r.resource("a", "text", `keys = ["/x"]`)
	err := r.once()
	if !kv.Is(err, kv.Unavailable) || !strings.Contains(err.Error(), address) {
		t.Errorf("got %v, want one that names %s", err, address)
	}
	r.start()
	r.until("the outage is reported", func() bool { return strings.Contains(r.log.String(), "cannot follow the store") })
	if r.exists("a.out") {
		t.Error("a file was rendered without keys")
	}
}

func TestCalledAsConfdAKeyThatIsNotThereFailsItsResourceAndAnEmptyDirectoryDoesNot(t *testing.T) {
	r := newRig(t, newClient(t, daemontest.Start(t, 1).URL()))
	r.cfg.Present = true
	r.resource("absent", `{{len (gets "/absent/*")}}`, `keys = ["/absent", "/full"]`)
	r.resource("empty", `{{len (gets "/empty/*")}}`, `keys = ["/empty"]`)
	r.resource("full", `{{len (gets "/full/*")}}`, `keys = ["/full"]`)
	r.resource("root", `{{len (gets "/full/*")}}`, `keys = ["/"]`)
	r.set("/absent-2/a", "1") // a neighbour
	r.set("/full/a", "1")
	r.set("/empty/a", "1")
	if _, err := r.deps.Store.Write(t.Context(), kv.Write{Op: kv.OpDelete, Key: "/empty/a"}); err != nil {
		t.Fatal(err)
	}
	if err := r.once(); err == nil {
		t.Error("no error")
	}
	for name, want := range map[string]string{"absent.out": "", "empty.out": "0", "full.out": "1", "root.out": "1"} {
		if got := r.read(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if want := "keys that are not in the store: /absent\""; !strings.Contains(r.log.String(), want) {
		t.Errorf("the log does not say %q", want)
	}
	r.set("/absent/a", "1")
	if err := r.once(); err != nil || r.read("absent.out") != "1" {
		t.Errorf("when the key is there: %v, and the file is %q", err, r.read("absent.out"))
	}
}

func TestAnAgentWaitsForAStoreThatComesLater(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	direct, g := newClient(t, url), newGate(t, strings.TrimPrefix(url, "http://"))
	g.set(true)
	r := newRig(t, direct)
	r.resource("a", `{{getv "/x"}}`, `keys = ["/x"]`)
	r.set("/x", "1")
	r.deps.Store = newClient(t, g.listener.Addr().String())
	r.start()
	r.until("the outage is reported", func() bool { return strings.Contains(r.log.String(), "cannot follow the store") })
	g.set(false)
	r.eventually("a.out", "1")
}

func TestNoopChangesNothing(t *testing.T) {
	r := fileRig(t, "x: 1")
	r.resource("a", `{{getv "/x"}}`, "keys = [\"/x\"]\nreload_cmd = \"touch $DIR/reloaded\"")
	r.write("a.out", "old")
	r.cfg.Noop = true
	if err := r.once(); err != nil {
		t.Fatal(err)
	}
	matches, _ := filepath.Glob(r.path(".a.out*"))
	if r.read("a.out") != "old" || r.exists("reloaded") || len(matches) > 0 {
		t.Errorf("file %q, reloaded %v, hidden files %q", r.read("a.out"), r.exists("reloaded"), matches)
	}
	if !strings.Contains(r.log.String(), "would be changed") {
		t.Error("nobody is told what would change")
	}
	r.cfg.KeepStageFile = true
	if err := r.once(); err != nil {
		t.Fatal(err)
	}
	if matches, _ := filepath.Glob(r.path(".a.out.*")); len(matches) != 1 {
		t.Errorf("staged files %q, want one", matches)
	}
}

func TestSyncOnlyRunsNoCommand(t *testing.T) {
	r := fileRig(t, "x: 1")
	r.resource("a", `{{getv "/x"}}`, "keys = [\"/x\"]\ncheck_cmd = \"touch $DIR/checked; false\"\nreload_cmd = \"touch $DIR/reloaded\"")
	r.cfg.SyncOnly = true
	if err := r.once(); err != nil {
		t.Fatal(err)
	}
	if r.read("a.out") != "1" || r.exists("checked") || r.exists("reloaded") || r.exists(".a.out.reload-pending") {
		t.Errorf("file %q, checked %v, reloaded %v", r.read("a.out"), r.exists("checked"), r.exists("reloaded"))
	}
}

func TestSyncOnlyLeavesAReloadThatIsDueToWhoComesNext(t *testing.T) {
	for name, keysAfter := range map[string]string{"nothing else changed": "x: 1", "another change": "x: 2"} {
		t.Run(name, func(t *testing.T) {
			r := fileRig(t, "x: 1")
			r.resource("a", `{{getv "/x"}}`, "keys = [\"/x\"]\nreload_cmd = \"test -e $DIR/works && cp $DIR/a.out $DIR/live\"")
			if err := r.once(); err == nil {
				t.Fatal("a reload that fails is no error")
			}
			r.write("keys.yaml", keysAfter)
			r.cfg.SyncOnly = true
			if err := r.once(); err != nil {
				t.Fatal(err)
			}
			r.cfg.SyncOnly = false
			r.write("works", "")
			if err := r.once(); err != nil {
				t.Fatal(err)
			}
			if live := r.read("live"); live == "" || live != r.read("a.out") {
				t.Errorf("%q was reloaded, and the file is %q", live, r.read("a.out"))
			}
		})
	}
}

func TestTheCheckSeesTheStagedFileWithItsMode(t *testing.T) {
	r := fileRig(t, "x: 1")
	r.resource("a", `{{getv "/x"}}`, "keys = [\"/x\"]\nmode = \"0600\"\ncheck_cmd = \"stat -c %a {{.src}} >$DIR/checked; cat {{.src}} >>$DIR/checked; test ! -e {{.dest}}\"")
	if err := r.once(); err != nil {
		t.Fatal(err)
	}
	if got := r.read("checked"); got != "600\n1" {
		t.Errorf("the check saw %q", got)
	}
}

func TestAReloadHappensOnlyWhenTheFileChanges(t *testing.T) {
	r := fileRig(t, "x: 1")
	r.resource("a", `{{getv "/x"}}`, "keys = [\"/x\"]\nreload_cmd = \"echo x >>$DIR/reloads\"")
	for range 3 {
		if err := r.once(); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Count(r.read("reloads"), "x"); got != 1 {
		t.Errorf("%d reloads, want 1", got)
	}
}

func TestRollbackGivesTheReaderBackWhatItCouldRead(t *testing.T) {
	r := fileRig(t, "x: good")
	r.resource("a", `{{getv "/x"}}`, `keys = ["/x"]
on_reload_failure = "rollback"
reload_cmd = "cp $DIR/a.out $DIR/tried; if grep -q bad $DIR/a.out; then exit 1; fi; cp $DIR/a.out $DIR/live"`)
	if err := r.once(); err != nil {
		t.Fatal(err)
	}
	r.write("keys.yaml", "x: bad")
	for range 2 {
		if err := r.once(); err == nil {
			t.Error("a failed reload is no error")
		}
		if r.read("a.out") != "good" || r.read("tried") != "good" {
			t.Errorf("file %q, last reloaded %q, want both good", r.read("a.out"), r.read("tried"))
		}
	}
	r.write("keys.yaml", "x: better")
	if err := r.once(); err != nil || r.read("live") != "better" {
		t.Errorf("live is %q: %v", r.read("live"), err)
	}
	if matches, _ := filepath.Glob(r.path(".a.out*")); len(matches) != 1 || matches[0] != r.path(".a.out.last-good") {
		t.Errorf("beside the file: %q, want the version to go back to", matches)
	}
}

func TestPrefixesAreStrippedFromWhatTemplatesSee(t *testing.T) {
	r := newRig(t, newClient(t, daemontest.Start(t, 1).URL()))
	r.set("/prod/app/x", "1")
	r.set("/prod/app2/x", "2")
	r.set("/test/app/x", "3")
	dump := `{{range gets "/*"}}{{.Key}} {{end}}{{range gets "/*/*"}}{{.Key}}={{.Value}} {{end}}{{range gets "/*/*/*"}}{{.Key}}={{.Value}} {{end}}`
	r.resource("own", dump, "prefix = \"/prod\"\nkeys = [\"/app\", \"/app\"]")
	r.resource("none", dump, `keys = ["/prod/app", "/test"]`)
	r.resource("all", dump, "prefix = \"prod/\"\nkeys = [\"/\"]")
	r.resource("leaf", dump, "prefix = \"/prod/app\"\nkeys = [\"x\"]")
	if err := r.once(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"own": "/app/x=1 ", "none": "/prod/app/x=1 /test/app/x=3 ", "all": "/app/x=1 /app2/x=2 ", "leaf": "/x ",
	} {
		if got := r.read(name + ".out"); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	r.cfg.Prefix = "/test"
	if err := r.once(); err != nil {
		t.Fatal(err)
	}
	if got := r.read("own.out"); got != "/app/x=3 " {
		t.Errorf("with a global prefix: %q", got)
	}
}

func TestTheEnvironmentIsATree(t *testing.T) {
	t.Setenv("KVTEST_APP_HOST", "h")
	t.Setenv("KVTEST_APP_2_PORT", "80")
	r := newRig(t, nil)
	r.cfg.Backend = keys.BackendEnv
	r.resource("a", `{{getv "/kvtest/app/host"}} {{getv "/kvtest/app/2/port"}}`, `keys = ["/kvtest_app"]`)
	r.start() // with Watch: renders once and then looks at every interval
	r.eventually("a.out", "h 80")
}

func TestKeyFilesAreFollowed(t *testing.T) {
	r := fileRig(t, "list: [a, {b: c}]\nnumber: 1.5\nbig: 1000000\nyes: true\nnothing:\n")
	r.write("keys.json", `{"more": {"x": "y"}}`)
	r.cfg.Files = append(r.cfg.Files, r.path("keys.json"))
	r.resource("a", `{{range gets "/*"}}{{.Key}}={{.Value}} {{end}}{{range gets "/*/*"}}{{.Key}}={{.Value}} {{end}}{{getv "/list/1/b"}}`, `keys = ["/"]`)
	r.start()
	r.eventually("a.out", "/big=1000000 /number=1.5 /yes=true /list/0=a /more/x=y c")
	r.write("keys.yaml", "list: [z, {b: d}]")
	r.eventually("a.out", "/list/0=z /more/x=y d")
	r.write("keys.yaml", "not: [valid")
	r.until("the bad file is reported", func() bool { return strings.Contains(r.log.String(), "cannot read the keys") })
	if got := r.read("a.out"); got != "/list/0=z /more/x=y d" {
		t.Errorf("a bad key file changed the output to %q", got)
	}
}

func TestWithoutWatchChangesAreSeenAtTheInterval(t *testing.T) {
	r := newRig(t, newClient(t, daemontest.Start(t, 1).URL()))
	r.cfg.Watch, r.cfg.Interval = false, 50*time.Millisecond
	r.resource("a", `{{getv "/x"}}`, `keys = ["/x"]`)
	r.set("/x", "1")
	r.start()
	r.eventually("a.out", "1")
	r.set("/x", "2")
	r.eventually("a.out", "2")
}

func TestHangupReadsTheConfigurationDirectoryAgain(t *testing.T) {
	r := fileRig(t, "x: 1")
	hangup := make(chan os.Signal, 1)
	r.deps.Hangup = hangup
	r.cfg.ConfDir = r.path("later") // does not exist yet
	r.start()
	r.until("the empty start is reported", func() bool { return strings.Contains(r.log.String(), "later does not exist") })
	r.resource("a", `{{getv "/x"}}`, `keys = ["/"]`)
	if err := os.Rename(r.path("conf"), r.path("later")); err != nil {
		t.Fatal(err)
	}
	hangup <- os.Interrupt // any signal on this channel
	r.eventually("a.out", "1")
}

func TestHangupHasWhatFailedTriedAtOnce(t *testing.T) {
	for _, failing := range []string{"check_cmd", "reload_cmd"} {
		t.Run(failing, func(t *testing.T) {
			hold(t, failing+` = "test -e $DIR/sound # {{.src}}"`, func(h *holding) {
				h.has(1)
				time.Sleep(time.Hour)
				synctest.Wait()
				if got := h.w.status("a").State; got != report.Failed {
					t.Fatalf("it is %s", got)
				}
				h.write("sound", "")
				h.g.poke(true, true)
				h.after(0, 1, report.Converged)
			})
		})
	}
}

func TestAHangupReachesWhatWasTakenBack(t *testing.T) {
	r := storeRig(t)
	hangup := make(chan os.Signal, 1)
	r.deps.Hangup = hangup
	r.resource("a", `{{getv "/x"}}`, `keys = ["/x"]
on_reload_failure = "rollback"
retry_max = "1h"
min_reload_interval = "1ms"
reload_cmd = "cat $DIR/a.out >>$DIR/tried; ! grep -q bad $DIR/a.out"`)
	r.set("/x", "good")
	r.start()
	r.eventually("tried", "good")
	r.set("/x", "bad")
	const tries = 9 // by themselves they come five seconds after one another at the soonest
	seen := 0
	r.until("each hangup brings about a try", func() bool {
		if now := strings.Count(r.read("tried"), "bad"); now > seen {
			seen = now
			select {
			case hangup <- syscall.SIGHUP:
			default:
			}
		}
		return seen >= tries
	})
}

// reluctant is a store that refuses /denied until it is told to permit it.
type reluctant struct {
	kv.Store
	permits atomic.Bool
}

func (r *reluctant) Read(ctx context.Context, read kv.Read) (kv.Result, error) {
	if slices.Contains(read.Only, "/denied") && !r.permits.Load() {
		return kv.Result{}, &kv.Error{Op: "get", Key: "/denied", Kind: kv.Denied}
	}
	return r.Store.Read(ctx, read)
}

func TestAHangupHasKeysThatWereRefusedAskedForAgain(t *testing.T) {
	r := storeRig(t)
	hangup := make(chan os.Signal, 1)
	store := &reluctant{Store: r.deps.Store}
	r.deps.Hangup, r.deps.Store = hangup, store
	r.resource("a", `{{getv "/x"}}`, `keys = ["/x"]`)
	r.resource("b", `{{getv "/denied"}}`, `keys = ["/denied"]`)
	r.set("/x", "1")
	r.set("/denied", "2")
	r.start()
	r.eventually("a.out", "1")
	r.until("it is told", func() bool { return strings.Contains(r.log.String(), "some keys may not be read") })
	store.permits.Store(true)
	hangup <- syscall.SIGHUP
	r.eventually("b.out", "2")
}

func TestAConfigurationDirectoryThatComesLaterIsFound(t *testing.T) {
	r := fileRig(t, "x: 1")
	r.resource("a", `{{getv "/x"}}`, `keys = ["/"]`)
	r.cfg.ConfDir = r.path("deep/er/later")
	r.start()
	r.until("the missing directory is reported", func() bool { return strings.Contains(r.log.String(), "later does not exist") })
	if err := os.MkdirAll(r.path("deep/er"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(r.path("conf"), r.cfg.ConfDir); err != nil {
		t.Fatal(err)
	}
	r.eventually("a.out", "1")
}

func TestBadSettingsAreRefused(t *testing.T) {
	good := Config{Backend: keys.BackendEtcd, Interval: time.Second}
	for want, spoil := range map[string]func(*Config){
		"does not have":             func(c *Config) { c.Backend = "consul" },
		`"x" is not known`:          func(c *Config) { c.Backend = "x" },
		"needs at least one --file": func(c *Config) { c.Backend = keys.BackendFile },
		"must be positive":          func(c *Config) { c.Interval = 0 },
		"not the shorter":           func(c *Config) { c.Quiet = time.Second },
	} {
		c := good
		spoil(&c)
		if err := Run(t.Context(), c, Deps{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	missing := good
	missing.ConfDir = t.TempDir()
	if err := Run(t.Context(), missing, Deps{Store: kv.Store(nil)}); err == nil || !strings.Contains(err.Error(), "conf.d is missing") {
		t.Errorf("a directory without conf.d: %v", err)
	}
	failing := good
	failing.SRV = "_etcd._tcp.example."
	lookup := func(string) ([]string, error) { return nil, errors.New("no such record") }
	if err := Run(t.Context(), failing, Deps{Lookup: lookup}); err == nil || !strings.Contains(err.Error(), "no such record") {
		t.Errorf("a failing SRV lookup: %v", err)
	}
}

func TestOnetimeGoesByTheOrderOfTheResourceFiles(t *testing.T) {
	r := fileRig(t, "x: 1")
	r.resource("1-site", "site", `reload_cmd = "echo both >> $DIR/reloads"`)
	r.resource("2-certificate", "certificate", "")
	r.resource("3-site", "site", "check_cmd = \"test -f $DIR/2-certificate.out\"\nreload_cmd = \"echo both >> $DIR/reloads\"")
	r.resource("4-after", "after", "check_cmd = \"test -f $DIR/reloads\"")
	if err := r.once(); err != nil {
		t.Error(err)
	}
	if got := r.read("reloads"); got != "both\n" {
		t.Errorf("the reader of two files was reloaded as %q, want once", got)
	}
}

func TestAKeptStageFileIsThereEvenIfNothingChanged(t *testing.T) {
	r := fileRig(t, "x: 1")
	r.resource("a", "text", "")
	r.write("a.out", "text")
	r.cfg.KeepStageFile = true
	if err := r.once(); err != nil {
		t.Fatal(err)
	}
	if staged, _ := filepath.Glob(r.path(".a.out.[0-9]*")); len(staged) != 1 {
		t.Errorf("staged files %q, want one", staged)
	}
}

func TestAStoppedAgentBeginsNoFurtherCheck(t *testing.T) {
	r := fileRig(t, "x: 1")
	for i := range 8 {
		r.resource(fmt.Sprint(i), "text", "check_cmd = \"echo >> $DIR/checks; until test -f $DIR/go; do sleep 0.01; done\"\nreload_cmd = \"true\"")
	}
	stop := r.start()
	r.until("the first check runs", func() bool { return r.exists("checks") })
	time.AfterFunc(100*time.Millisecond, func() { os.WriteFile(r.path("go"), nil, 0o600) })
	stop()
	if got := r.read("checks"); got != "\n" {
		t.Errorf("%d checks were run, want the one that ran already", len(got))
	}
}

func TestScalarsOfKeyFilesAreReadAsConfdReadsThem(t *testing.T) {
	r := fileRig(t, strings.Join([]string{
		"yes: &anchor {k: v}", "a: yes", "b: off", `c: "yes"`, "d: 2020-01-02", "e: 2001-12-14t21:59:43.10-05:00", "f: 0644", "g: 1.50",
		"h: ~", "i: ''", "j: [true, {n: 0x1F}]", "k: *anchor", "l:", "  <<: *anchor", "  m: 12345678901", "80: port", "n: |", "  on", "",
	}, "\n"))
	r.resource("a", `{{range gets "/*"}}{{base .Key}}={{.Value}} {{end}}{{range gets "/*/*"}}{{.Key}}={{.Value}} {{end}}{{getv "/j/1/n"}}`, `keys = ["/"]`)
	if err := r.once(); err != nil {
		t.Fatal(err)
	}
	want := "80=port a=true b=false c=yes d=2020-01-02 e=2001-12-14t21:59:43.10-05:00 f=420 g=1.5 i= n=on\n /j/0=true /k/k=v /l/k=v /l/m=12345678901 /yes/k=v 31"
	if got := r.read("a.out"); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestAMountedDirectoryOfKeyFilesIsRead(t *testing.T) {
	r := fileRig(t, "")
	if err := os.MkdirAll(r.path("mount/..2024"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.write("mount/..2024/a.yaml", "x: 1")
	for name, target := range map[string]string{"mount/..data": "..2024", "mount/a.yaml": "..data/a.yaml", "mount/dir": "..2024", "link": "mount"} {
		if err := os.Symlink(target, r.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	r.cfg.Files = []string{r.path("link")}
	r.resource("a", `{{getv "/x"}}`, `keys = ["/x"]`)
	if err := r.once(); err != nil || r.read("a.out") != "1" {
		t.Errorf("file %q, %v", r.read("a.out"), err)
	}
}

func TestKeysOfEnvironmentAndFilesStandForAllThatBeginLikeThem(t *testing.T) {
	t.Setenv("LOOSE_DB_HOST", "h")
	t.Setenv("LOOSELY", "near")
	t.Setenv("loosely", "small letters do not win")
	const template = `{{range gets "/*"}}{{.}}{{end}}{{range gets "/*/*"}}{{.}}{{end}}{{range gets "/*/*/*"}}{{.}}{{end}}`
	r := fileRig(t, "loose: {db: {host: h}}\nloosely: near\nother: far")
	r.resource("a", template, `keys = ["/loose"]`)
	for _, backend := range []string{keys.BackendFile, keys.BackendEnv} {
		r.cfg.Backend = backend
		if err := r.once(); err != nil {
			t.Fatal(err)
		}
		if got, want := r.read("a.out"), "{/loosely near}{/loose/db/host h}"; got != want {
			t.Errorf("%s: got %s, want %s", backend, got, want)
		}
	}
}

func TestHiddenKeysAreSeenOnlyByThoseWhoAskForThem(t *testing.T) {
	r := newRig(t, newClient(t, daemontest.Start(t, 1).URL()))
	r.set("/app/x", "open")
	r.set("/app/_secret/y", "hidden")
	const dump = `{{range gets "/*/*"}}{{.Value}} {{end}}{{range gets "/*/*/*"}}{{.Value}} {{end}}`
	r.resource("above", dump, `keys = ["/app"]`)
	r.resource("itself", dump, `keys = ["/app/_secret"]`)
	r.resource("both", dump, `keys = ["/app", "/app/_secret/y"]`)
	r.start()
	r.eventually("above.out", "open ")
	r.eventually("itself.out", "hidden ")
	r.eventually("both.out", "open hidden ")
	r.set("/app/_secret/y", "changed")
	r.set("/app/x", "1")
	r.eventually("itself.out", "changed ")
	r.eventually("both.out", "1 changed ")
	r.remove("/app")
	for _, name := range []string{"above.out", "itself.out", "both.out"} {
		r.eventually(name, "")
	}
}

func TestChangesInSubdirectoriesAndBehindLinksAreSeen(t *testing.T) {
	r := fileRig(t, "")
	for _, dir := range []string{"conf/conf.d/sub", "keys/sub", "elsewhere"} {
		if err := os.MkdirAll(r.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r.cfg.Files = []string{r.path("keys")}
	r.resource("a", "", `keys = ["/x"]`)
	for _, name := range []string{"conf/conf.d/a.toml", "conf/templates/a.tmpl"} {
		r.write("elsewhere/"+filepath.Base(name), strings.ReplaceAll(r.read(name), "a.out", "old.out"))
		if err := os.Remove(r.path(name)); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(r.path("elsewhere/"+filepath.Base(name)), r.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	r.start()
	r.until("the agent runs", func() bool { return r.exists("old.out") })
	r.write("keys/sub/x.yaml", "x: 1")
	r.write("elsewhere/a.tmpl", `{{getv "/x"}}`)
	r.eventually("old.out", "1")
	r.write("elsewhere/a.toml", strings.ReplaceAll(r.read("elsewhere/a.toml"), "old.out", "a.out"))
	r.eventually("a.out", "1")
	r.write("conf/conf.d/sub/b.toml", strings.ReplaceAll(r.read("elsewhere/a.toml"), "a.out", "b.out"))
	r.eventually("b.out", "1")
	r.write("keys/sub/x.yaml", "x: 2")
	r.eventually("b.out", "2")
}

func TestAFileOfAGroupThatStaysIsUpToDateWhenAnotherChanges(t *testing.T) {
	r := fileRig(t, "x: 1\ny: 1\n")
	group := "keys = [\"/\"]\nreload_group = \"g\"\ncheck_cmd = \"true {{.src}}\"\nreload_cmd = \"true\"\n"
	r.resource("a", `{{getv "/x"}}`, group)
	r.resource("b", `{{getv "/y"}}`, group)
	if err := r.once(); err != nil {
		t.Fatal(err)
	}
	r.write("keys.yaml", "x: 2\ny: 1\n")
	if err := r.once(); err != nil {
		t.Error(err)
	}
}

func TestCalledAsConfdAFileStaysWhenItsDirectoryIsRemovedAndFollowsWhenItIsBack(t *testing.T) {
	r := newRig(t, newClient(t, daemontest.Start(t, 1).URL()))
	r.cfg.Present = true
	r.resource("a", `{{range gets "/a/*"}}{{.Value}} {{end}}`, `keys = ["/a"]`)
	r.start()
	r.set("/a/x", "1")
	r.eventually("a.out", "1 ")
	if _, err := r.deps.Store.Write(t.Context(), kv.Write{Op: kv.OpDelete, Key: "/a", Dir: true, Recursive: true}); err != nil {
		t.Fatal(err)
	}
	r.until("the log says what is missing", func() bool { return strings.Contains(r.log.String(), "keys that are not in the store: /a") })
	if got := r.read("a.out"); got != "1 " {
		t.Errorf("the file is %q", got)
	}
	r.set("/a/y", "2")
	r.eventually("a.out", "2 ")
	if _, err := r.deps.Store.Write(t.Context(), kv.Write{Op: kv.OpDelete, Key: "/a/y"}); err != nil {
		t.Fatal(err)
	}
	r.eventually("a.out", "") // the directory is there
}
