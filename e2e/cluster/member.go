package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Member is one place of a cluster and the process that runs there. Its methods may be called from any
// goroutine.
type Member struct {
	Name      string
	ClientURL string // "http://198.18.7.10:2379"
	PeerURL   string

	cluster   *Cluster
	place     *place // nil on loopback
	data, log string
	joining   bool // the next process finds an existing cluster

	mu      sync.Mutex // guards the fields below
	process *process   // nil while the member is down
	paused  bool
}

// process is one run of the program.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed after its end
	err   error         // to be read after that
}

// Launch starts the process and does not wait until it answers. A member that runs stays as it is.
func (m *Member) Launch() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process != nil {
		return nil
	}
	log, err := os.OpenFile(m.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	args := m.command()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", m.Name, err)
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() { // ends with the process, which Cluster.Close kills
		p.err = cmd.Wait()
		close(p.ended)
	}()
	m.process = p
	return nil
}

// command returns the command line of the next process.
func (m *Member) command() []string {
	state := "new"
	if m.joining {
		state = "existing"
	}
	program := m.cluster.config.Program
	args := []string{program.Path, "--name", m.Name, "--data-dir", m.data,
		"--listen-client-urls", m.ClientURL, "--advertise-client-urls", m.ClientURL,
		"--listen-peer-urls", m.PeerURL, "--initial-advertise-peer-urls", m.PeerURL,
		"--initial-cluster-token", m.cluster.token, "--initial-cluster-state", state}
	if domain := m.cluster.config.Domain; domain != "" {
		args = append(args, "--discovery-srv", domain)
	} else {
		args = append(args, "--initial-cluster", m.cluster.initial())
	}
	if program.Name == "etcd" {
		args = append(args, "--enable-v2", "--logger", "zap", "--log-level", "warn")
	}
	args = append(args, m.cluster.config.Args...)
	if m.cluster.config.Domain != "" {
		args = append(m.cluster.Naming(), args...)
	}
	if m.place != nil {
		args = append(m.place.space.enter(), args...)
	}
	return args
}

// take returns the process and forgets it, so that its end is one that was asked for.
func (m *Member) take() *process {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.process
	m.process, m.paused = nil, false
	return p
}

// Kill is kill -9, and returns when the process has ended.
func (m *Member) Kill() {
	if p := m.take(); p != nil {
		p.cmd.Process.Kill()
		<-p.ended
	}
}

// Stop asks the process to end and waits for that; one that is paused goes on for it. One that takes
// too long is killed, and an error.
func (m *Member) Stop() error {
	p := m.take()
	if p == nil {
		return nil
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.cmd.Process.Signal(syscall.SIGCONT)
	select {
	case <-p.ended:
		return nil
	case <-time.After(stopMax):
		p.cmd.Process.Kill()
		<-p.ended
		return fmt.Errorf("%s did not end within %v of SIGTERM\n%s", m.Name, stopMax, m.Log())
	}
}

// Pause stops the threads of the process: connections stay and nothing answers.
func (m *Member) Pause() error { return m.signal(syscall.SIGSTOP, true) }

// Resume lets a paused process go on.
func (m *Member) Resume() error { return m.signal(syscall.SIGCONT, false) }

func (m *Member) signal(signal syscall.Signal, paused bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process == nil {
		return fmt.Errorf("%s does not run", m.Name)
	}
	m.paused = paused
	return m.process.cmd.Process.Signal(signal)
}

// Running reports whether the member has a process that is not paused.
func (m *Member) Running() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.process != nil && !m.paused
}

// Died returns an error if the process has ended without having been asked to.
func (m *Member) Died() error {
	m.mu.Lock()
	p := m.process
	m.mu.Unlock()
	if p == nil {
		return nil
	}
	select {
	case <-p.ended:
		return fmt.Errorf("%s has ended by itself: %w\n%s", m.Name, p.err, m.Log())
	default:
		return nil
	}
}

// Exit waits for the process to end by itself, for half a minute at most, and returns its exit code, -1 if
// it has none. The member counts as running until Stop or Kill.
func (m *Member) Exit(ctx context.Context) int {
	m.mu.Lock()
	p := m.process
	m.mu.Unlock()
	if p == nil {
		return -1
	}
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(stopMax):
	case <-ctx.Done():
	}
	return -1
}

// PID returns the id of the process, 0 while there is none.
func (m *Member) PID() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process == nil {
		return 0
	}
	return m.process.cmd.Process.Pid
}

// AwaitHealthy returns when a member that runs says that it is healthy: it has a leader and serves.
func (m *Member) AwaitHealthy(ctx context.Context) error {
	for {
		if !m.Running() {
			return nil
		}
		if err := m.Died(); err != nil {
			return err
		}
		err := m.cluster.caller.Answers(ctx, m.ClientURL+"/health")
		if err == nil {
			return nil
		}
		if late := pause(ctx, pollEvery); late != nil {
			return fmt.Errorf("%s is not healthy: %w: %w\n%s", m.Name, late, err, m.Log())
		}
	}
}

// Log returns the end of what the member's processes have said.
func (m *Member) Log() string {
	const most = 4 << 10
	file, err := os.Open(m.log)
	if err != nil {
		return err.Error()
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Size() > most {
		file.Seek(-most, io.SeekEnd)
	}
	text, _ := io.ReadAll(io.LimitReader(file, most))
	return m.Name + " said:\n" + string(text)
}

// Data is the member's data directory.
func (m *Member) Data() string { return m.data }

// Wipe removes the data of a member that is down.
func (m *Member) Wipe() error {
	if m.PID() != 0 {
		return fmt.Errorf("%s runs", m.Name)
	}
	return os.RemoveAll(m.data)
}

// Slow delays every sync of the member's files by delay until end is called. strace does it, which
// makes all other system calls of the member slower as well.
func (m *Member) Slow(delay time.Duration) (end func() error, err error) {
	pid := m.PID()
	if pid == 0 {
		return nil, fmt.Errorf("%s does not run", m.Name)
	}
	cmd := exec.Command("strace", "-f", "-qq", "-o", "/dev/null", "-p", strconv.Itoa(pid),
		"-e", "trace=fsync,fdatasync", "-e", fmt.Sprintf("inject=fsync,fdatasync:delay_enter=%d", delay.Microseconds()))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() error {
		cmd.Process.Signal(syscall.SIGTERM) // it lets go of the member first
		late := time.AfterFunc(stopMax, func() { cmd.Process.Kill() })
		defer late.Stop()
		var exit *exec.ExitError
		if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
			return err
		}
		return nil
	}, nil
}
