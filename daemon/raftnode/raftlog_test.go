package raftnode

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestWhatRaftSaysOfAPlannedTransferIsForThoseWhoDebugIt(t *testing.T) {
	var said bytes.Buffer
	log := newRaftLog(slog.New(slog.NewTextHandler(&said, nil)))
	log.Error("peer has newer term, stopping replication", "peer", "a")
	log.Error("failed to take snapshot", "error", "no room")
	if text := said.String(); strings.Contains(text, "newer term") || !strings.Contains(text, "level=ERROR msg=\"raft: failed to take snapshot\"") {
		t.Error(text)
	}
}
