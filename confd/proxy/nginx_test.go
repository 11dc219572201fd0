package proxy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
)

// nginxRig is a real nginx, its file and an applier for it.
type nginxRig struct {
	*Nginx
	t         testing.TB
	dir, file string
	cmd       *exec.Cmd
	output    buffer
}

func newNginxRig(t testing.TB, server string) *nginxRig {
	t.Helper()
	parts.Need(t, "nginx")
	r := &nginxRig{t: t, dir: t.TempDir()}
	r.file = filepath.Join(r.dir, "nginx.conf")
	r.Nginx = NewNginx(NginxConfig{PidFile: r.dir + "/pid"})
	r.write(server)
	r.cmd = exec.Command(parts.Path(t, "nginx"), "-c", r.file, "-g", "daemon off;")
	r.cmd.Stdout, r.cmd.Stderr = &r.output, &r.output
	r.cmd.WaitDelay = 5 * time.Second
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.cmd.Process.Signal(syscall.SIGTERM)
		r.cmd.Wait()
		if t.Failed() {
			t.Logf("output of nginx:\n%s", r.output.String())
		}
	})
	until(t, "nginx has its workers", func() bool {
		serving, _, err := r.workers()
		return err == nil && len(serving) == 2
	})
	return r
}

func (r *nginxRig) write(server string) {
	r.t.Helper()
	text := fmt.Sprintf("user root; pid %[1]s/pid; error_log stderr warn; worker_processes 2;\nevents {}\nhttp { access_log off; client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;\n%[2]s\n}\n", r.dir, server)
	if err := os.WriteFile(r.file, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *nginxRig) reload(server string) error {
	r.t.Helper()
	mark, err := r.Mark(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	r.write(server)
	if err := r.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		r.t.Fatal(err)
	}
	return r.Confirm(r.t.Context(), nil, mark)
}

func answering(address, word string) string {
	return fmt.Sprintf("server { listen %s; return 200 %s; }", address, word)
}

func TestAReloadOfNginxIsConfirmedByNewWorkers(t *testing.T) {
	address := freeAddress(t)
	r := newNginxRig(t, answering(address, "one"))
	if err := r.Confirm(t.Context(), nil, Mark{}); err != nil {
		t.Error(err)
	}
	for i := range 5 {
		word := fmt.Sprintf("word%d", i)
		if err := r.reload(answering(address, word)); err != nil {
			t.Fatal(err)
		}
		if got := get(address); got != word {
			t.Errorf("after a confirmed reload nginx answers %q, want %q", got, word)
		}
	}
}

func TestAReloadThatNginxRefusesIsNotConfirmed(t *testing.T) {
	address := freeAddress(t)
	r := newNginxRig(t, answering(address, "one"))
	r.cfg.Wait = time.Second
	err := r.reload("nonsense;")
	if err == nil || !strings.Contains(err.Error(), "keeps to the configuration of before") {
		t.Errorf("got %v", err)
	}
	if got := get(address); got != "one" {
		t.Errorf("nginx answers %q", got)
	}
	r.cfg.Wait = 10 * time.Second
	if err := r.reload(answering(address, "two")); err != nil {
		t.Error(err)
	}
}

func TestAWorkerThatDiedIsNoReload(t *testing.T) {
	r := newNginxRig(t, answering(freeAddress(t), "one"))
	r.cfg.Wait = time.Second
	mark, err := r.Mark(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	serving, _, err := r.workers()
	if err != nil {
		t.Fatal(err)
	}
	for worker := range serving {
		syscall.Kill(worker.pid, syscall.SIGKILL)
		break
	}
	err = r.Confirm(t.Context(), nil, mark)
	if err == nil || !strings.Contains(err.Error(), "workers of before the reload") {
		t.Errorf("got %v", err)
	}
}

func TestAnNginxThatDoesNotRunIsToldSo(t *testing.T) {
	dir := t.TempDir()
	n := NewNginx(NginxConfig{PidFile: dir + "/pid", Wait: 50 * time.Millisecond})
	mark, err := n.Mark(t.Context())
	if err != nil {
		t.Fatalf("nginx that does not run is a generation of its own: %v", err)
	}
	if err := n.Confirm(t.Context(), nil, mark); err == nil || !strings.Contains(err.Error(), "cannot tell which nginx runs") {
		t.Errorf("without a pid file: %v", err)
	}
	for content, want := range map[string]string{"": "no process number", "0": "no process number", "-1\n": "no process number", "99999999\n": "does not run"} {
		if err := os.WriteFile(dir+"/pid", []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := n.Confirm(t.Context(), nil, Mark{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("pid file %q: %v", content, err)
		}
	}
}
