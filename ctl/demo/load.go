package demo

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	requestsPerSecond = 50
	requestsAtOnce    = 32              // more than that many unanswered ones count as failed
	requestTimeout    = 2 * time.Second // then a request counts as failed
	requestsMax       = 20_000          // an end even if nobody stops the loop
)

// headerBackend carries the name of the backend that answered.
const headerBackend = "X-Backend"

// load asks the proxy at a steady pace, a new connection for each request, and keeps count.
// Its methods are safe for concurrent use.
type load struct {
	url    string
	client *http.Client

	mu      sync.Mutex // guards the fields below
	counts  counts
	answers map[string]int       // by backend
	first   map[string]time.Time // first answer of each backend since the last mark
	failure string               // the latest
}

// counts are numbers of requests that have ended.
type counts struct{ requests, failed int }

func (c counts) minus(o counts) counts {
	return counts{requests: c.requests - o.requests, failed: c.failed - o.failed}
}

func newLoad(url string) *load {
	return &load{
		url:     url,
		client:  &http.Client{Timeout: requestTimeout, Transport: &http.Transport{DisableKeepAlives: true}},
		answers: map[string]int{},
		first:   map[string]time.Time{},
	}
}

// run asks until ctx ends and returns when the last request has ended.
func (l *load) run(ctx context.Context) {
	var inFlight sync.WaitGroup
	defer inFlight.Wait()
	slots := make(chan struct{}, requestsAtOnce)
	pace := time.NewTicker(time.Second / requestsPerSecond)
	defer pace.Stop()
	for range requestsMax {
		select {
		case <-ctx.Done():
			return
		case <-pace.C:
		}
		select {
		case slots <- struct{}{}:
		default:
			l.count("", fmt.Errorf("%d requests are waiting for their answers", requestsAtOnce))
			continue
		}
		inFlight.Go(func() {
			defer func() { <-slots }()
			l.count(l.ask())
		})
	}
}

// ask makes one request and returns the name of the backend that answered it.
func (l *load) ask() (string, error) {
	response, err := l.client.Get(l.url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10)); err != nil {
		return "", err
	}
	backend := response.Header.Get(headerBackend)
	if response.StatusCode != http.StatusOK || backend == "" {
		return "", fmt.Errorf("the proxy answered %s", response.Status)
	}
	return backend, nil
}

func (l *load) count(backend string, err error) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.requests++
	if err != nil {
		l.counts.failed++
		l.failure = err.Error()
		return
	}
	l.answers[backend]++
	if _, seen := l.first[backend]; !seen {
		l.first[backend] = now
	}
}

// mark forgets who has answered so far and returns the counts.
func (l *load) mark() counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.first)
	return l.counts
}

func (l *load) now() counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts
}

// answeredAt returns when backend first answered since the last mark; zero if it has not.
func (l *load) answeredAt(backend string) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first[backend]
}

// totals returns all answers by backend, and the latest failure.
func (l *load) totals() (answers map[string]int, failure string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.answers), l.failure
}

// perBackend formats answers as "web-1 80, web-2 79".
func perBackend(answers map[string]int) string {
	parts := make([]string, 0, len(answers))
	for _, backend := range slices.Sorted(maps.Keys(answers)) {
		parts = append(parts, fmt.Sprintf("%s %d", backend, answers[backend]))
	}
	return strings.Join(parts, ", ")
}
