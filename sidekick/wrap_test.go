package sidekick_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/override"
	"github.com/kvd-io/kvd/pkg/registry"
)

func TestTheRecordIsRemovedBeforeTheCommandIsToldToStop(t *testing.T) {
	s := newScene(t)
	p := s.wrap(nil, "--check", "http:/", "--tag", "blue", "--meta", "zone=eu", "--weight", "5")
	s.awaitRecord(true)
	if got := s.record(); got.Address != "127.0.0.1" || got.Weight != 5 || got.Tags[0] != "blue" || got.Meta["zone"] != "eu" || got.Host == "" {
		t.Errorf("registered %+v", got)
	}
	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != 7 {
		t.Errorf("exit code %d, want the app's", code)
	}
	if output := p.text(); !strings.Contains(output, "app: got terminated\napp: record is 404") {
		t.Error("when the app was told to stop its record was still there")
	}
}

func TestTheCommandGetsTheSignalThatKvsidekickGot(t *testing.T) {
	s := newScene(t)
	p := s.wrap(nil)
	s.awaitRecord(true)
	p.signal(syscall.SIGHUP)
	p.awaitText("app: got hangup")
	p.signal(syscall.SIGUSR1)
	p.awaitText("app: got user defined signal 1")
	if s.record() == nil {
		t.Error("a forwarded signal removed the record")
	}
	p.signal(syscall.SIGINT)
	p.exit()
	p.awaitText("app: got interrupt")
}

func TestTheRecordDrainsBeforeItIsRemovedAndTheCommandIsToldToStop(t *testing.T) {
	s := newScene(t)
	p := s.wrap(nil, "--drain", "2s")
	s.awaitState(registry.StateUp)
	p.signal(syscall.SIGTERM)
	s.awaitState(registry.StateDraining)
	if strings.Contains(p.text(), "app: got") {
		t.Error("the app was told to stop without a drain time")
	}
	p.exit()
	if !strings.Contains(p.text(), "app: got terminated\napp: record is 404") {
		t.Errorf("the app was told to stop before its record was gone")
	}
}

func TestACommandThatEndsWhileItDrainsIsRemovedAtOnce(t *testing.T) {
	s := newScene(t)
	p := s.wrap(nil, "--drain", "1h")
	s.awaitState(registry.StateUp)
	p.signal(syscall.SIGTERM)
	s.awaitState(registry.StateDraining)
	if err := syscall.Kill(p.appPID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := p.exit(); code != 128+9 || s.record() != nil {
		t.Errorf("exit code %d, record %+v", code, s.record())
	}
}

func TestAnUnhealthyServiceIsMarkedIfThatIsAskedFor(t *testing.T) {
	s := newScene(t)
	s.wrap(nil, "--check", "http:/", "--check-fall", "2", "--on-unhealthy", "mark")
	for range 2 {
		s.healthy(true)
		s.awaitState(registry.StateUp)
		s.healthy(false)
		s.awaitState(registry.StateUnhealthy)
	}
}

func TestWhatAnOperatorWantsCounts(t *testing.T) {
	s := newScene(t)
	p := s.wrap(nil, "--state-dir", filepath.Join(t.TempDir(), "state"))
	s.awaitState(registry.StateUp)
	want := func(o override.Override) {
		t.Helper()
		if err := override.Write(t.Context(), s.store, registry.DefaultPrefix, "web", "one", o); err != nil {
			t.Fatal(err)
		}
	}
	want(override.Override{Mode: override.Maintenance})
	s.awaitState(registry.StateMaintenance)
	want(override.Override{Weight: 7})
	s.awaitState(registry.StateUp)
	if got := s.record().Weight; got != 7 {
		t.Errorf("weight %d", got)
	}
	want(override.Override{Mode: override.Drain})
	s.awaitState(registry.StateDraining)
	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != 7 {
		t.Errorf("exit code %d", code)
	}
}

func TestARecordIsWrittenInEveryLayoutThatIsAskedFor(t *testing.T) {
	s := newScene(t)
	p := s.wrap(nil, "--layout", "json:/services", "--layout", "registrator:/old", "--layout", "skydns:dom.ain")
	s.awaitState(registry.StateUp)
	for key, want := range map[string]string{"/old/web/one": "127.0.0.1:" + s.port, "/skydns/ain/dom/web/one": `"port":` + s.port} {
		await(t, key, func() bool {
			result, err := s.store.Read(t.Context(), kv.Read{Key: key})
			return err == nil && strings.Contains(result.Node.Value, want)
		})
	}
	p.signal(syscall.SIGTERM)
	p.exit()
	for _, key := range []string{"/old/web/one", "/skydns/ain/dom/web/one", key} {
		if result, err := s.store.Read(t.Context(), kv.Read{Key: key}); !kv.Is(err, kv.NotFound) {
			t.Errorf("%s: %+v, %v", key, result, err)
		}
	}
}

func TestNothingIsRegisteredBeforeTheCheckHasPassed(t *testing.T) {
	s := newScene(t)
	s.healthy(false)
	p := s.wrap(nil, "--check", "http:/")
	p.awaitText("503")
	if s.record() != nil {
		t.Fatal("registered although the check fails")
	}
	s.healthy(true)
	s.awaitRecord(true)
}

func TestAnUnhealthyServiceIsRemovedAndPutBack(t *testing.T) {
	s := newScene(t)
	p := s.wrap(nil, "--check", "http:/", "--check-fall", "2")
	s.awaitRecord(true)
	s.healthy(false)
	s.awaitRecord(false)
	s.healthy(true)
	s.awaitRecord(true)
	p.awaitText(`"msg":"unhealthy"`)
}

func TestTheRecordOfACommandThatDiesIsRemovedAtOnce(t *testing.T) {
	s := newScene(t)
	p := s.wrap(nil)
	s.awaitRecord(true)
	if err := syscall.Kill(p.appPID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := p.exit(); code != 128+9 {
		t.Errorf("exit code %d, want 137", code)
	}
	if s.record() != nil {
		t.Error("the record outlived the command")
	}
}

func TestTheRecordOfASidekickThatIsKilledExpiresAndItsCommandStops(t *testing.T) {
	s := newScene(t)
	p := s.wrap(nil, "--ttl", "2s")
	s.awaitRecord(true)
	pid := p.appPID()
	p.signal(syscall.SIGKILL)
	await(t, "the end of the app", func() bool { return syscall.Kill(pid, 0) != nil })
	p.awaitText("app: got terminated")
	s.awaitRecord(false)
}

func TestTheRecordExpiresWhenSidekickAndCommandAreKilled(t *testing.T) {
	s := newScene(t)
	p := s.wrap(nil, "--ttl", "2s")
	s.awaitRecord(true)
	watch, err := s.store.Watch(t.Context(), kv.WatchFrom{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	syscall.Kill(p.appPID(), syscall.SIGSTOP) // so that it cannot act on its death signal
	p.signal(syscall.SIGKILL)
	syscall.Kill(p.appPID(), syscall.SIGKILL)
	event, err := watch.Next(t.Context())
	if err != nil || event.Action != kv.ActionExpire {
		t.Errorf("the record went by %+v, %v", event, err)
	}
}

func TestACommandThatDoesNotStopIsKilled(t *testing.T) {
	s := newScene(t)
	args := append(s.flags(), "--check", "none", "--stop-timeout", "100ms", "--", "/bin/sh", "-c", `trap "" TERM; echo deaf; while :; do sleep 1; done`)
	p := start(t, nil, args...)
	s.awaitRecord(true)
	p.awaitText("deaf")
	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != 128+9 {
		t.Errorf("exit code %d, want 137", code)
	}
	p.awaitText("did not stop in time")
}

func TestExitCodesOfCommandsArePassedOn(t *testing.T) {
	s := newScene(t)
	directory := t.TempDir()
	for _, c := range []struct {
		command []string
		code    int
		says    string
	}{
		{[]string{"/bin/sh", "-c", "exit 0"}, 0, `"outcome":"exit code 0"`},
		{[]string{"/bin/sh", "-c", "exit 42"}, 42, `"outcome":"exit code 42"`},
		{[]string{"/bin/sh", "-c", "kill -SEGV $$"}, 128 + 11, `"outcome":"signal 11 (segmentation fault)"`},
		{[]string{"no-such-program"}, 127, "no such program in $PATH"},
		{[]string{"/no/such/program"}, 127, "no such file"},
		{[]string{directory}, 126, "cannot run"},
	} {
		p := start(t, nil, append(append(s.flags(), "--check", "none", "--"), c.command...)...)
		if code := p.exit(); code != c.code || !strings.Contains(p.text(), c.says) {
			t.Errorf("%q: exit code %d, want %d; output:\n%s", c.command, code, c.code, p.text())
		}
	}
	if s.record() != nil {
		t.Error("a record was left behind")
	}
}

func TestACommandThatGoesIntoTheBackgroundIsToldFromOneThatFails(t *testing.T) {
	s := newScene(t)
	const hint = "must be kept in the foreground, or followed with --unit"
	for script, hinted := range map[string]bool{"sleep 0.01 >/dev/null 2>&1 & exit 0": true, "exit 3": false} {
		p := start(t, nil, append(s.flags(), "--", "/bin/sh", "-c", script)...)
		p.exit()
		output := p.text()
		if !strings.Contains(output, `"level":"WARN","msg":"workload ended"`) || !strings.Contains(output, `"ran":`) {
			t.Errorf("%s: nobody was warned:\n%s", script, output)
		}
		if strings.Contains(output, hint) != hinted {
			t.Errorf("%s: the hint is there: %v\n%s", script, !hinted, output)
		}
	}
}

func TestNothingIsDrainedThatNobodyCouldFind(t *testing.T) {
	for name, prepare := range map[string]func(*scene) (says string){
		"it was never healthy": func(s *scene) string { s.healthy(false); return "503" },
		"the store never answered": func(s *scene) string {
			s.cluster.Stop()
			return "store does not answer"
		},
		"the key is another's": func(s *scene) string {
			if _, err := s.store.Write(t.Context(), kv.Write{Op: kv.OpSet, Key: key, Value: "10.0.0.9:80"}); err != nil {
				t.Fatal(err)
			}
			return "left alone"
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			says := prepare(s)
			p := s.wrap(nil, "--check", "http:/", "--drain", "1h", "--withdraw-timeout", "1h")
			p.awaitText("app: started as")
			p.awaitText(says)
			p.signal(syscall.SIGTERM)
			if code := p.exit(); code != 7 {
				t.Errorf("exit code %d", code)
			}
			if strings.Contains(p.text(), "removed") {
				t.Error("something was said to be removed")
			}
		})
	}
}

func TestAnUnreachableStoreIsReportedAndTheCommandRunsOn(t *testing.T) {
	s := newScene(t)
	s.cluster.Stop()
	p := s.wrap(nil, "--ttl", "3s", "--withdraw-timeout", "1s")
	p.awaitText("store does not answer")
	pid := p.appPID()
	s.cluster.Restart()
	s.awaitRecord(true)
	s.cluster.Stop()
	await(t, "a second report", func() bool { return strings.Count(p.text(), "store does not answer") == 2 })
	if syscall.Kill(pid, 0) != nil {
		t.Error("the app is gone")
	}
	p.signal(syscall.SIGTERM) // nobody can be told, and it ends all the same
	if code := p.exit(); code != 7 {
		t.Errorf("exit code %d", code)
	}
	p.awaitText("it expires")
}

func TestTheServiceManagerHearsOfReadinessProgressAndTheEnd(t *testing.T) {
	s := newScene(t)
	s.healthy(false)
	m, variables := newManager(t)
	p := s.wrap(append(variables, "KVSIDEKICK_USERNAME=user:secret"), "--check", "http:/")
	for _, message := range m.await(t, "503") {
		if strings.Contains(message, "READY=1") {
			t.Error("ready before it was registered")
		}
	}
	m.await(t, "WATCHDOG=1")
	s.healthy(true)
	m.await(t, "READY=1")
	if s.record() == nil {
		t.Error("ready, but not registered")
	}
	m.await(t, "STATUS=registered as "+key)
	m.await(t, "WATCHDOG=1")
	p.signal(syscall.SIGTERM)
	m.await(t, "STOPPING=1\nEXTEND_TIMEOUT_USEC=")
	p.exit()
	p.awaitText(`socket "", password ""`) // what is meant for kvsidekick stays with it
}

func TestStreamsAreTheCommandsOwn(t *testing.T) {
	s := newScene(t)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	p := &process{t: t, ended: make(chan struct{})}
	p.command = command(t, append(append(s.flags(), "--check", "none", "--"), "/bin/cat")...)
	p.command.Stdin, p.command.Stdout, p.command.Stderr = read, p, p
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(p.ended); p.command.Wait() }()
	if _, err := write.WriteString("through the pipe\n"); err != nil {
		t.Fatal(err)
	}
	p.awaitText("through the pipe")
	write.Close() // cat ends, and kvsidekick with it
	if code := p.exit(); code != 0 {
		t.Errorf("exit code %d\n%s", code, p.text())
	}
}

func TestARunningSidekickIsAskedAndToldWhatToDo(t *testing.T) {
	s := newScene(t)
	folder := t.TempDir()
	socket, file := filepath.Join(folder, "web.sock"), filepath.Join(folder, "settings.yaml")
	if err := os.WriteFile(file, []byte("service: web\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.wrap(nil, "--socket", socket, "--state-dir", filepath.Join(folder, "state"))
	s.awaitState(registry.StateUp)
	ask := func(args ...string) string {
		t.Helper()
		output, err := command(t, append(args, "--socket", socket, "--config", file)...).CombinedOutput()
		if err != nil {
			t.Errorf("%q: %v\n%s", args, err, output)
		}
		return string(output)
	}
	ask("drain", "--reason", "a test")
	s.awaitState(registry.StateDraining)
	if got := ask("status"); !strings.Contains(got, "web/one at 127.0.0.1:"+s.port) || !strings.Contains(got, "draining for ") || !strings.Contains(got, "a test") {
		t.Errorf("status:\n%s", got)
	}
	if got := ask("status", "--json"); !strings.Contains(got, `"phase": "draining"`) {
		t.Errorf("status --json:\n%s", got)
	}
	ask("weight", "9")
	ask("maintenance")
	s.awaitState(registry.StateMaintenance)
	if got := s.record().Weight; got != 9 {
		t.Errorf("weight %d", got)
	}
	ask("ready")
	s.awaitState(registry.StateUp)
	if got := s.record().Weight; got != 0 {
		t.Errorf("weight %d", got)
	}
	for want, args := range map[string][]string{
		"weight 1000":             {"weight", "1000", "--socket", socket},
		`weight "x"`:              {"weight", "x", "--socket", socket},
		"exclude each other":      {"status", "web", "--socket", socket},
		"name of a unit":          {"status", "../web"},
		"/run/kvd/kvsidekick/nob": {"status", "nobody.service"},
	} {
		output, err := command(t, args...).CombinedOutput()
		if err == nil || !strings.Contains(string(output), want) {
			t.Errorf("%q: %v, want %q in:\n%s", args, err, want, output)
		}
	}
}
