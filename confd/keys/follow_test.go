package keys

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/kvclient/etcdtest"
)

// soon bounds every wait for something that must happen.
const soon = 30 * time.Second

func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(soon); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", soon, what)
		}
	}
}

func client(t testing.TB, endpoint string) *kvclient.Client {
	t.Helper()
	c, err := kvclient.New(kvclient.Config{Endpoints: []string{endpoint}, RequestTimeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// logText is what was logged; it is safe for concurrent use.
type logText struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// follow runs a source for roots of the store at endpoint until the test ends.
func follow(t testing.TB, endpoint string, cfg Config, roots ...string) (*Mirror, *logText) {
	t.Helper()
	cfg.Backend = BackendEtcd
	return followWith(t, cfg, endpoint, roots...)
}

func followWith(t testing.TB, cfg Config, endpoint string, roots ...string) (*Mirror, *logText) {
	t.Helper()
	log := &logText{}
	cfg.Watch = true
	if cfg.Interval == 0 {
		cfg.Interval = time.Hour
	}
	cfg.Client.Endpoints, cfg.Client.RequestTimeout = []string{endpoint}, 2*time.Second
	source, err := Open(cfg, Deps{Log: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	m := NewMirror(cfg.Naming())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		source.Run(ctx, m, roots, nil)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		source.Close()
	})
	return m, log
}

// plainly reads each root by itself, as any client would.
func plainly(t testing.TB, store kv.Store, roots []string) string {
	t.Helper()
	m := NewMirror(Segments)
	pairs := map[string]string{}
	for _, root := range roots {
		result, err := store.Read(t.Context(), kv.Read{Key: root, Recursive: true, Quorum: true})
		if kv.Is(err, kv.NotFound) || kv.Is(err, kv.NotDir) {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		flatten(result.Node, pairs)
	}
	m.Replace(roots, Origin{}, pairs)
	return text(m.View())
}

// faulty stands between a client and its store.
type faulty struct {
	*httptest.Server
	fault atomic.Value // string: what it does to requests, "" for nothing
}

func newFaulty(t testing.TB, target string) *faulty {
	t.Helper()
	where, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	f := &faulty{}
	f.fault.Store("")
	proxy := httputil.NewSingleHostReverseProxy(where)
	proxy.FlushInterval = -1
	proxy.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { recover() }() // the proxy ends so when a watch is cut
		switch f.fault.Load() {
		case "":
			proxy.ServeHTTP(w, r)
		case "garbage":
			io.WriteString(w, "<html>It works!</html>")
		case "error":
			http.Error(w, "no", http.StatusInternalServerError)
		case "empty":
			io.WriteString(w, `{"action":"get","node":{"dir":true}}`) // without an index
		case "half":
			w.Header().Set("X-Etcd-Index", "7")
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, `{"action":"get","node":{"dir":true,"nodes":[`)
		case "closed":
			panic(http.ErrAbortHandler)
		}
	}))
	t.Cleanup(func() {
		f.CloseClientConnections()
		f.Close()
	})
	return f
}

var faults = []string{"garbage", "error", "empty", "half", "closed"}

// stores are real ones, by name.
func stores(t *testing.T, test func(t *testing.T, endpoint string)) {
	t.Run("kvd", func(t *testing.T) { test(t, daemontest.Start(t, 1).URL()) })
	t.Run("etcd", func(t *testing.T) { test(t, etcdtest.Start(t).URL) })
}

func TestAMirrorIsWhatAPlainReadShowsWhateverHappens(t *testing.T) {
	stores(t, func(t *testing.T, endpoint string) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		between := newFaulty(t, endpoint)
		store := client(t, endpoint)
		roots := []string{"/a", "/app/x", "/app2", "/d/_hidden/y", "/d/e"}
		keys := []string{"/a", "/a/b", "/a/_h", "/app/x", "/app/x/1", "/app/x/2/3", "/app/other", "/app", "/app2/q", "/d/_hidden/y/z", "/d/_hidden/y", "/d/_hidden", "/d/e/f", "/d/e", "/d", "/e"}
		if _, err := store.Write(t.Context(), kv.Write{Op: kv.OpSet, Key: "/a/b", Value: "first"}); err != nil {
			t.Fatal(err)
		}
		m, log := follow(t, between.URL, Config{Interval: 300 * time.Millisecond}, roots...)
		write := func() {
			w := kv.Write{Key: keys[random.IntN(len(keys))], Value: fmt.Sprint(random.IntN(1000)), Op: kv.OpSet}
			switch random.IntN(8) {
			case 0:
				w.Op, w.Recursive, w.Dir, w.Value = kv.OpDelete, true, true, ""
			case 1:
				w.Dir, w.Value, w.TTL = true, "", time.Second
			case 2:
				w.TTL = time.Second
			case 3:
				w.Op = kv.OpCreate
			}
			store.Write(t.Context(), w) // many cannot be made: a directory is in the way, or a key
		}
		for step := range 40 {
			for range random.IntN(20) {
				write()
			}
			switch random.IntN(6) {
			case 0:
				between.CloseClientConnections()
			case 1, 2:
				between.fault.Store(faults[random.IntN(len(faults))])
				between.CloseClientConnections()
			case 3:
				if step%10 == 0 { // more than the history holds
					for i := range 1100 {
						store.Write(t.Context(), kv.Write{Op: kv.OpSet, Key: "/elsewhere", Value: fmt.Sprint(i)})
					}
				}
			default:
				between.fault.Store("")
			}
			time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
		}
		between.fault.Store("")
		var got, want string
		defer func() {
			if t.Failed() {
				t.Logf("the mirror has %s\nthe store has  %s\nlog: %s", got, want, log)
			}
		}()
		until(t, "the mirror is what the store has", func() bool {
			got, want = text(m.View()), plainly(t, store, roots)
			return got == want && m.View().Ready(roots)
		})
		until(t, "the status tells of no trouble", func() bool {
			status := m.Status()
			return status.Err == nil && time.Since(status.Heard) < time.Second && status.Keys == m.View().Len()
		})
	})
}

func TestAMirrorKeepsWhatItHasWhileItsStoreAnswersNonsense(t *testing.T) {
	endpoint := daemontest.Start(t, 1).URL()
	between, store := newFaulty(t, endpoint), client(t, endpoint)
	set := func(value string) {
		t.Helper()
		if _, err := store.Write(t.Context(), kv.Write{Op: kv.OpSet, Key: "/a/x", Value: value}); err != nil {
			t.Fatal(err)
		}
	}
	set("0")
	m, log := follow(t, between.URL, Config{}, "/a", "/b")
	for i, fault := range faults {
		want := fmt.Sprint(i)
		until(t, "the mirror has "+want, func() bool { v, _ := m.View().Get("/a/x"); return v == want })
		between.fault.Store(fault)
		between.CloseClientConnections()
		set(fmt.Sprint(i + 1))
		until(t, fault+" is in the status", func() bool { return m.Status().Err != nil })
		if v, ok := m.View().Get("/a/x"); v != want || !ok {
			t.Errorf("%s: the mirror has %q", fault, v)
		}
		between.fault.Store("")
		until(t, "the status has no error", func() bool { return m.Status().Err == nil })
	}
	if strings.Contains(log.String(), "replaced by another") {
		t.Errorf("the store seems to have been replaced: %s", log)
	}
}

func TestOneChangeIsReadAndNothingElse(t *testing.T) {
	stores(t, func(t *testing.T, endpoint string) {
		store := client(t, endpoint)
		const services = 1000
		for i := range services {
			if _, err := store.Write(t.Context(), kv.Write{Op: kv.OpSet, Key: fmt.Sprintf("/services/web/%d", i), Value: strings.Repeat("v", 100)}); err != nil {
				t.Fatal(err)
			}
		}
		m, _ := follow(t, endpoint, Config{}, "/services", "/other")
		until(t, "everything is read", func() bool {
			return m.View().Len() == services && m.Status().Err == nil && m.Status().Heard.After(time.Time{})
		})
		set := func(value string) {
			t.Helper()
			if _, err := store.Write(t.Context(), kv.Write{Op: kv.OpSet, Key: "/services/web/7", Value: value}); err != nil {
				t.Fatal(err)
			}
			until(t, "the change is known", func() bool { v, _ := m.View().Get("/services/web/7"); return v == value })
		}
		set("warm") // by now the watch is there
		before := m.Status().BytesRead
		set("changed")
		if read := m.Status().BytesRead - before; read == 0 || read > 2000 {
			t.Errorf("for one change of a few hundred bytes %d were read, %d in all", read, before)
		}
		if before < services*100 {
			t.Errorf("in all only %d bytes were read", before)
		}
	})
}

func TestKeysThatMayNotBeReadDoNotStopTheOthers(t *testing.T) {
	f := &followed{store: &guarded{}, watch: true, interval: time.Hour, log: slog.New(slog.DiscardHandler)}
	m := NewMirror(Segments)
	if err := f.Load(t.Context(), m, []string{"/a", "/denied", "/z"}); !kv.Is(err, kv.Denied) {
		t.Errorf("read once: %v", err)
	}
	if v := m.View(); text(v) != `"/a/x"="1" "/z/x"="1" ` || !v.Ready([]string{"/a", "/z"}) || v.Ready([]string{"/denied"}) {
		t.Errorf("the mirror has %s", text(v))
	}
	if err := f.Load(t.Context(), m, []string{"/denied/a", "/denied/b"}); !kv.Is(err, kv.Denied) || !strings.HasPrefix(err.Error(), "get /denied/a /denied/b: ") {
		t.Errorf("where all are refused: %v", err)
	}
}

func TestMoreHiddenDirectoriesThanCanBeAskedForAreToldAndTheOthersAreRead(t *testing.T) {
	roots := hidden(rootsMax + 3)
	f := &followed{store: &guarded{}, watch: true, interval: time.Hour, log: slog.New(slog.DiscardHandler)}
	m := NewMirror(Segments)
	err := f.Load(t.Context(), m, roots)
	if want := "3 of the keys that resources name are not followed, /d256/_hidden/x and those after it"; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v, and not %s", err, want)
	}
	if v := m.View(); v.Len() != rootsMax || !v.Ready(roots[:rootsMax]) || v.Ready(roots) {
		t.Errorf("%d keys are read", v.Len())
	}
	m = NewMirror(Unhidden) // a store that takes any number
	if err := f.Load(t.Context(), m, roots); err != nil || !m.View().Ready(roots) {
		t.Errorf("%d keys are read: %v", m.View().Len(), err)
	}
}

// hidden returns as many roots, each in a hidden directory of its own.
func hidden(count int) []string {
	var wanted []string
	for i := range count {
		wanted = append(wanted, fmt.Sprintf("/d%03d/_hidden/x", i))
	}
	return Roots(wanted)
}

// guarded has a key below each that is asked for, except those in /denied.
type guarded struct{ kv.Store }

func (g *guarded) Read(_ context.Context, r kv.Read) (kv.Result, error) {
	var pairs []string
	for _, key := range r.Only {
		if key == "/denied" || kv.Below(key, "/denied") {
			return kv.Result{}, &kv.Error{Op: "get", Kind: kv.Denied, Key: key}
		}
		pairs = append(pairs, key+"/x", "1")
	}
	return answerOf("c1", 5, pairs...), nil
}

func TestAFollowingThatBeginsAnewTellsWhatTheOneBeforeKnewUntilItIsAnswered(t *testing.T) {
	m := NewMirror(Segments)
	f := &followed{store: &guarded{}, log: slog.New(slog.DiscardHandler)}
	before := f.newFollowing(m, []string{"/a"})
	before.hear(nil)
	before.troubled(&kv.Error{Kind: kv.Unavailable})
	heard := m.Status().Heard
	again := f.newFollowing(m, []string{"/a"})
	if status := m.Status(); !kv.Is(status.Err, kv.Unavailable) || heard.IsZero() || !status.Heard.Equal(heard) {
		t.Errorf("heard at %v: %v; before that at %v", status.Heard, status.Err, heard)
	}
	again.hear(nil)
	if status := m.Status(); status.Err != nil || !status.Heard.After(heard) {
		t.Errorf("when it is answered: heard at %v: %v", status.Heard, status.Err)
	}
}
