package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/pkg/workload"
)

// deaf is a source that answers and never tells anything.
type deaf struct{}

func (deaf) Ping(context.Context) error { return nil }

func (deaf) Run(ctx context.Context, _ chan<- workload.Snapshot) error {
	<-ctx.Done()
	return nil
}

func (deaf) Status() workload.Status {
	return workload.Status{Err: errors.New("the list of containers cannot be understood")}
}

func TestADryRunDoesNotWaitForASourceThatKeepsFailing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		_, err := firstSnapshot(t.Context(), Source{Name: SourceDocker, Expected: true, Open: func() (workload.Source, error) { return deaf{}, nil }})
		if err == nil || !strings.Contains(err.Error(), "cannot be understood") {
			t.Errorf("the error is %v", err)
		}
		if waited := time.Since(start); waited > failureMax+time.Second {
			t.Errorf("it took %v", waited)
		}
	})
}
