package parts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// engineStartMax bounds how long a fresh dockerd may take to answer.
const engineStartMax = 30 * time.Second

// Docker returns once a Docker engine answers, at the default socket or at DOCKER_HOST. An engine
// that already runs is used as it is. Otherwise one is started, which all test processes of this
// machine share and which ends with the last of them.
func Docker(t testing.TB) {
	t.Helper()
	Need(t, "docker")
	if _, err := engine(); err != nil {
		lack(t, "docker", err.Error())
	}
}

// engine makes sure, once for the whole process, that an engine answers. The open file, kept here
// until the process ends, is its share in an engine that was started for tests.
var engine = sync.OnceValues(func() (*os.File, error) {
	docker, err := lookPath("docker")
	if err != nil {
		return nil, err
	}
	if os.Getenv("DOCKER_HOST") != "" {
		return nil, engineAnswers(docker)
	}
	folder := filepath.Join(os.TempDir(), fmt.Sprintf("kvd-test-engine-%d", os.Geteuid()))
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	share, err := shareEngine(filepath.Join(folder, "users"))
	if err != nil {
		return nil, err
	}
	unlock, err := lock(filepath.Join(folder, "start"))
	if err != nil {
		return share, err
	}
	defer unlock()
	answer := engineAnswers(docker)
	if answer == nil {
		return share, nil
	}
	dockerd, err := lookPath("dockerd")
	if err != nil {
		return share, fmt.Errorf("no engine answers (%w), and none can be started: %w", answer, err)
	}
	return share, startEngine(docker, dockerd, folder)
})

func engineAnswers(docker string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	output, err := exec.CommandContext(ctx, docker, "version", "--format", "{{.Server.Version}}").CombinedOutput()
	if err != nil {
		return fmt.Errorf("docker version: %w: %s", err, bytes.TrimSpace(output))
	}
	return nil
}

// shareEngine shares the lock on path until this process ends, however it ends: the keeper stops
// the engine when it can have the lock for itself.
func shareEngine(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(file.Fd()), unix.LOCK_SH)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return file, nil
}

// keeper starts the engine $1 with its log in $2, waits until nobody shares the lock on $3, and
// stops it.
const keeper = `"$1" >"$2" 2>&1 & engine=$!; exec 9>>"$3"; flock -x 9; kill "$engine"; wait "$engine"`

func startEngine(docker, dockerd, folder string) error {
	log := filepath.Join(folder, "dockerd.log")
	keep := exec.Command("sh", "-c", keeper, "keeper", dockerd, log, filepath.Join(folder, "users"))
	keep.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // outlives this process when others use the engine
	if err := keep.Start(); err != nil {
		return err
	}
	// Nobody here waits for the keeper any longer than the engine takes to answer: it stays.
	defer keep.Process.Release()
	deadline := time.Now().Add(engineStartMax)
	for {
		err := engineAnswers(docker)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("dockerd did not answer within %v: %w; its log is %s", engineStartMax, err, log)
		}
		if pid, err := unix.Wait4(keep.Process.Pid, nil, unix.WNOHANG, nil); pid != 0 {
			return errors.Join(fmt.Errorf("dockerd ended; its log is %s", log), err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
