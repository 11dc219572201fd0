package install

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"
)

// A command goes on when kvconfd is killed. So that the next kvconfd does not run a second one beside it, the
// debt that it is to pay names its process.

// Process is a command that another kvconfd has begun. The zero Process has ended.
type Process struct {
	pid     int // of the command, and of its group
	started uint64
	boot    string // since which that counts
}

// processLine is the line of a debt that names the process of the command; started is in clock ticks since the
// machine came up, which tells the process from a later one of the same number.
const processLine = "process %d started %d boot %s\n"

// debtBytesMax bounds a debt that is read.
const debtBytesMax = 64 << 10

// awaitInterval is the time between two looks whether a process has ended.
const awaitInterval = 10 * time.Millisecond

// Tell is Run for the command that pays the debt of f, and notes there which process that is.
func (f File) Tell(ctx context.Context, c Command) (output string, err error) {
	return runNoting(ctx, c, Vars{}, func(pid int) {
		p, err := processOf(pid)
		if err != nil {
			return // it has ended already
		}
		debt, err := os.OpenFile(f.debtPath(), os.O_WRONLY|os.O_TRUNC|syscall.O_NOFOLLOW, 0)
		if err != nil {
			return // whoever comes after a kill does not wait then
		}
		defer debt.Close()
		fmt.Fprintf(debt, debtText+processLine, f.Path, p.pid, p.started, p.boot)
	})
}

// Teller returns the process that Tell has noted in the debt of f.
func (f File) Teller() Process {
	debt, err := os.OpenFile(f.debtPath(), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return Process{}
	}
	defer debt.Close()
	var is syscall.Stat_t
	if err := syscall.Fstat(int(debt.Fd()), &is); err != nil || is.Mode&syscall.S_IFMT != syscall.S_IFREG || int(is.Uid) != os.Geteuid() {
		return Process{} // another user does not say what may be killed
	}
	text, err := io.ReadAll(io.LimitReader(debt, debtBytesMax))
	if err != nil {
		return Process{}
	}
	return parseTeller(string(text))
}

func parseTeller(text string) (p Process) {
	lines := strings.SplitAfter(text, "\n")
	if len(lines) < 2 {
		return Process{}
	}
	if n, _ := fmt.Sscanf(lines[len(lines)-2], processLine, &p.pid, &p.started, &p.boot); n != 3 || p.pid <= 1 {
		return Process{}
	}
	return p
}

// Await waits until p has ended: at most for timeout, 0 standing for DefaultTimeout. Then it is ended as Run ends what
// takes too long. It returns early when ctx is done.
func (p Process) Await(ctx context.Context, timeout time.Duration) {
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if p.endsWithin(ctx, timeout) || ctx.Err() != nil {
			return
		}
		_ = syscall.Kill(-p.pid, signal) // fails if nothing of it is left
		timeout = killGrace
	}
	p.endsWithin(ctx, timeout)
}

func (p Process) endsWithin(ctx context.Context, patience time.Duration) bool {
	end := time.NewTimer(patience)
	defer end.Stop()
	look := time.NewTicker(awaitInterval)
	defer look.Stop()
	for p.Runs() {
		select {
		case <-look.C:
		case <-end.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// Runs reports whether the process is there and has not ended.
func (p Process) Runs() bool {
	if p.pid == 0 {
		return false
	}
	now, err := processOf(p.pid)
	return err == nil && now == p
}

// processOf returns the process with a number; one that has ended, and that nobody has waited for, is an error.
func processOf(pid int) (Process, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}, err
	}
	p, ok := parseStat(pid, string(text))
	if !ok {
		return Process{}, os.ErrProcessDone
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	p.boot = strings.TrimSpace(string(boot))
	return p, err
}

// parseStat reads what proc(5) says of a process. ok is false if it has ended, or that cannot be understood.
func parseStat(pid int, text string) (p Process, ok bool) {
	const state, startTime = 0, 19 // of the fields after the name, which may hold anything
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) <= startTime || fields[state] == "Z" || fields[state] == "X" {
		return Process{}, false
	}
	p.pid = pid
	_, err := fmt.Sscan(fields[startTime], &p.started)
	return p, err == nil
}
