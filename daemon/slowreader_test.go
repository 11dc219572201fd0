package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/daemon/httpv2"
	"github.com/kvd-io/kvd/daemon/route"
	"github.com/kvd-io/kvd/daemon/service"
	"github.com/kvd-io/kvd/daemon/watch"
	"github.com/kvd-io/kvd/pkg/kv"
)

// hubStore is a store of which only the watches are asked.
type hubStore struct {
	kv.Store
	hub *watch.Hub
}

func (s hubStore) Watch(_ context.Context, from kv.WatchFrom) (kv.Watch, error) {
	w, err := s.hub.Watch(from)
	if err != nil {
		return nil, err
	}
	return w, nil
}

type noCluster struct{ httpv2.Cluster }

func (noCluster) ClusterID() uint64              { return 1 }
func (noCluster) Position() (index, term uint64) { return 1, 1 }

// streamFrom opens a stream of all events from index on. ahead is how many bytes the kernel may
// take of what is not read, 0 for as many as it likes.
func streamFrom(t *testing.T, address string, index kv.Index, ahead int) *http.Response {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if ahead > 0 {
		conn.(*net.TCPConn).SetReadBuffer(ahead)
	}
	conn.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprintf(conn, "GET /v2/keys/?wait=true&recursive=true&stream=true&waitIndex=%d HTTP/1.1\r\nHost: x\r\n\r\n", index)
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// readOn reads events until the stream ends or has brought last, insists that none is missing
// after the one before, and returns the last index and how the stream ended.
func readOn(t *testing.T, stream io.Reader, before, last kv.Index) (kv.Index, error) {
	t.Helper()
	lines := json.NewDecoder(stream)
	for before < last {
		var event struct {
			Node struct{ ModifiedIndex kv.Index }
		}
		if err := lines.Decode(&event); err != nil {
			return before, err
		}
		if event.Node.ModifiedIndex != before+1 {
			t.Fatalf("event %d follows event %d", event.Node.ModifiedIndex, before)
		}
		before++
	}
	return before, nil
}

// hubGate lets everybody use a hubStore.
type hubGate struct{ hubStore }

func (g hubGate) AuthEnabled() bool                                           { return false }
func (g hubGate) Open(context.Context, service.Credentials) (kv.Store, error) { return g.hubStore, nil }
func (g hubGate) Authenticate(context.Context, service.Credentials) (httpv2.Session, error) {
	return nil, &kv.Error{Kind: kv.Denied}
}

// hubTable serves the watches of a hub.
func hubTable(hub *watch.Hub) *route.Table {
	return route.New(func(next http.HandlerFunc) http.HandlerFunc { return next }, httpv2.Routes(httpv2.Config{Gate: hubGate{hubStore{hub: hub}}, Cluster: noCluster{}})...)
}

func TestAWatchOutlivesEveryBoundOnOtherRequests(t *testing.T) {
	for _, head := range []string{"\r\n", "Content-Length: 3\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"} {
		for _, query := range []string{"", "&stream=true"} {
			synctest.Test(t, func(t *testing.T) {
				hub, listener, log := watch.NewHub(10), newPipes(), slog.New(slog.DiscardHandler)
				s := serve([]net.Listener{listener}, limitBody(hubTable(hub)), newDoor(limits{connections: 1}, log), log)
				defer s.Close()
				defer hub.Close()
				conn := listener.dial()
				io.WriteString(conn, "GET /v2/keys/a?wait=true"+query+" HTTP/1.1\r\nHost: x\r\n"+head)
				answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(24 * time.Hour)
				go hub.Publish([]kv.Event{{Action: kv.ActionSet, Node: &kv.Node{Key: "/a", Value: "v", ModifiedIndex: 1, CreatedIndex: 1}}}, 1)
				if got, err := readOn(t, answer.Body, 0, 1); got != 1 {
					t.Errorf("after a day, with %q and %q: %v", query, head, err)
				}
				conn.Close()
			})
		}
	}
}

func TestAReaderTooSlowForTheHistoryLosesNothingUntold(t *testing.T) {
	t.Parallel()
	const length = 100
	hub := watch.NewHub(length)
	address := serveTest(t, hubTable(hub), limits{connections: 9}, slog.New(slog.DiscardHandler))
	t.Cleanup(hub.Close)
	var last kv.Index
	value := strings.Repeat("v", 32<<10)
	publish := func(n int) {
		for range n {
			last++
			hub.Publish([]kv.Event{{Action: kv.ActionSet, Node: &kv.Node{Key: "/a", Value: value, ModifiedIndex: last, CreatedIndex: last}}}, last)
		}
	}
	publish(1)
	slow, quick := streamFrom(t, address, 1, 1<<20), streamFrom(t, address, 1, 0)
	kept := kv.Index(0)
	for range 20 { // far more than the kernel takes of what the slow one does not read
		publish(length)
		var err error
		if kept, err = readOn(t, quick.Body, kept, last); err != nil {
			t.Fatalf("who keeps up read up to %d of %d: %v", kept, last, err)
		}
	}
	read, err := readOn(t, slow.Body, 0, last)
	if !errors.Is(err, io.ErrUnexpectedEOF) || read == 0 || read >= last-length {
		t.Fatalf("the slow one read up to %d of %d and ended with %v", read, last, err)
	}
	gone := streamFrom(t, address, read+1, 0)
	if body, _ := io.ReadAll(gone.Body); gone.StatusCode != 400 || !strings.Contains(string(body), `"errorCode":401`) {
		t.Errorf("going on after %d: %d %q", read, gone.StatusCode, body)
	}
	read = last - length/2 // as after reading the keys
	if got, err := readOn(t, streamFrom(t, address, read+1, 0).Body, read, last); err != nil || got != last {
		t.Errorf("going on after %d: read up to %d, %v", read, got, err)
	}
}

func TestAStopBreaksStreamsOffAndCompletesLongPolls(t *testing.T) {
	t.Parallel()
	cfg := DefaultConfig()
	cfg.DataDir, cfg.ListenClientURLs, cfg.ListenPeerURLs = t.TempDir(), []string{"http://127.0.0.1:0"}, []string{"http://127.0.0.1:0"}
	d, err := Open(t.Context(), cfg, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	get := func(query string) io.Reader {
		answer, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get(d.listening[0] + "/v2/keys/a?wait=true" + query)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { answer.Body.Close() })
		return answer.Body
	}
	stream, poll := get("&stream=true"), get("")
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(stream); len(body) != 0 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the stream: %q, %v", body, err)
	}
	if body, err := io.ReadAll(poll); len(body) != 0 || err != nil {
		t.Errorf("the long poll: %q, %v", body, err)
	}
}
