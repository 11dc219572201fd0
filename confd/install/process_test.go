package install_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/confd/install"
)

// indebted returns a file with a debt, and a command that runs until done is called.
func indebted(t *testing.T) (f install.File, c install.Command, done func()) {
	t.Helper()
	dir := t.TempDir()
	f = install.File{Path: filepath.Join(dir, "a.cfg"), UID: -1, GID: -1}
	if err := f.Owe(); err != nil {
		t.Fatal(err)
	}
	c = install.Command{Shell: `until test -e ` + dir + `/done || ! test -d ` + dir + `; do sleep 0.01; done; touch ` + dir + `/ended`, Timeout: time.Minute}
	return f, c, func() { os.WriteFile(filepath.Join(dir, "done"), nil, 0o600) }
}

// tell runs c in the background, and returns its process when it is noted, and its end.
func tell(t *testing.T, f install.File, c install.Command) (p install.Process, ended <-chan error) {
	t.Helper()
	end := make(chan error, 1)
	go func() {
		_, err := f.Tell(context.Background(), c)
		end <- err
	}()
	for range 1000 { // 10 s
		if p = f.Teller(); p != (install.Process{}) {
			return p, end
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the process is not noted")
	return p, end
}

func TestWhoeverTakesOverWaitsForTheCommandThatPaysADebt(t *testing.T) {
	t.Parallel()
	f, c, done := indebted(t)
	p, ended := tell(t, f, c)
	if owes, err := f.Owes(); !owes || err != nil {
		t.Errorf("the debt is gone: %v, %v", owes, err)
	}
	if !p.Runs() {
		t.Error("a command that runs does not")
	}
	cut, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	p.Await(cut, time.Minute)
	if cut.Err() == nil {
		t.Error("a command that runs was not waited for")
	}
	done()
	if p.Await(t.Context(), time.Minute) {
		t.Error("it is said to have been killed")
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(f.Path), "ended")); err != nil {
		t.Error("it was not waited for to its end")
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if p.Runs() || f.Teller().Runs() {
		t.Error("one that has ended runs")
	}
	if err := f.Paid(); err != nil {
		t.Fatal(err)
	}
	if p := f.Teller(); p != (install.Process{}) {
		t.Errorf("a debt that is paid names %v", p)
	}
}

func TestWhoeverTakesOverEndsACommandThatTakesTooLong(t *testing.T) {
	t.Parallel()
	f, c, _ := indebted(t)
	p, ended := tell(t, f, c)
	if !p.Await(t.Context(), 50*time.Millisecond) {
		t.Error("it is not said that it was killed")
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "terminated") {
		t.Errorf("it ended with %v", err)
	}
}

// tellingEnv has a test binary tell the reader of a file, and be killed before or after the command is noted.
const tellingEnv = "KVCONFD_TEST_TELLING"

// killed runs a program that begins the command c, and is killed as soon as that has made the file begun, and is noted
// if it is to be.
func killed(t *testing.T, f install.File, c install.Command, noted bool) {
	t.Helper()
	program := exec.Command(os.Args[0], "-test.run=^TestACommandOfAKilledKvconfdIsKnown$")
	program.Env = append(os.Environ(), tellingEnv+"="+strings.Join([]string{f.Path, c.Shell, strconv.FormatBool(noted)}, "\n"))
	if output, err := program.CombinedOutput(); program.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("%v: %s", err, output)
	}
}

// beKilled is what the program of killed does.
func beKilled(telling string) {
	asked := strings.Split(telling, "\n")
	f := install.File{Path: asked[0], UID: -1, GID: -1}
	noted := make(chan bool, 1)
	go f.TellWith(context.Background(), install.Command{Shell: asked[1]}, func(pid int) error {
		if asked[2] == "true" {
			return f.Note(pid)
		}
		noted <- false
		select {}
	})
	for range 10_000 { // 10 s
		_, err := os.Stat(filepath.Join(filepath.Dir(f.Path), "begun"))
		if asked[2] == "true" && !isLocked(f) || len(noted) == 1 {
			if err == nil {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
		}
		time.Sleep(time.Millisecond)
	}
	os.Exit(1)
}

// isLocked reports whether the debt of f is there and locked.
func isLocked(f install.File) bool {
	debt, err := os.Open(filepath.Join(filepath.Dir(f.Path), "."+filepath.Base(f.Path)+".reload-pending"))
	if err != nil {
		return false
	}
	defer debt.Close()
	return syscall.Flock(int(debt.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) == syscall.EWOULDBLOCK
}

func TestACommandOfAKilledKvconfdIsKnown(t *testing.T) {
	if telling := os.Getenv(tellingEnv); telling != "" {
		beKilled(telling)
	}
	t.Parallel()
	for name, noted := range map[string]bool{"noted": true, "killed before that": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, c, done := indebted(t)
			c.Shell = "touch " + filepath.Dir(f.Path) + "/begun; " + c.Shell
			killed(t, f, c, noted)
			p := f.Teller()
			if !p.Runs() {
				t.Fatal("the command that runs is not known")
			}
			if err := f.Owe(); err != nil { // a new version, and another kill
				t.Fatal(err)
			}
			if again := f.Teller(); again != p {
				t.Errorf("after another change %v is known, want %v", again, p)
			}
			if err := f.OweInPassing(); err != nil {
				t.Fatal(err)
			}
			if again := f.Teller(); again != p {
				t.Errorf("after a change at run time %v is known, want %v", again, p)
			}
			done()
			p.Await(t.Context(), time.Minute)
			if _, err := os.Stat(filepath.Join(filepath.Dir(f.Path), "ended")); err != nil {
				t.Error("it was not waited for to its end")
			}
		})
	}
}

func TestADaemonThatACommandOfAKilledKvconfdHasLeftBehindIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	f, c, done := indebted(t)
	c.Shell = "cd " + filepath.Dir(f.Path) + `; setsid sh -c 'echo $$ >daemon; touch begun; exec sleep 60' >/dev/null 2>&1 & ` + c.Shell
	killed(t, f, c, false)
	text, err := os.ReadFile(filepath.Join(filepath.Dir(f.Path), "daemon"))
	if err != nil {
		t.Fatal(err)
	}
	daemon, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(daemon, syscall.SIGKILL)
	p := f.Teller()
	if !p.Runs() {
		t.Fatal("the command that runs is not known")
	}
	done()
	p.Await(t.Context(), time.Minute)
	if p := f.Teller(); p.Runs() {
		t.Errorf("a daemon is taken for the command: %v", p)
	}
}

func TestADebtNamesAProcessOnlyWhereOneWasNoted(t *testing.T) {
	for text, want := range map[string]int{
		"":                                 0,
		"kvconfd changed /a\n":             0,
		"a\nprocess 12 started 9 boot b\n": 12,
		"a\nprocess 12 started 9 boot b":   0, // cut off
		"a\nprocess 12 started 9\n":        0,
		"a\nprocess 1 started 9 boot b\n":  0,
		"a\nprocess -7 started 9 boot b\n": 0,
		"a\nprocess x started 9 boot b\n":  0,
		"process 12 started 9 boot b\nb\n": 0,
	} {
		if pid, started := install.ParseTeller(text); pid != want && want != 0 || want == 0 && pid+int(started) != 0 {
			t.Errorf("%q names %d, started at %d; want %d", text, pid, started, want)
		}
	}
}

func TestAProcessIsKnownByWhenItWasStarted(t *testing.T) {
	const rest = "1 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 4711 99"
	for text, want := range map[string]uint64{
		"7 (sh) S " + rest:     4711,
		"7 (a) Z 9) R " + rest: 4711,
		"7 (sh) Z " + rest:     0,
		"7 (sh) X " + rest:     0,
		"7 (sh) S 1 7":         0,
		"":                     0,
		")":                    0,
	} {
		if started, ok := install.ParseStat(text); ok != (want != 0) || ok && started != want {
			t.Errorf("%q: %d, %v; want %d", text, started, ok, want)
		}
	}
}

func TestAnotherUserDoesNotSayWhatIsWaitedForAndEnded(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
	t.Parallel()
	f, c, done := indebted(t)
	_, ended := tell(t, f, c)
	debt := filepath.Join(filepath.Dir(f.Path), ".a.cfg.reload-pending")
	if err := os.Chown(debt, 65534, -1); err != nil {
		t.Fatal(err)
	}
	if p := f.Teller(); p.Runs() {
		t.Error("a debt of another user is believed")
	}
	if err := os.Chown(debt, 0, -1); err != nil {
		t.Fatal(err)
	}
	if p := f.Teller(); !p.Runs() {
		t.Error("a debt of this user is not")
	}
	if err := os.Rename(debt, debt+"-moved"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(debt+"-moved", debt); err != nil {
		t.Fatal(err)
	}
	if p := f.Teller(); p.Runs() {
		t.Error("a link is followed")
	}
	done()
	<-ended
}
