package daemon_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kvd-io/kvd/e2e/parts"
)

// openTerminal returns both ends of a pseudo terminal.
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("part missing: pty: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

func TestAPersonAtATerminalReadsFiveLinesInsteadOfALog(t *testing.T) {
	master, slave := openTerminal(t)
	dir := t.TempDir()
	kvd := exec.Command(filepath.Join(parts.Build(t), "kvd"), "--listen-client-urls", "http://127.0.0.1:0", "--listen-peer-urls", "http://127.0.0.1:0")
	kvd.Dir = dir
	kvd.Env = slices.DeleteFunc(os.Environ(), func(entry string) bool { return strings.HasPrefix(entry, "KVD_") }) // those of the tests: it would tell of them
	kvd.Stdin, kvd.Stdout, kvd.Stderr = slave, slave, slave
	if err := kvd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kvd.Process.Kill() })
	slave.Close()

	lines := make(chan string, 100)
	go func() { // ends when kvd has closed the terminal
		defer close(lines)
		for scanner := bufio.NewScanner(master); scanner.Scan(); {
			lines <- strings.TrimRight(scanner.Text(), "\r")
		}
	}()
	next := func() string {
		t.Helper()
		select {
		case line := <-lines:
			return line
		case <-time.After(30 * time.Second):
			t.Fatal("kvd said nothing for 30 s")
			return ""
		}
	}
	for _, want := range []string{
		`^kvd \S+ is ready after \S+, as member default$`,
		`^  clients   http://127\.0\.0\.1:\d+$`,
		`^  data      ` + regexp.QuoteMeta(filepath.Join(dir, "default.kvd")) + `$`,
		`^  try       kvctl --endpoints http://127\.0\.0\.1:\d+ set /hello world$`,
		`^  or        curl -X PUT http://127\.0\.0\.1:\d+/v2/keys/hello -d value=world$`,
	} {
		if got := next(); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("line %q, want %s", got, want)
		}
	}
	kvd.Process.Signal(os.Interrupt)
	if got := next(); !strings.HasPrefix(got, "kvd has stopped") {
		t.Errorf("at the end %q, want nothing but that it has stopped", got)
	}
	if err := kvd.Wait(); err != nil {
		t.Error(err)
	}
}
