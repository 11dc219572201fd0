package kvclient

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

// quiet is a store on which nothing happens but, if events is true, one event for each watch. Once it hangs it
// answers nothing new, and goes on to hold what is open.
type quiet struct {
	events        bool
	hangs         atomic.Bool
	asked, waited atomic.Int64
}

func (q *quiet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if q.hangs.Load() {
		<-r.Context().Done()
		return
	}
	if r.URL.Path == "/version" {
		q.asked.Add(1)
		http.NotFound(w, r) // is a sign of life, too
		return
	}
	w.Header().Set(etcdv2.HeaderWatch, etcdv2.WatchStream)
	w.Header().Set("X-Etcd-Index", "7")
	w.WriteHeader(http.StatusOK)
	if q.events {
		w.Write([]byte(`{"action":"set","node":{"key":"/a","value":"1","modifiedIndex":8,"createdIndex":8}}` + "\n"))
	}
	http.NewResponseController(w).Flush()
	q.waited.Add(1)
	<-r.Context().Done()
}

func TestAWatchLeavesAMemberThatHangs(t *testing.T) {
	hanging, spare := &quiet{}, &quiet{events: true}
	var urls []string
	for _, q := range []*quiet{hanging, spare} {
		server := httptest.NewServer(q)
		t.Cleanup(server.Close)
		urls = append(urls, server.URL)
	}
	client, err := New(Config{Endpoints: urls, RequestTimeout: 500 * time.Millisecond, Shuffle: func(int, func(i, j int)) {}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	client.pulses.interval = 10 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	watch, err := client.Watch(ctx, kv.WatchFrom{Key: "/a"})
	if err != nil {
		t.Fatal(err)
	}
	for hanging.asked.Load() < 5 {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			t.Fatal("nobody asks for signs of life")
		}
	}
	if hanging.waited.Load() != 1 || spare.waited.Load() != 0 {
		t.Errorf("%d watches were registered where one is, %d elsewhere", hanging.waited.Load(), spare.waited.Load())
	}
	hanging.hangs.Store(true)
	if event, err := watch.Next(ctx); err != nil || event.Node.ModifiedIndex != 8 {
		t.Errorf("%+v, %v", event, err)
	}
}

func TestNobodyAsksForSignsOfLifeWithoutWatches(t *testing.T) {
	q := &quiet{}
	server := httptest.NewServer(q)
	defer server.Close()
	client, err := New(Config{Endpoints: []string{server.URL}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	client.pulses.interval = time.Millisecond
	for range 2 { // and again, when there is one again
		watch, err := client.Watch(t.Context(), kv.WatchFrom{Key: "/a"})
		if err != nil {
			t.Fatal(err)
		}
		before := q.asked.Load()
		eventually(t, func() bool { return q.asked.Load() > before })
		watch.Close()
		eventually(t, func() bool {
			client.pulses.mu.Lock()
			defer client.pulses.mu.Unlock()
			return !client.pulses.beating && len(client.pulses.polls) == 0
		})
	}
}

func TestTheReasonForLeavingAMemberIsTold(t *testing.T) {
	q := &quiet{}
	q.hangs.Store(true)
	server := httptest.NewServer(q)
	defer server.Close()
	client, err := New(Config{Endpoints: []string{server.URL}, RequestTimeout: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.signOfLife(0); err == nil || !strings.Contains(err.Error(), "gives no sign of life") {
		t.Error(err)
	}
}

func eventually(t *testing.T, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come to that")
		}
	}
}
