package converge

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/link"
	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/kv"
)

// command runs a command of kvconfd beside the one that runs, and returns what it prints.
func (w *world) command(name string, args ...string) string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(parts.Build(w.t), "kvconfd"), append([]string{name}, args...)...)
	cmd.Env = append(w.env, "KVCONFD_CONFDIR="+w.path("conf"), "KVCONFD_ENDPOINTS="+w.way.URL())
	output, _ := cmd.CombinedOutput() // what it prints is what matters here
	return string(output)
}

func TestASecretIsInNoMessage(t *testing.T) {
	t.Parallel()
	const secret = "hunter2hunter2"
	w := newWorld(t)
	settings := "keys = [\"/secret\"]\nsensitive = true\n"
	w.resource("good", `{{getv "/secret/x"}}`, settings)
	w.resource("number", `{{atoi (getv "/secret/x")}}`, settings)
	w.resource("json", `{{json (getv "/secret/x")}}`, settings)
	w.resource("decoded", `{{base64Decode (getv "/secret/x")}}`, settings)
	w.resource("path", `{{getv (printf "/%s" (getv "/secret/x"))}}`, settings)
	w.resource("format", `{"key": {{getv "/secret/x"}}}`, settings+`output_format = "json"`)
	w.resource("check", `{{getv "/secret/x"}}`, settings+`check_cmd = "cat {{.src}}; cat {{.src}} >&2; exit 1"`)
	w.resource("reload", `{{getv "/secret/x"}}`, settings+`reload_cmd = "cat {{.dest}}; cat {{.dest}} >&2; exit 1"`)
	w.resource("confirm", `{{getv "/secret/x"}}`, settings+"reload_cmd = \"cat {{.dest}}\"\nconfirm_cmd = \"cat {{.dest}}; exit 1\"\nconfirm_cmd_timeout = \"1s\"")
	w.set("/secret/x", secret)
	w.flags = []string{"-log-level", "debug"}
	w.start()
	w.eventually("good.out", secret)
	w.untilSaid("confirm")
	w.until("all that fails has failed", func() string {
		status := w.command("status")
		for _, name := range []string{"number", "json", "decoded", "path", "format", "check", "reload"} {
			if !strings.Contains(status, name) {
				return name + " is not there: " + status
			}
		}
		return ""
	})
	w.until("the first failure of each is told", func() string {
		for _, name := range []string{"number", "json", "decoded", "path", "format", "check", "reload"} {
			if !strings.Contains(w.log.String(), "resource="+name) {
				return name + " is not in the log"
			}
		}
		return ""
	})
	w.set("/secret/x", secret+"2")
	w.eventually("good.out", secret+"2")
	w.remove("good.out")
	said := map[string]string{
		"the log": w.log.String(), "status": w.command("status"), "diff": w.command("diff"), "check": w.command("check"),
		"explain": w.command("explain", w.path("reload.out")+":1"), "what was published": w.published(),
	}
	for where, text := range said {
		if i := strings.Index(text, secret); i >= 0 {
			t.Errorf("the secret is in %s: %s", where, text[max(0, i-300):min(len(text), i+100)])
		}
	}
	if info, err := os.Stat(w.path("reload.out")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file of a secret: %v, %v", info, err)
	}
}

func TestServersComeAndGoWithoutAReloadAndTheFileSaysSo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := newHAProxy(w, haproxyCheck, haproxyReload, "[haproxy]\nsocket = \"$DIR/admin.sock\"")
	one, two, three, other := startBackend(t, "one"), startBackend(t, "two"), startBackend(t, "three"), startBackend(t, "other")
	w.register("web", one)
	w.start()
	h.start()
	h.until("web", one)
	worker := func() string {
		answer, _ := h.ask("show info")
		for line := range strings.Lines(answer) {
			if pid, ok := strings.CutPrefix(line, "Pid: "); ok {
				return strings.TrimSpace(pid)
			}
		}
		return ""
	}
	inFile := func(want ...*backend) {
		t.Helper()
		w.until("the file has the servers", func() string {
			file := w.read("haproxy.cfg")
			for _, b := range []*backend{one, two, three} {
				wanted := false
				for _, other := range want {
					wanted = wanted || other == b
				}
				if strings.Contains(file, " "+b.address) != wanted {
					return fmt.Sprintf("%s is there: %v", b.name, !wanted)
				}
			}
			return ""
		})
	}
	before := worker()
	w.register("web", two)
	h.until("web", one, two)
	inFile(one, two)
	w.register("web", three)
	w.deregister("web", one)
	h.until("web", two, three)
	inFile(two, three)
	if answers := h.serves("web", 6); answers["two"]+answers["three"] != 6 {
		t.Errorf("HAProxy answers %v", answers)
	}
	if after := worker(); after != before || before == "" {
		t.Errorf("the worker was %q and is %q", before, after)
	}
	w.register("fresh", other) // this takes one
	h.until("fresh", other)
	h.until("web", two, three)
	if after := worker(); after == before {
		t.Error("the worker is the same after a reload")
	}
	w.settled()
	h.run.killAll() // who starts again reads the file
	w.remove("haproxy.pid")
	h.start()
	h.until("web", two, three)
	h.until("fresh", other)
}

func TestAReloadThatSaysItSucceededAndDidNothingIsNoticed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := newHAProxy(w, haproxyCheck, `reload_cmd = "echo x >>$DIR/reloads; if test -e $DIR/lost; then rm $DIR/lost; exit 0; fi; sh $DIR/reload.sh"`, "[haproxy]\nsocket = \"$DIR/admin.sock\"")
	one, two := startBackend(t, "one"), startBackend(t, "two")
	w.register("web", one)
	w.start()
	h.start()
	h.until("web", one)
	w.settled()
	w.write("lost", "")
	w.register("fresh", two)
	h.until("fresh", two)
	w.settled()
	if w.exists("lost") {
		t.Error("no reload was lost")
	}
}

func TestAStartWithoutAStoreGoesByTheLastSnapshotAndCatchesUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.resource("a", `{{range gets "/x/*"}}{{base .Key}}={{.Value}} {{end}}`, `keys = ["/x"]`)
	w.set("/x/kept", "1")
	w.set("/x/removed", "1")
	w.start()
	w.eventually("a.out", "kept=1 removed=1 ")
	w.until("the snapshot is on disk", func() string {
		entries, _ := os.ReadDir(w.path("state"))
		for _, entry := range entries {
			if strings.HasPrefix(entry.Name(), "keys-") && strings.Contains(w.read("state/"+entry.Name()), "/x/removed") { // others are staged
				if info, err := entry.Info(); err == nil && info.Mode().Perm()&0o077 != 0 {
					return fmt.Sprintf("others may read it: %v", info.Mode())
				}
				return ""
			}
		}
		return "it is not"
	})
	w.agent.kill()
	w.remove("a.out")
	for _, how := range []link.State{link.Refused, link.Stalled} {
		w.way.Set(how)
		w.start()
		w.eventually("a.out", "kept=1 removed=1 ")
		w.agent.kill()
		w.remove("a.out")
	}
	w.start()
	w.eventually("a.out", "kept=1 removed=1 ")
	w.delete("/x/removed")
	w.set("/x/new", "1")
	w.way.Set(link.Open)
	w.eventually("a.out", "kept=1 new=1 ")
}

func TestAVersionWhoseReloadFailsIsRolledBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := newNginx(w, `if grep -q bad $DIR/sites/a.conf; then exit 1; fi; `, "")
	n.site("a", `location = /a { return 200 "a {{getv "/x"}}"; }`)
	w.write("conf/conf.d/a.toml", w.read("conf/conf.d/a.toml")+"\non_reload_failure = \"rollback\"\n")
	w.set("/x", "1")
	w.start()
	n.start()
	n.until("/a", "a 1")
	w.settled("sites")
	w.set("/x", "bad")
	w.untilSaid("rolled back")
	w.until("the file is the one before", func() string {
		if got := w.read("sites/a.conf"); !strings.Contains(got, `"a 1"`) {
			return got
		}
		return ""
	})
	n.until("/a", "a 1")
	w.agent.kill()
	w.start()
	w.set("/x", "2")
	n.until("/a", "a 2")
	w.paid("sites")
}

func TestKeysThatExpireAtOnceAreHeldAndReleased(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := newHAProxy(w, haproxyCheck, haproxyReload, "max_expired_percent = 1", `expiry_grace = "forever"`, "max_shrink_percent = 60", `shrink_grace = "forever"`)
	var all []*backend
	for i := range 4 {
		all = append(all, startBackend(t, fmt.Sprint("b", i)))
	}
	w.register("web", all...)
	w.start()
	h.start()
	h.until("web", all...)
	for _, b := range all { // nobody keeps them alive from now on
		w.store.must(kv.Write{Op: kv.OpSet, Key: "/services/web/" + b.name, Value: recordOf("web", b), TTL: time.Second})
	}
	w.until("all records have expired", func() string {
		result, err := w.store.client.Read(t.Context(), kv.Read{Key: "/services/web"})
		if err == nil && len(result.Node.Nodes) > 0 {
			return "there are some"
		}
		return ""
	})
	w.untilSaid("held")
	h.until("web", all...)
	if answers := h.serves("web", 8); len(answers) != 4 {
		t.Errorf("HAProxy answers %v", answers)
	}
	w.register("web", all...) // whoever kept them alive is back
	w.until("nothing is held", func() string {
		if status := w.command("status"); strings.Contains(status, "held") {
			return status
		}
		return ""
	})
	h.until("web", all...)
	w.deregister("web", all[0])
	h.until("web", all[1:]...)
	w.delete("/services/web")
	w.until("the shrinking is held", func() string {
		if status := w.command("status"); !strings.Contains(status, "held") {
			return status
		}
		return ""
	})
	h.until("web", all[1:]...)
	w.command("release", "haproxy")
	h.until("web")
}

func TestFilesOfAGroupAreCheckedTogether(t *testing.T) {
	t.Parallel()
	parts.Need(t, "haproxy")
	w := newWorld(t)
	w.env = append(w.env, "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	address := freeAddress(t)
	group := "keys = [\"/x\"]\nreload_group = \"haproxy\"\n"
	// HAProxy refuses a configuration whose map is not there.
	w.resource("config", `global
    stats socket `+w.path("admin.sock")+` mode 600 level admin expose-fd listeners
defaults
    mode http
    timeout connect 1s
    timeout client 10s
    timeout server 10s
frontend web
    bind `+address+`
    http-request return status 200 content-type text/plain lf-string "{{getv "/x"}} %[path,map(`+w.path("map.out")+`,none)]"
{{if contains (getv "/x") "broken"}}no configuration{{end}}
`, group+`check_cmd = ["haproxy", "-c", "-f", "{{.dir}}$DIR/config.out"]
reload_cmd = "echo x >>$DIR/reloads; sh $DIR/reload.sh"`)
	w.write("reload.sh", reloadScript)
	w.resource("map", `{{range $name, $_ := split (getv "/x") ","}}{{if ne . "broken"}}/{{.}} mapped-{{.}}{{end}}
{{end}}`, group)
	w.set("/x", "a")
	w.start()
	h := &haproxy{w: w, address: address}
	w.until("both files are there", func() string {
		if !w.exists("config.out") || !w.exists("map.out") {
			return "they are not"
		}
		return ""
	})
	h.run = launchHAProxy(h, "config.out")
	answers := func(path, want string) {
		t.Helper()
		client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		w.until("HAProxy answers "+want, func() string {
			got, err := get(&client, "http://"+address+path)
			if err != nil || got != want {
				return fmt.Sprintf("it answers %q, %v", got, err)
			}
			return ""
		})
	}
	answers("/a", "a mapped-a")
	w.set("/x", "a,b")
	answers("/b", "a,b mapped-b")
	before := strings.Count(w.read("reloads"), "x")
	w.set("/x", "b,c")
	answers("/c", "b,c mapped-c")
	w.settled()
	if reloads := strings.Count(w.read("reloads"), "x") - before; reloads != 1 {
		t.Errorf("%d reloads for one change of two files", reloads)
	}
	good := w.read("config.out") + w.read("map.out")
	w.set("/x", "broken,d")
	w.untilSaid("check_cmd refused")
	if got := w.read("config.out") + w.read("map.out"); got != good {
		t.Errorf("a part of a refused group was installed: %s", got)
	}
	w.set("/x", "e")
	answers("/e", "e mapped-e")
}

func TestAFileForEachKeyComesAndGoesWithIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := newNginx(w, "", "")
	w.write("conf/templates/site.tmpl", `location = /{{.Name}} { return 200 "{{.Name}} {{.Value}}"; }`)
	w.write("conf/conf.d/site.toml", fmt.Sprintf(`[template]
src = "site.tmpl"
dest = "%s/sites/{{.Name}}.conf"
for_each = "/sites/*"
check_dirs = ["%[1]s/sites"]
check_cmd = "sed s,%[1]s/sites,{{.dir}}%[1]s/sites, %[1]s/nginx.conf >{{.dir}}/nginx.conf && nginx -t -q -c {{.dir}}/nginx.conf"
reload_cmd = %q
`, w.dir, n.reload))
	w.write("sites/mine.conf", `location = /mine { return 200 "mine"; }`)
	w.set("/sites/a", "1")
	w.start()
	w.until("the file is there", func() string {
		if !w.exists("sites/a.conf") {
			return "it is not"
		}
		return ""
	})
	n.start()
	n.until("/a", "a 1")
	w.set("/sites/b", "1")
	w.set("/sites/a b;", "1")
	w.set("/sites/$(touch owned)", "1")
	n.until("/b", "b 1")
	w.set("/sites/a", "2")
	n.until("/a", "a 2")
	w.store.must(kv.Write{Op: kv.OpDelete, Key: "/sites/a"})
	w.until("the file is gone", func() string {
		if w.exists("sites/a.conf") {
			return "it is there"
		}
		return ""
	})
	n.until("/b", "b 1")
	n.until("/mine", "mine")
	w.agent.kill()
	w.store.must(kv.Write{Op: kv.OpDelete, Key: "/sites/b"}) // what goes while nobody looks is not forgotten
	w.start()
	w.until("the file is gone", func() string {
		if w.exists("sites/b.conf") {
			return "it is there"
		}
		return ""
	})
	if !w.exists("sites/mine.conf") {
		t.Error("a file that kvconfd has not made was removed")
	}
}
