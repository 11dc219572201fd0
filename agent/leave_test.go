package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/registrar"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload"
)

// told is a workload.Source that a test moves from state to state.
type told chan workload.State

func (s told) Run(ctx context.Context, out chan<- workload.Snapshot) error {
	for {
		select {
		case state := <-s:
			w := workload.Workload{ID: "web.service", Name: "web.service", Run: "1", State: state, HostNetwork: true,
				Labels: map[string]string{"kvd.web.port": "80", "kvd.web.check": "none"}}
			select {
			case out <- workload.Snapshot{Workloads: []workload.Workload{w}}:
			case <-ctx.Done():
				return nil
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// leaving runs an agent with one service that is registered, and what watches the registry. end tells it to
// end, and ended is closed when it has.
func leaving(t *testing.T, r *rig, leaves bool, drain time.Duration) (source told, watch kv.Watch, end func(), ended <-chan struct{}) {
	t.Helper()
	source = make(told)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	publisher := registry.NewPublisher(registry.PublisherConfig{Store: r.store, Leaser: r.store.(*kvclient.Client).Leaser(), Owner: registry.StandingOwner("h1", "kvagent-test", ""), Keep: true, TTL: 10 * time.Minute, Log: log})
	a := &Agent{
		Sources:   []Source{{Name: SourceSystemd, Open: func() (workload.Source, error) { return source, nil }}},
		Registrar: registrar.New(registrar.Config{Publisher: publisher, Log: log}), Publisher: publisher,
		Options: Options{Host: "h1", Address: netip.MustParseAddr("127.0.0.1")}, Log: log,
		Leaves: func(context.Context) bool { return leaves }, Drain: drain,
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := a.Run(ctx); err != nil {
			t.Errorf("it ended with %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	source <- workload.Running
	r.untilOne("it is registered", func(r registry.Record) bool { return r.State == registry.StateUp })
	watch, err := r.store.Watch(t.Context(), kv.WatchFrom{Key: registry.DefaultPrefix, Recursive: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { watch.Close() })
	return source, watch, cancel, done
}

// wantEvents fails the test unless these are the next events, by action and what their values contain.
func wantEvents(t *testing.T, watch kv.Watch, want ...string) {
	t.Helper()
	for _, want := range want {
		event, err := watch.Next(t.Context())
		action, text, _ := strings.Cut(want, " ")
		if err != nil || string(event.Action) != action || !strings.Contains(event.Node.Value, text) {
			t.Fatalf("seen was %+v, %v; want %s", event, err, want)
		}
	}
}

func TestAnAgentWhoseMachineShutsDownDrainsAndRemovesWhatItHasRegistered(t *testing.T) {
	r := newRig(t)
	_, watch, end, ended := leaving(t, r, true, 50*time.Millisecond)
	end()
	<-ended
	wantEvents(t, watch, `compareAndSwap "state":"draining"`, "delete")
	if records := r.records("web"); len(records) != 0 {
		t.Errorf("left is %+v", records)
	}
}

func TestAnAgentWhoseMachineShutsDownWaitsForNobodyWhoHasGone(t *testing.T) {
	r := newRig(t)
	source, watch, end, ended := leaving(t, r, true, time.Hour)
	end()
	wantEvents(t, watch, `compareAndSwap "state":"draining"`)
	source <- workload.Stopped
	<-ended
	r.untilNone("it is removed")
}

func TestAnAgentThatIsToldToEndForAnyOtherReasonKeepsWhatItHasRegistered(t *testing.T) {
	r := newRig(t)
	_, _, end, ended := leaving(t, r, false, time.Hour)
	end()
	<-ended
	if records := r.records("web"); len(records) != 1 {
		t.Errorf("left is %+v", records)
	}
}
