package registration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/cluster"
	"github.com/kvd-io/kvd/e2e/engine"
	"github.com/kvd-io/kvd/e2e/link"
	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/registry"
)

// What can be set from outside. The defaults are for every run of all tests.
const (
	containersVariable = "KVD_REGISTRATION_CONTAINERS" // how many; 300 for the long run
	restVariable       = "KVD_REGISTRATION_REST"       // how long nothing may happen at rest: 5m for the long run
	seedVariable       = "KVD_REGISTRATION_SEED"
)

const (
	service = "web"
	labelID = "SERVICE_ID"

	// serve is what a container runs: a server, and a first process that ends when it is told to.
	serve = `trap 'exit 0' TERM; httpd -f -p 80 & wait`

	actsEach = 4 // acts for each container
	workers  = 4
	actMax   = time.Minute // of one act
	equalMax = time.Minute // until the registry equals what runs, at the end

	// watchEvery is how often the two truths are compared.
	watchEvery = 50 * time.Millisecond
)

// size is how large a run is.
type size struct {
	containers int
	ttl        time.Duration
	cut        time.Duration // how long the store cannot be reached
	rest       time.Duration
	faults     []fault
}

// fault happens when a part of all acts has been done.
type fault struct {
	after float64
	name  string
	do    func(*world)
}

func sizeOf(t testing.TB) size {
	count, err := strconv.Atoi(os.Getenv(containersVariable))
	if err != nil {
		count = 20
	}
	s := size{containers: count, ttl: 5 * time.Second, cut: 2 * time.Second, rest: 5 * time.Second, faults: []fault{
		{0.3, "dockerd is killed, and ends all containers when it returns", func(w *world) { w.killEngine() }},
		{0.6, "the store is cut off: connections hang", func(w *world) { w.cutStore(link.Stalled) }},
	}}
	if count >= 100 {
		s.ttl, s.cut, s.rest = 15*time.Second, 8*time.Second, 5*time.Minute
		s.faults = []fault{
			{0.15, "dockerd is killed, its containers live on", func(w *world) { w.killEngine("--live-restore") }},
			{0.35, "the store is cut off: connections are refused", func(w *world) { w.cutStore(link.Refused) }},
			{0.55, "dockerd is killed, and ends all containers when it returns", func(w *world) { w.killEngine() }},
			{0.75, "the store is cut off: connections hang", func(w *world) { w.cutStore(link.Stalled) }},
		}
	}
	if text := os.Getenv(restVariable); text != "" {
		if s.rest, err = time.ParseDuration(text); err != nil {
			t.Fatalf("%s: %v", restVariable, err)
		}
	}
	return s
}

// world is an engine, a store, the way between it and kvagent, and what the test knows of all that.
type world struct {
	t      testing.TB
	size   size
	docker *engine.Engine
	store  *kvclient.Client // past the way
	url    string
	way    *link.Link

	acts atomic.Int64
	down atomic.Bool // dockerd is dead
}

func newWorld(t testing.TB, s size) *world {
	for _, part := range []string{"root", "dockerd", "busybox", "ip"} {
		parts.Need(t, part)
	}
	bin := parts.Build(t)
	dir, err := os.MkdirTemp("", "kvd-engine-") // the name of a test is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	docker, err := engine.Start(t.Context(), engine.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := docker.Close(); err != nil {
			t.Error(err)
		}
	})
	c, err := cluster.New(cluster.Config{Program: cluster.KVD(filepath.Join(bin, "kvd")), Members: 1, Dir: t.TempDir(), Loopback: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, size: s, docker: docker, url: c.Members()[0].ClientURL}
	if w.store, err = kvclient.New(kvclient.Config{Endpoints: []string{w.url}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.store.Close() })
	w.way = link.New(t, strings.TrimPrefix(w.url, "http://"))
	w.startAgent(filepath.Join(bin, "kvagent"))
	return w
}

func (w *world) startAgent(program string) {
	cmd := exec.Command(program, "--docker-host", w.docker.Host(), "--endpoints", w.way.URL(), "--source", "docker", "--host", "h1",
		"--ip", "127.0.0.1", "--internal", "--ttl", w.size.ttl.String())
	log := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if w.t.Failed() {
			w.t.Logf("the last that kvagent said:\n%s", log.Bytes()[max(0, log.Len()-20_000):])
		}
	})
}

func (w *world) killEngine(args ...string) {
	w.down.Store(true)
	if err := w.docker.Kill(); err != nil {
		w.t.Error(err)
	}
	if err := w.docker.Begin(w.t.Context(), args...); err != nil {
		w.t.Error(err)
	}
	w.down.Store(false)
}

func (w *world) cutStore(how link.State) {
	w.way.Set(how)
	time.Sleep(w.size.cut) // the length of the fault, not a wait for anything
	w.way.Set(link.Open)
}

func TestTheRegistryEqualsWhatRunsWhateverDies(t *testing.T) {
	s := sizeOf(t)
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv(seedVariable); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%s=%d %s=%d, TTL %v", containersVariable, s.containers, seedVariable, seed, s.ttl)
	w := newWorld(t, s)
	observer := w.observe()
	begun := time.Now()
	w.churn(seed)
	t.Logf("%d acts in %v", w.acts.Load(), time.Since(begun).Round(time.Second))
	ended := time.Now()
	for observer.equalSince(ended).IsZero() {
		if time.Since(ended) > equalMax {
			t.Fatalf("the registry does not equal what runs %v after the last act: %v", equalMax, observer.wrongNow())
		}
		time.Sleep(watchEvery)
	}
	t.Logf("equal %v after the last act", observer.equalSince(ended).Sub(ended).Round(time.Millisecond))
	w.rest()
	observer.stop()
	observer.report(t)
	if longest := observer.longest(); longest.length > s.ttl {
		t.Errorf("%v: longer than the TTL of %v", longest, s.ttl)
	}
	if observer.compared == 0 {
		t.Error("nothing was ever compared")
	}
}

func TestAContainerThatEndsWhileItsEngineIsDeadIsGoneAllTheSame(t *testing.T) {
	w := newWorld(t, sizeOf(t))
	ctx := t.Context()
	ids := map[string]string{}
	for _, name := range []string{"stays", "ends"} {
		id, err := w.docker.Run(ctx, engine.Container{Name: name, Command: []string{"sh", "-c", serve}, Expose: []string{"80/tcp"},
			Labels: map[string]string{"SERVICE_NAME": service, labelID: name, "SERVICE_CHECK": "none"}})
		if err != nil {
			t.Fatal(err)
		}
		ids[name] = id
	}
	w.until("both are registered", func(registered map[string]bool) bool { return registered["stays"] && registered["ends"] })
	var details struct{ State struct{ Pid int } }
	if err := w.docker.Call(ctx, http.MethodGet, "/containers/"+ids["ends"]+"/json", nil, &details); err != nil {
		t.Fatal(err)
	}
	if err := w.docker.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(details.State.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.until("only what runs is registered", func(registered map[string]bool) bool { return registered["stays"] && !registered["ends"] })
}

// until waits for what is registered to satisfy a condition.
func (w *world) until(what string, condition func(map[string]bool) bool) {
	w.t.Helper()
	for deadline := time.Now().Add(equalMax); ; time.Sleep(watchEvery) {
		registered, err := w.registered(w.t.Context())
		if err == nil && condition(registered) {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("waited %v for: %s; registered are %v, %v", equalMax, what, registered, err)
		}
	}
}

// churn has containers created, started, stopped, killed, paused, restarted and removed in random
// order while the faults happen.
func (w *world) churn(seed uint64) {
	total := int64(w.size.containers * actsEach)
	var group sync.WaitGroup
	for worker := range workers {
		// Each worker has containers of its own, so that no two act on one.
		var own []*actor
		for i := worker; i < w.size.containers; i += workers {
			own = append(own, &actor{name: fmt.Sprintf("c%04d", i)})
		}
		random := rand.New(rand.NewPCG(seed, uint64(worker)))
		group.Go(func() {
			for w.acts.Load() < total && !w.t.Failed() {
				w.act(own[random.IntN(len(own))], random)
				w.acts.Add(1)
			}
		})
	}
	for _, f := range w.size.faults {
		for float64(w.acts.Load()) < f.after*float64(total) && !w.t.Failed() {
			time.Sleep(watchEvery)
		}
		begun := time.Now()
		f.do(w)
		w.t.Logf("after %d acts: %s, for %v", w.acts.Load(), f.name, time.Since(begun).Round(100*time.Millisecond))
	}
	group.Wait()
}

// actor is one container, as the worker who owns it last left it. The engine may have other views,
// after its death.
type actor struct {
	name string
	id   string // "" while it does not exist
}

// act does one thing to a container that it can be done to. What a dying engine answers says nothing.
func (w *world) act(a *actor, random *rand.Rand) {
	ctx, cancel := context.WithTimeout(w.t.Context(), actMax)
	defer cancel()
	for w.down.Load() && ctx.Err() == nil {
		time.Sleep(watchEvery)
	}
	if a.id == "" {
		id, err := w.docker.Create(ctx, engine.Container{Name: a.name, Command: []string{"sh", "-c", serve}, Expose: []string{"80/tcp"},
			Labels: map[string]string{"SERVICE_NAME": service, labelID: a.name}})
		if err != nil && !w.excused(err) {
			w.t.Errorf("create %s: %v", a.name, err)
		}
		if err == nil {
			a.id = id
			w.excuse(w.docker.Do(ctx, id, "start"))
		}
		return
	}
	acts := []string{"start", "start", "start", "stop?t=1", "stop?t=0", "kill", "pause", "unpause", "unpause", "restart?t=0", "remove"}
	switch act := acts[random.IntN(len(acts))]; act {
	case "remove":
		if err := w.docker.Remove(ctx, a.id); err == nil {
			a.id = ""
		} else {
			w.excuse(err)
		}
	default:
		w.excuse(w.docker.Do(ctx, a.id, act))
	}
}

// excused reports whether err is a dead engine's, or about a state that the container is not in.
func (w *world) excused(err error) bool {
	var status *engine.StatusError
	return !errors.As(err, &status) || status.Status == http.StatusConflict || status.Status == http.StatusNotModified ||
		status.Status == http.StatusNotFound || status.Status == http.StatusInternalServerError
}

func (w *world) excuse(err error) {
	if err != nil && !w.excused(err) {
		w.t.Error(err)
	}
}

// rest looks for anything that happens while nothing does.
func (w *world) rest() {
	ctx := w.t.Context()
	before, err := w.store.Read(ctx, kv.Read{Key: "/", Recursive: true, Quorum: true})
	if err != nil {
		w.t.Fatal(err)
	}
	watch, err := w.store.Watch(ctx, kv.WatchFrom{Key: "/", Recursive: true})
	if err != nil {
		w.t.Fatal(err)
	}
	defer watch.Close()
	entries := w.entries()
	resting, cancel := context.WithTimeout(ctx, w.size.rest)
	defer cancel()
	if event, err := watch.Next(resting); err == nil {
		w.t.Errorf("a watcher is woken at rest: %s of %+v", event.Action, event.Node)
	}
	<-resting.Done()
	after, err := w.store.Read(ctx, kv.Read{Key: "/", Recursive: true, Quorum: true})
	if err != nil {
		w.t.Fatal(err)
	}
	was, is := indices(before.Node, map[string]kv.Index{}), indices(after.Node, map[string]kv.Index{})
	if len(was) < 2 {
		w.t.Error("there is nothing that rests")
	}
	for key, index := range was {
		if is[key] != index {
			w.t.Errorf("%s was modified at rest: from index %d to %d", key, index, is[key])
		}
	}
	if len(is) != len(was) || after.Index != before.Index {
		w.t.Errorf("from %d keys at index %d to %d keys at index %d", len(was), before.Index, len(is), after.Index)
	}
	grown := w.entries() - entries
	// The clock of leases is an entry a second, however many leases there are.
	if most := 2 + uint64(1.2*w.size.rest.Seconds()); grown > most {
		w.t.Errorf("the log has grown by %d entries in %v", grown, w.size.rest)
	}
	w.t.Logf("at rest for %v with %d keys: index %d, no event, the log has grown by %d entries", w.size.rest, len(is), after.Index, grown)
}

func indices(node *kv.Node, into map[string]kv.Index) map[string]kv.Index {
	into[node.Key] = node.ModifiedIndex
	for _, child := range node.Nodes {
		indices(child, into)
	}
	return into
}

// entries is how many entries the store's log has had.
func (w *world) entries() uint64 {
	response, err := http.Get(w.url + "/debug/state")
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	var state struct{ RaftIndex uint64 }
	if err := json.Unmarshal(body, &state); err != nil {
		w.t.Fatal(err)
	}
	return state.RaftIndex
}

// observer compares what runs with what is registered, all the time.
type observer struct {
	cancel   context.CancelFunc
	ended    chan struct{}
	compared int // read after stop

	mu      sync.Mutex // guards the fields below
	wrong   map[string]span
	spans   []span
	latest  time.Time     // when the two were last compared
	isBlind bool          // one of the two could not be had since
	blind   time.Duration // of all, during which that was so
	equal   time.Time     // since when they have been equal; zero while they are not
}

// span is how long one container was registered otherwise than it ran, without the time during which
// its engine could not be asked.
type span struct {
	instance string
	what     string
	begun    time.Time
	length   time.Duration
}

func (s span) String() string {
	return fmt.Sprintf("%s %s for %v", s.instance, s.what, s.length.Round(time.Millisecond))
}

func (w *world) observe() *observer {
	ctx, cancel := context.WithCancel(context.Background())
	o := &observer{cancel: cancel, ended: make(chan struct{}), wrong: map[string]span{}}
	go func() {
		defer close(o.ended)
		for ctx.Err() == nil {
			if running, registered, ok := w.compare(ctx); ok {
				o.take(time.Now(), running, registered)
			} else {
				o.mu.Lock()
				o.isBlind = true
				o.mu.Unlock()
			}
			time.Sleep(watchEvery)
		}
	}()
	w.t.Cleanup(o.stop)
	return o
}

// compare returns what runs and what is registered, unless one of them cannot be known now.
func (w *world) compare(ctx context.Context) (running, registered map[string]bool, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, actMax)
	defer cancel()
	list, err := w.docker.List(ctx, false)
	if err != nil {
		return nil, nil, false
	}
	running = map[string]bool{}
	for _, line := range list {
		if line.State == "running" {
			running[line.Labels[labelID]] = true
		}
	}
	registered, err = w.registered(ctx)
	return running, registered, err == nil
}

// registered are the instances in the store.
func (w *world) registered(ctx context.Context) (map[string]bool, error) {
	found := map[string]bool{}
	result, err := w.store.Read(ctx, kv.Read{Key: registry.DefaultPrefix + "/" + service})
	if kv.Is(err, kv.NotFound) {
		return found, nil
	}
	if err != nil {
		return nil, err
	}
	for _, node := range result.Node.Nodes {
		found[kv.Base(node.Key)] = true
	}
	return found, nil
}

func (o *observer) take(now time.Time, running, registered map[string]bool) {
	wrong := map[string]string{}
	for instance := range running {
		if !registered[instance] {
			wrong[instance] = "ran and was not registered"
		}
	}
	for instance := range registered {
		if !running[instance] {
			wrong[instance] = "was registered and did not run"
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.compared++
	if o.isBlind { // nobody can say what ran meanwhile
		gap := now.Sub(o.latest)
		o.blind += gap
		for instance, s := range o.wrong {
			s.begun = s.begun.Add(gap)
			o.wrong[instance] = s
		}
	}
	o.latest, o.isBlind = now, false
	for instance, s := range o.wrong {
		if wrong[instance] != s.what {
			s.length = now.Sub(s.begun)
			o.spans = append(o.spans, s)
			delete(o.wrong, instance)
		}
	}
	for instance, what := range wrong {
		if _, found := o.wrong[instance]; !found {
			o.wrong[instance] = span{instance: instance, what: what, begun: now}
		}
	}
	switch {
	case len(wrong) > 0:
		o.equal = time.Time{}
	case o.equal.IsZero():
		o.equal = now
	}
}

// equalSince is when the two were first compared after a moment and were equal, and have been since;
// the zero time if they are not.
func (o *observer) equalSince(moment time.Time) time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.equal.IsZero() || o.latest.Before(moment):
		return time.Time{}
	case o.equal.Before(moment):
		return o.latest
	}
	return o.equal
}

func (o *observer) wrongNow() []span {
	o.mu.Lock()
	defer o.mu.Unlock()
	var list []span
	for _, s := range o.wrong {
		s.length = time.Since(s.begun)
		list = append(list, s)
	}
	return list
}

func (o *observer) stop() {
	o.cancel()
	<-o.ended
}

func (o *observer) longest() (longest span) {
	for _, s := range append(o.wrongNow(), o.spans...) {
		if s.length > longest.length {
			longest = s
		}
	}
	return longest
}

func (o *observer) report(t testing.TB) {
	slices.SortFunc(o.spans, func(a, b span) int { return int(b.length - a.length) })
	median := time.Duration(0)
	if len(o.spans) > 0 {
		median = o.spans[len(o.spans)/2].length
	}
	t.Logf("compared %d times, impossible for %v: %d spans in which one was wrong, half of them at most %v", o.compared, o.blind.Round(time.Millisecond), len(o.spans), median.Round(time.Millisecond))
	for _, s := range o.spans[:min(5, len(o.spans))] {
		t.Logf("  %v, from %s on", s, s.begun.Format("15:04:05.000"))
	}
}
