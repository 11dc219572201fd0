package daemon

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/kvd-io/kvd/daemon/watch"
	"github.com/kvd-io/kvd/pkg/kv"
)

// newHTTP2 returns a client that speaks HTTP/2 with prior knowledge, over connections that dial makes.
func newHTTP2(t *testing.T, dial func() (net.Conn, error)) (*http.Client, *http.Transport) {
	t.Helper()
	transport := &http.Transport{Protocols: new(http.Protocols), HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10},
		DialContext: func(context.Context, string, string) (net.Conn, error) { return dial() }}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}, transport
}

// get opens a request that cancel ends, and returns its answer as soon as its headers are here.
func get(t *testing.T, client *http.Client, path string) (answer *http.Response, cancel func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if answer, err = client.Do(request); err != nil {
		t.Fatal(err)
	}
	if answer.ProtoMajor != 2 {
		t.Fatalf("answered in %s", answer.Proto)
	}
	return answer, cancel
}

func TestAThousandWatchesOfOneClientShareAFewConnectionsAndHoldUpNoWrite(t *testing.T) {
	t.Parallel()
	const watches = 1000
	cfg := DefaultConfig()
	cfg.DataDir, cfg.ListenClientURLs, cfg.ListenPeerURLs = t.TempDir(), []string{"http://127.0.0.1:0"}, []string{"http://127.0.0.1:0"}
	d, err := Open(t.Context(), cfg, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	address := strings.TrimPrefix(d.listening[0], "http://")
	var mu sync.Mutex
	var connections []net.Conn
	client, _ := newHTTP2(t, func() (net.Conn, error) {
		conn, err := net.Dial("tcp", address)
		mu.Lock()
		defer mu.Unlock()
		connections = append(connections, conn)
		return conn, err
	})
	await := func(want int) {
		t.Helper()
		for deadline := time.Now().Add(edgePatience); int(d.service.Stats().Watches.Watchers) != want; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("there are %d watches, want %d", d.service.Stats().Watches.Watchers, want)
			}
		}
	}
	var answers []*http.Response
	var cancels []func()
	for range watches {
		answer, cancel := get(t, client, "/v2/keys/a?wait=true&recursive=true")
		if answer.StatusCode != http.StatusOK {
			t.Fatalf("watch %d: %d", len(answers), answer.StatusCode)
		}
		answers, cancels = append(answers, answer), append(cancels, cancel)
	}
	await(watches)
	cancels[0]()
	await(watches - 1)
	if n := len(connections); n != watches/streamsMax { // one of which has room again
		t.Errorf("%d watches take %d connections", watches, n)
	}
	write, err := client.PostForm("http://127.0.0.1/v2/keys/b", url.Values{"value": {"v"}})
	if err != nil || write.StatusCode != http.StatusCreated {
		t.Fatalf("a write beside the watches: %+v, %v", write, err)
	}
	write.Body.Close()
	connections[0].Close()
	await(watches - streamsMax)
	if write, err = client.PostForm("http://127.0.0.1/v2/keys/a", url.Values{"value": {"v"}}); err != nil || write.StatusCode != http.StatusCreated {
		t.Fatalf("what the others wait for: %+v, %v", write, err)
	}
	write.Body.Close()
	for i, answer := range answers[streamsMax:] {
		if body, err := io.ReadAll(answer.Body); err != nil || !strings.Contains(string(body), `"action":"create"`) {
			t.Fatalf("watch %d: %q, %v", streamsMax+i, body, err)
		}
	}
}

func TestWhoTakesNoAnswerHoldsUpNobodyElseOnTheConnectionAndIsCutOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		listener, log := newPipes(), slog.New(slog.DiscardHandler)
		s := serve([]net.Listener{listener}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/long" {
				_, err := w.Write(make([]byte, 1<<20))
				if err == nil {
					t.Error("all of it was taken")
				}
				return
			}
			io.WriteString(w, "ok")
		}), newDoor(limits{connections: 9}, log), log)
		defer s.Close()
		client, transport := newHTTP2(t, func() (net.Conn, error) { return listener.dial(), nil })
		defer transport.CloseIdleConnections()
		deaf, _ := get(t, client, "/long")
		start := time.Now()
		for range 20 {
			time.Sleep(time.Second)
			answer, _ := get(t, client, "/short")
			if body, err := io.ReadAll(answer.Body); string(body) != "ok" || err != nil {
				t.Fatalf("beside it: %q, %v", body, err)
			}
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("20 answers beside it took %v", took-20*time.Second)
		}
		time.Sleep(answerTimeout)
		if n, err := io.Copy(io.Discard, deaf.Body); err == nil || n >= 1<<20 {
			t.Errorf("after %v: %d bytes, %v", time.Since(start), n, err)
		}
		if inside, _ := s.door.count(); inside != 1 {
			t.Errorf("%d connections are left", inside)
		}
	})
}

func TestAWatchOverHTTP2OutlivesEveryBoundAndItsSilentClientDoesNot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hub, listener, log := watch.NewHub(10), newPipes(), slog.New(slog.DiscardHandler)
		s := serve([]net.Listener{listener}, limitBody(hubTable(hub)), newDoor(limits{connections: 9}, log), log)
		defer s.Close()
		defer hub.Close()
		var conn net.Conn
		client, transport := newHTTP2(t, func() (net.Conn, error) { conn = listener.dial(); return conn, nil })
		defer transport.CloseIdleConnections()
		answer, _ := get(t, client, "/v2/keys/a?wait=true&stream=true")
		time.Sleep(24 * time.Hour)
		go hub.Publish([]kv.Event{{Action: kv.ActionSet, Node: &kv.Node{Key: "/a", Value: "v", ModifiedIndex: 1, CreatedIndex: 1}}}, 1)
		if got, err := readOn(t, answer.Body, 0, 1); got != 1 {
			t.Errorf("after a day: %v", err)
		}
		answer.Body.Close()

		silent := listener.dial()
		go io.WriteString(silent, http2.ClientPreface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
		if took := hungUpAfter(silent); took > pingAfter+pingTimeout+2*time.Second {
			t.Errorf("who says nothing any more stays for %v", took)
		}
	})
}

func TestRequestsThatAreResetAtOnceRunNoMoreHandlersThanAConnectionMay(t *testing.T) {
	t.Parallel()
	var running, most atomic.Int64
	release := make(chan struct{})
	address := serveTest(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		n := running.Add(1)
		for seen := most.Load(); n > seen && !most.CompareAndSwap(seen, n); seen = most.Load() {
		}
		<-release // deaf to the reset
		running.Add(-1)
	}), limits{connections: 9}, slog.New(slog.DiscardHandler))
	conn := call(t, address)
	framer := http2.NewFramer(conn, conn)
	io.WriteString(conn, http2.ClientPreface)
	framer.WriteSettings()
	var head bytes.Buffer
	encoder := hpack.NewEncoder(&head)
	var reading sync.WaitGroup
	ended := make(chan error, 1)
	reading.Go(func() {
		for {
			frame, err := framer.ReadFrame()
			if goAway, ok := frame.(*http2.GoAwayFrame); ok {
				err = fmt.Errorf("%v", goAway.ErrCode)
			}
			if err != nil {
				ended <- err
				return
			}
		}
	})
	for i := range 20 * streamsMax {
		head.Reset()
		for _, field := range []string{":method GET", ":scheme http", ":authority x", ":path /"} {
			name, value, _ := strings.Cut(field, " ")
			encoder.WriteField(hpack.HeaderField{Name: name, Value: value})
		}
		id := uint32(2*i + 1)
		if framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: head.Bytes(), EndStream: true, EndHeaders: true}) != nil ||
			framer.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
			break // it has been cut off
		}
	}
	if why := (<-ended).Error(); !strings.Contains(why, http2.ErrCodeEnhanceYourCalm.String()) {
		t.Errorf("the connection ended with %s", why)
	}
	close(release)
	conn.Close()
	reading.Wait()
	if most.Load() > streamsMax {
		t.Errorf("%d handlers ran at a time", most.Load())
	}
}

func TestOverHTTP2AStopBreaksStreamsOffCompletesLongPollsAndAnswersTheRest(t *testing.T) {
	t.Parallel()
	cfg := DefaultConfig()
	cfg.DataDir, cfg.ListenClientURLs, cfg.ListenPeerURLs = t.TempDir(), []string{"http://127.0.0.1:0"}, []string{"http://127.0.0.1:0"}
	d, err := Open(t.Context(), cfg, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	client, transport := newHTTP2(t, func() (net.Conn, error) { return net.Dial("tcp", strings.TrimPrefix(d.listening[0], "http://")) })
	defer transport.CloseIdleConnections()
	stream, _ := get(t, client, "/v2/keys/a?wait=true&stream=true")
	poll, _ := get(t, client, "/v2/keys/a?wait=true")
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(stream.Body); len(body) != 0 || err == nil || !strings.Contains(err.Error(), "INTERNAL_ERROR") {
		t.Errorf("the stream: %q, %v", body, err)
	}
	if body, err := io.ReadAll(poll.Body); len(body) != 0 || err != nil {
		t.Errorf("the long poll: %q, %v", body, err)
	}
}
