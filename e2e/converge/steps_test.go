package converge

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/confd"
	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// killedAt, in the environment, makes this binary a kvconfd that kills itself right before a step of
// a target: "target step". It follows killedNode with the directory killedDir.
const (
	killedAt   = "KVD_CONVERGE_KILLED_AT"
	killedNode = "KVD_CONVERGE_NODE"
	killedDir  = "KVD_CONVERGE_CONFDIR"
)

func TestMain(m *testing.M) {
	if at := os.Getenv(killedAt); at != "" {
		runUntil(at)
	}
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil { // worlds wait more than they work
		panic(err)
	}
	os.Exit(m.Run())
}

// runUntil is kvconfd, until it comes to the step.
func runUntil(at string) {
	cfg := confd.Config{ConfDir: os.Getenv(killedDir), Backend: "etcd", Client: kvclient.Config{Endpoints: []string{os.Getenv(killedNode)}},
		Watch: true, Interval: time.Minute, Quiet: confd.DefaultQuiet, QuietMax: confd.DefaultQuietMax}
	deps := confd.Deps{Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Step: func(target, step string) {
		if target+" "+step == at {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // the signal is on its way
		}
	}}
	fmt.Fprintln(os.Stderr, "kvconfd ended:", confd.Run(context.Background(), cfg, deps))
	os.Exit(1)
}

// killAt runs kvconfd until it comes to a step, where it is killed. It returns false if it does not
// come there, because there is nothing more to do.
func (w *world) killAt(target, step string, done func() bool) bool {
	w.t.Helper()
	env := append(slices.Clone(w.env), killedAt+"="+target+" "+step, killedNode+"="+w.way.URL(), killedDir+"="+w.path("conf"))
	self, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	run := launch(w.t, w.log, env, self)
	defer run.kill()
	killed := false
	w.until("kvconfd comes to the step "+step, func() string {
		select {
		case <-run.ended:
			killed = true
			return ""
		default:
		}
		if done() {
			return ""
		}
		return "it does not"
	})
	if killed {
		if status, ok := run.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
			w.t.Fatalf("at %s kvconfd ended with %v", step, run.cmd.ProcessState)
		}
	}
	return killed
}

// steps are those of a change that takes a reload, in order.
var steps = []string{"render", "check", "owe", "write", "reload", "confirm", "paid"}

func TestKillingKvconfdBetweenAnyTwoStepsLosesNoChange(t *testing.T) {
	t.Parallel()
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			h := newHAProxy(w, haproxyCheck, haproxyReload, "[haproxy]\nsocket = \"$DIR/admin.sock\"")
			one, two, three := startBackend(t, "one"), startBackend(t, "two"), startBackend(t, "three")
			w.register("web", one)
			w.start()
			h.start()
			h.until("web", one)
			w.settled()
			w.agent.kill()

			w.register("fresh", two) // a backend that HAProxy does not have takes a reload
			if !w.killAt("haproxy", step, func() bool { return false }) {
				t.Fatalf("kvconfd never came to %s", step)
			}
			if answers := h.serves("web", 3); answers["one"] != 3 {
				t.Errorf("after a death at %s HAProxy answers %v", step, answers)
			}
			w.start()
			h.until("fresh", two)
			h.until("web", one)
			w.paid()
			w.register("web", three)
			h.until("web", one, three)
			w.paid()
			if code := w.noop(); code != "" {
				t.Error(code)
			}
		})
	}
}

func TestKillingKvconfdWhileARefusedFileIsInPlaceLeavesHAProxyAsItWas(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"owe", "write", "check", "rollback"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			h := newHAProxy(w, `check_cmd = "haproxy -c -f $DIR/haproxy.cfg"`, haproxyReload)
			one, two := startBackend(t, "one"), startBackend(t, "two")
			w.register("web", one)
			w.start()
			h.start()
			h.until("web", one)
			w.settled()
			w.agent.kill()

			template, file := w.read("conf/templates/haproxy.tmpl"), w.read("haproxy.cfg")
			w.write("conf/templates/haproxy.tmpl", template+"\nthis is no configuration\n")
			if !w.killAt("haproxy", step, func() bool { return false }) {
				t.Fatalf("kvconfd never came to %s", step)
			}
			w.start()
			w.untilSaid("rolled back to the version before")
			w.paid()
			if got := w.read("haproxy.cfg"); got != file {
				t.Errorf("after a death at %s the file is %s", step, got)
			}
			h.until("web", one)
			w.write("conf/templates/haproxy.tmpl", template)
			w.register("web", two)
			h.until("web", one, two)
			w.paid()
		})
	}
}

func TestKillingKvconfdBetweenAnyTwoStepsOfARuntimeChangeLosesNothing(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"render", "apply", "check", "write", "confirm"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			h := newHAProxy(w, haproxyCheck, haproxyReload, "[haproxy]\nsocket = \"$DIR/admin.sock\"")
			one, two := startBackend(t, "one"), startBackend(t, "two")
			w.register("web", one)
			w.start()
			h.start()
			h.until("web", one)
			w.register("web", two)
			h.until("web", one, two)
			w.settled()
			w.agent.kill()

			w.deregister("web", one)
			w.killAt("haproxy", step, func() bool {
				running, err := h.running()
				return err == nil && len(running["web"]) == 1 && !w.exists(".haproxy.cfg.reload-pending") && !strings.Contains(w.read("haproxy.cfg"), " "+one.address)
			})
			w.start()
			h.until("web", two)
			w.until("the file says so", func() string {
				if strings.Contains(w.read("haproxy.cfg"), " "+one.address) {
					return "it does not"
				}
				return ""
			})
			w.paid()
		})
	}
}

func TestKillingKvconfdBetweenAnyTwoStepsWithNginxInTwoFiles(t *testing.T) {
	t.Parallel()
	parts.Need(t, "nginx")
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			n := newNginx(w, "", "")
			n.site("a", `location = /a { return 200 "a {{getv "/x" "none"}}"; }`)
			n.site("b", `location = /b { return 200 "b {{getv "/x" "none"}}"; }`)
			w.start()
			n.start()
			n.until("/b", "b none")
			w.settled("sites")
			w.agent.kill()
			for i, target := range []string{"a", "b"} {
				value := fmt.Sprint(i)
				w.set("/x", value)
				served := func() bool { // reload, confirm and paid are told of one of the two only
					return w.read("sites/a.conf") != "" && strings.Contains(w.read("sites/b.conf"), "b "+value) && !w.exists("sites/.b.conf.reload-pending") && !w.exists("sites/.a.conf.reload-pending")
				}
				w.killAt(target, step, served)
				w.start()
				n.until("/a", "a "+value)
				n.until("/b", "b "+value)
				w.paid("sites")
				w.agent.kill()
			}
		})
	}
}

// noop has a kvconfd of its own say whether the files are what the store says.
func (w *world) noop() string {
	w.t.Helper()
	before := len(w.log.String())
	flags := w.flags
	w.flags = append(slices.Clone(flags), "-noop")
	defer func() { w.flags = flags }()
	if code := w.once(); code != 0 {
		return fmt.Sprintf("kvconfd -onetime -noop ends with %d", code)
	}
	if strings.Contains(w.log.String()[before:], "noop: ") {
		return "kvconfd -onetime -noop would change a file"
	}
	return ""
}
