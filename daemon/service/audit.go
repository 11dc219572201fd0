package service

import (
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// denialsLogged bounds the lines that somebody without rights can cause.
var denialsLogged = rate{burst: 20, every: time.Second}

// audit tells who has changed access control or the members, and who was denied what. It shows names and keys, never
// values or passwords. It is safe for concurrent use.
type audit struct {
	log *slog.Logger
	now func() time.Time

	mu      sync.Mutex // guards the fields below
	denials *bucket
	silent  int // denials since the last line
}

func newAudit(log *slog.Logger, now func() time.Time) *audit {
	return &audit{log: log, now: now, denials: newBucket(denialsLogged, now())}
}

func (a *audit) denied(operation, key, user, source, reason string) {
	a.mu.Lock()
	silent := a.silent
	ok := a.denials.take(a.now())
	if a.silent = 0; !ok {
		a.silent = silent + 1
	}
	a.mu.Unlock()
	if ok {
		a.log.Info("access denied", "operation", operation, "key", short(key), "user", short(user), "source", source, "reason", reason, "unlogged", silent)
	}
}

// short bounds what a request can write into the log.
func short(text string) string {
	const max = 256
	if len(text) > max {
		return text[:max] + "..."
	}
	return text
}

// changed tells of a change of access control.
func (a *audit) changed(what, user, source string, err error, details ...any) {
	a.tell("access control", what, user, source, err, details)
}

// membersChanged tells of a change of the members.
func (a *audit) membersChanged(what, user, source string, err error, details ...any) {
	a.tell("members", what, user, source, err, details)
}

func (a *audit) tell(subject, what, user, source string, err error, details []any) {
	line := []any{"what", what, "user", user, "source", source}
	for _, detail := range details {
		line = append(line, short(fmt.Sprint(detail)))
	}
	if err != nil {
		a.log.Info(subject+" not changed", append(line, "err", err)...)
		return
	}
	a.log.Info(subject+" changed", line...)
}
