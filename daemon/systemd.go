package daemon

import (
	"log/slog"
	"sync"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/kvd-io/kvd/pkg/pace"
)

// manager tells the service manager how the daemon is, if one started it.
type manager struct {
	done     chan struct{}
	watchdog sync.WaitGroup
}

// notifyManager says that d is ready and, if the manager asked for it, keeps saying that it is
// alive. systemd kills a daemon that stops saying so.
func notifyManager(d *Daemon, log *slog.Logger) *manager {
	m := &manager{done: make(chan struct{})}
	sent, err := systemd.SdNotify(false, systemd.SdNotifyReady+"\nSTATUS=serving clients on "+d.listening[0])
	if err != nil {
		log.Warn("cannot tell the service manager that kvd is ready", "err", err)
	}
	interval, err := systemd.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("cannot read the service manager's watchdog setting", "err", err)
	}
	if sent && interval > 0 {
		m.watchdog.Go(func() { m.feed(d, interval/2) })
	}
	return m
}

// feed reports life as often as raft's main loop shows it.
func (m *manager) feed(d *Daemon, interval time.Duration) {
	for range pace.Every(m.done, interval) {
		if d.Alive() == nil {
			systemd.SdNotify(false, systemd.SdNotifyWatchdog)
		}
	}
}

// stop says that the daemon is stopping and waits for the watchdog.
func (m *manager) stop() {
	systemd.SdNotify(false, systemd.SdNotifyStopping)
	close(m.done)
	m.watchdog.Wait()
}
