package agent

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notifier tells the service manager how the agent does.
type notifier struct {
	send     func(state string)
	watchdog time.Duration // how often the manager wants to hear of progress; 0: it does not
	last     string        // the STATUS last sent
}

// statusEvery is how often the text for people is looked at.
const statusEvery = 2 * time.Second

// stuckAfter is how long a loop that goes round every second, or a publisher that looks at its keys
// every third of a TTL, may stand still before nobody feeds the watchdog any more.
const stuckAfter = 30 * time.Second

// systemdNotifier returns a notifier for the service manager named in the environment, if any.
func systemdNotifier(log *slog.Logger) *notifier {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("the watchdog settings of the service manager make no sense", "reason", err)
	}
	return &notifier{watchdog: interval, send: func(state string) {
		if _, err := daemon.SdNotify(false, state); err != nil {
			log.Debug("cannot notify the service manager", "reason", err)
		}
	}}
}

// run tells of a until ctx ends: a status when it changes, and life as long as there is progress.
func (n *notifier) run(ctx context.Context, a *Agent) {
	period := statusEvery
	if n.watchdog > 0 {
		period = min(period, n.watchdog/3)
	}
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		n.status(a.summary())
		if n.watchdog > 0 && a.stuck(time.Now()) == "" {
			n.send(daemon.SdNotifyWatchdog)
		}
		select {
		case <-ctx.Done():
			n.send(daemon.SdNotifyStopping)
			return
		case <-tick.C:
		}
	}
}

func (n *notifier) status(text string) {
	if text = strings.ReplaceAll(text, "\n", "; "); text != n.last {
		n.last = text
		n.send("STATUS=" + text)
	}
}

// stuck names what makes no progress, "" if all does.
func (a *Agent) stuck(now time.Time) string {
	a.mu.Lock()
	turned := a.turned
	a.mu.Unlock()
	pass := a.Publisher.LastPass()
	switch {
	case !turned.IsZero() && now.Sub(turned) > stuckAfter:
		return "the agent's loop"
	case !pass.IsZero() && now.Sub(pass) > stuckAfter+2*a.TTL:
		return "the publisher"
	}
	return ""
}

// summary is how the agent does, in one line.
func (a *Agent) summary() string {
	status := a.Publisher.Status()
	text := fmt.Sprintf("%d of %d registered", status.Registered, status.Wanted)
	if status.Err != nil {
		text += "; the store: " + status.Err.Error()
	}
	for _, source := range a.SourceStatus() {
		if source.Err != "" && (source.Expected || source.Reported) {
			text += fmt.Sprintf("; %s: %s", source.Name, source.Err)
		}
	}
	return text
}

// SourceStatus returns how each source fares. It is safe for concurrent use.
func (a *Agent) SourceStatus() []SourceStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := make([]SourceStatus, len(a.follows))
	for i, f := range a.follows {
		list[i] = f.status()
	}
	return list
}
