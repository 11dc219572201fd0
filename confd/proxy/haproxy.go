package proxy

import (
	"context"
	"log/slog"
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

// HAProxy is the Applier for HAProxy 2.4 and later.
type HAProxy struct {
	Generic
	cfg HAProxyConfig
}

// NewHAProxy returns an applier; nothing is asked of HAProxy yet.
func NewHAProxy(cfg HAProxyConfig) *HAProxy { return &HAProxy{cfg: cfg} }

var _ Applier = (*HAProxy)(nil)

// Plan says what it takes to bring HAProxy from live to next.
func (h *HAProxy) Plan(ctx context.Context, live, next []byte) (Plan, error) {
	return planWhole(live, next), nil
}
