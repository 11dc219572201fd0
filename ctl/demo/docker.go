package demo

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// engine is a Docker engine, spoken to through its command line.
type engine struct {
	host string // DOCKER_HOST; "" is the default socket
	name string // "engine 20.10.24", for people
}

// findEngine returns the engine that answers. If none does and it may, it starts one with its
// data below folder. reason says why there is none.
func findEngine(ctx context.Context, folder string, c *crew) (e *engine, reason string) {
	if _, err := exec.LookPath("docker"); err != nil {
		return nil, "no docker command"
	}
	e = &engine{host: os.Getenv("DOCKER_HOST")}
	if e.host != "" && !strings.HasPrefix(e.host, "unix://") {
		return nil, fmt.Sprintf("DOCKER_HOST=%s is not on this machine", e.host)
	}
	version, err := e.version(ctx)
	if err == nil {
		e.name = "engine " + version
		return e, ""
	}
	daemon, lookErr := exec.LookPath("dockerd")
	switch {
	case lookErr != nil:
		return nil, "no engine answers and dockerd is not installed"
	case os.Geteuid() != 0:
		return nil, "no engine answers and only root may start dockerd"
	}
	data := filepath.Join(folder, "docker")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, err.Error()
	}
	e.host = "unix://" + filepath.Join(data, "docker.sock")
	p, err := start(folder, "dockerd", nil, daemon, "--host", e.host, "--data-root", filepath.Join(data, "data"),
		"--exec-root", filepath.Join(data, "exec"), "--pidfile", filepath.Join(data, "pid"), "--storage-driver", "vfs")
	if err != nil {
		return nil, err.Error()
	}
	c.later(func() error { return unmountBelow(data) }) // after p has been stopped
	c.join(p)
	err = c.await(ctx, 20*time.Second, func() bool {
		version, err = e.version(ctx)
		return err == nil || p.alive() != nil
	})
	if problem := p.alive(); problem != nil {
		return nil, fmt.Sprintf("dockerd does not run here: %v", problem)
	}
	if err != nil {
		return nil, fmt.Sprintf("dockerd does not answer: %v", err)
	}
	e.name = fmt.Sprintf("engine %s, started for the demo", version)
	return e, ""
}

// unmountBelow takes away the mounts that a dockerd has left below folder. Where mounts are private
// it mounts its data on itself, and does not always undo that when it ends.
func unmountBelow(folder string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("look for mounts below %s: %w", folder, err)
	}
	var problems []error
	lines := strings.Split(string(mounts), "\n")
	for _, line := range slices.Backward(lines) { // the newest first: it may stand on an older one
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], folder+"/") {
			if err := syscall.Unmount(fields[4], syscall.MNT_DETACH); err != nil {
				problems = append(problems, fmt.Errorf("unmount %s: %w", fields[4], err))
			}
		}
	}
	return errors.Join(problems...)
}

func (e *engine) version(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return e.run(ctx, nil, "version", "--format", "{{.Server.Version}}")
}

// run executes one docker command and returns what it prints, without the last newline.
func (e *engine) run(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Env = append(os.Environ(), e.settings()...)
	var problem bytes.Buffer
	cmd.Stdin, cmd.Stderr = stdin, &problem
	output, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", args[0], err, strings.TrimSpace(problem.String()))
	}
	return strings.TrimSpace(string(output)), nil
}

// start executes one docker command in the background.
func (e *engine) start(folder, name string, args ...string) (*process, error) {
	return start(folder, name, e.settings(), append([]string{"docker"}, args...)...)
}

func (e *engine) settings() []string {
	if e.host == "" {
		return nil
	}
	return []string{"DOCKER_HOST=" + e.host}
}

// makeImage imports an image that holds one static binary as /kvctl, and removes it at the end.
func (e *engine) makeImage(ctx context.Context, c *crew, name, binary string) error {
	reader, writer := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := writeTar(writer, binary)
		writer.CloseWithError(err)
		written <- err
	}()
	_, err := e.run(ctx, reader, "import", "--change", `ENTRYPOINT ["/kvctl"]`, "-", name)
	reader.Close() // lets the writer end if docker did not read to the end
	if err := errors.Join(err, <-written); err != nil {
		return err
	}
	c.later(func() error {
		_, err := e.run(context.Background(), nil, "image", "rm", "--force", name)
		return err
	})
	return nil
}

func writeTar(w io.Writer, binary string) error {
	file, err := os.Open(binary)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	archive := tar.NewWriter(w)
	if err := archive.WriteHeader(&tar.Header{Name: "kvctl", Mode: 0o755, Size: info.Size()}); err != nil {
		return err
	}
	if _, err := io.Copy(archive, file); err != nil {
		return err
	}
	return archive.Close()
}

// runContainer starts a container in the background and removes it at the end.
func (e *engine) runContainer(ctx context.Context, c *crew, name string, args ...string) error {
	c.later(func() error {
		_, err := e.run(context.Background(), nil, "rm", "--force", "--volumes", name)
		if err != nil && strings.Contains(err.Error(), "No such container") {
			return nil // it never came to be
		}
		return err
	})
	_, err := e.run(ctx, nil, append([]string{"run", "--detach", "--name", name}, args...)...)
	return err
}

// startedAt returns when a container began to run, by the engine's clock, which is this machine's.
func (e *engine) startedAt(ctx context.Context, container string) (time.Time, error) {
	text, err := e.run(ctx, nil, "inspect", "--format", "{{.State.StartedAt}}", container)
	if err != nil {
		return time.Time{}, err
	}
	return time.Parse(time.RFC3339Nano, text)
}
