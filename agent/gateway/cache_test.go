package gateway

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// store is a member whose index and answers a test decides.
type store struct {
	*httptest.Server
	index  atomic.Uint64 // of reads
	agreed atomic.Uint64 // of reads with quorum=true, and of writes
	value  atomic.Pointer[string]
	reads  atomic.Int32
	events chan string // to the watch
}

func newStore(t *testing.T, index uint64) *store {
	s := &store{events: make(chan string, 10)}
	s.index.Store(index)
	s.agreed.Store(index)
	s.say(`{"key":"/a","value":"1","modifiedIndex":1,"createdIndex":1}`)
	ended := make(chan struct{})
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		index := s.index.Load()
		query := r.URL.Query()
		if r.Method != http.MethodGet || query.Get("quorum") == "true" {
			index = s.agreed.Load()
		}
		w.Header().Set(etcdv2.HeaderClusterID, "c1")
		w.Header().Set(etcdv2.HeaderIndex, strconv.FormatUint(index, 10))
		w.Header().Set("Content-Type", "application/json")
		if query.Get("wait") == "true" {
			w.Header().Set(etcdv2.HeaderWatch, etcdv2.WatchStream)
			w.(http.Flusher).Flush()
			for {
				select {
				case event := <-s.events:
					io.WriteString(w, event+"\n")
					w.(http.Flusher).Flush()
				case <-r.Context().Done():
					return
				case <-ended:
					panic(http.ErrAbortHandler)
				}
			}
		}
		switch {
		case r.Method == http.MethodGet:
			s.reads.Add(1)
		case r.FormValue("value") == "cut":
			panic(http.ErrAbortHandler)
		case r.FormValue("value") == "other":
			w.WriteHeader(http.StatusPreconditionFailed)
			fmt.Fprintf(w, `{"errorCode":101,"message":"Compare failed","cause":"[7 != 8]","index":%d}`, index)
			return
		}
		fmt.Fprintf(w, `{"action":"get","node":%s}`+"\n", *s.value.Load())
	}))
	t.Cleanup(func() { close(ended); s.Close() })
	return s
}

func (s *store) say(node string) { s.value.Store(&node) }

// warm reads a key until the answer comes from memory.
func warm(t *testing.T, g *running, path string) reply {
	t.Helper()
	var r reply
	await(t, "an answer comes from memory", func() bool {
		before := g.Stats().CacheHits
		r = call(t, "GET", g.url+path, "")
		return g.Stats().CacheHits > before
	})
	return r
}

func TestAnAnswerFromMemoryIsTheOneThatWasGiven(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	g := start(t, urls(cluster), everything)
	want(t, call(t, "PUT", g.url+"/v2/keys/d/a", "value=1"), 201, "")
	for _, path := range []string{"/v2/keys/d/a", "/v2/keys/d", "/v2/keys/d?recursive=true&sorted=true", "/v2/keys/d/none", "/v2/keys/d/none/deeper"} {
		direct, memory := call(t, "GET", cluster.URL()+path, ""), warm(t, g, path)
		for _, r := range []*reply{&direct, &memory} {
			r.header.Del("Date")
		}
		if direct.status != memory.status || direct.body != memory.body || fmt.Sprint(direct.header) != fmt.Sprint(memory.header) {
			t.Errorf("%s: directly %+v, from memory %+v", path, direct, memory)
		}
		if head := call(t, "HEAD", g.url+path, ""); head.status != direct.status || head.header.Get("Content-Length") != strconv.Itoa(len(direct.body)) {
			t.Errorf("HEAD %s: %+v", path, head)
		}
	}
	if g.Stats().CacheBytes == 0 {
		t.Error("the memory has no size")
	}
}

func TestAWriteElsewhereIsReadHereAsSoonAsTheWatchTells(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	g := start(t, urls(cluster), everything)
	for _, change := range [][2]string{{"PUT", "value=1"}, {"PUT", "value=2"}, {"DELETE", ""}, {"PUT", "value=3"}} {
		warm(t, g, "/v2/keys/d/a")
		warm(t, g, "/v2/keys/d")
		direct := call(t, change[0], cluster.URL()+"/v2/keys/d/a", change[1])
		await(t, "the change is read", func() bool {
			r := call(t, "GET", g.url+"/v2/keys/d/a", "")
			return r.index() >= direct.index() && strings.Contains(r.body, strings.TrimPrefix(change[1], "value="))
		})
	}
}

func TestAWriteHereIsReadHereAtOnce(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	g := start(t, urls(cluster), everything)
	for i := range 50 {
		warm(t, g, "/v2/keys/d/a")
		warm(t, g, "/v2/keys/d?recursive=true")
		value := fmt.Sprintf(`"value":"v%d"`, i)
		want(t, call(t, "PUT", g.url+"/v2/keys/d/a", fmt.Sprintf("value=v%d", i)), map[bool]int{true: 201, false: 200}[i == 0], value)
		want(t, call(t, "GET", g.url+"/v2/keys/d/a", ""), 200, value)
		want(t, call(t, "GET", g.url+"/v2/keys/d?recursive=true", ""), 200, value)
	}
}

func TestAMemberThatLagsBehindIsNotBelieved(t *testing.T) {
	ahead, behind := newStore(t, 100), newStore(t, 90)
	behind.agreed.Store(101)
	g := start(t, []string{ahead.URL, behind.URL}, everything)
	want(t, call(t, "PUT", g.url+"/v2/keys/a", "value=1"), 200, "")
	ahead.Server.Listener.Close()
	ahead.Server.CloseClientConnections()
	if r := call(t, "GET", g.url+"/v2/keys/a", ""); r.index() < 100 {
		t.Errorf("after a write at index 100 a read is answered with index %d", r.index())
	}
}

func TestAStoreThatHasGoneBackIsANewOne(t *testing.T) {
	s := newStore(t, 100)
	g := start(t, []string{s.URL}, everything)
	want(t, call(t, "PUT", g.url+"/v2/keys/a", "value=1"), 200, "")
	s.index.Store(7)
	s.agreed.Store(7)
	for range 3 {
		if r := call(t, "GET", g.url+"/v2/keys/a", ""); r.status != 200 || r.index() != 7 {
			t.Errorf("got %+v", r)
		}
	}
	before := s.reads.Load()
	call(t, "GET", g.url+"/v2/keys/a", "")
	if asked := s.reads.Load() - before; asked > 1 {
		t.Errorf("a read asks the store %d times", asked)
	}
}

// follower returns a cache that follows /, of which a test plays the watch.
func follower(t *testing.T, s *store) (*cache, ticket) {
	t.Helper()
	client, err := kvclient.New(kvclient.Config{Endpoints: []string{s.URL}})
	if err != nil {
		t.Fatal(err)
	}
	c := newCache(1<<20, []string{""})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	_, first := c.begin("/a")
	go func() { defer close(done); c.run(ctx, client, first, func(error) {}) }()
	t.Cleanup(func() { cancel(); client.Close(); <-done })
	var drawn ticket
	await(t, "the watch is there", func() bool { drawn, _ = c.begin("/a"); return drawn.follow != nil })
	return c, drawn
}

func headers(index uint64) http.Header {
	h := http.Header{}
	h.Set(etcdv2.HeaderIndex, strconv.FormatUint(index, 10))
	return h
}

func TestAnAnswerIsGivenToThoseWhoWereToldNoLaterIndex(t *testing.T) {
	s := newStore(t, 10)
	c, drawn := follower(t, s)
	v, now := variant{key: "/a"}, time.Now()
	c.put(drawn, v, now, 200, headers(12), []byte(`{"node":{"key":"/a","value":"1"}}`))
	for seen, want := range map[uint64]bool{0: true, 12: true, 13: false} {
		if _, ok := c.get(v, seen, now); ok != want {
			t.Errorf("for who was told %d: %v", seen, ok)
		}
	}
	s.events <- `{"action":"set","node":{"key":"/b","value":"1","modifiedIndex":20,"createdIndex":20}}`
	await(t, "the watch tells", func() bool { h, ok := c.get(v, 20, now); return ok && h.index == 20 })
	if _, ok := c.get(v, 21, now); ok {
		t.Error("given to who was told more than the watch")
	}
	// An answer that was made before what was told already would never be found out.
	c.put(drawn, variant{key: "/c"}, now, 200, headers(19), []byte(`{}`))
	if _, ok := c.get(variant{key: "/c"}, 0, now); ok {
		t.Error("an answer from before the last event was kept")
	}
	c.change("/x", 30)
	c.put(drawn, variant{key: "/c"}, now, 200, headers(29), []byte(`{}`))
	if _, ok := c.get(variant{key: "/c"}, 0, now); ok {
		t.Error("an answer from before the last write was kept")
	}
	if h, ok := c.get(v, 0, now); !ok || h.index != 20 { // that write says nothing of what the watch has told
		t.Errorf("given with index %d, %v", h.index, ok)
	}
}

func TestAnAnswerGrowsOld(t *testing.T) {
	c, drawn := follower(t, newStore(t, 10))
	now := time.Now()
	for key, limit := range map[string]time.Duration{"/a": answerAgeMax, "/ttl": mortalAgeMax, "/lease": mortalAgeMax} {
		body := map[string]string{"/a": `{"value":"\"ttl\":"}`, "/ttl": `{"ttl":7}`, "/lease": `{"lease":"x"}`}[key]
		c.put(drawn, variant{key: key}, now, 200, headers(12), []byte(body))
		if _, ok := c.get(variant{key: key}, 0, now.Add(limit)); !ok {
			t.Errorf("%s is gone after %v", key, limit)
		}
		if _, ok := c.get(variant{key: key}, 0, now.Add(limit+1)); ok {
			t.Errorf("%s is given after more than %v", key, limit)
		}
	}
}

func TestACutMakesAllAnswersDoubtful(t *testing.T) {
	s := newStore(t, 10)
	c, drawn := follower(t, s)
	now := time.Now()
	c.put(drawn, variant{key: "/a"}, now, 200, headers(12), []byte(`{}`))
	if _, ok := c.get(variant{key: "/a"}, 0, now); !ok {
		t.Fatal("the answer was not kept")
	}
	s.CloseClientConnections()
	await(t, "the cut is noticed", func() bool { _, ok := c.get(variant{key: "/a"}, 0, now); return !ok })
	c.put(drawn, variant{key: "/a"}, now, 200, headers(12), []byte(`{}`))
	if _, ok := c.get(variant{key: "/a"}, 0, now); ok {
		t.Error("an answer that was asked for before the cut was kept")
	}
	await(t, "the watch is there again", func() bool { drawn, _ = c.begin("/a"); return drawn.follow != nil })
	c.put(drawn, variant{key: "/a"}, now, 200, headers(12), []byte(`{}`))
	if _, ok := c.get(variant{key: "/a"}, 0, now); !ok {
		t.Error("nothing is kept after the cut")
	}
}

func TestMemoryIsBoundedAndTheLeastUsedGoesFirst(t *testing.T) {
	c, drawn := follower(t, newStore(t, 10))
	now := time.Now()
	body := []byte(strings.Repeat("x", 50_000))
	for i := range 100 {
		c.put(drawn, variant{key: fmt.Sprint("/k", i)}, now, 200, headers(12), body)
		c.get(variant{key: "/k0"}, 0, now)
		if c.size() > 1<<20 {
			t.Fatalf("%d bytes", c.size())
		}
	}
	for key, want := range map[string]bool{"/k0": true, "/k1": false, "/k99": true} {
		if _, ok := c.get(variant{key: key}, 0, now); ok != want {
			t.Errorf("%s: %v", key, ok)
		}
	}
	c.put(drawn, variant{key: "/big"}, now, 200, headers(12), make([]byte, 1<<20))
	if _, ok := c.get(variant{key: "/big"}, 0, now); ok {
		t.Error("one answer has more than its share")
	}
	c.clear()
	if c.size() != 0 || c.anchors.Len() != 0 || c.recent.Len() != 0 {
		t.Errorf("%d bytes, %d anchors, %d in use after all was forgotten", c.size(), c.anchors.Len(), c.recent.Len())
	}
}

func TestAMissingKeyIsForgottenWhenTheWayToItChanges(t *testing.T) {
	missing := func(cause string, index uint64) []byte {
		return append(etcdv2.AppendError(nil, &etcdv2.Error{Code: etcdv2.CodeKeyNotFound, Message: "Key not found", Cause: cause, Index: index}), '\n')
	}
	for _, c := range []struct {
		change    string
		forgotten bool
	}{{"/p/q", true}, {"/p", true}, {"/p/q/r/s/t", true}, {"/p/q/other", true}, {"/p/other", false}, {"/q", false}} {
		cache, drawn := follower(t, newStore(t, 10))
		v, now := variant{key: "/p/q/r/s"}, time.Now()
		cache.put(drawn, v, now, 404, headers(12), missing("/p/q", 12))
		cache.change(c.change, 13)
		if _, ok := cache.get(v, 0, now); ok == c.forgotten {
			t.Errorf("a change of %s: still there %v", c.change, ok)
		}
	}
	cache, drawn := follower(t, newStore(t, 10))
	for _, f := range cache.follows {
		f.key = "/p/q"
	}
	cache.put(drawn, variant{key: "/p/q/r"}, time.Now(), 404, headers(12), missing("/p", 12))
	if _, ok := cache.get(variant{key: "/p/q/r"}, 0, time.Now()); ok {
		t.Error("what is missing above the key that is followed was kept")
	}
}

func TestHiddenKeysAndReadsOfOnesOwnGoToTheCluster(t *testing.T) {
	s := newStore(t, 10)
	g := start(t, []string{s.URL}, everything)
	warm(t, g, "/v2/keys/a")
	for _, c := range [][]string{{"/v2/keys/_hidden/a"}, {"/v2/keys/b/_hidden"}, {"/v2/keys/a?quorum=true"}, {"/v2/keys/a?dir=true"}, {"/v2/keys/a", "Authorization: Basic YTpi"}, {"/v2/keys/a", "Origin: http://x"}} {
		before := s.reads.Load()
		for range 3 {
			call(t, "GET", g.url+c[0], "", c[1:]...)
		}
		if asked := s.reads.Load() - before; asked != 3 {
			t.Errorf("%v: the store was asked %d times for 3 reads", c, asked)
		}
	}
}

// A refresh wakes no watcher, so that a comparison can fail by what was remembered; and a write without an answer
// may have been made.
func TestAWriteThatFailsMakesAnswersDoubtful(t *testing.T) {
	s := newStore(t, 10)
	g := start(t, []string{s.URL}, everything)
	for value, status := range map[string]int{"other": 412, "cut": 500} {
		warm(t, g, "/v2/keys/a")
		want(t, call(t, "PUT", g.url+"/v2/keys/a?prevIndex=7", "value="+value), status, "")
		before := s.reads.Load()
		call(t, "GET", g.url+"/v2/keys/a", "")
		if s.reads.Load() == before {
			t.Errorf("after %d the answer comes from memory", status)
		}
	}
}

func TestWithoutRoomNothingIsKept(t *testing.T) {
	s := newStore(t, 10)
	g := start(t, []string{s.URL}, everything, func(cfg *Config) { cfg.CacheBytes = 0 })
	for range 3 {
		call(t, "GET", g.url+"/v2/keys/a", "")
	}
	if s.reads.Load() != 3 || g.Stats().CacheMisses != 0 {
		t.Errorf("%d reads, %+v", s.reads.Load(), g.Stats())
	}
}

// Who reads an answer from memory, and is told that its index is gone, reads afresh.
func TestAnIndexThatIsGoneDoesNotComeFromMemoryAgain(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	g := start(t, urls(cluster), func(cfg *Config) { cfg.Allow = []string{"127.0.0.1=r:/quiet"} })
	want(t, call(t, "PUT", cluster.URL()+"/v2/keys/quiet/a", "value=1"), 201, "")
	old := warm(t, g, "/v2/keys/quiet/a")
	direct, err := kvclient.New(kvclient.Config{Endpoints: urls(cluster)})
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	for i := range 1100 { // more than the store keeps, of what nobody here watches
		call := etcdv2.Request{Method: http.MethodPut, Path: "/v2/keys/noisy", Form: map[string][]string{"value": {strconv.Itoa(i)}}}
		a, err := direct.Relay(t.Context(), call, false)
		if err != nil {
			t.Fatal(err)
		}
		a.Body.Close()
	}
	watch := func(from uint64) string {
		return fmt.Sprintf("%s/v2/keys/quiet/a?wait=true&waitIndex=%d", g.url, from)
	}
	want(t, call(t, "GET", watch(old.index()+1), ""), 400, `"errorCode":401`)
	fresh := call(t, "GET", g.url+"/v2/keys/quiet/a", "")
	if fresh.index() < old.index()+1000 {
		t.Errorf("read afresh at index %d, before at %d", fresh.index(), old.index())
	}
}

func TestClientsThatAreForgottenAreNotShownThePast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClients(10, 5)
		for i := range 3 * clientsKept {
			one, why := c.enter(address(i))
			if why != "" {
				t.Fatal(why)
			}
			c.told(one, "x", uint64(i+1))
			c.leave(one)
		}
		if len(c.known) > clientsKept || c.floor == 0 {
			t.Errorf("%d clients are known, the floor is %d", len(c.known), c.floor)
		}
		one, _ := c.enter(address(0)) // forgotten long ago
		if _, seen := c.horizon(one); seen == 0 {
			t.Error("a client that was forgotten may be shown anything")
		}
		if !c.told(one, "y", 1) {
			t.Error("another cluster is not noticed")
		}
		if atLeast, _ := c.horizon(one); atLeast != 1 {
			t.Errorf("in another cluster answers have to be at %d", atLeast)
		}
	})
}
