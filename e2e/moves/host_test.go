package moves

import (
	"encoding/hex"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/workload/docker/dockertest"
)

// endMax bounds how long an agent takes to end when it is asked to.
const endMax = 30 * time.Second

// host is a machine with an identity of its own, an engine and an agent. It belongs to one goroutine.
type host struct {
	t        *testing.T
	name     string
	address  string // that its agent registers
	engine   *dockertest.Engine
	link     *link
	kvagent  string
	identity string // file, seen by the agent as /etc/machine-id
	log      string // file
	folder   string // for what the agent keeps
	args     []string
	agent    *exec.Cmd     // nil while none is to run
	ended    chan struct{} // closed when agent has ended
	revived  int           // times that an agent had ended by itself
}

func newHost(t *testing.T, name, address, store string, random *rand.Rand, args ...string) *host {
	t.Helper()
	parts.Need(t, "mountns")
	folder := t.TempDir()
	h := &host{
		t: t, name: name, address: address, engine: dockertest.Start(t), link: newLink(t, name, store), kvagent: filepath.Join(parts.Build(t), "kvagent"),
		identity: filepath.Join(folder, "machine-id"), log: filepath.Join(folder, "log"), folder: folder, args: args,
	}
	identity := make([]byte, 16)
	for i := range identity {
		identity[i] = byte(random.UintN(256))
	}
	if err := os.WriteFile(h.identity, []byte(hex.EncodeToString(identity)+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.kill()
		if log, err := os.ReadFile(h.log); err == nil && t.Failed() {
			t.Logf("log of %s:\n%s", name, log[max(0, len(log)-64<<10):])
		}
	})
	h.start()
	return h
}

// start starts the agent unless it runs.
func (h *host) start() {
	h.t.Helper()
	if h.agent != nil {
		return
	}
	log, err := os.OpenFile(h.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close()
	args := append([]string{"--mount", "--", "sh", "-c", `mount --bind "$0" /etc/machine-id && exec "$@"`, h.identity, h.kvagent,
		"--endpoints", h.link.front.URL, "--host", h.name, "--ip", h.address, "--docker-host", h.engine.Host(), "--ttl", ttl.String(), "--socket", "", "--services-dir", h.folder + "/none", "--log-format", "json"}, h.args...)
	h.agent = exec.Command(parts.Path(h.t, "unshare"), args...)
	h.agent.Stdout, h.agent.Stderr = log, log
	h.agent.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := h.agent.Start(); err != nil {
		h.t.Fatal(err)
	}
	agent, ended := h.agent, make(chan struct{})
	h.ended = ended
	go func() {
		defer close(ended)
		agent.Wait()
	}()
}

// revive does what a service manager does: it starts an agent that has ended by itself, as one does that
// finds no engine when it starts.
func (h *host) revive() {
	h.t.Helper()
	if h.agent == nil || !isOpen(h.ended) {
		return
	}
	h.agent = nil
	h.revived++
	h.start()
}

// kill ends the agent with SIGKILL, if it runs.
func (h *host) kill() {
	if h.agent == nil {
		return
	}
	h.agent.Process.Kill()
	<-h.ended
	h.agent = nil
}

// stop asks the agent to end, and waits until it has.
func (h *host) stop() {
	if h.agent == nil {
		return
	}
	h.agent.Process.Signal(syscall.SIGTERM)
	select {
	case <-h.ended:
	case <-time.After(endMax):
		h.t.Errorf("the agent of %s does not end", h.name)
		h.agent.Process.Kill()
		<-h.ended
	}
	h.agent = nil
}

// run starts the container on this host.
func (h *host) run(id string) {
	h.engine.Run(id, dockertest.Container{
		Name:      "the-one",
		Labels:    map[string]string{"SERVICE_NAME": service, "SERVICE_ID": instance, "SERVICE_CHECK": "none"},
		Published: map[string]string{"80/tcp": "0.0.0.0:8080"},
	})
}
