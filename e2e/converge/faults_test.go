package converge

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/registry"
)

func TestBadFilesThatComeAndGoDisturbNoOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := newHAProxy(w, haproxyCheck, haproxyReload)
	w.resource("other", `other {{getv "/x" "none"}}`, `keys = ["/x"]`)
	one, two, three, four := startBackend(t, "one"), startBackend(t, "two"), startBackend(t, "three"), startBackend(t, "four")
	w.register("web", one)
	w.start()
	h.start()
	h.until("web", one)
	w.eventually("other.out", "other none")

	good := w.read("conf/templates/haproxy.tmpl")
	w.write("conf/conf.d/bad.toml", "[template\n")
	w.write("conf/conf.d/typo.toml", "[template]\nsrc = \"other.tmpl\"\ndest = \"/nowhere\"\nreload_command = \"true\"\n")
	w.write("conf/conf.d/missing.toml", fmt.Sprintf("[template]\nsrc = \"missing.tmpl\"\ndest = %q\n", w.path("missing.out")))
	w.untilSaid("bad.toml")
	w.untilSaid("typo.toml")
	w.untilSaid("missing.tmpl")
	w.register("web", two)
	h.until("web", one, two)

	w.write("conf/templates/haproxy.tmpl", `{{range}}`) // the version before stays at work
	w.untilSaid("missing value for range")
	w.register("web", three)
	h.until("web", one, two, three)

	w.write("conf/templates/haproxy.tmpl", good+"\nthis is no configuration {{len (gets \"/services/web/*\")}}\n") // it can be rendered, and is refused
	w.untilSaid("check_cmd refused")
	w.set("/x", "1")
	w.eventually("other.out", "other 1")
	h.until("web", one, two, three)

	w.write("conf/conf.d/haproxy.toml", "nothing = ")
	w.write("conf/templates/haproxy.tmpl", good)
	w.register("web", four)
	h.until("web", one, two, three, four) // with the settings as they were

	for _, name := range []string{"bad", "typo", "missing"} {
		w.remove("conf/conf.d/" + name + ".toml")
	}
	w.deregister("web", one)
	h.until("web", two, three, four)
}

func TestATemplateThatNeverEndsOrWritesAGigabyteFailsAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.resource("endless", `{{range seq 1 1000000}}{{range seq 1 1000000}}{{$.}}{{repeat 1000 "0123456789"}}{{end}}{{end}}`, `keys = ["/x"]`)
	w.resource("other", `{{getv "/x"}}`, `keys = ["/x"]`)
	w.set("/x", "1")
	w.start()
	w.eventually("other.out", "1")
	w.until("the failure is told", func() string {
		if !strings.Contains(w.log.String(), "endless") {
			return "it is not"
		}
		return ""
	})
	w.set("/x", "2")
	w.eventually("other.out", "2")
	if w.exists("endless.out") {
		t.Error("a part of the endless file was written")
	}
}

// strange are values that a store may hold and that mean something to somebody.
var strange = []string{
	"line one\nline two\n", "\n", "\"", "'", "\\", "`id`", "$(id)", "${HOME}", "{{getv \"/secret\"}}", "{{.}}", "}}", "{{", "#", ";", "} server {", "a\tb", "a\rb", "\x01\x1b[31m", "", " ", "%s%n", "ünïcode \u202e \ufeff",
	"<script>", "' ; touch $DIR/owned ; '", "\"; touch $DIR/owned; \"", "$(touch $DIR/owned)", "`touch $DIR/owned`", strings.Repeat("x", 70000),
}

func TestAnyKeyAndValueIsDataAndNothingElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.resource("a", `[{{getv "/value/1" "none"}}]`, `keys = ["/value"]
check_cmd = "test -s {{.src}}"
reload_cmd = "cp {{.dest}} $DIR/live"`)
	w.resource("values", `{{range gets "/value/*"}}{{.Value}}|{{end}}`, `keys = ["/value"]`)
	w.resource("keys", `{{range gets "/key/*"}}{{base .Key}}|{{end}}`, `keys = ["/key"]`)
	w.start()
	w.eventually("live", "[none]")
	var values, keys string
	for i, value := range strange {
		value = strings.ReplaceAll(value, "$DIR", w.dir)
		w.set(fmt.Sprintf("/value/%d", 100+i), value)
		values += value + "|"
	}
	for _, name := range []string{"$(id)", "'", "...", "a b", "{{.}}", "ü"} {
		w.set("/key/"+name, "")
		keys += name + "|"
	}
	w.eventually("values.out", values)
	w.eventually("keys.out", keys)
	for _, value := range []string{"{{getv \"/value/2\"}}", "$(touch " + w.path("owned") + ")", "'; touch " + w.path("owned") + "; '\n"} {
		w.set("/value/1", value)
		w.eventually("live", "["+value+"]")
	}
	if w.exists("owned") {
		t.Error("a value was executed")
	}
}

func TestRecordsWithStrangeTextsLeaveHAProxyValid(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := newHAProxy(w, haproxyCheck, haproxyReload)
	one, two := startBackend(t, "one"), startBackend(t, "two")
	w.register("web", one)
	w.start()
	h.start()
	h.until("web", one)
	for i, value := range strange {
		broken := registry.Record{Service: "web", Instance: fmt.Sprintf("s%d", i), Address: value, Port: 80, Protocol: "tcp", State: registry.StateUp, Host: value, Tags: []string{value}}
		text, err := json.Marshal(broken)
		if err != nil {
			t.Fatal(err)
		}
		w.set(fmt.Sprintf("/services/web/s%d", i), string(text))
		w.set(fmt.Sprintf("/services/web/raw%d", i), value)
	}
	w.register("other", two)
	h.until("other", two)
	h.until("web", one)
	if strings.Contains(w.log.String(), "check_cmd refused") {
		t.Error("a record made a file that HAProxy refuses")
	}
}

// garbage are answers that no store gives.
var garbage = []func(rw http.ResponseWriter){
	func(rw http.ResponseWriter) { fmt.Fprint(rw, "<html>It works!</html>") },
	func(rw http.ResponseWriter) { fmt.Fprint(rw, `{"action":"get","node":{"key":"/x","value":"forged`) },
	func(rw http.ResponseWriter) { fmt.Fprint(rw, `{"action":"get","node":["forged"]}`) },
	func(rw http.ResponseWriter) { fmt.Fprint(rw, `{}`) },
	func(rw http.ResponseWriter) {},
	func(rw http.ResponseWriter) { rw.WriteHeader(http.StatusNoContent) },
	func(rw http.ResponseWriter) { http.Error(rw, "forged", http.StatusBadGateway) },
	func(rw http.ResponseWriter) {
		http.Error(rw, `{"errorCode":100,"message":"Key not found"}`, http.StatusOK)
	},
	func(rw http.ResponseWriter) { http.Error(rw, "Not Found", http.StatusNotFound) },
	func(rw http.ResponseWriter) { rw.Write([]byte(strings.Repeat("\x00", 1<<20))) },
	func(rw http.ResponseWriter) { panic(http.ErrAbortHandler) },
	func(rw http.ResponseWriter) { rw.Header().Set("Content-Length", "1000"); fmt.Fprint(rw, `{"action":`) },
}

func TestAStoreThatAnswersGarbageChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.resource("a", `{{range gets "/x/*"}}{{base .Key}}={{.Value}} {{end}}`, `keys = ["/x"]`)
	w.set("/x/a", "1")
	w.start()
	w.eventually("a.out", "a=1 ")
	asked := make(chan struct{}, 1000)
	for i, answer := range garbage {
		fake := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			select {
			case asked <- struct{}{}:
			default:
			}
			answer(rw)
		}))
		w.way.Lead(fake.Listener.Addr().String())
		<-asked
		<-asked // it has not taken the first answer for one
		fake.CloseClientConnections()
		w.way.Lead(w.store.address)
		fake.Close()
		if got := w.read("a.out"); got != fmt.Sprintf("a=%d ", i+1) {
			t.Fatalf("after answer %d the file is %q", i, got)
		}
		w.set("/x/a", fmt.Sprint(i+2))
		w.eventually("a.out", fmt.Sprintf("a=%d ", i+2))
		for len(asked) > 0 {
			<-asked
		}
	}
}

// inside runs kvconfd in a mount namespace of its own, after a line of shell. Files are then read
// where that namespace shows them.
func (w *world) startInside(prepare string) (read func(name string) string) {
	w.t.Helper()
	parts.Need(w.t, "mountns")
	args := append([]string{parts.Path(w.t, "unshare"), "--mount", "sh", "-c", "set -e; " + prepare + `; exec "$0" "$@"`, filepath.Join(parts.Build(w.t), "kvconfd")}, w.arguments()...)
	w.agent = launch(w.t, w.log, w.env, args...)
	return func(name string) string {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/root%s", w.agent.cmd.Process.Pid, w.path(name)))
		return string(data)
	}
}

func TestAFullDiskKeepsTheFileAndHeals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := os.Mkdir(w.path("small"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.resource("a", `{{getv "/x"}}`, "")
	w.toml("a", w.path("small/a.out"), `keys = ["/x"]`)
	w.resource("b", `{{getv "/x" | len}}`, `keys = ["/x"]`)
	w.set("/x", "1")
	read := w.startInside("mount -t tmpfs -o size=16k tmpfs $DIR/small")
	has := func(content string) {
		t.Helper()
		w.until("the file has its content", func() string {
			if got := read("small/a.out"); got != content {
				return fmt.Sprintf("it is %.40q", got)
			}
			return ""
		})
	}
	has("1")
	w.set("/x", strings.Repeat("x", 100000))
	w.untilSaid("no space left on device")
	w.eventually("b.out", "100000")
	has("1")
	w.set("/x", "2")
	has("2")
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/root%s", w.agent.cmd.Process.Pid, w.path("small")))
	if len(entries) != 1 {
		t.Errorf("in the small directory there are %v", entries)
	}
}

func TestAReadOnlyDirectoryIsReportedAndOthersGoOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := os.Mkdir(w.path("fixed"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.write("fixed/a.out", "old")
	w.resource("a", `{{getv "/x"}}`, "")
	w.toml("a", w.path("fixed/a.out"), "keys = [\"/x\"]\nreload_cmd = \"touch $DIR/reloaded\"")
	w.resource("b", `{{getv "/x"}}`, `keys = ["/x"]`)
	w.set("/x", "1")
	read := w.startInside("mount --bind $DIR/fixed $DIR/fixed; mount -o remount,bind,ro $DIR/fixed")
	w.eventually("b.out", "1")
	w.untilSaid("read-only file system")
	w.set("/x", "2")
	w.eventually("b.out", "2")
	if got := read("fixed/a.out"); got != "old" || w.exists("reloaded") {
		t.Errorf("the file is %q, reloaded %v", got, w.exists("reloaded"))
	}
}

func TestAMountedFileIsWrittenInPlace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("outside", "old")
	w.write("a.out", "")
	w.resource("a", `{{getv "/x"}}`, `keys = ["/x"]
reload_cmd = "cp $DIR/a.out $DIR/live"`)
	w.set("/x", "1")
	w.startInside("mount --bind $DIR/outside $DIR/a.out")
	w.eventually("live", "1")
	w.eventually("outside", "1")
	w.set("/x", "2")
	w.eventually("live", "2")
	w.eventually("outside", "2")
	w.settled()
}

func TestAMountedFileIsTakenBackInPlace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("outside", "old")
	w.write("a.out", "")
	w.resource("a", `{{getv "/x"}}`, `keys = ["/x"]
check_cmd = "! grep -q bad $DIR/a.out"
reload_cmd = "cat $DIR/a.out >>$DIR/live"`)
	w.set("/x", "bad")
	w.startInside("mount --bind $DIR/outside $DIR/a.out")
	w.untilSaid("rolled back to the version before")
	w.eventually("outside", "old")
	w.settled()
	w.set("/x", "2")
	w.eventually("live", "2")
	w.eventually("outside", "2")
	w.settled()
}

func TestALinkAtTheDestinationIsReplacedAndItsTargetIsLeftAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("elsewhere", "not to be touched")
	if err := os.Symlink("elsewhere", w.path("a.out")); err != nil {
		t.Fatal(err)
	}
	w.resource("a", `{{getv "/x"}}`, `keys = ["/x"]`)
	w.set("/x", "1")
	w.start()
	w.eventually("a.out", "1")
	if got := w.read("elsewhere"); got != "not to be touched" {
		t.Errorf("the target of the link is %q", got)
	}
	if info, err := os.Lstat(w.path("a.out")); err != nil || !info.Mode().IsRegular() {
		t.Errorf("the destination is %v, %v", info.Mode(), err)
	}
}

func TestModesAreWhatTheySayAndOwnersAreHonoured(t *testing.T) {
	t.Parallel()
	parts.Need(t, "root")
	w := newWorld(t)
	w.resource("decimal", "x", `mode = "644"`)
	w.resource("octal", "x", `mode = "0640"`+"\nowner = \"nobody\"\ngroup = \"daemon\"")
	if code := w.once(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	for name, want := range map[string]struct {
		mode     os.FileMode
		uid, gid uint32
	}{"decimal.out": {0o1204 & 0o777, 0, 0}, "octal.out": {0o640, 65534, 1}} {
		info, err := os.Stat(w.path(name))
		if err != nil {
			t.Fatal(err)
		}
		owner := info.Sys().(*syscall.Stat_t)
		if info.Mode().Perm() != want.mode || owner.Uid != want.uid || owner.Gid != want.gid {
			t.Errorf("%s has mode %v and belongs to %d:%d, want %v", name, info.Mode(), owner.Uid, owner.Gid, want)
		}
	}
	if !strings.Contains(w.log.String(), "644") {
		t.Error("nobody was warned of the decimal mode")
	}
}

func TestAFlagWinsOverTheEnvironmentAndTheFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.resource("a", `{{getv "/x"}}`, `keys = ["/x"]`)
	for _, prefix := range []string{"flag", "environment", "file"} {
		w.set("/"+prefix+"/x", prefix)
	}
	w.write("confd.toml", "prefix = \"/file\"\n")
	w.flags = []string{"-config-file", w.path("confd.toml")}
	env, flags := w.env, w.flags
	for _, want := range []string{"file", "environment", "flag"} {
		switch want {
		case "environment":
			w.env = append(env, "CONFD_PREFIX=/environment")
		case "flag":
			w.flags = append(flags, "-prefix", "/flag")
		}
		if code := w.once(); code != 0 || w.read("a.out") != want {
			t.Errorf("exit code %d, the file says %q, want %q", code, w.read("a.out"), want)
		}
	}
}

func TestAMountedConfigMapIsLoadedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := os.Mkdir(w.path("conf/conf.d/..2026"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.write("conf/templates/a.tmpl", `{{getv "/x"}}`)
	w.write("conf/conf.d/..2026/a.toml", fmt.Sprintf("[template]\nsrc = \"a.tmpl\"\ndest = %q\nkeys = [\"/x\"]\nreload_cmd = \"echo x >>%s\"\n", w.path("a.out"), w.path("reloads")))
	for link, target := range map[string]string{"..data": "..2026", "a.toml": "..data/a.toml"} {
		if err := os.Symlink(target, w.path("conf/conf.d/"+link)); err != nil {
			t.Fatal(err)
		}
	}
	w.set("/x", "1")
	if code := w.once(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if w.read("a.out") != "1" || w.read("reloads") != "x\n" {
		t.Errorf("the file is %q, reloads %q", w.read("a.out"), w.read("reloads"))
	}
}

func TestAPasswordOfTheStoreIsInNothingThatIsPrinted(t *testing.T) {
	t.Parallel()
	const password = "correct horse battery"
	w := newWorld(t)
	w.resource("a", `{{getv "/x"}}`, `keys = ["/x"]`)
	w.flags = []string{"-username", "root", "-password", password, "-log-level", "debug"}
	w.set("/x", "1")
	w.start()
	w.eventually("a.out", "1")
	w.store.run.kill()
	w.once()
	w.store.start()
	w.set("/x", "2")
	w.eventually("a.out", "2")
	w.agent.kill()
	w.flags = append(w.flags, "-node", "http://"+net.JoinHostPort("127.0.0.1", "1"))
	w.once()
	w.flags = append(w.flags, "-print-config")
	w.once()
	if strings.Contains(w.log.String(), password) {
		t.Error("the password was printed")
	}
	if strings.Contains(w.published(), password) {
		t.Error("the password was published")
	}
}

// published is everything that kvconfd has written to the store.
func (w *world) published() string {
	w.t.Helper()
	result, err := w.store.client.Read(w.t.Context(), kv.Read{Key: "/_agents", Recursive: true})
	if err != nil && !kv.Is(err, kv.NotFound) {
		w.t.Fatal(err)
	}
	text, err := json.Marshal(result.Node)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(text)
}
