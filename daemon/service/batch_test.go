package service

import (
	"fmt"
	"testing"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/store"
	"github.com/kvd-io/kvd/pkg/kv"
)

func TestOneLogEntryOfMoreEventsThanTheHistoryKeepsReachesAWatcherWhole(t *testing.T) {
	s, log := open()
	w, err := s.Watch(t.Context(), kv.WatchFrom{Key: "/a", Recursive: true})
	if err != nil {
		t.Fatal(err)
	}
	const events = 2*store.DefaultHistoryLength + 500
	var batch command.Batch
	for i := range events {
		batch.Commands = append(batch.Commands, command.Command{Body: set(fmt.Sprintf("/a/%d", i), "v", 0)})
	}
	log.state.Apply(1<<20, 1, &batch)
	log.state.Flush()
	for i, line := range follow(t, w, events) {
		if want := fmt.Sprintf("set /a/%d=v %d", i, i+2); line != want {
			t.Fatalf("event %d is %q, want %q", i, line, want)
		}
	}
	oldest := s.Index() - store.DefaultHistoryLength + 1
	if _, err := s.Watch(t.Context(), kv.WatchFrom{Key: "/a", Index: oldest - 1}); !kv.Is(err, kv.HistoryGone) {
		t.Errorf("a watch from before the history: %v", err)
	}
	if _, err := s.Watch(t.Context(), kv.WatchFrom{Key: "/a", Index: oldest}); err != nil {
		t.Errorf("a watch from the begin of the history: %v", err)
	}
}
