package install

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A command goes on when kvconfd is killed. So that the next kvconfd does not run a second one beside it, the
// debt that it is to pay names its process. Before there is a process to name, the debt is locked, and the command
// inherits that lock: whoever finds it held by a command that no debt names looks for who that is.

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

// Tell is Run for the command that pays the debt of f, and notes there which process that is. The command finds the
// debt open as its file descriptor 3, and nothing to do with it.
func (f File) Tell(ctx context.Context, c Command) (output string, err error) {
	return f.tell(ctx, c, f.note)
}

func (f File) tell(ctx context.Context, c Command, note func(pid int)) (output string, err error) {
	var inherited []*os.File
	debt, err := f.openDebt(os.O_RDONLY)
	if err == nil {
		defer debt.Close()
		_ = syscall.Flock(int(debt.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) // without it, a kill before the note goes unseen
		inherited = append(inherited, debt)
	}
	return runNoting(ctx, c, Vars{}, inherited, func(pid int) {
		note(pid)
		for _, debt := range inherited {
			_ = syscall.Flock(int(debt.Fd()), syscall.LOCK_UN) // for the command too: it may leave a daemon behind
		}
	})
}

// note names a process in the debt.
func (f File) note(pid int) {
	stat, err := statOf(pid)
	if err != nil {
		return // it has ended already
	}
	debt, err := f.openDebt(os.O_WRONLY | os.O_TRUNC)
	if err != nil {
		return // whoever comes after a kill does not wait then
	}
	defer debt.Close()
	fmt.Fprintf(debt, debtText+"%s", f.Path, stat.line())
}

func (f File) openDebt(flag int) (*os.File, error) {
	return os.OpenFile(f.debtPath(), flag|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
}

// Teller returns the process that Tell has begun to pay the debt of f.
func (f File) Teller() Process {
	debt, err := f.openDebt(os.O_RDONLY)
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
	if p := parseTeller(string(text)); p.Runs() {
		return p
	}
	if err := syscall.Flock(int(debt.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != syscall.EWOULDBLOCK {
		return Process{} // there is none that was not noted
	}
	return commandWith(is)
}

// commandWith returns the command that has a file open: the leader of a process group, and no daemon, which has a
// session of its own. It returns the zero Process if there is none.
func commandWith(file syscall.Stat_t) Process {
	processes, _ := filepath.Glob("/proc/[1-9]*")
	for _, process := range processes {
		pid, _ := strconv.Atoi(filepath.Base(process))
		stat, err := statOf(pid)
		if err != nil || pid != stat.group || pid == stat.session || pid == os.Getpid() {
			continue
		}
		open, _ := filepath.Glob(process + "/fd/*")
		for _, fd := range open {
			var is syscall.Stat_t
			if err := syscall.Stat(fd, &is); err == nil && is.Dev == file.Dev && is.Ino == file.Ino {
				return stat.Process
			}
		}
	}
	return Process{}
}

// line returns what a debt says of p; "" if it has ended.
func (p Process) line() string {
	if !p.Runs() {
		return ""
	}
	return fmt.Sprintf(processLine, p.pid, p.started, p.boot)
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
	now, err := statOf(p.pid)
	return err == nil && now.Process == p
}

// stat is what proc(5) says of a process.
type stat struct {
	Process
	group, session int
}

// statOf returns what is known of the process with a number; one that has ended, and that nobody has waited for, is an
// error.
func statOf(pid int) (stat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	s, ok := parseStat(pid, string(text))
	if !ok {
		return stat{}, os.ErrProcessDone
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	s.boot = strings.TrimSpace(string(boot))
	return s, err
}

// parseStat reads /proc/PID/stat. ok is false if the process has ended, or that cannot be understood.
func parseStat(pid int, text string) (s stat, ok bool) {
	const state, group, session, startTime = 0, 2, 3, 19 // of the fields after the name, which may hold anything
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) <= startTime || fields[state] == "Z" || fields[state] == "X" {
		return stat{}, false
	}
	s.pid = pid
	_, err := fmt.Sscan(strings.Join([]string{fields[group], fields[session], fields[startTime]}, " "), &s.group, &s.session, &s.started)
	return s, err == nil
}
