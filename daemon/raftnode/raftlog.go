package raftnode

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// raftLog gives raft's own messages to slog, one level lower than raft ranks them below warnings:
// what raft calls information is of interest to those who debug it.
type raftLog struct {
	hclog.Logger // answers what is not overridden, and says nothing
	log          *slog.Logger
}

func newRaftLog(log *slog.Logger) hclog.Logger {
	return &raftLog{Logger: hclog.NewNullLogger(), log: log}
}

func (l *raftLog) Log(level hclog.Level, message string, args ...any) {
	severity := slog.LevelDebug
	switch level {
	case hclog.Error:
		severity = slog.LevelError
	case hclog.Warn:
		severity = slog.LevelWarn
	}
	if routine(message) {
		severity = slog.LevelDebug
	}
	if !l.log.Enabled(context.Background(), severity) {
		return
	}
	for i, arg := range args {
		if format, ok := arg.(hclog.Format); ok && len(format) > 0 {
			args[i] = fmt.Sprintf(fmt.Sprint(format[0]), format[1:]...)
		}
	}
	l.log.Log(context.Background(), severity, "raft: "+message, args...)
}

func (l *raftLog) Trace(string, ...any)              {}
func (l *raftLog) Debug(message string, args ...any) { l.Log(hclog.Debug, message, args...) }
func (l *raftLog) Info(message string, args ...any)  { l.Log(hclog.Info, message, args...) }
func (l *raftLog) Warn(message string, args ...any)  { l.Log(hclog.Warn, message, args...) }
func (l *raftLog) Error(message string, args ...any) { l.Log(hclog.Error, message, args...) }

func (l *raftLog) With(args ...any) hclog.Logger {
	return &raftLog{Logger: l.Logger, log: l.log.With(args...)}
}
func (l *raftLog) Named(string) hclog.Logger      { return l }
func (l *raftLog) ResetNamed(string) hclog.Logger { return l }

// routine reports whether a message is about a member that cannot be reached, each time it is tried, or
// about an election: package peer tells of the first once, Node of what comes of the second.
func routine(message string) bool {
	for _, prefix := range []string{
		"failed to appendEntries to", "failed to heartbeat to", "failed to decode incoming command", "failed to flush response", "failed to contact",
		"failed to make requestVote RPC", "unable to get address for server", "failed to make requestPreVote RPC", "failed to accept connection",
		"heartbeat timeout reached, ", "Election timeout reached, ", "election timeout reached, ", "rejecting pre-vote request", "rejecting vote request", "rejecting appendEntries request", "failed to get previous log", "no known peers, aborting election",
		"failed to pipeline appendEntries", "failed to send snapshot to", "skipping application of old log", "unexpected error while reading",
		"pre-vote campaign failed", "pre-vote successful", "peer has newer term, stopping replication",
	} {
		if strings.HasPrefix(message, prefix) {
			return true
		}
	}
	return false
}
