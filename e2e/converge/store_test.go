package converge

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/link"
	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/kv"
)

func TestAStoreThatHangsWhileItIsReadLosesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.resource("a", `{{getv "/x" "none"}}`, `keys = ["/x"]`)
	w.set("/x", "1")
	w.way.Set(link.Stalled)
	w.start()
	w.untilAsked() // the first reading hangs
	w.set("/x", "2")
	w.way.Set(link.Refused)
	w.way.Set(link.Open)
	w.eventually("a.out", "2")

	w.way.Set(link.Stalled)
	w.set("/x", "3") // its event does not get through
	w.way.Set(link.Refused)
	w.way.Set(link.Stalled)
	w.untilAsked() // what resumes the watch hangs too
	w.set("/x", "4")
	w.way.Set(link.Refused)
	w.way.Set(link.Open)
	w.eventually("a.out", "4")

	w.way.Set(link.Stalled)
	w.set("/x", "5")
	w.way.Set(link.Open) // what was held back arrives late
	w.eventually("a.out", "5")
}

// untilAsked waits until kvconfd has connected to the store.
func (w *world) untilAsked() {
	w.t.Helper()
	w.until("kvconfd asks the store", func() string {
		if w.way.Connections() == 0 {
			return "it does not"
		}
		return ""
	})
}

func TestWhatIsWrittenWhileTheStoreIsOutOfReachArrives(t *testing.T) {
	t.Parallel()
	stores := map[string]func(*testing.T) *store{"kvd": startKVD, "etcd": startEtcd}
	for name, start := range stores {
		for _, forgotten := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s forgets %v", name, forgotten), func(t *testing.T) {
				t.Parallel()
				w := newWorldWith(t, start)
				h := newHAProxy(w, haproxyCheck, haproxyReload)
				kept, gone, fresh := startBackend(t, "kept"), startBackend(t, "gone"), startBackend(t, "fresh")
				w.register("web", kept, gone)
				w.start()
				h.start()
				h.until("web", kept, gone)

				w.way.Set(link.Refused)
				w.deregister("web", gone)
				w.register("web", fresh)
				if forgotten {
					w.store.flood(1100, "/elsewhere") // etcd and kvd keep the last 1,000 events for v2
				}
				if answers := h.serves("web", 4); answers["kept"] == 0 {
					t.Errorf("without its store HAProxy answers %v", answers)
				}
				w.store.run.kill()
				w.store.start()
				w.way.Set(link.Open)
				h.until("web", kept, fresh)
			})
		}
	}
}

// flood writes a key many times, on several connections.
func (s *store) flood(writes int, key string) {
	s.t.Helper()
	const writers = 8
	var group sync.WaitGroup
	failed := make(chan error, writers)
	for i := range writers {
		group.Go(func() {
			for n := i; n < writes; n += writers {
				if _, err := s.client.Write(s.t.Context(), kv.Write{Op: kv.OpSet, Key: key, Value: strconv.Itoa(n)}); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	group.Wait()
	select {
	case err := <-failed:
		s.t.Fatal(err)
	default:
	}
}

func TestAnEmptiedPrefixIsHeldAndHAProxyServesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := newHAProxy(w, haproxyCheck, haproxyReload, "min_keys = 2")
	w.resource("other", `{{range gets "/services/*/*"}}{{base .Key}} {{end}}`, `keys = ["/services"]`)
	one, two, three := startBackend(t, "one"), startBackend(t, "two"), startBackend(t, "three")
	w.register("web", one, two)
	w.start()
	h.start()
	h.until("web", one, two)
	w.delete("/services")
	w.untilSaid("min_keys is 2")
	w.eventually("other.out", "") // it has no guard
	h.until("web", one, two)
	if answers := h.serves("web", 6); answers["one"]+answers["two"] != 6 {
		t.Errorf("HAProxy answers %v", answers)
	}
	w.agent.kill() // what holds is not forgotten
	w.start()
	w.register("web", three)
	w.eventually("other.out", "three ")
	h.until("web", one, two)
	w.register("web", one)
	h.until("web", one, three)
}

func TestAThousandWritesInASecondMakeFewReloadsAndTheLastOneIsServed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := newNginx(w, `echo x >>$DIR/reloads; `, ``)
	n.site("a", `location = /a { return 200 "{{getv "/x" "none"}}"; }`)
	w.start()
	n.start()
	n.until("/a", "none")
	before := strings.Count(w.read("reloads"), "x")
	begun := time.Now()
	w.store.flood(1000, "/x")
	w.set("/x", "last")
	took := time.Since(begun)
	n.until("/a", "last")
	t.Logf("1,001 writes in %v, served %v after the last", took.Round(time.Millisecond), (time.Since(begun) - took).Round(time.Millisecond))
	w.settled("sites")
	// One at once, two or three while the quiet that is waited for grows, one for each half second
	// that the writes went on, and one for the rest.
	reloads := strings.Count(w.read("reloads"), "x") - before
	if bound := 4 + int(took/(500*time.Millisecond)); reloads > bound {
		t.Errorf("%d reloads for writes that went on for %v, want at most %d", reloads, took, bound)
	}
}

func TestAWriteBesideItsKeysRendersNothing(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) *store{"kvd": startKVD, "etcd": startEtcd} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorldWith(t, start)
			w.resource("app", `{{datetime.UnixNano}} {{getv "/app/x"}}`, `keys = ["/app"]`) // differs in each pass
			w.resource("app2", `{{getv "/app2/x"}}`, `keys = ["/app2"]`)
			w.set("/app/x", "1")
			w.set("/app2/x", "1")
			w.start()
			w.eventually("app2.out", "1")
			w.until("app is rendered", func() string {
				if !strings.HasSuffix(w.read("app.out"), " 1") {
					return "it is not"
				}
				return ""
			})
			w.settled()
			before := w.read("app.out")
			for i := range 5 {
				w.set("/application", "beside it")
				w.set("/app2/x", "again "+strconv.Itoa(i))
				w.eventually("app2.out", "again "+strconv.Itoa(i))
			}
			if after := w.read("app.out"); after != before {
				t.Errorf("/app was rendered for writes beside it: %q, then %q", before, after)
			}
			w.set("/app/x", "2") // and it is still there
			w.until("app is rendered again", func() string {
				if !strings.HasSuffix(w.read("app.out"), " 2") {
					return "it is not"
				}
				return ""
			})
		})
	}
}

func TestAStoreThatGoesBackToABackupIsFollowed(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) *store{"kvd": startKVD, "etcd": startEtcd} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorldWith(t, start)
			w.resource("a", `{{range gets "/x/*"}}{{base .Key}}={{.Value}} {{end}}`, `keys = ["/x"]`)
			w.set("/x/kept", "1")
			w.set("/x/removed", "1")
			w.start()
			w.eventually("a.out", "kept=1 removed=1 ")
			w.store.run.kill()
			backup := w.path("backup")
			if output, err := exec.Command("cp", "-a", w.store.data, backup).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, output)
			}
			w.store.start()
			w.delete("/x/removed")
			w.set("/x/later", "1")
			w.store.flood(50, "/elsewhere")
			w.eventually("a.out", "kept=1 later=1 ")
			w.store.run.kill()
			if err := os.RemoveAll(w.store.data); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(backup, w.store.data); err != nil {
				t.Fatal(err)
			}
			w.store.start()
			w.eventually("a.out", "kept=1 removed=1 ")
			w.set("/x/kept", "2")
			w.eventually("a.out", "kept=2 removed=1 ")
		})
	}
}

// etcdctl runs etcdctl with the API v3.
func (s *store) etcdctl(args ...string) string {
	s.t.Helper()
	cmd := exec.Command(parts.Path(s.t, "etcdctl"), append([]string{"--endpoints", s.address}, args...)...)
	cmd.Env = append(os.Environ(), "ETCDCTL_API=3")
	output, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("etcdctl %s: %v: %s", strings.Join(args, " "), err, output)
	}
	return string(output)
}

func TestWhatIsWrittenWhileAnEtcdIsOutOfReachArrivesByItsAPIv3(t *testing.T) {
	t.Parallel()
	for _, forgotten := range []bool{false, true} {
		t.Run(fmt.Sprintf("forgets %v", forgotten), func(t *testing.T) {
			t.Parallel()
			w := newWorldWith(t, startEtcd)
			w.flags = []string{"-backend", "etcdv3"}
			w.resource("a", `{{range gets "/x/*"}}{{base .Key}}={{.Value}} {{end}}`, `keys = ["/x"]`)
			w.resource("b", `{{datetime.UnixNano}} {{getv "/x2" "none"}}`, `keys = ["/x2"]`)
			w.store.etcdctl("put", "/x/kept", "1")
			w.store.etcdctl("put", "/x/removed", "1")
			w.start()
			w.eventually("a.out", "kept=1 removed=1 ")
			w.store.etcdctl("put", "/x/kept", "2")
			w.eventually("a.out", "kept=2 removed=1 ")
			other := w.read("b.out")

			w.way.Set(link.Refused)
			w.store.etcdctl("del", "/x/removed")
			w.store.etcdctl("put", "/x/fresh", "1")
			if forgotten {
				for _, part := range strings.Split(w.store.etcdctl("put", "/elsewhere", "1", "-w", "json"), ",") {
					if _, revision, ok := strings.Cut(part, `"revision":`); ok {
						w.store.etcdctl("compact", revision)
					}
				}
			}
			w.store.run.kill()
			w.store.start()
			w.way.Set(link.Open)
			w.eventually("a.out", "fresh=1 kept=2 ")
			w.store.etcdctl("put", "/x/kept", "3")
			w.eventually("a.out", "fresh=1 kept=3 ")
			if after := w.read("b.out"); after != other && !forgotten {
				t.Errorf("/x2 was rendered for writes beside it: %q, then %q", other, after)
			}
		})
	}
}
