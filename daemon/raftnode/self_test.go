package raftnode

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestACopyOfAMembersDataIsNoSecondMember(t *testing.T) {
	nodes := cluster(t, 3)
	leader := leaderOfThem(t, nodes)
	original := nodes[slices.IndexFunc(nodes, func(n *Node) bool { return n != leader })]
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(original.dir.path)); err != nil {
		t.Fatal(err)
	}
	listeners := peers(t)
	cfg := original.config
	cfg.DataDir, cfg.PeerURLs = copied, []string{"http://" + listeners[0].Addr().String()}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	twin, err := Open(ctx, cfg, Deps{Peers: listeners, Fatal: func(err error) { panic(err) }}, &ledger{})
	if err == nil {
		twin.Close()
	}
	var refused *MismatchError
	if !errors.As(err, &refused) || !strings.Contains(refused.Reason, "another process runs as this member") {
		t.Errorf("a copy was started: %v", err)
	}
	if err := original.lookAtSelf(ctx); err != nil {
		t.Errorf("the original: %v", err)
	}
}
