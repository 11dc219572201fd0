package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// observation is what one read has shown.
type observation struct {
	client    int
	key       string
	recursive bool
	begun     time.Time
	index     kv.Index
	shown     map[string]kv.Index // modifiedIndex of each key
}

// acknowledged is a write that was answered through the gateway.
type acknowledged struct {
	key   string
	index kv.Index
	at    time.Time
}

// Writers change keys directly and through the gateway, readers with addresses of their own read through it, and
// the members, one of which it uses, go away and come back one after the other. A checker knows the whole history and holds each answer
// against it:
//
//   - what an answer shows is the state of the store at its X-Etcd-Index, exactly;
//   - for one client that index never goes back;
//   - a read that began after a write through the gateway was answered is not older than that write.
func TestEveryAnswerIsTheStateAtItsIndexAndNoClientGoesBack(t *testing.T) {
	cluster := daemontest.Start(t, 3)
	g := start(t, urls(cluster), everything)
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)

	direct, err := kvclient.New(kvclient.Config{Endpoints: urls(cluster)})
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	history, err := direct.Watch(t.Context(), kv.WatchFrom{Key: "/", Recursive: true})
	if err != nil {
		t.Fatal(err)
	}
	defer history.Close()

	const keys, writers, readers = 6, 4, 6
	key := func(r *rand.Rand) string { return fmt.Sprintf("/p/%d/k", r.IntN(keys)) }
	var mu sync.Mutex
	var seen []observation
	var acks []acknowledged
	note := func(f func()) { mu.Lock(); defer mu.Unlock(); f() }

	var writing, reading sync.WaitGroup
	for n := range writers {
		writing.Go(func() {
			r := rand.New(rand.NewPCG(uint64(seed), uint64(n)))
			for i := range 80 {
				k, remove := key(r), r.IntN(5) == 0
				if n%2 == 0 {
					write := kv.Write{Op: kv.OpSet, Key: k, Value: fmt.Sprint(n, i)}
					if remove {
						write = kv.Write{Op: kv.OpDelete, Key: "/p", Recursive: r.IntN(8) == 0, Dir: true}
						if !write.Recursive {
							write.Key, write.Dir = k, false
						}
					}
					_, _ = direct.Write(t.Context(), write) // whatever becomes of it, the history tells
				} else {
					method, form := "PUT", fmt.Sprintf("value=%d-%d", n, i)
					if remove {
						method, form = "DELETE", ""
					}
					if a, err := try(method, g.url+"/v2/keys"+k, form); err == nil && a.status/100 == 2 {
						note(func() { acks = append(acks, acknowledged{k, a.index(), time.Now()}) })
					}
				}
				time.Sleep(time.Duration(r.IntN(4)) * time.Millisecond)
			}
		})
	}
	ended := make(chan struct{})
	for n := range readers {
		reading.Go(func() {
			r := rand.New(rand.NewPCG(uint64(seed), uint64(100+n)))
			client := clientAt(fmt.Sprintf("127.0.0.%d", 10+n))
			defer client.CloseIdleConnections()
			for left := 60; left > 0; {
				select {
				case <-ended:
					left-- // at rest
				default:
				}
				o := observation{client: n, key: key(r), begun: time.Now()}
				if r.IntN(4) == 0 {
					o.key, o.recursive = "/p", true
				}
				if o.observe(client, g.url) {
					note(func() { seen = append(seen, o) })
				}
				time.Sleep(time.Millisecond) // leave the writers some of the machine
			}
		})
	}
	await(t, "answers have come through the members that go away", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(seen) >= 20 && len(acks) >= 5
	})
	for _, member := range cluster.Members() { // one of them is the one that the gateway uses
		member.Kill()
		time.Sleep(100 * time.Millisecond) // of work without it
		member.Start()
	}
	writing.Wait()
	close(ended)
	reading.Wait()
	last, err := direct.Write(t.Context(), kv.Write{Op: kv.OpSet, Key: "/last", Value: "x"})
	if err != nil {
		t.Fatal(err)
	}
	states := replay(t, history, last.Index)

	stats := g.Stats()
	t.Logf("%d reads, %d writes through the gateway, %d hits, %d misses, %d endpoints left", len(seen), len(acks), stats.CacheHits, stats.CacheMisses, stats.Moved)
	if stats.CacheHits == 0 || stats.CacheMisses == 0 {
		t.Error("the test has not met what it is about")
	}
	told := map[int]kv.Index{}
	for _, o := range seen {
		if want := states.at(o); !equal(want, o.shown) {
			t.Errorf("client %d read %s (recursive %v) at index %d: %v, but it was %v", o.client, o.key, o.recursive, o.index, o.shown, want)
		}
		if o.index < told[o.client] {
			t.Errorf("client %d was told index %d, and then %d of %s", o.client, told[o.client], o.index, o.key)
		}
		told[o.client] = max(told[o.client], o.index)
		for _, a := range acks {
			if a.at.Before(o.begun) && a.index > o.index && (o.key == a.key || kv.Below(a.key, o.key)) {
				t.Errorf("client %d read %s at index %d after the write of %s at %d was answered", o.client, o.key, o.index, a.key, a.index)
			}
		}
	}
}

// clientAt returns a client that connects from an address.
func clientAt(address string) *http.Client {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	return &http.Client{Timeout: patience, Transport: &http.Transport{DialContext: dialer.DialContext}}
}

// observe reads, and reports whether there was an answer.
func (o *observation) observe(client *http.Client, base string) bool {
	response, err := client.Get(fmt.Sprintf("%s/v2/keys%s?recursive=%v", base, o.key, o.recursive))
	if err != nil {
		return false
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode >= 500 {
		return false
	}
	o.index, o.shown = number(response.Header, etcdv2.HeaderIndex), map[string]kv.Index{}
	if response.StatusCode == http.StatusNotFound {
		var missing etcdv2.Error
		return json.Unmarshal(body, &missing) == nil && missing.Index == o.index
	}
	var event etcdv2.Event
	if json.Unmarshal(body, &event) != nil || event.Node == nil {
		return false
	}
	collect(event.Node, o.shown)
	return true
}

func collect(n *etcdv2.Node, into map[string]kv.Index) {
	if !n.Dir {
		into[n.Key] = n.ModifiedIndex
	}
	for _, child := range n.Nodes {
		collect(child, into)
	}
}

// past is every change in order.
type past []kv.Event

func replay(t *testing.T, watch kv.Watch, last kv.Index) (all past) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		event, err := watch.Next(ctx)
		if err != nil {
			t.Fatalf("the history: %v", err)
		}
		if all = append(all, event); event.Node.ModifiedIndex >= last {
			return all
		}
	}
}

// at returns what a read would have shown at its index.
func (all past) at(o observation) map[string]kv.Index {
	state := map[string]kv.Index{}
	for _, event := range all {
		key, index := event.Node.Key, event.Node.ModifiedIndex
		switch {
		case index > o.index:
			return state
		case event.Removes():
			for known := range state {
				if known == key || kv.Below(known, key) {
					delete(state, known)
				}
			}
		case key == o.key || o.recursive && kv.Below(key, o.key):
			state[key] = index
		}
	}
	return state
}

func equal(a, b map[string]kv.Index) bool {
	if len(a) != len(b) {
		return false
	}
	for key, index := range a {
		if b[key] != index {
			return false
		}
	}
	return true
}

func TestAMemberThatGoesAwayUnderLoadCostsNobodyAnythingTwice(t *testing.T) {
	cluster := daemontest.Start(t, 3)
	g := start(t, urls(cluster), everything)
	stream, err := http.Get(g.url + "/v2/keys/queue?wait=true&recursive=true&stream=true")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	events := lines(stream.Body)
	polled := make(chan reply, 1)
	go func() {
		r, err := try("GET", g.url+"/v2/keys/late?wait=true", "")
		if err == nil {
			polled <- r
		}
	}()
	await(t, "both watches are there", func() bool { return g.Stats().Watches == 2 })

	var mu sync.Mutex
	done := map[string]bool{} // what was surely written
	killed := make(chan struct{})
	var writing sync.WaitGroup
	for n := range 4 {
		writing.Go(func() {
			for i, left := 0, 30; left > 0; i++ {
				select {
				case <-killed:
					left--
				default:
				}
				value := fmt.Sprintf("v%d-%d", n, i)
				r, err := try("POST", g.url+"/v2/keys/queue", "value="+value)
				if err != nil {
					t.Errorf("the gateway does not answer: %v", err)
					return
				}
				if r.status == 201 {
					mu.Lock()
					done[value] = true
					mu.Unlock()
				}
			}
		})
	}
	await(t, "there is load", func() bool { mu.Lock(); defer mu.Unlock(); return len(done) > 20 })
	cluster.Members()[0].Kill()
	close(killed)
	writing.Wait()
	want(t, call(t, "PUT", g.url+"/v2/keys/queue/end", "value=end"), 201, "set")
	var values []string
	for line := next(t, events); !strings.Contains(line, `"value":"end"`); line = next(t, events) {
		var event etcdv2.Event
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		values = append(values, *event.Node.Value)
	}
	slices.Sort(values)
	if twice := len(values) - len(slices.Compact(slices.Clone(values))); twice > 0 {
		t.Errorf("%d writes were made twice, or told twice", twice)
	}
	for value := range done {
		if _, there := slices.BinarySearchFunc(values, value, cmp.Compare); !there {
			t.Errorf("%s was answered, and the stream has not told of it", value)
		}
	}
	want(t, call(t, "PUT", g.url+"/v2/keys/late", "value=1"), 201, "set")
	select {
	case r := <-polled:
		want(t, r, 200, `"key":"/late"`)
	case <-time.After(patience):
		t.Error("the long poll of the member that went away has no answer")
	}
	t.Logf("%d writes were answered, %d were made", len(done), len(values))
}

func TestAnEndpointThatIsLeftIsCounted(t *testing.T) {
	cluster := daemontest.Start(t, 3)
	g := start(t, urls(cluster), everything)
	for _, member := range cluster.Members() { // one of them is the one that the gateway uses
		try("PUT", g.url+"/v2/keys/a", "value=1")
		member.Kill()
		try("PUT", g.url+"/v2/keys/a", "value=2")
		member.Start()
	}
	if g.Stats().Moved == 0 {
		t.Error("no endpoint was left although each was away")
	}
}
