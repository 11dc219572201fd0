package proxy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// NginxConfig says how to find a running nginx.
type NginxConfig struct {
	PidFile string        // of the master; required
	Wait    time.Duration // how long Confirm waits for the workers of a new generation; 0: 10 s
	Proc    string        // the proc file system; "": /proc
}

// Nginx is the Applier for nginx. Every change takes a reload. nginx tells nobody but its log when
// it cannot use a new configuration: the master then keeps its workers. So Confirm waits for what
// the master does when it can: new workers come, and those of before are told to finish.
type Nginx struct {
	cfg NginxConfig
}

// NewNginx returns an applier; nothing is asked yet.
func NewNginx(cfg NginxConfig) *Nginx {
	cfg.Wait = cmp.Or(cfg.Wait, 10*time.Second)
	cfg.Proc = cmp.Or(cfg.Proc, procDir)
	return &Nginx{cfg: cfg}
}

var _ Applier = (*Nginx)(nil)

// Plan returns Nothing if live and next are the same bytes, else Reload.
func (n *Nginx) Plan(_ context.Context, live, next []byte) (Plan, error) {
	return planWhole(live, next), nil
}

// Apply does nothing.
func (n *Nginx) Apply(context.Context, Plan) error { return nil }

// process is one process of this boot.
type process struct {
	pid     int
	started string // ticks since boot
}

// nginxMark is the workers of a moment, those that finish left out.
type nginxMark struct{ workers map[process]bool }

// Mark returns the workers that serve now.
func (n *Nginx) Mark(context.Context) (Mark, error) {
	serving, _, err := n.workers()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Mark{}, err
	}
	return Mark{taken: true, generation: nginxMark{serving}}, nil
}

// Confirm waits for workers that mark does not have, and until those it has serve no longer. With
// the zero mark it looks whether there are any: what they read cannot be told.
func (n *Nginx) Confirm(ctx context.Context, _ []byte, mark Mark) error {
	if mark.IsZero() {
		return n.alive()
	}
	before, _ := mark.generation.(nginxMark)
	ctx, cancel := context.WithTimeout(ctx, n.cfg.Wait)
	defer cancel()
	for poll := newPoll(); ; {
		serving, master, err := n.workers()
		problem := err
		if err == nil {
			fresh, old := 0, 0
			for worker := range serving {
				if before.workers[worker] {
					old++
				} else {
					fresh++
				}
			}
			switch {
			case fresh > 0 && old == 0:
				return nil
			case fresh == 0:
				problem = fmt.Errorf("nginx (process %d) has started no workers since the reload: it keeps to the configuration of before; its error log says why", master)
			default:
				problem = fmt.Errorf("nginx (process %d) still serves with %d workers of before the reload", master, old)
			}
		}
		if !poll.wait(ctx) {
			return problem
		}
	}
}

func (n *Nginx) alive() error {
	serving, master, err := n.workers()
	if err == nil && len(serving) == 0 {
		err = fmt.Errorf("nginx (process %d) has no workers", master)
	}
	return err
}

// workers returns the workers of the master that do not finish.
func (n *Nginx) workers() (serving map[process]bool, master int, err error) {
	text, err := os.ReadFile(n.cfg.PidFile)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot tell which nginx runs: %w", err)
	}
	if master, err = strconv.Atoi(strings.TrimSpace(string(text[:min(len(text), 32)]))); err != nil || master <= 0 {
		return nil, 0, fmt.Errorf("%s holds no process number: %.32q", n.cfg.PidFile, text)
	}
	if _, err := os.Stat(filepath.Join(n.cfg.Proc, strconv.Itoa(master))); err != nil {
		return nil, master, fmt.Errorf("nginx does not run: %s names process %d: %w", n.cfg.PidFile, master, fs.ErrNotExist)
	}
	serving = map[process]bool{}
	for _, pid := range n.children(master) {
		worker, ok := n.worker(pid, master)
		if ok {
			serving[worker] = true
		}
	}
	return serving, master, nil
}

// children returns the processes that may be children of master: exactly those where the kernel
// tells, else all.
func (n *Nginx) children(master int) (pids []int) {
	id := strconv.Itoa(master)
	if text, err := os.ReadFile(filepath.Join(n.cfg.Proc, id, "task", id, "children")); err == nil {
		for _, word := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(word); err == nil {
				pids = append(pids, pid)
			}
		}
		return pids
	}
	entries, _ := os.ReadDir(n.cfg.Proc)
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// worker says which process pid is, if it is a child of master that serves: a cache process or one
// that finishes is none.
func (n *Nginx) worker(pid, master int) (worker process, ok bool) {
	dir := filepath.Join(n.cfg.Proc, strconv.Itoa(pid))
	parent, started, ok := readStat(dir)
	if !ok || parent != master {
		return worker, false
	}
	title, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil || !bytes.HasPrefix(title, []byte("nginx: worker process")) || bytes.Contains(title, []byte("shutting down")) {
		return worker, false
	}
	return process{pid, started}, true
}
