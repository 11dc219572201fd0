package systemd_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/catalog"
	"github.com/kvd-io/kvd/pkg/registry"
)

// history is what a thing was when.
type history struct {
	mu      sync.Mutex // guards the fields below
	changes []change
}

// change says that the thing became what from at on; "" is not there.
type change struct {
	at   time.Time
	what string
}

func (h *history) note(what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.changes); n == 0 && what != "" || n > 0 && h.changes[n-1].what != what {
		h.changes = append(h.changes, change{time.Now(), what})
	}
}

// now is what the thing is, and since when.
func (h *history) now() change {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.changes) == 0 {
		return change{}
	}
	return h.changes[len(h.changes)-1]
}

// since returns what changed after a moment.
func (h *history) since(moment time.Time) []change {
	h.mu.Lock()
	defer h.mu.Unlock()
	i, _ := slices.BinarySearchFunc(h.changes, moment, func(c change, m time.Time) int { return c.at.Compare(m) })
	return slices.Clone(h.changes[i:])
}

func describe(changes []change) string {
	var lines []string
	for _, c := range changes {
		lines = append(lines, fmt.Sprintf("%s %q", c.at.Format("15:04:05.000"), c.what))
	}
	return strings.Join(lines, ", ")
}

// observer follows what the registry says of the instances of one service.
type observer struct {
	catalog *catalog.Catalog

	mu        sync.Mutex // guards the map
	instances map[string]*history
}

// observe follows until the test ends.
func observe(t *testing.T, s *store, service string) *observer {
	t.Helper()
	o := &observer{catalog: catalog.New(catalog.Config{Source: s.client()}), instances: map[string]*history{}}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { o.catalog.Run(ctx) })
	group.Go(func() { o.follow(ctx, service) })
	t.Cleanup(func() { cancel(); group.Wait() })
	return o
}

func (o *observer) follow(ctx context.Context, service string) {
	for ctx.Err() == nil {
		changed := o.catalog.Changed()
		there := map[string]registry.Record{}
		for _, record := range o.catalog.Instances(service) {
			there[record.Instance] = record
			o.of(record.Instance)
		}
		o.mu.Lock()
		for instance, h := range o.instances {
			what := ""
			if record, ok := there[instance]; ok {
				what = fmt.Sprintf("%s %s", record.State, net.JoinHostPort(record.Address, fmt.Sprint(record.Port)))
			}
			h.note(what)
		}
		o.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// of returns the history of one instance.
func (o *observer) of(instance string) *history {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.instances[instance] == nil {
		o.instances[instance] = &history{}
	}
	return o.instances[instance]
}

// prober asks a service itself, every few milliseconds: it notes the run that answers, "" while none does.
type prober struct {
	history
	mu      sync.Mutex // guards address
	address string
}

const probeEvery = 5 * time.Millisecond

// probe asks until the test ends.
func probe(t *testing.T, address string) *prober {
	t.Helper()
	p := &prober{address: address}
	client := http.Client{Timeout: 500 * time.Millisecond, Transport: &http.Transport{DisableKeepAlives: true}}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		tick := time.NewTicker(probeEvery)
		defer tick.Stop()
		for ctx.Err() == nil {
			p.note(ask(ctx, client, p.where()))
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	t.Cleanup(func() { cancel(); group.Wait() })
	return p
}

func (p *prober) where() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.address
}

func (p *prober) moveTo(address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.address = address
}

// ask returns the run that answers; "" if none does, or it says that it is not healthy.
func ask(ctx context.Context, client http.Client, address string) string {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		return ""
	}
	response, err := client.Do(request)
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	run, err := io.ReadAll(io.LimitReader(response.Body, 100))
	if err != nil || response.StatusCode != http.StatusOK {
		return ""
	}
	return strings.TrimSpace(string(run))
}
