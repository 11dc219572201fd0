package raftnode

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/daemon/command"
)

// helperDir makes the test binary a member whose disk fails, in that data directory: faults end
// the process, so that they can only be watched from outside.
const (
	helperDir   = "RAFTNODE_TEST_DIR"
	helperFault = "RAFTNODE_TEST_FAULT"
)

func runHelper() {
	dir := os.Getenv(helperDir)
	if dir == "" {
		return
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		os.Exit(99)
	}
	disk := &failingLog{fault: os.Getenv(helperFault)}
	deps := Deps{Peers: []net.Listener{listener}, wrapLog: func(l logStore) logStore { disk.logStore = l; return disk }}
	deps.Fatal = func(err error) {
		fmt.Println("fatal:", err)
		os.Exit(ExitFault)
	}
	cfg := testConfig(dir)
	cfg.WriteDeadline = 200 * time.Millisecond
	machine := &ledger{}
	if os.Getenv(helperFault) == "panic" {
		machine.onApply = func(*command.Batch) { panic("unknown command") }
	}
	node, err := Open(context.Background(), cfg, deps, machine)
	if err != nil {
		fmt.Println(err)
		os.Exit(99)
	}
	for i := range 100 {
		disk.broken = i == 10
		if _, err := node.Propose(context.Background(), write(numbered(i))); err != nil {
			fmt.Println("refused:", err)
			os.Exit(98)
		}
		fmt.Println("acknowledged", numbered(i))
	}
	os.Exit(0)
}

// failingLog fails its write once broken is set.
type failingLog struct {
	logStore
	fault  string
	broken bool
}

func (l *failingLog) StoreLogs(entries []*raft.Log) error {
	if !l.broken {
		return l.logStore.StoreLogs(entries)
	}
	l.broken = false
	if l.fault == "hang" {
		time.Sleep(time.Minute)
	}
	return errors.New("input/output error")
}

func TestAFailedOrHangingWriteEndsTheProcessAndLosesNothing(t *testing.T) {
	for fault, message := range map[string]string{
		"error": "append to the log: input/output error",
		"hang":  "append to the log has not finished in 200ms",
	} {
		t.Run(fault, func(t *testing.T) {
			dir := t.TempDir()
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), helperDir+"="+dir, helperFault+"="+fault)
			output, err := cmd.Output()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != ExitFault {
				t.Fatalf("the process ended with %v, want exit code %d; it said:\n%s", err, ExitFault, output)
			}
			if !strings.Contains(string(output), message) {
				t.Errorf("it said:\n%s\nwant %q", output, message)
			}
			acknowledged := strings.Count(string(output), "acknowledged")
			_, machine := open(t, testConfig(dir))
			if got := len(machine.keys()); acknowledged != 10 || got < 10 {
				t.Errorf("%d writes were acknowledged, %d are there after the restart, want 10", acknowledged, got)
			}
		})
	}
}
