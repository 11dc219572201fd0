package sidekick

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Notifier tells the service manager how a Sidekick does. Its zero value tells nobody.
type Notifier struct {
	send     func(state string)
	watchdog time.Duration // how often the manager wants to hear of progress; 0: it does not
	last     string        // the STATUS last sent
}

// SystemdNotifier returns a Notifier for the service manager named in the environment, if any.
func SystemdNotifier(log *slog.Logger) *Notifier {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("the watchdog settings of the service manager make no sense", "reason", err)
	}
	return &Notifier{watchdog: interval, send: func(state string) {
		if _, err := daemon.SdNotify(false, state); err != nil {
			log.Debug("cannot notify the service manager", "reason", err)
		}
	}}
}

func (n *Notifier) tell(state string) {
	if n.send != nil {
		n.send(state)
	}
}

func (n *Notifier) ready()  { n.tell(daemon.SdNotifyReady) }
func (n *Notifier) living() { n.tell(daemon.SdNotifyWatchdog) }

// status sends a text for people, once.
func (n *Notifier) status(text string) {
	text = strings.ReplaceAll(text, "\n", "; ")
	if text != n.last {
		n.last = text
		n.tell("STATUS=" + text)
	}
}

// stopping announces the end and asks for the time that it may take.
func (n *Notifier) stopping(atMost time.Duration) {
	n.tell(fmt.Sprintf("%s\nEXTEND_TIMEOUT_USEC=%d", daemon.SdNotifyStopping, atMost.Microseconds()))
}
