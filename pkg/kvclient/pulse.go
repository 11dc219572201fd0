package kvclient

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/kvd-io/kvd/pkg/pace"
)

// pulseInterval is how often an endpoint at which watches wait is asked for a sign of life. A process that
// hangs says nothing, like one that has nothing to say, and its kernel goes on to acknowledge what comes.
const pulseInterval = 10 * time.Second

// pulses are the polls that wait at endpoints. One request on another connection stands for all those at the
// same endpoint; when it is not answered in time, they end, and their watches go on elsewhere.
type pulses struct {
	interval time.Duration

	mu      sync.Mutex // guards the fields below
	polls   map[*poll]struct{}
	beating bool // a goroutine asks
}

// lookAfter has the endpoint of p asked from now on, until p is closed. A watch must be counted.
func (c *Client) lookAfter(p *poll) {
	c.pulses.mu.Lock()
	defer c.pulses.mu.Unlock()
	c.pulses.polls[p] = struct{}{}
	if !c.pulses.beating {
		c.pulses.beating = true
		c.watches.Go(c.beat)
	}
}

// beat asks the endpoints until there are no polls any more, or the client is closed.
func (c *Client) beat() {
	for range pace.Every(c.lifetime.Done(), c.pulses.interval) {
		waiting := c.waiting()
		if waiting == nil {
			return
		}
		var asking sync.WaitGroup
		for i, polls := range waiting {
			asking.Go(func() {
				if err := c.signOfLife(i); err != nil {
					for _, p := range polls {
						p.cancel(err)
					}
				}
			})
		}
		asking.Wait()
	}
}

// waiting returns the polls by endpoint, nil if there are none: then nobody asks any more.
func (c *Client) waiting() map[int][]*poll {
	c.pulses.mu.Lock()
	defer c.pulses.mu.Unlock()
	if len(c.pulses.polls) == 0 {
		c.pulses.beating = false
		return nil
	}
	all := map[int][]*poll{}
	for p := range c.pulses.polls {
		all[p.endpoint] = append(all[p.endpoint], p)
	}
	return all
}

// signOfLife returns nil if an endpoint answers, whatever it says.
func (c *Client) signOfLife(i int) error {
	ctx, cancel := context.WithTimeout(c.lifetime, c.requestTimeout)
	defer cancel()
	endpoint := c.endpoints[i]
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint.JoinPath("/version").String(), nil)
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("%s gives no sign of life: %w", endpoint.Host, err)
	}
	_, _ = io.CopyN(io.Discard, response.Body, trailerBytesMax) // for the connection's sake
	return response.Body.Close()
}

// rest ends what lookAfter has begun.
func (c *Client) rest(p *poll) {
	c.pulses.mu.Lock()
	defer c.pulses.mu.Unlock()
	delete(c.pulses.polls, p)
}
