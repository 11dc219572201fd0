package systemd_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// knob returns a duration that the environment sets.
func knob(t *testing.T, name string, otherwise time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return d
}

func rounds(t *testing.T) int {
	t.Helper()
	text := os.Getenv("KVD_SYSTEMD_ROUNDS")
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("KVD_SYSTEMD_ROUNDS: %v", err)
	}
	return n
}

// scene is a host whose apps are registered, and who looks at them.
type scene struct {
	t        *testing.T
	host     *host
	store    *store
	registry *observer
	probers  map[int]*prober
	within   time.Duration
	outage   time.Duration
}

func newScene(t *testing.T) *scene {
	t.Helper()
	h := newHost(t)
	s := &scene{t: t, host: h, store: startStore(t, h.Gateway()), probers: map[int]*prober{},
		within: knob(t, "KVD_SYSTEMD_WITHIN", 15*time.Second), outage: knob(t, "KVD_SYSTEMD_OUTAGE", ttl+2*time.Second)}
	s.registry = observe(t, s.store, "web")
	for app := 1; app <= 2; app++ {
		s.probers[app] = probe(t, h.address(app))
	}
	return s
}

func instance(app int) string { return fmt.Sprintf("app-%d", app) }

// registered is the history of an app in the registry.
func (s *scene) registered(app int) *history { return s.registry.of(instance(app)) }

// isUp reports whether the registry routes to where the app answers.
func (s *scene) isUp(app int) bool {
	return s.registered(app).now().what == "up "+s.probers[app].where()
}

// Outcomes of an event for an app.
const (
	sameRun = "goes on"      // it goes on answering, and the registry does not move
	newRun  = "runs anew"    // another run answers in the end
	stopped = "does not run" // none does
	again   = "is back"      // it answers in the end, whichever run it is
)

// event does something to an app, waits for what comes of it, and tells how long registry and truth differed.
func (s *scene) event(name string, app int, outcome string, act func()) {
	s.t.Helper()
	p, r := s.probers[app], s.registered(app)
	before, began := p.now().what, time.Now()
	act()
	await(s.t, name, func() string {
		now := p.now().what
		switch {
		case outcome == stopped && now != "", outcome == again && now == "", outcome == sameRun && now != before,
			outcome == newRun && (now == "" || now == before):
			return fmt.Sprintf("the app answers %q", now)
		case outcome == newRun && first(r.since(began), isOut).IsZero() && before != "":
			return "the registry has not heard of it"
		case s.isUp(app) != (now != ""):
			return fmt.Sprintf("the app answers %q, and the registry says %s", now, describe(r.since(began)))
		}
		return ""
	})
	truth, said := p.since(began), r.since(began)
	if outcome == sameRun && len(said) > 0 {
		s.t.Errorf("%s: the registry moved: %s", name, describe(said))
	}
	line := fmt.Sprintf("%-44s %s", name, outcome)
	if down, left := first(truth, isDown), first(said, isOut); !down.IsZero() && !left.IsZero() {
		line += fmt.Sprintf(", out of the registry %v after it went", left.Sub(down).Round(time.Millisecond))
		if outcome != again { // then nobody is left to tell, and the record expires
			s.judge(name, left.Sub(down))
		}
	}
	if lag := r.now().at.Sub(p.now().at); lag < 0 && outcome == again {
		line += ", in it all the time"
	} else if outcome == newRun || outcome == again {
		line += fmt.Sprintf(", in it %v after it answered", lag.Round(time.Millisecond))
		s.judge(name, lag)
	}
	s.t.Log(line)
}

// judge fails the test if registry and truth differed for too long.
func (s *scene) judge(name string, lag time.Duration) {
	s.t.Helper()
	if lag > s.within {
		s.t.Errorf("%s: registry and truth differed for %v, more than %v", name, lag, s.within)
	}
}

func isDown(c change) bool { return c.what == "" }
func isOut(c change) bool  { return !strings.HasPrefix(c.what, "up ") }

// first returns when the first of the changes was that is so; zero if none is.
func first(changes []change, is func(change) bool) time.Time {
	for _, c := range changes {
		if is(c) {
			return c.at
		}
	}
	return time.Time{}
}

// sidekicks sets an instance of kvsidekick@.service beside each app.
func (s *scene) sidekicks() {
	h := s.host
	h.Write("/etc/kvd/kvsidekick.yaml", fmt.Sprintf("endpoints: %s\nservice: web\nttl: %v\ndrain: %v\ncheck: http:/\n", s.store.URL, ttl, drain))
	for app := range s.probers {
		h.Write(fmt.Sprintf("/etc/kvd/sidekick/app@%d.env", app), fmt.Sprintf("KVSIDEKICK_PORT=808%d\nKVSIDEKICK_INSTANCE=%s\n", app, instance(app)))
		h.Must("systemctl", "enable", unit(app), sidekick(app))
	}
}

// follower is one of the ways to have apps registered.
type follower struct {
	unit string // which is killed
	kill func() // kills it and returns when another run says that all is registered
}

func TestWithASidekickTheRegistryTellsTheTruthWhateverHappens(t *testing.T) {
	t.Parallel() // each waits for its own host most of the time
	s := newScene(t)
	s.sidekicks()
	s.asksTheSidekick()
	s.everything(follower{unit: sidekick(1), kill: func() { s.killAndAwait(sidekick(1)) }})
}

func TestWithKvagentTheRegistryTellsTheTruthWhateverHappens(t *testing.T) {
	t.Parallel() // each waits for its own host most of the time
	s := newScene(t)
	s.sections()
	s.host.Must("systemctl", "start", agentUnit)
	s.everything(follower{unit: agentUnit, kill: func() { s.killAndAwait(agentUnit) }})
}

// asksTheSidekick takes an app out and back, as an operator does.
func (s *scene) asksTheSidekick() {
	s.t.Helper()
	h := s.host
	h.Must("systemctl", "start", unit(1))
	for _, c := range []struct{ command, state string }{{"drain", "draining"}, {"maintenance", "maintenance"}, {"ready", "up"}} {
		await(s.t, "kvsidekick "+c.command, func() string {
			if output, err := h.Exec("kvsidekick", c.command, "app@1"); err != nil {
				return output
			}
			return ""
		})
		await(s.t, c.state, func() string {
			if now := s.registered(1).now().what; !strings.HasPrefix(now, c.state+" ") {
				return now
			}
			return ""
		})
	}
	if status := h.Must("kvsidekick", "status", "app@1"); !strings.Contains(status, "up for ") {
		s.t.Errorf("kvsidekick status says:\n%s", status)
	}
	began := time.Now()
	h.Must("systemctl", "stop", sidekick(1))
	await(s.t, "the record is gone", func() string { return s.registered(1).now().what })
	if said := s.registered(1).since(began); len(said) != 2 || !strings.HasPrefix(said[0].what, "draining ") {
		s.t.Errorf("a stop of the sidekick alone was told as %s", describe(said))
	}
	if h.property(unit(1), "ActiveState") != "active" {
		s.t.Error("a stop of the sidekick alone has stopped its app")
	}
	h.Must("systemctl", "stop", unit(1))
}

const agentUnit = "kvagent.service"

// sections has kvagent follow the apps by a drop-in of their template, with a pause before the end in which
// readers hear of it.
func (s *scene) sections() {
	h := s.host
	h.Write("/etc/kvd/kvagent.env", fmt.Sprintf("KVAGENT_ENDPOINTS=%s\nKVAGENT_SOURCE=systemd\nKVAGENT_TTL=%v\nKVAGENT_SHUTDOWN_DRAIN=%v\n", s.store.URL, ttl, drain))
	h.Write("/etc/systemd/system/app@.service.d/kvd.conf", fmt.Sprintf(`[X-Kvd]
Service=web
Port=808%%i
Id=app-%%i
Check=http:/

[Service]
ExecStop=/bin/sh -c 'test -z "$MAINPID" || sleep %d'
`, int(drain.Seconds())))
	// One has no pause of its own and is ordered instead, which is for shutdowns.
	h.Write(fmt.Sprintf("/etc/systemd/system/%s.d/order.conf", unit(2)), "[Unit]\nBefore="+agentUnit+"\n[Service]\nExecStop=\n")
	h.Must("systemctl", "daemon-reload")
	for app := range s.probers {
		h.Must("systemctl", "enable", unit(app))
	}
	h.Must("systemctl", "enable", agentUnit)
}

// everything is what happens to hosts.
func (s *scene) everything(f follower) {
	t, h := s.t, s.host
	t.Helper()
	proxy := startProxy(t, s.store)
	systemctl := func(args ...string) func() {
		return func() { t.Helper(); h.Must(append([]string{"systemctl"}, args...)...) }
	}
	s.event("start", 2, newRun, systemctl("start", unit(2)))
	for range rounds(t) {
		s.event("start", 1, newRun, systemctl("start", unit(1)))
		proxy.awaitServers(2)
		hammered := proxy.hammer()
		s.event("restart", 1, newRun, systemctl("restart", unit(1)))
		proxy.awaitServers(2)
		s.event("stop", 1, stopped, systemctl("stop", unit(1)))
		s.event("start after a stop", 1, newRun, systemctl("start", unit(1)))
		proxy.awaitServers(2)
		s.event("restart of "+f.unit+" alone", 1, sameRun, systemctl("restart", f.unit))
		answered, failures := hammered()
		t.Logf("%d requests answered through a restart and a stop, %d failed", answered, len(failures))
		if answered == 0 || len(failures) > 0 {
			t.Errorf("%d requests were answered, %d failed:\n%s", answered, len(failures), strings.Join(failures[:min(10, len(failures))], "\n"))
		}

		crash := systemctl("kill", "-s", "KILL", unit(1))
		s.event("crash with Restart=always", 1, newRun, crash)
		s.event("reload of all units", 1, sameRun, systemctl("daemon-reload"))
		s.event("kill -9 of "+f.unit, 1, sameRun, f.kill)
		s.event("crash after that", 1, newRun, crash)
		s.event("daemon-reexec", 1, sameRun, systemctl("daemon-reexec"))
		s.event("crash after that", 1, newRun, crash)
		s.event("restart of D-Bus", 1, sameRun, systemctl("restart", "dbus.service"))
		s.event("crash after that", 1, newRun, crash)
		s.outages()
		s.reboots()
		s.event("stop", 1, stopped, systemctl("stop", unit(1)))
	}
}

// killAndAwait kills a unit and waits until another run of it is ready: all that it keeps is registered then.
func (s *scene) killAndAwait(unit string) {
	s.t.Helper()
	before := s.host.property(unit, "InvocationID")
	s.host.Must("systemctl", "kill", "-s", "KILL", unit)
	await(s.t, "another run of "+unit, func() string {
		run, state := s.host.property(unit, "InvocationID"), s.host.property(unit, "ActiveState")
		if run == before || state != "active" {
			return state
		}
		return ""
	})
}

// outages takes the store away for a while, in which one app goes on and another one is stopped.
func (s *scene) outages() {
	s.store.kill()
	s.host.Must("systemctl", "kill", "-s", "KILL", unit(1))
	s.host.Must("systemctl", "stop", unit(2))
	time.Sleep(s.outage) // longer than anything lives that nobody renews
	s.store.start()
	back := time.Now()
	s.event(fmt.Sprintf("store away for %v: a stop", s.outage), 2, stopped, func() {})
	s.event("store away: a crash", 1, again, func() {})
	s.t.Logf("%-44s registry and truth agree %v after it answered", "store away", time.Since(back).Round(time.Millisecond))
	s.event("start after that", 2, newRun, func() { s.host.Must("systemctl", "start", unit(2)) })
}

// reboots ends the host in order, so that readers hear of it, and then without a word.
func (s *scene) reboots() {
	boot := func() {
		s.host.Boot()
		for app, p := range s.probers {
			p.moveTo(s.host.address(app))
		}
		s.host.AwaitBoot()
	}
	s.event("reboot", 1, newRun, func() {
		began := time.Now()
		s.host.ShutDown()
		for app, p := range s.probers {
			said := s.registered(app).since(began)
			if now := s.registered(app).now(); now.what != "" {
				s.t.Errorf("after a shutdown the registry says %s of %s", now.what, instance(app))
			}
			if out, down := first(said, isOut), first(p.since(began), isDown); !out.Before(down) {
				s.t.Errorf("%s went at %v, and then the registry said: %s", instance(app), down, describe(said))
			}
		}
		boot()
	})
	s.event("power failure", 1, again, func() { s.host.PowerOff(); boot() })
	s.event("power failure: the other", 2, again, func() {})
}
