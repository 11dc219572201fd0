package proxy

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"time"
)

// HAProxyConfig says how to reach a running HAProxy.
type HAProxyConfig struct {
	Socket       string        // path of a "stats socket ... level admin"; required
	MasterSocket string        // path of the master's socket (-S), "" if there is none: it tells at once of a reload that failed
	Wait         time.Duration // how long Confirm waits for a new generation after a reload; 0: 10 s
	Timeout      time.Duration // for one dialogue with the socket; 0: 2 s
	Log          *slog.Logger  // notes what was changed by hand at the socket; nil: nothing is logged
}

// HAProxy is the Applier for HAProxy 2.4 and later. Servers of known backends are added, removed,
// moved, weighted, enabled and disabled at run time; anything else takes a reload.
//
// What somebody sets by hand at the socket, a state or a weight, is left alone until the next
// reload: it is noted in the log, and is no difference.
type HAProxy struct {
	cfg      HAProxyConfig
	socket   haSocket
	master   haSocket
	parsed   []parsedHAProxy              // the last few configurations
	info     haInfo                       // of the generation that was asked last; zero if none was
	replaced haGeneration                 // that a reload put an end to last
	retired  map[haName]map[string]string // the keywords of removed servers that may still exist
	byHand   string                       // what was noted last
}

// haName is a server of a backend.
type haName struct{ backend, server string }

func (n haName) String() string { return n.backend + "/" + n.server }

type parsedHAProxy struct {
	content []byte
	config  *haConfig
}

// NewHAProxy returns an applier; nothing is asked of HAProxy yet.
func NewHAProxy(cfg HAProxyConfig) *HAProxy {
	cfg.Wait = cmp.Or(cfg.Wait, 10*time.Second)
	cfg.Timeout = cmp.Or(cfg.Timeout, 2*time.Second)
	return &HAProxy{
		cfg:     cfg,
		socket:  haSocket{cfg.Socket, cfg.Timeout},
		master:  haSocket{cfg.MasterSocket, cfg.Timeout},
		retired: map[haName]map[string]string{},
	}
}

var _ Applier = (*HAProxy)(nil)

// config parses content, or remembers it.
func (h *HAProxy) config(content []byte) *haConfig {
	for _, parsed := range h.parsed {
		if bytes.Equal(parsed.content, content) {
			return parsed.config
		}
	}
	fresh := parsedHAProxy{bytes.Clone(content), parseHAProxy(content)}
	h.parsed = append([]parsedHAProxy{fresh}, h.parsed[:min(len(h.parsed), 1)]...)
	return fresh.config
}

// Plan says what it takes to bring HAProxy from live to next.
func (h *HAProxy) Plan(ctx context.Context, live, next []byte) (Plan, error) {
	if live == nil || bytes.Equal(live, next) {
		return planWhole(live, next), nil
	}
	changes, reason := diffHAProxy(h.config(live), h.config(next))
	switch {
	case reason != "":
		return Plan{Kind: Reload, Reason: reason}, nil
	case len(changes) == 0:
		return Plan{}, nil
	}
	if h.info.pid == "" {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if _, err := h.ask(ctx); err != nil {
			return Plan{Kind: Reload, Reason: err.Error()}, nil
		}
	}
	if h.info.processes > 1 {
		return Plan{Kind: Reload, Reason: "HAProxy runs as several processes, and a socket reaches one of them"}, nil
	}
	plan := Plan{Kind: Runtime, work: changes}
	for _, change := range changes {
		if (change.before == nil || change.after == nil) && !h.info.version.atLeast(2, 6) {
			return Plan{Kind: Reload, Reason: change.String() + ": HAProxy before 2.6 has a fixed set of servers"}, nil
		}
		plan.Steps = append(plan.Steps, change.String())
	}
	return plan, nil
}

// current has commands answered by the generation that serves, and says which that is. For a moment
// after a reload the worker of before may still accept connections at the socket: it is not meant.
func (h *HAProxy) current(ctx context.Context, commands ...string) (info haInfo, answer string, err error) {
	ctx, cancel := context.WithTimeout(ctx, h.cfg.Timeout)
	defer cancel()
	for poll := newPoll(); ; {
		answer, err := h.socket.ask(ctx, append([]string{"show info"}, commands...)...)
		if err != nil {
			return info, "", err
		}
		first, rest, _ := strings.Cut(answer, "\n\n")
		if info, err = parseInfo(first); err != nil {
			return info, "", err
		}
		if h.replaced == (haGeneration{}) || info.generation() != h.replaced {
			return info, rest, nil
		}
		if !poll.wait(ctx) {
			return info, "", fmt.Errorf("HAProxy's process %s still answers, though another took its place", info.pid)
		}
	}
}

// change is current for commands that only the generation that was asked last is to have.
func (h *HAProxy) change(ctx context.Context, commands ...string) (answer string, err error) {
	info, answer, err := h.current(ctx, commands...)
	if err == nil && h.info.pid != "" && info.generation() != h.info.generation() {
		err = fmt.Errorf("HAProxy's process %s was replaced by %s meanwhile", h.info.pid, info.pid)
	}
	return answer, err
}

// ask returns the state of all servers, and notes the generation.
func (h *HAProxy) ask(ctx context.Context) (haStates, error) {
	info, second, err := h.current(ctx, "show servers state")
	if err != nil {
		return nil, err
	}
	states, err := parseStates(second)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(h.retired, func(name haName, _ map[string]string) bool {
		_, exists := states[name.backend][name.server]
		return !exists || info.generation() != h.info.generation()
	})
	h.info = info
	return states, nil
}
