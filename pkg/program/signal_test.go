package program

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"
)

// variableRole makes the test binary a program that waits for signals instead of a test.
const variableRole = "KVD_TEST_ROLE"

func TestMain(m *testing.M) {
	role := os.Getenv(variableRole)
	if role == "" {
		os.Exit(m.Run())
	}
	os.Args = os.Args[:1]
	os.Exit(Main(Program{Name: "waiter", HangupEnds: role != "reloading", Command: func() *cobra.Command {
		return &cobra.Command{Use: "waiter", RunE: func(cmd *cobra.Command, _ []string) error {
			env := EnvFrom(cmd.Context())
			fmt.Fprintln(env.Stdout, "ready")
			switch role {
			case "reloading":
				<-env.Hangup
				fmt.Fprintln(env.Stdout, "reloaded")
				<-cmd.Context().Done()
				return nil
			case "orderly":
				<-cmd.Context().Done()
				return nil
			case "stubborn":
				<-cmd.Context().Done()
				fmt.Fprintln(env.Stdout, "cleaning")
				select {}
			}
			<-cmd.Context().Done()
			return cmd.Context().Err()
		}}
	}}))
}

// waiter is a running test program and the lines that it prints.
type waiter struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

func startWaiter(t *testing.T, role string) *waiter {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), variableRole+"="+role)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	w := &waiter{t: t, cmd: cmd, lines: bufio.NewScanner(output)}
	w.expect("ready")
	return w
}

func (w *waiter) expect(line string) {
	w.t.Helper()
	if !w.lines.Scan() || w.lines.Text() != line {
		w.t.Fatalf("got %q, want %q (%v)", w.lines.Text(), line, w.lines.Err())
	}
}

func (w *waiter) signal(s syscall.Signal) {
	w.t.Helper()
	if err := w.cmd.Process.Signal(s); err != nil {
		w.t.Fatal(err)
	}
}

func (w *waiter) exitCode() int {
	w.t.Helper()
	err := w.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "file already closed") {
		w.t.Fatal(err)
	}
	return w.cmd.ProcessState.ExitCode()
}

func TestTheFirstSignalEndsACommandInOrder(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		w := startWaiter(t, "orderly")
		w.signal(s)
		if code := w.exitCode(); code != 0 {
			t.Errorf("%v: exit code %d", s, code)
		}
	}
}

func TestACommandThatGivesUpOnASignalExitsWith128PlusItsNumber(t *testing.T) {
	for s, want := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143, syscall.SIGHUP: 129} {
		w := startWaiter(t, "impatient")
		w.signal(s)
		if code := w.exitCode(); code != want {
			t.Errorf("%v: exit code %d, want %d", s, code, want)
		}
	}
}

func TestTheSecondSignalEndsTheProcessAtOnce(t *testing.T) {
	w := startWaiter(t, "stubborn")
	w.signal(syscall.SIGINT)
	w.expect("cleaning")
	w.signal(syscall.SIGTERM)
	if code := w.exitCode(); code != 143 {
		t.Errorf("exit code %d, want 143", code)
	}
}

func TestAHangupReachesAProgramThatReloads(t *testing.T) {
	w := startWaiter(t, "reloading")
	w.signal(syscall.SIGHUP)
	w.expect("reloaded")
	w.signal(syscall.SIGTERM)
	if code := w.exitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
