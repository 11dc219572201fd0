package kvclient_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kv/kvtest"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/kvclient/etcdtest"
)

// patience bounds every wait; nothing that works takes as long.
const patience = 20 * time.Second

func watchFrom(t testing.TB, client *kvclient.Client, from kv.WatchFrom) kv.Watch {
	t.Helper()
	w, err := client.Watch(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

func next(t testing.TB, w kv.Watch) (kv.Event, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	event, err := w.Next(ctx)
	if ctx.Err() != nil {
		t.Fatal("no event and no error")
	}
	return event, err
}

// wantValues takes the next events, which must have these values.
func wantValues(t testing.TB, w kv.Watch, values ...string) {
	t.Helper()
	for _, value := range values {
		event, err := next(t, w)
		if err != nil {
			t.Fatal(err)
		}
		if event.Node.Value != value {
			t.Fatalf("got %s=%q at %d, want %q", event.Node.Key, event.Node.Value, event.Node.ModifiedIndex, value)
		}
	}
}

func set(t testing.TB, client *kvclient.Client, key, value string) kv.Result {
	t.Helper()
	result, err := client.Write(t.Context(), kv.Write{Op: kv.OpSet, Key: key, Value: value})
	if err != nil {
		t.Fatal(err)
	}
	return result
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

// cut closes all connections, with a reset where data is under way.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for conn := range l.conns {
		conn.(*net.TCPConn).SetLinger(0)
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

func TestClientOfKVDIsAStore(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	kvtest.Run(t, func(t *testing.T) kv.Store { return open(t, inOrder(cluster.URL())) })
}

// servers are those whose watches have to survive the same faults.
var servers = map[string]func(t *testing.T) string{
	"etcd": func(t *testing.T) string { return etcdtest.Start(t).URL },
	"kvd":  func(t *testing.T) string { return daemontest.Start(t, 1).URL() },
}

func TestCutConnectionsNeitherLoseNorRepeatEvents(t *testing.T) {
	const events = 400
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			url := start(t)
			link := newLink(t, url)
			writer, reader := open(t, inOrder(url)), open(t, inOrder(link.URL))
			w := watchFrom(t, reader, kv.WatchFrom{Key: "/a", Recursive: true})
			for i := range events {
				set(t, writer, "/a/b", fmt.Sprint(i))
				if i%7 == 0 {
					link.cut()
				}
			}
			for i := range events {
				wantValues(t, w, fmt.Sprint(i))
			}
		})
	}
}

func TestAWatchGoesOnAtTheNextEndpoint(t *testing.T) {
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			url := start(t)
			one, two := newLink(t, url), newLink(t, url)
			writer, reader := open(t, inOrder(url)), open(t, inOrder(one.URL, two.URL))
			w := watchFrom(t, reader, kv.WatchFrom{Key: "/a"})
			set(t, writer, "/a", "1")
			wantValues(t, w, "1")
			one.setDown(true)
			set(t, writer, "/a", "2")
			wantValues(t, w, "2")
			two.setDown(true)
			one.setDown(false)
			set(t, writer, "/a", "3")
			wantValues(t, w, "3")
		})
	}
}

func TestAWatchSurvivesARestart(t *testing.T) {
	etcd, kvd := etcdtest.Start(t), daemontest.Start(t, 1)
	for name, server := range map[string]struct {
		url     string
		restart func()
	}{
		"etcd": {etcd.URL, func() { etcd.Stop(); etcd.Restart() }},
		"kvd":  {kvd.URL(), kvd.Restart},
	} {
		t.Run(name, func(t *testing.T) {
			var log output
			cfg := inOrder(server.url)
			cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
			client, other := open(t, cfg), open(t, inOrder(server.url))
			w := watchFrom(t, client, kv.WatchFrom{Key: "/a"})
			set(t, other, "/a", "1")
			wantValues(t, w, "1")
			server.restart()
			set(t, other, "/a", "2")
			wantValues(t, w, "2")
			for _, event := range []string{"watch interrupted, resuming", "watch resumed"} {
				if !strings.Contains(log.String(), event) {
					t.Errorf("no %q in the log:\n%s", event, log.String())
				}
			}
		})
	}
}

func TestClosingAWatchIsNoInterruption(t *testing.T) {
	for name, url := range map[string]string{"etcd": etcdtest.Start(t).URL, "kvd": daemontest.Start(t, 1).URL()} {
		var log output
		cfg := inOrder(url)
		cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
		client := open(t, cfg)
		w := watchFrom(t, client, kv.WatchFrom{Key: "/a"})
		set(t, client, "/a", "1")
		wantValues(t, w, "1")
		w.Close()
		if log.String() != "" {
			t.Errorf("%s: %s", name, log.String())
		}
	}
}

func TestAWipedStoreIsHistoryGone(t *testing.T) {
	server := etcdtest.Start(t)
	client := open(t, inOrder(server.URL))
	var last kv.Result
	for range 20 {
		last = set(t, client, "/a", "1")
	}
	live := watchFrom(t, client, kv.WatchFrom{Key: "/a"})
	server.Stop()
	server.Wipe()
	server.Restart()

	_, err := next(t, live)
	wantGone(t, err, last.Index)
	// Whoever had only read has to be told as well: its watch would wait for index 25 and miss
	// what the new store does until then.
	_, err = client.Watch(t.Context(), kv.WatchFrom{Key: "/a", Index: last.Index + 1})
	wantGone(t, err, last.Index)

	// Any answer of the new store tells, also that a key is not there.
	_, err = client.Read(t.Context(), kv.Read{Key: "/a"})
	var missing *kv.Error
	if !errors.As(err, &missing) || missing.Kind != kv.NotFound {
		t.Fatal(err)
	}
	again := watchFrom(t, client, kv.WatchFrom{Key: "/a", Index: missing.Index + 1})
	set(t, client, "/a", "new")
	wantValues(t, again, "new")
}

func wantGone(t *testing.T, err error, before kv.Index) {
	t.Helper()
	var e *kv.Error
	if !errors.As(err, &e) || e.Kind != kv.HistoryGone || e.Index == 0 || e.Index >= before {
		t.Errorf("got %v, want the kind %q at an index below %d", err, kv.HistoryGone, before)
	}
}

func TestAnIndexOfTheFutureIsWaitedFor(t *testing.T) {
	client := open(t, inOrder(daemontest.Start(t, 1).URL()))
	first := set(t, client, "/a", "1")
	w := watchFrom(t, client, kv.WatchFrom{Key: "/a", Index: first.Index + 3})
	for _, value := range []string{"2", "3", "4", "5"} {
		set(t, client, "/a", value)
	}
	wantValues(t, w, "4", "5")
}

// member answers watches like a member of a cluster that stands at an index.
func member(cluster string, local, agreed int, event string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		index := local
		if r.URL.Query().Get("quorum") == "true" {
			index = agreed
		}
		w.Header().Set("X-Etcd-Cluster-Id", cluster)
		w.Header().Set("X-Etcd-Index", fmt.Sprint(index))
		if r.URL.Query().Get("wait") == "" {
			w.WriteHeader(404)
			fmt.Fprintf(w, `{"errorCode":100,"message":"Key not found","cause":"/a","index":%d}`, index)
			return
		}
		w.(http.Flusher).Flush()
		if event != "" && r.URL.Query().Get("waitIndex") != "102" {
			io.WriteString(w, event)
			return
		}
		<-r.Context().Done()
	}
}

const event101 = `{"action":"set","node":{"key":"/a","value":"101","modifiedIndex":101,"createdIndex":101}}`

func TestAMemberThatLagsIsWaitedForAndAnotherClusterIsNot(t *testing.T) {
	for _, c := range []struct {
		name string
		h    http.HandlerFunc
		gone bool
	}{
		{"lags", member("c1", 40, 100, event101), false},
		{"wiped", member("c1", 40, 41, event101), true},
		{"other cluster, further on", member("c2", 200, 200, event101), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			ahead, _ := serve(t, member("c1", 100, 100, ""))
			link := newLink(t, ahead)
			behind, _ := serve(t, c.h)
			client := open(t, inOrder(link.URL, behind))
			if _, err := client.Read(t.Context(), aRead); !kv.Is(err, kv.NotFound) {
				t.Fatal(err)
			}
			w := watchFrom(t, client, kv.WatchFrom{Key: "/a", Index: 101})
			link.setDown(true)
			if !c.gone {
				wantValues(t, w, "101")
				return
			}
			if _, err := next(t, w); !kv.Is(err, kv.HistoryGone) {
				t.Errorf("got %v, want the kind %q", err, kv.HistoryGone)
			}
		})
	}
}

func TestAnswersAndErrorsSayWhichStoreTheyAreFrom(t *testing.T) {
	url, _ := serve(t, member("c1", 100, 100, event101))
	client := open(t, inOrder(url))
	_, err := client.Read(t.Context(), kv.Read{})
	var e *kv.Error
	if !errors.As(err, &e) || e.Cluster != "c1" || e.Key != "/" || !strings.HasPrefix(err.Error(), "get /: key not found") {
		t.Errorf("got %v of cluster %q", err, e.Cluster)
	}
	kvd := open(t, inOrder(daemontest.Start(t, 1).URL()))
	written := set(t, kvd, "/a", "1")
	if read, err := kvd.Read(t.Context(), aRead); err != nil || written.Cluster == "" || read.Cluster != written.Cluster {
		t.Errorf("written in cluster %q, read from %q: %v", written.Cluster, read.Cluster, err)
	}
}

func TestAnErrorOfAnotherClusterTellsThatItIsAnother(t *testing.T) {
	before, _ := serve(t, member("c1", 100, 100, ""))
	link := newLink(t, before)
	after, _ := serve(t, member("c2", 100, 100, event101))
	client := open(t, inOrder(link.URL, after))
	watchFrom(t, client, kv.WatchFrom{Key: "/a"}).Close()
	link.setDown(true)
	if _, err := client.Read(t.Context(), aRead); !kv.Is(err, kv.NotFound) {
		t.Fatal(err)
	}
	wantValues(t, watchFrom(t, client, kv.WatchFrom{Key: "/a", Index: 101}), "101")
}

func TestKVDBringsAllEventsForOneRequestAndEtcdOne(t *testing.T) {
	const events = 20
	for name, requests := range map[string]int64{"etcd": events, "kvd": 1} {
		t.Run(name, func(t *testing.T) {
			url := servers[name](t)
			var asked atomic.Int64
			cfg := inOrder(url)
			cfg.OnRequest = func(string, string, string) { asked.Add(1) }
			writer, reader := open(t, inOrder(url)), open(t, cfg)
			w := watchFrom(t, reader, kv.WatchFrom{Key: "/a"})
			for i := range events {
				set(t, writer, "/a", fmt.Sprint(i))
				wantValues(t, w, fmt.Sprint(i))
			}
			if got := asked.Load(); got < requests || got > requests+1 { // the next poll may be on its way
				t.Errorf("%d requests, want %d", got, requests)
			}
		})
	}
}

func TestAnEventOverTheLimitEndsTheWatch(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	cfg := inOrder(url)
	cfg.ResponseBytesMax = 1000
	client := open(t, cfg)
	w := watchFrom(t, client, kv.WatchFrom{Key: "/a"})
	set(t, open(t, inOrder(url)), "/a", strings.Repeat("x", 2000))
	if _, err := next(t, w); !kv.Is(err, kv.TooLarge) {
		t.Errorf("got %v, want the kind %q", err, kv.TooLarge)
	}
}

func TestARefusalEndsAWatchThatWasCut(t *testing.T) {
	var denied atomic.Bool
	url, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if denied.Load() {
			says(401, `{"errorCode":110,"message":"The request requires user authentication","cause":"Insufficient credentials","index":0}`)(w, r)
			return
		}
		member("c1", 100, 100, "")(w, r)
	})
	link := newLink(t, url)
	w := watchFrom(t, open(t, inOrder(link.URL)), kv.WatchFrom{Key: "/a"})
	denied.Store(true)
	link.cut()
	for range 2 {
		if _, err := next(t, w); !kv.Is(err, kv.Denied) {
			t.Errorf("got %v, want the kind %q", err, kv.Denied)
		}
	}
}

func TestEmptyAnswersAreAskedAgain(t *testing.T) {
	var polls atomic.Int64
	url, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Etcd-Index", "100")
		if polls.Add(1) > 3 {
			io.WriteString(w, event101)
		}
	})
	w := watchFrom(t, open(t, inOrder(url)), kv.WatchFrom{Key: "/a", Index: 101})
	wantValues(t, w, "101")
}

func TestClosingTheClientEndsItsWatches(t *testing.T) {
	client := open(t, inOrder(daemontest.Start(t, 1).URL()))
	w := watchFrom(t, client, kv.WatchFrom{Key: "/a"})
	ended := make(chan error, 1)
	go func() {
		_, err := w.Next(t.Context())
		ended <- err
	}()
	client.Close()
	if err := <-ended; !kv.Is(err, kv.Closed) {
		t.Errorf("got %v, want the kind %q", err, kv.Closed)
	}
}

func TestAPausedServerIsLeftForAnother(t *testing.T) {
	paused, url := etcdtest.Start(t), daemontest.Start(t, 1).URL()
	paused.Pause()
	defer paused.Continue()
	cfg := inOrder(paused.URL, url)
	cfg.RequestTimeout = 2 * time.Second // of the other one's disk, too
	client := open(t, cfg)
	w := watchFrom(t, client, kv.WatchFrom{Key: "/a"})
	set(t, client, "/a", "1")
	wantValues(t, w, "1")
}

// output is a buffer that may be read while it is written.
type output struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func TestACutThatInterruptsManyWatchesIsToldOnce(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	link := newLink(t, url)
	var log output
	cfg := inOrder(link.URL)
	cfg.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	client, writer := open(t, cfg), open(t, inOrder(url))
	const watches = 3
	var open []kv.Watch
	for range watches {
		open = append(open, watchFrom(t, client, kv.WatchFrom{Recursive: true}))
	}
	link.setDown(true)
	for deadline := time.Now().Add(10 * time.Second); strings.Count(log.String(), "watch interrupted") < watches; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not all watches are interrupted:\n%s", log.String())
		}
	}
	link.setDown(false)
	set(t, writer, "/a", "1")
	for _, w := range open {
		wantValues(t, w, "1")
	}
	for line, want := range map[string]int{
		`level=WARN msg="watch interrupted, resuming" key=/ `: 1, `level=INFO msg="watch resumed" key=/ `: 1, `msg="watch resumed"`: watches,
	} {
		if got := strings.Count(log.String(), line); got != want {
			t.Errorf("%d lines %s, want %d:\n%s", got, line, want, log.String())
		}
	}
}
