package install

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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

// debtDescriptor is the file descriptor at which a command finds the debt that it pays.
const debtDescriptor = 3 // the first of exec.Cmd.ExtraFiles

// Tell is Run for the command that pays the debt of f, and notes there which process that is. The command finds the
// debt open at debtDescriptor, and has nothing to do with it.
func (f File) Tell(ctx context.Context, c Command) (output string, err error) {
	return f.tell(ctx, c, f.note)
}

func (f File) tell(ctx context.Context, c Command, note func(pid int) error) (output string, err error) {
	var inherited []*os.File
	debt, err := f.openDebt(os.O_RDONLY)
	if err == nil {
		defer debt.Close()
		_ = syscall.Flock(int(debt.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) // without it, as on NFS, a kill before the note goes unseen
		inherited = append(inherited, debt)
	}
	return runNoting(ctx, c, Vars{}, inherited, func(pid int) {
		if note(pid) != nil {
			return // then the lock alone tells of it
		}
		for _, debt := range inherited {
			_ = syscall.Flock(int(debt.Fd()), syscall.LOCK_UN) // for the command too: it may leave a daemon behind
		}
	})
}

// note names a process in the debt.
func (f File) note(pid int) error {
	stat, err := statOf(pid)
	if err != nil {
		return err
	}
	debt, err := f.openDebt(os.O_WRONLY | os.O_TRUNC)
	if err != nil {
		return err
	}
	defer debt.Close()
	_, err = fmt.Fprintf(debt, debtText+"%s", f.Path, stat.line())
	return err
}

func (f File) openDebt(flag int) (*os.File, error) {
	return os.OpenFile(f.debtPath(), flag|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
}

// Teller returns the process that Tell has begun to pay the debt of f, and that runs. The zero Process is none.
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
	unnoted := syscall.Flock(int(debt.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) == syscall.EWOULDBLOCK
	text, err := io.ReadAll(io.LimitReader(debt, debtBytesMax))
	if err != nil {
		return Process{}
	}
	if p := parseTeller(string(text)); p.Runs() {
		return p
	}
	if unnoted {
		return commandWith(is.Ino)
	}
	return Process{}
}

// commandWith returns the command that has inherited the lock of a debt: the leader of a process group, and no daemon,
// which has a session of its own. Of several, as the command may have begun others with groups of their own, it is the
// oldest. It returns the zero Process if there is none.
func commandWith(inode uint64) (command Process) {
	processes, _ := filepath.Glob("/proc/[1-9]*")
	for _, process := range processes {
		pid, _ := strconv.Atoi(filepath.Base(process))
		stat, err := statOf(pid)
		if err != nil || pid != stat.group || pid == stat.session || !hasInherited(process, inode) {
			continue
		}
		if older := cmp.Or(cmp.Compare(stat.started, command.started), cmp.Compare(pid, command.pid)) < 0; command.pid == 0 || older {
			command = stat.Process
		}
	}
	return command
}

// hasInherited reports whether a process has the lock of a file at debtDescriptor, and is a program begun with it: a
// kvconfd, and its child before that executes the command, would close the file with the next program. It asks
// proc(5) and not the file, whose file system may hang.
func hasInherited(process string, inode uint64) bool {
	info, _ := os.ReadFile(fmt.Sprintf("%s/fdinfo/%d", process, debtDescriptor))
	locked := regexp.MustCompile(fmt.Sprintf(`(?m)^lock:.* FLOCK .* WRITE .*:%d 0 EOF$`, inode)).Match(info)
	var flags int
	if at := bytes.Index(info, []byte("flags:")); at >= 0 {
		fmt.Sscanf(string(info[at:]), "flags: %o", &flags)
	}
	return locked && flags&syscall.O_CLOEXEC == 0
}

// line returns what a debt says of p; "" if p is zero.
func (p Process) line() string {
	if p.pid == 0 {
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
// takes too long, and killed says so. It returns early when ctx is done.
func (p Process) Await(ctx context.Context, timeout time.Duration) (killed bool) {
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	if p.endsWithin(ctx, timeout) || ctx.Err() != nil {
		return false
	}
	groups := groupsOf(p.pid)
	signalAll(groups, syscall.SIGTERM)
	p.endsWithin(ctx, killGrace)
	signalAll(groups, syscall.SIGKILL)
	p.endsWithin(ctx, killGrace)
	return true
}

// groupsOf returns the process groups of a command, which leads one, and of those that it has begun directly or not, but
// for daemons, which have a session of their own. One that a descendant has joined and none leads is not among them.
func groupsOf(command int) (groups []int) {
	all := map[int]stat{}
	processes, _ := filepath.Glob("/proc/[1-9]*")
	for _, process := range processes {
		pid, _ := strconv.Atoi(filepath.Base(process))
		if s, err := statOf(pid); err == nil {
			all[pid] = s
		}
	}
	family := map[int]bool{command: true}
	for grown := true; grown; {
		grown = false
		for pid, s := range all {
			if !family[pid] && family[s.parent] && s.session == all[command].session {
				family[pid], grown = true, true
			}
		}
	}
	groups = []int{command}
	for pid := range family {
		if group := all[pid].group; family[group] && !slices.Contains(groups, group) {
			groups = append(groups, group)
		}
	}
	return groups
}

// signalAll sends a signal to process groups, as far as there is anything left of them.
func signalAll(groups []int, signal syscall.Signal) {
	for _, group := range groups {
		_ = syscall.Kill(-group, signal)
	}
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
	parent, group, session int
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
	const state, parent, group, session, startTime = 0, 1, 2, 3, 19 // of the fields after the name, which may hold anything
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) <= startTime || fields[state] == "Z" || fields[state] == "X" {
		return stat{}, false
	}
	s.pid = pid
	_, err := fmt.Sscan(strings.Join([]string{fields[parent], fields[group], fields[session], fields[startTime]}, " "), &s.parent, &s.group, &s.session, &s.started)
	return s, err == nil
}
