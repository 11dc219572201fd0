package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kvd-io/kvd/e2e/engine"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/registry"
)

// registeredMax bounds every wait for what kvagent does.
const registeredMax = 20 * time.Second

// latencies are one kind of wait, one for each run.
type latencies []time.Duration

func (l latencies) figures() []figure {
	slices.Sort(l)
	at := func(q float64) float64 { return millis(l[int(q*float64(len(l)-1))]) }
	return []figure{{"p50 ms", at(0.5), 2}, {"p90 ms", at(0.9), 2}, {"p99 ms", at(0.99), 2}, {"most ms", millis(l[len(l)-1]), 2}}
}

func latencyRow(name string, l latencies) row { return row{Subject: name, Figures: l.figures()} }

// runRegistration measures how long after a container's start, first passing check and stop signal the
// store shows it, with a real engine, kvd and kvagent, and how long the parts of that take alone.
func runRegistration(ctx context.Context, b *bench) ([]table, error) {
	docker, err := engine.Start(ctx, engine.Config{Dir: filepath.Join(b.dir, "engine")})
	if err != nil {
		return nil, err
	}
	defer docker.Close()
	store, err := b.startKVD(ctx, "registration")
	if err != nil {
		return nil, err
	}
	defer store.kill()
	r, err := newRegistrations(ctx, docker, store.url)
	if err != nil {
		return nil, err
	}
	defer r.close()

	arrival, inspection, writing, err := r.parts(ctx, b.registrations)
	if err != nil {
		return nil, err
	}
	agent, err := b.startAgent(docker.Host(), store.url)
	if err != nil {
		return nil, err
	}
	defer agent.kill()
	started, stopped, gone, err := r.unchecked(ctx, b.registrations)
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, agent.said)
	}
	checked, err := r.checked(ctx, b.registrations)
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, agent.said)
	}
	shown := table{
		Work: fmt.Sprintf("%d containers, one after the other, until a watcher of the store has seen it", b.registrations),
		Rows: []row{
			latencyRow("from the answer to start, without a check", started),
			latencyRow("from the first connection of a check", checked),
			latencyRow("from the stop signal to draining or gone", stopped),
			latencyRow("from the end of the process to gone", gone),
		},
		Commands: []string{"kvagent " + strings.Join(agent.args[1:], " ")},
	}
	for _, row := range shown.Rows[:3] {
		shown.Claims = append(shown.Claims, claim{What: row.Subject + ", p50 ms", Value: row.Figures[0].Value, Target: 10},
			claim{What: row.Subject + ", p99 ms", Value: row.Figures[2].Value, Target: 10})
	}
	return []table{shown, {
		Work: "the parts alone, without kvagent",
		Rows: []row{
			latencyRow("the start event arrives, after the engine stamped it", arrival),
			latencyRow("the engine is asked about the container", inspection),
			latencyRow("a record is written, until a watcher has seen it", writing),
		},
	}}, nil
}

// startAgent starts kvagent for one engine and one store. It registers containers' own addresses.
func (b *bench) startAgent(engineHost, endpoint string, more ...string) (*server, error) {
	s := &server{name: "kvagent", said: &tail{}, args: append([]string{b.kvagent, "--docker-host", engineHost, "--endpoints", endpoint,
		"--source", "docker", "--host", "h1", "--ip", "127.0.0.1", "--internal", "--log-level", "warn"}, more...)}
	s.cmd = exec.Command(s.args[0], s.args[1:]...)
	s.cmd.Stdout, s.cmd.Stderr = s.said, s.said
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return s, s.cmd.Start()
}

// registrations makes containers and sees what becomes of their records.
type registrations struct {
	docker *engine.Engine
	store  *kvclient.Client
	watch  kv.Watch
	group  sync.WaitGroup
	cancel context.CancelFunc

	mu     sync.Mutex // guards the fields below
	events []engineEvent
	seen   []seenRecord
	moved  chan struct{} // closed and replaced when one of these grows
}

// engineEvent is an event, and when it arrived here.
type engineEvent struct {
	engine.Event
	at time.Time
}

// seenRecord is what a watcher was told of one instance, and when.
type seenRecord struct {
	instance string
	state    string // "" when it is gone
	at       time.Time
}

func newRegistrations(ctx context.Context, docker *engine.Engine, url string) (*registrations, error) {
	store, err := kvclient.New(kvclient.Config{Endpoints: []string{url}})
	if err != nil {
		return nil, err
	}
	r := &registrations{docker: docker, store: store, moved: make(chan struct{})}
	ctx, r.cancel = context.WithCancel(ctx)
	r.watch, err = store.Watch(ctx, kv.WatchFrom{Key: registry.DefaultPrefix, Recursive: true})
	if err != nil {
		return nil, err
	}
	events := make(chan engine.Event)
	opening := make(chan error, 1)
	r.group.Go(func() { opening <- docker.Events(ctx, events) })
	if err := <-opening; err != nil {
		return nil, err
	}
	r.group.Go(func() {
		for e := range events {
			r.add(func() { r.events = append(r.events, engineEvent{e, time.Now()}) })
		}
	})
	r.group.Go(func() {
		for {
			e, err := r.watch.Next(ctx)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				continue
			}
			record, _ := registry.Decode(e.Node.Value)
			if e.Removes() {
				record.State = ""
			}
			r.add(func() { r.seen = append(r.seen, seenRecord{kv.Base(e.Node.Key), record.State, time.Now()}) })
		}
	})
	return r, nil
}

func (r *registrations) close() {
	r.cancel()
	r.watch.Close()
	r.group.Wait()
	r.store.Close()
}

func (r *registrations) add(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
	close(r.moved)
	r.moved = make(chan struct{})
}

// until waits until found, called with the lock held, reports true.
func (r *registrations) until(ctx context.Context, what string, found func() bool) error {
	timeout := time.After(registeredMax)
	for {
		r.mu.Lock()
		ok, moved := found(), r.moved
		r.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-moved:
		case <-timeout:
			return fmt.Errorf("waited %v for: %s", registeredMax, what)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// event waits for a container's event.
func (r *registrations) event(ctx context.Context, id, action string) (found engineEvent, err error) {
	return found, r.until(ctx, "the event "+action, func() bool {
		i := slices.IndexFunc(r.events, func(e engineEvent) bool { return e.ID == id && e.Action == action })
		if i >= 0 {
			found = r.events[i]
		}
		return i >= 0
	})
}

// record waits for the first news about an instance that is in the state, or with up false in any but
// up.
func (r *registrations) record(ctx context.Context, instance string, up bool) (at time.Time, err error) {
	return at, r.until(ctx, fmt.Sprintf("news of %s, up: %v", instance, up), func() bool {
		wasUp := false
		for _, s := range r.seen {
			if s.instance != instance {
				continue
			}
			if isUp := s.state == registry.StateUp; up == isUp && (up || wasUp) {
				at = s.at
				return true
			}
			wasUp = wasUp || s.state == registry.StateUp
		}
		return false
	})
}

// gone waits until an instance has been removed.
func (r *registrations) gone(ctx context.Context, instance string) (at time.Time, err error) {
	return at, r.until(ctx, instance+" is gone", func() bool {
		for _, s := range r.seen {
			if s.instance == instance && s.state == "" {
				at = s.at
				return true
			}
		}
		return false
	})
}

// parts measures, alone, how long an event, an inspection and a write take.
func (r *registrations) parts(ctx context.Context, runs int) (arrival, inspection, writing latencies, err error) {
	for i := range runs {
		id, err := r.docker.Run(ctx, engine.Container{Name: fmt.Sprintf("part%d", i), Expose: []string{"80/tcp"}})
		if err != nil {
			return nil, nil, nil, err
		}
		e, err := r.event(ctx, id, "start")
		if err != nil {
			return nil, nil, nil, err
		}
		arrival = append(arrival, e.at.Sub(time.Unix(0, e.Nanoseconds)))
		begun := time.Now()
		if err := r.docker.Call(ctx, "GET", "/containers/"+id+"/json", nil, nil); err != nil {
			return nil, nil, nil, err
		}
		inspection = append(inspection, time.Since(begun))
		if err := r.docker.Remove(ctx, id); err != nil {
			return nil, nil, nil, err
		}
		record := registry.Record{Service: "part", Instance: fmt.Sprintf("part%d", i), Address: "127.0.0.1", Port: 80, Protocol: "tcp", State: registry.StateUp, Weight: 1}
		value, err := json.Marshal(record)
		if err != nil {
			return nil, nil, nil, err
		}
		begun = time.Now()
		if _, err := r.store.Write(ctx, kv.Write{Op: kv.OpCreate, Key: record.Key(registry.DefaultPrefix), Value: string(value), TTL: time.Minute}); err != nil {
			return nil, nil, nil, err
		}
		at, err := r.record(ctx, record.Instance, true)
		if err != nil {
			return nil, nil, nil, err
		}
		writing = append(writing, at.Sub(begun))
	}
	return arrival, inspection, writing, nil
}

// unchecked starts and stops containers that are registered without a check.
func (r *registrations) unchecked(ctx context.Context, runs int) (started, stopped, gone latencies, err error) {
	for i := range runs {
		instance := fmt.Sprintf("free%d", i)
		id, err := r.docker.Create(ctx, engine.Container{Name: instance, Expose: []string{"80/tcp"},
			Labels: map[string]string{"SERVICE_NAME": "free", "SERVICE_ID": instance, "SERVICE_CHECK": "none"}})
		if err != nil {
			return nil, nil, nil, err
		}
		if err := r.docker.Do(ctx, id, "start"); err != nil {
			return nil, nil, nil, err
		}
		begun := time.Now()
		at, err := r.record(ctx, instance, true)
		if err != nil {
			return nil, nil, nil, err
		}
		started = append(started, at.Sub(begun))

		// The first process of a container is not ended by a signal that it has no handler for.
		if err := r.docker.Do(ctx, id, "kill?signal=TERM"); err != nil {
			return nil, nil, nil, err
		}
		e, err := r.event(ctx, id, "kill")
		if err != nil {
			return nil, nil, nil, err
		}
		if at, err = r.record(ctx, instance, false); err != nil {
			return nil, nil, nil, err
		}
		stopped = append(stopped, at.Sub(time.Unix(0, e.Nanoseconds)))
		if err := r.docker.Remove(ctx, id); err != nil {
			return nil, nil, nil, err
		}
		if e, err = r.event(ctx, id, "die"); err != nil {
			return nil, nil, nil, err
		}
		if at, err = r.gone(ctx, instance); err != nil {
			return nil, nil, nil, err
		}
		gone = append(gone, at.Sub(time.Unix(0, e.Nanoseconds)))
	}
	return started, stopped, gone, nil
}

// checked starts containers on the host's network whose port is opened here, a while later, so that the
// first check that passes is seen.
func (r *registrations) checked(ctx context.Context, runs int) (after latencies, err error) {
	for i := range runs {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		instance := fmt.Sprintf("checked%d", i)
		id, err := r.docker.Run(ctx, engine.Container{Name: instance, Expose: []string{fmt.Sprintf("%d/tcp", port)}, Network: "host",
			Labels: map[string]string{"SERVICE_NAME": "checked", "SERVICE_ID": instance}})
		if err != nil {
			return nil, err
		}
		time.Sleep(time.Duration(20+i%50) * time.Millisecond)
		listener, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			return nil, err
		}
		connected := make(chan time.Time, 1)
		go func() {
			defer close(connected)
			for first := true; ; first = false {
				connection, err := listener.Accept()
				if err != nil {
					return
				}
				if first {
					connected <- time.Now()
				}
				connection.Close()
			}
		}()
		at, err := r.record(ctx, instance, true)
		listener.Close()
		checked, ok := <-connected
		if err == nil && !ok {
			err = errors.New(instance + " was registered without a check")
		}
		err = errors.Join(err, r.docker.Remove(ctx, id))
		if err != nil {
			return nil, err
		}
		after = append(after, at.Sub(checked))
	}
	return after, nil
}

// freePort returns a port of loopback that nobody listens on.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
