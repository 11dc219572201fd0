package mirror_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/mirror"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait; nothing that works takes as long.
const patience = 20 * time.Second

func open(t testing.TB, url string) *kvclient.Client {
	t.Helper()
	client, err := kvclient.New(kvclient.Config{Endpoints: []string{url}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func write(t testing.TB, client *kvclient.Client, w kv.Write) kv.Index {
	t.Helper()
	result, err := client.Write(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	return result.Index
}

func set(t testing.TB, client *kvclient.Client, key, value string) kv.Index {
	t.Helper()
	return write(t, client, kv.Write{Op: kv.OpSet, Key: key, Value: value})
}

// run runs a mirror until the test ends.
func run(t testing.TB, cfg mirror.Config) *mirror.Mirror {
	t.Helper()
	m := mirror.New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return m
}

// await waits until the state of m is as it should be.
func await(t testing.TB, m *mirror.Mirror, is func(mirror.State) bool) mirror.State {
	t.Helper()
	end := time.After(patience)
	for {
		changed := m.Changed()
		state := m.State()
		if is(state) {
			return state
		}
		select {
		case <-changed:
		case <-time.After(5 * time.Millisecond): // contact comes and goes without a change
		case <-end:
			t.Fatalf("it stays at %+v", state)
		}
	}
}

func at(index kv.Index) func(mirror.State) bool {
	return func(s mirror.State) bool { return s.Complete && s.Index >= index }
}

// values returns what m holds below prefix, and checks the order.
func values(t testing.TB, m *mirror.Mirror, prefix string) map[string]string {
	t.Helper()
	all := map[string]string{}
	var keys []string
	m.Ascend(prefix, func(node *kv.Node) bool {
		all[node.Key] = node.Value
		keys = append(keys, node.Key)
		return true
	})
	if !slices.IsSorted(keys) {
		t.Errorf("out of order: %q", keys)
	}
	return all
}

func TestAMirrorHoldsWhatIsThereAndFollowsIt(t *testing.T) {
	client := open(t, daemontest.Start(t, 1).URL())
	set(t, client, "/s/web/a", "1")
	set(t, client, "/s/web-2/a", "2") // '-' comes before '/'
	set(t, client, "/s/_hidden/a", "x")
	start := set(t, client, "/other", "x")
	m := run(t, mirror.Config{Source: client, Prefix: "/s/"})
	if state := await(t, m, at(start)); state.Err != nil || state.Since.IsZero() {
		t.Errorf("state %+v", state)
	}
	if got, want := values(t, m, ""), map[string]string{"/s/web/a": "1", "/s/web-2/a": "2"}; !maps.Equal(got, want) {
		t.Errorf("holds %v, want %v", got, want)
	}
	set(t, client, "/s/web/b", "3")
	set(t, client, "/s/web/a", "4")
	await(t, m, at(write(t, client, kv.Write{Op: kv.OpDelete, Key: "/s/web-2", Recursive: true})))
	if got, want := values(t, m, "/s/web"), map[string]string{"/s/web/a": "4", "/s/web/b": "3"}; !maps.Equal(got, want) {
		t.Errorf("holds %v, want %v", got, want)
	}
	if got := values(t, m, "/s/web/b"); len(got) != 1 || got["/s/web/b"] != "3" {
		t.Errorf("at one key: %v", got)
	}
	if node, ok := m.Get("s/web/a/"); !ok || node.Value != "4" {
		t.Errorf("one key: %v, %v", node, ok)
	}
	if node, ok := m.Get("/s/web-2/a"); ok {
		t.Errorf("a key that went: %v", node)
	}
	seen := 0
	m.Ascend("/s", func(*kv.Node) bool { seen++; return false })
	if seen != 1 {
		t.Errorf("it went on to %d nodes", seen)
	}
}

func TestAnEmptyMirrorSaysWhetherThatIsKnown(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	cluster.Stop()
	m := run(t, mirror.Config{Source: open(t, cluster.URL()), Prefix: "/s"})
	changed := m.Changed()
	if state := await(t, m, func(s mirror.State) bool { return s.Err != nil }); state.Complete || !state.Since.IsZero() {
		t.Errorf("before the first answer: %+v", state)
	}
	cluster.Restart()
	state := await(t, m, func(s mirror.State) bool { return s.Complete })
	if state.Err != nil || state.Since.IsZero() || state.Index == 0 {
		t.Errorf("after it: %+v", state)
	}
	select {
	case <-changed:
	case <-time.After(patience):
		t.Error("the first reading is no change")
	}
}

func TestAMirrorKeepsWhatItHasWhileTheStoreIsAwayAndSaysSinceWhen(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	client := open(t, cluster.URL())
	m := run(t, mirror.Config{Source: client, Prefix: "/s"})
	await(t, m, at(set(t, client, "/s/a", "1")))
	before := time.Now()
	cluster.Stop()
	state := await(t, m, func(s mirror.State) bool { return s.Err != nil })
	if !state.Complete || state.Since.Before(before) || state.Since.After(time.Now()) {
		t.Errorf("away since after %v: %+v", before, state)
	}
	if got := values(t, m, ""); got["/s/a"] != "1" {
		t.Errorf("it holds %v", got)
	}
	cluster.Restart()
	await(t, m, func(s mirror.State) bool { return s.Err == nil })
	await(t, m, at(set(t, client, "/s/b", "2")))
	if got := values(t, m, ""); len(got) != 2 {
		t.Errorf("it holds %v", got)
	}
}

func TestAMirrorMakesUpForMoreThanTheHistoryHolds(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	link := newLink(t, url)
	writer := open(t, url)
	set(t, writer, "/s/gone", "1")
	set(t, writer, "/s/same", "1")
	start := set(t, writer, "/s/changed", "1")
	m := run(t, mirror.Config{Source: open(t, link.URL), Prefix: "/s"})
	await(t, m, at(start))
	link.setDown(true)
	write(t, writer, kv.Write{Op: kv.OpDelete, Key: "/s/gone"})
	set(t, writer, "/s/changed", "2")
	var last kv.Index
	for range 1100 { // the history of kvd is 1000 events
		last = set(t, writer, "/elsewhere", "x")
	}
	if got := values(t, m, ""); len(got) != 3 {
		t.Errorf("while it is cut off it holds %v", got)
	}
	link.setDown(false)
	await(t, m, at(last))
	if got, want := values(t, m, ""), map[string]string{"/s/same": "1", "/s/changed": "2"}; !maps.Equal(got, want) {
		t.Errorf("holds %v, want %v", got, want)
	}
}

func TestAMirrorThroughManyCutsEqualsTheStoreAndIsReadMeanwhile(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	link := newLink(t, url)
	writer := open(t, url)
	m := run(t, mirror.Config{Source: open(t, link.URL), Prefix: "/s"})
	stop := make(chan struct{})
	var readers sync.WaitGroup
	readers.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-m.Changed():
				values(t, m, "/s")
			}
		}
	})
	want := map[string]string{}
	var last kv.Index
	for i := range 600 {
		key := fmt.Sprintf("/s/d%d/k%d", i%3, i%7)
		if _, there := want[key]; there && i%5 == 0 {
			delete(want, key)
			last = write(t, writer, kv.Write{Op: kv.OpDelete, Key: key})
		} else {
			want[key] = fmt.Sprint(i)
			last = set(t, writer, key, want[key])
		}
		if i%40 == 0 {
			link.cut()
		}
	}
	await(t, m, at(last))
	close(stop)
	readers.Wait()
	if got := values(t, m, ""); !maps.Equal(got, want) {
		t.Errorf("holds %v, want %v", got, want)
	}
}

func TestAMirrorOfAClosedClientEnds(t *testing.T) {
	client := open(t, daemontest.Start(t, 1).URL())
	m := mirror.New(mirror.Config{Source: client})
	done := make(chan error, 1)
	go func() { done <- m.Run(t.Context()) }()
	await(t, m, func(s mirror.State) bool { return s.Complete })
	client.Close()
	select {
	case err := <-done:
		if !kv.Is(err, kv.Closed) {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it goes on")
	}
}

// link is a TCP proxy whose connections can be cut, and which can refuse new ones.
type link struct {
	URL      string
	target   string
	listener net.Listener
	work     sync.WaitGroup

	mu    sync.Mutex // guards the fields below
	conns map[net.Conn]bool
	down  bool
}

func newLink(t testing.TB, target string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{URL: "http://" + listener.Addr().String(), target: strings.TrimPrefix(target, "http://"), listener: listener, conns: map[net.Conn]bool{}}
	l.work.Go(l.accept)
	t.Cleanup(func() {
		listener.Close()
		l.setDown(true)
		l.work.Wait()
	})
	return l
}

func (l *link) accept() {
	for {
		near, err := l.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", l.target)
		if err != nil || !l.keep(near, far) {
			near.Close()
			if err == nil {
				far.Close()
			}
			continue
		}
		pass := func(to, from net.Conn) {
			io.Copy(to, from)
			near.Close()
			far.Close()
		}
		l.work.Go(func() { pass(far, near) })
		l.work.Go(func() { pass(near, far) })
	}
}

// keep notes two connections, unless the link is down.
func (l *link) keep(conns ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range conns {
		l.conns[conn] = true
	}
	return !l.down
}

func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for conn := range l.conns {
		conn.Close()
	}
	clear(l.conns)
}

func (l *link) setDown(down bool) {
	l.mu.Lock()
	l.down = down
	l.mu.Unlock()
	if down {
		l.cut()
	}
}
