package sidekick

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/pkg/health"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/registrar"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload"
)

// nowhere is a store that does not answer.
type nowhere struct{}

var errNowhere = &kv.Error{Kind: kv.Unavailable}

func (nowhere) Read(context.Context, kv.Read) (kv.Result, error)      { return kv.Result{}, errNowhere }
func (nowhere) Write(context.Context, kv.Write) (kv.Result, error)    { return kv.Result{}, errNowhere }
func (nowhere) Watch(context.Context, kv.WatchFrom) (kv.Watch, error) { return nil, errNowhere }

// running is a workload that never stops.
type running struct{}

func (running) Run(ctx context.Context, out chan<- workload.Snapshot) error {
	out <- workload.Snapshot{Workloads: []workload.Workload{{Name: "app", Run: "1", State: workload.Running}}}
	<-ctx.Done()
	return nil
}

// journal is a log that can be read while it is written.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// refused fails until it is told to pass.
type refused struct{ passes atomic.Bool }

func (r *refused) Run(context.Context) error {
	if r.passes.Load() {
		return nil
	}
	return errors.New("connection refused")
}

func (r *refused) String() string { return "tcp" }

func TestAServiceThatNeverAnswersIsWarnedOfOnceAndThenRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log journal
		check := &refused{}
		s := &Sidekick{
			Publisher: registry.PublisherConfig{Store: nowhere{}},
			Offer: registrar.Offer{
				Record:  registry.Record{Service: "web", Instance: "one", Address: "127.0.0.1", Port: 80, Protocol: "tcp"},
				Monitor: &health.Monitor{Check: check},
			},
			Source: running{}, Log: slog.New(slog.NewTextHandler(&log, nil)),
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); s.Run(ctx) }()
		defer func() { cancel(); <-ended }()

		warnings := func() int {
			synctest.Wait()
			return strings.Count(log.String(), `level=WARN msg="not registered yet: the check does not pass" check=tcp`)
		}
		time.Sleep(overdueAfter - time.Second)
		if n := warnings(); n != 0 {
			t.Errorf("warned %d times before it was overdue", n)
		}
		time.Sleep(2 * time.Second)
		if n := warnings(); n != 1 || !strings.Contains(log.String(), `reason="connection refused"`) {
			t.Errorf("warned %d times when it was:\n%s", n, &log)
		}
		time.Sleep(time.Hour)
		if n := warnings(); n < 2 || n > 8 {
			t.Errorf("warned %d times within an hour", n)
		}
		before := warnings()
		check.passes.Store(true)
		time.Sleep(time.Hour)
		if n := warnings(); n != before {
			t.Errorf("warned %d times more although it answers", n-before)
		}
	})
}
