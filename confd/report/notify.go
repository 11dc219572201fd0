package report

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

const (
	// statusEvery is how often the text for the service manager is looked at.
	statusEvery = time.Second
	// firstPass is how often it is looked at whether the first pass is over.
	firstPass = 50 * time.Millisecond
	// readyMax is how long the first pass may take before the service manager hears that the agent is ready
	// all the same: who waits for it must not wait for a store.
	readyMax = 20 * time.Second
)

// manager tells the service manager how a Report does.
type manager struct {
	report   *Report
	send     func(state string)
	watchdog time.Duration // how often the manager wants to hear of progress; 0: it does not
	last     string        // the STATUS last sent
	ready    bool          // READY was sent
}

// Notify tells the service manager that is named in the environment, if any, until ctx ends: READY when
// every target has been through a pass, or the first pass takes long; STATUS whenever it differs; WATCHDOG
// as long as the agent makes progress. reloading, which may be nil, holds a token when the configuration
// is read again.
func (r *Report) Notify(ctx context.Context, reloading <-chan struct{}) {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return
	}
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		r.cfg.Log.Warn("the watchdog settings of the service manager make no sense", "reason", err)
	}
	m := &manager{report: r, watchdog: interval, send: func(state string) {
		if _, err := daemon.SdNotify(false, state); err != nil {
			r.cfg.Log.Debug("cannot notify the service manager", "reason", err)
		}
	}}
	m.run(ctx, reloading)
}

func (m *manager) run(ctx context.Context, reloading <-chan struct{}) {
	calm := statusEvery
	if m.watchdog > 0 {
		calm = min(calm, m.watchdog/3)
	}
	tick := time.NewTicker(min(calm, firstPass))
	defer tick.Stop()
	for {
		if wasReady := m.ready; m.turn() && !wasReady {
			tick.Reset(calm)
		}
		select {
		case <-ctx.Done():
			m.send(daemon.SdNotifyStopping)
			return
		case <-reloading:
			m.reload()
		case <-tick.C:
		}
	}
}

// turn says what is so, and returns whether READY was sent.
func (m *manager) turn() (ready bool) {
	r := m.report
	if !m.ready && (r.ready() || r.cfg.Now().Sub(r.started) > readyMax) {
		m.ready = true
		m.send(daemon.SdNotifyReady)
	}
	s := r.Status()
	if text := s.Summary(); text != m.last {
		m.last = text
		m.send("STATUS=" + text)
	}
	if agent := r.asked(); m.watchdog > 0 && (agent == nil || agent.Stuck(r.cfg.Now()) == "") {
		m.send(daemon.SdNotifyWatchdog)
	}
	return m.ready
}

// reload says that the configuration is read again, and that it was: the loop takes it up at its own pace.
func (m *manager) reload() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err == nil {
		m.send(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000))
	}
	m.send(daemon.SdNotifyReady)
}
