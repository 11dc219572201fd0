package proxy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// haGeneration is one worker process.
type haGeneration struct{ pid, started string }

// haMark is what Mark notes: the worker, and how often the master was reloaded.
type haMark struct {
	worker  haGeneration // zero if none ran
	reloads int          // -1: not known
}

// Mark returns the worker that answers now. It waits, for at most two seconds, until its master
// hears of a reload: one that has just been started or reloaded ignores the signal.
func (h *HAProxy) Mark(ctx context.Context) (Mark, error) {
	mark := haMark{reloads: -1}
	info, _, err := h.current(ctx)
	switch {
	case err == nil:
		mark.worker = info.generation()
		if err := h.masterListens(ctx, info.pid); err != nil {
			return Mark{}, err
		}
	case !isAbsent(err):
		return Mark{}, err
	}
	if h.cfg.MasterSocket != "" {
		if reloads, _, err := h.reloads(ctx); err == nil {
			mark.reloads = reloads
		}
	}
	return Mark{taken: true, generation: mark}, nil
}

// masterListens waits until the master of worker does not ignore the signal to reload. A worker
// that has no master, or is not of the processes that can be seen here, needs none.
func (h *HAProxy) masterListens(ctx context.Context, worker string) error {
	ctx, cancel := context.WithTimeout(ctx, h.cfg.Timeout)
	defer cancel()
	for poll := newPoll(); ignoresReload(procDir, worker); {
		if !poll.wait(ctx) {
			return fmt.Errorf("the master of HAProxy's process %s does not listen for a reload", worker)
		}
	}
	return nil
}

// ignoresReload reports whether the parent of pid is an HAProxy that ignores SIGUSR2.
func ignoresReload(proc, pid string) bool {
	parent, _, ok := readStat(filepath.Join(proc, pid))
	if !ok || parent <= 1 {
		return false
	}
	status, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(parent), "status"))
	if err != nil || !bytes.HasPrefix(status, []byte("Name:\thaproxy\n")) {
		return false
	}
	_, ignored, _ := bytes.Cut(status, []byte("\nSigIgn:"))
	ignored, _, _ = bytes.Cut(ignored, []byte("\n"))
	mask, err := strconv.ParseUint(string(bytes.TrimSpace(ignored)), 16, 64)
	return err == nil && mask&(1<<(syscall.SIGUSR2-1)) != 0
}

// isAbsent reports whether err says that nobody listens.
func isAbsent(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED)
}

// reloads asks the master how often it was reloaded, and how many of the last reloads failed.
func (h *HAProxy) reloads(ctx context.Context) (reloads, failed int, err error) {
	answer, err := h.master.askMaster(ctx, "show proc", []byte("\n\n"))
	if err != nil {
		return 0, 0, err
	}
	return parseProc(answer)
}

// parseProc reads the answer to "show proc". Masters before 2.5 do not tell of failures.
func parseProc(answer string) (reloads, failed int, err error) {
	for line := range strings.Lines(answer) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[1] != "master" {
			continue
		}
		reloads, err := strconv.Atoi(fields[2])
		if err == nil && len(fields) > 4 && fields[3] == "[failed:" {
			failed, err = strconv.Atoi(strings.TrimSuffix(fields[4], "]"))
		}
		if err == nil {
			return reloads, failed, nil
		}
	}
	return 0, 0, fmt.Errorf("the answer to show proc is not understood: %.80q", answer)
}

// settle is how long a new generation may differ from the file: another reload may be on its way.
const settle = time.Second

// Confirm looks whether HAProxy runs next.
func (h *HAProxy) Confirm(ctx context.Context, next []byte, mark Mark) error {
	config := h.config(next)
	if mark.IsZero() {
		states, err := h.ask(ctx)
		if err != nil {
			return err
		}
		return h.compare(ctx, config, states)
	}
	before, _ := mark.generation.(haMark)
	ctx, cancel := context.WithTimeout(ctx, h.cfg.Wait)
	defer cancel()
	var problem error
	var differsSince time.Time
	for poll := newPoll(); ; {
		fresh, err := h.confirmNew(ctx, config, before)
		switch {
		case err == nil:
			return nil
		case isOver(ctx):
			return cmp.Or(problem, err)
		case !fresh && !isPassing(err):
			return err
		case fresh && differsSince.IsZero():
			differsSince = time.Now()
		case fresh && time.Since(differsSince) > settle:
			return err
		}
		problem = err
		if err := h.refused(ctx, before); err != nil {
			return err
		}
		if !poll.wait(ctx) {
			return problem
		}
	}
}

// errOldGeneration is the reason while nothing has come of a reload.
type errOldGeneration struct{ pid string }

func (e errOldGeneration) Error() string {
	return fmt.Sprintf("HAProxy still runs the configuration of before: no new worker took the place of process %s; its log says why", e.pid)
}

// confirmNew looks once whether a generation other than before runs config. fresh reports whether
// there is another generation.
func (h *HAProxy) confirmNew(ctx context.Context, config *haConfig, before haMark) (fresh bool, err error) {
	info, _, err := h.current(ctx)
	if err != nil {
		return false, err
	}
	if info.generation() == before.worker {
		return false, errOldGeneration{info.pid}
	}
	h.replaced = before.worker
	states, err := h.ask(ctx)
	if err != nil {
		return false, err
	}
	return true, h.compare(ctx, config, states)
}

// isPassing reports whether err may be over in a moment: nothing has come of a reload yet, or the
// worker that was asked ended meanwhile.
func isPassing(err error) bool {
	var old errOldGeneration
	return errors.As(err, &old) || isAbsent(err) || errors.Is(err, errCut) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// refused asks the master whether a reload since before failed.
func (h *HAProxy) refused(ctx context.Context, before haMark) error {
	if before.reloads < 0 {
		return nil
	}
	reloads, failed, err := h.reloads(ctx)
	if err != nil || reloads == before.reloads || failed == 0 {
		return nil // a master that is executed anew does not answer for a moment
	}
	reason := "its log says why"
	if h.info.version.atLeast(2, 7) {
		if answer, err := h.master.askMaster(ctx, "show startup-logs", []byte("\n\n")); err == nil && strings.TrimSpace(answer) != "" {
			reason = strings.TrimSpace(answer)
		}
	}
	return fmt.Errorf("HAProxy refused the reload and runs the configuration of before: %.500s", reason)
}
