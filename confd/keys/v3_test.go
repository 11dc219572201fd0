package keys

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient/etcdtest"
)

// v3 speaks an etcd's v3 API as JSON over HTTP: nothing of it is shared with the source.
type v3 struct {
	t   *testing.T
	url string
}

func b64(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

func (v v3) call(path string, question map[string]any) (answer struct {
	Header struct{ Revision string }
	ID     string
	Kvs    []struct{ Key, Value []byte }
}) {
	v.t.Helper()
	body, err := json.Marshal(question)
	if err != nil {
		v.t.Fatal(err)
	}
	response, err := http.Post(v.url+"/v3/"+path, "application/json", bytes.NewReader(body))
	if err != nil {
		v.t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || response.StatusCode != http.StatusOK {
		v.t.Fatalf("%s %v: %s, %v", path, question, response.Status, err)
	}
	return answer
}

func (v v3) put(key, value, lease string) string {
	question := map[string]any{"key": b64(key), "value": b64(value)}
	if lease != "" {
		question["lease"] = lease
	}
	return v.call("kv/put", question).Header.Revision
}

// plainly is what is at and below roots.
func (v v3) plainly(roots []string) string {
	v.t.Helper()
	all := ""
	for _, pair := range v.call("kv/range", map[string]any{"key": b64("/"), "range_end": b64("0")}).Kvs {
		for _, root := range roots {
			if key := string(pair.Key); key == root || kv.Below(key, root) {
				all += fmt.Sprintf("%q=%q ", key, pair.Value)
			}
		}
	}
	return all
}

// line is a TCP connection that can be cut.
type line struct {
	net.Listener
	mu    sync.Mutex // guards the fields below
	conns []net.Conn
	dead  bool // takes no more
}

func newLine(t *testing.T, target string) *line {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &line{Listener: listener}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", strings.TrimPrefix(target, "http://"))
			if err != nil || !l.keep(near, far) {
				near.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
				running.Go(func() {
					io.Copy(way[0], way[1])
					way[0].Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		l.Close()
		l.cut(true)
		running.Wait()
	})
	return l
}

func (l *line) keep(near, far net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		far.Close()
		return false
	}
	l.conns = append(l.conns, near, far)
	return true
}

// cut ends all connections, and with dead those that come as well.
func (l *line) cut(dead bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range l.conns {
		conn.Close()
	}
	l.conns, l.dead = nil, dead
}

func TestAMirrorOfAV3StoreIsWhatAPlainReadShowsWhateverHappens(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	server := etcdtest.Start(t)
	store, between := v3{t, server.URL}, newLine(t, server.URL)
	roots := []string{"/a", "/app", "/d/_hidden/y"}
	names := []string{"/a", "/a/b", "/a/_h", "/app", "/app/x/1", "/app2", "/app-1", "/app/_x", "/d/_hidden/y", "/d/_hidden/y/z", "/d"}
	store.put("/a/b", "first", "")
	m, log := followWith(t, Config{Backend: BackendEtcdV3, Interval: time.Second}, between.Addr().String(), roots...)
	for range 40 {
		revision := ""
		for range random.IntN(20) {
			key, value := names[random.IntN(len(names))], fmt.Sprint(random.IntN(1000))
			switch random.IntN(8) {
			case 0:
				store.call("kv/deleterange", map[string]any{"key": b64(key), "range_end": b64(key + "0")})
			case 1:
				store.put(key, value, store.call("lease/grant", map[string]any{"TTL": 1}).ID)
			default:
				revision = store.put(key, value, "")
			}
		}
		switch random.IntN(5) {
		case 0:
			between.cut(false)
		case 1:
			between.cut(true)
			if revision != "" {
				store.call("kv/compaction", map[string]any{"revision": revision})
			}
		default:
			between.cut(false)
		}
		time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
	}
	between.cut(false)
	var got, want string
	defer func() {
		if t.Failed() {
			t.Logf("the mirror has %s\nthe store has  %s\nlog: %s %+v", text(m.View()), store.plainly(roots), log, m.Status())

		}
	}()
	until(t, "the mirror is what the store has", func() bool {
		got, want = text(m.View()), store.plainly(roots)
		return got == want && m.View().Ready(roots)
	})
	until(t, "the status tells of no trouble", func() bool { return m.Status().Err == nil && time.Since(m.Status().Heard) < time.Second })
	before := m.Status().BytesRead
	store.put("/app/x/1", "one change", "")
	until(t, "the change is known", func() bool { v, _ := m.View().Get("/app/x/1"); return v == "one change" })
	if read := m.Status().BytesRead - before; before == 0 || read == 0 {
		t.Errorf("%d bytes were read for the change, %d before", read, before)
	}
}

func TestAStartWithoutAV3StoreIsNoFailure(t *testing.T) {
	m, log := followWith(t, Config{Backend: BackendEtcdV3}, "127.0.0.1:1", "/a")
	until(t, "the trouble is told", func() bool { return m.Status().Err != nil && strings.Contains(log.String(), "cannot follow the store") })
}

func TestWhatATransactionChangesIsSeenAtOnce(t *testing.T) {
	server := v3{t, etcdtest.Start(t).URL}
	m, _ := followWith(t, Config{Backend: BackendEtcdV3}, server.url, "/app")
	until(t, "everything is read", func() bool { return m.View().Ready([]string{"/app"}) })
	const rounds = 200
	ended, torn := make(chan struct{}), ""
	go func() {
		defer close(ended)
		for deadline := time.Now().Add(soon); time.Now().Before(deadline); {
			view := m.View()
			a, _ := view.Get("/app/a")
			if z, _ := view.Get("/app/z"); a != z {
				torn = fmt.Sprintf("at index %d one key is %q and the other %q", view.Index(), a, z)
			}
			if torn != "" || a == fmt.Sprint(rounds) {
				return
			}
		}
		torn = "the last change has not come"
	}()
	for n := range rounds {
		put := func(key string) map[string]any {
			return map[string]any{"requestPut": map[string]any{"key": b64(key), "value": b64(fmt.Sprint(n + 1))}}
		}
		server.call("kv/txn", map[string]any{"success": []any{put("/app/a"), put("/app/m"), put("/app/z")}})
	}
	<-ended
	if torn != "" {
		t.Error(torn)
	}
}
