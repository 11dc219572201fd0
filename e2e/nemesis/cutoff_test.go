package nemesis

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/cluster"
)

const (
	// electionTimeout is the default of both programs.
	electionTimeout = time.Second
	// tolerance is what a busy machine may add to it.
	tolerance = 2 * time.Second
)

func TestAWatchOnAMemberThatIsCutOffEndsWithinTwoElectionTimeouts(t *testing.T) {
	program := subject(t)
	c := begun(t, program, 3, false, "--election-timeout=1000") // which else may grow on a busy machine
	for _, who := range []string{"leader", "follower"} {
		m, err := c.Leader(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if who == "follower" {
			m = c.Others(m)[0]
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*electionTimeout+tolerance)
		var watching sync.WaitGroup
		errs := make(chan error, 2)
		for _, stream := range []string{"true", "false"} {
			body, err := openWatch(ctx, m, stream)
			if err != nil {
				t.Fatal(err)
			}
			watching.Go(func() { errs <- body() })
		}
		if err := c.Cut(c.Around(m)...); err != nil {
			t.Fatal(err)
		}
		cut := time.Now()
		watching.Wait()
		cancel()
		for range cap(errs) {
			switch late := errors.Is(<-errs, context.DeadlineExceeded); {
			case program.Name == "etcd" && !late:
				t.Errorf("etcd's watch on the %s ended: is nothing cut off?", who)
			case program.Name == "kvd" && late:
				t.Errorf("a watch on the %s has not ended %v after it was cut off", who, time.Since(cut))
			}
		}
		if err := c.Heal(); err != nil {
			t.Fatal(err)
		}
		if err := c.AwaitHealthy(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// openWatch begins to watch on a member. What it returns waits for the end of the watch.
func openWatch(ctx context.Context, m *cluster.Member, stream string) (end func() error, err error) {
	form := url.Values{"wait": {"true"}, "recursive": {"true"}, "stream": {stream}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, m.ClientURL+"/v2/keys/?"+form.Encode(), nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request) // the header comes when it watches
	if err != nil {
		return nil, err
	}
	return func() error {
		defer response.Body.Close()
		for buffer := make([]byte, 1024); ; {
			if _, err := response.Body.Read(buffer); err != nil {
				return err
			}
		}
	}, nil
}
