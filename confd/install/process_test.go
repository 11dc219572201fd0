package install_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
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
	c = install.Command{Shell: `until test -e ` + dir + `/done; do sleep 0.01; done; touch ` + dir + `/ended`, Timeout: time.Minute}
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
	p.Await(t.Context(), time.Minute)
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
	p.Await(t.Context(), 50*time.Millisecond)
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "terminated") {
		t.Errorf("it ended with %v", err)
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
