package httpv2

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

// patience bounds every wait for something that must happen soon.
const patience = 20 * time.Second

func setEvent(index kv.Index) kv.Event {
	return kv.Event{Action: kv.ActionSet, Node: &kv.Node{Key: "/a", Value: "v", ModifiedIndex: index, CreatedIndex: index}}
}

func setLine(index kv.Index) string {
	return fmt.Sprintf(`{"action":"set","node":{"key":"/a","value":"v","modifiedIndex":%d,"createdIndex":%d}}`+"\n", index, index)
}

// open sends a watch request and returns once the headers are here.
func open(t *testing.T, ctx context.Context, url string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response
}

func deliver(t *testing.T, watch *scriptedWatch, e kv.Event) {
	t.Helper()
	select {
	case watch.events <- e:
	case <-time.After(patience):
		t.Fatal("nobody asks for the next event")
	}
}

func waitClosed(t *testing.T, watch *scriptedWatch) {
	t.Helper()
	select {
	case <-watch.closed:
	case <-time.After(patience):
		t.Fatal("the watch was not closed")
	}
}

func TestALongPollSendsHeadersAtOnceAndEndsAfterTheFirstEvent(t *testing.T) {
	store := &recorder{watch: newScriptedWatch()}
	url := serve(t, Config{Gate: openGate{store}})
	response := open(t, t.Context(), url+"/v2/keys/a?wait=true") // returns: the headers came before any event
	for name, want := range map[string]string{
		"Content-Type": "application/json", "X-Etcd-Cluster-Id": "ab54a98ceb1f0a", "X-Etcd-Index": "41",
		"X-Raft-Index": "77", "X-Raft-Term": "3", "Kvd-Watch": "",
	} {
		if got := response.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if response.StatusCode != http.StatusOK || len(response.TransferEncoding) != 1 || response.TransferEncoding[0] != "chunked" {
		t.Errorf("status %d, transfer encoding %v", response.StatusCode, response.TransferEncoding)
	}
	deliver(t, store.watch, setEvent(42))
	body, err := io.ReadAll(response.Body)
	if err != nil || string(body) != setLine(42) {
		t.Errorf("%q, %v", body, err)
	}
	waitClosed(t, store.watch)
}

func TestAStreamSendsEachEventOnALineOfItsOwnAtOnce(t *testing.T) {
	store := &recorder{watch: newScriptedWatch()}
	response := open(t, t.Context(), serve(t, Config{Gate: openGate{store}})+"/v2/keys/a?wait=true&stream=true")
	lines := bufio.NewReader(response.Body)
	for index := kv.Index(42); index < 45; index++ {
		deliver(t, store.watch, setEvent(index))
		if line, err := lines.ReadString('\n'); err != nil || line != setLine(index) {
			t.Fatalf("%q, %v", line, err)
		}
	}
	close(store.watch.events) // the store gives up on the watch: the client must not take that for all there was
	if rest, err := io.ReadAll(lines); !errors.Is(err, io.ErrUnexpectedEOF) || len(rest) != 0 {
		t.Errorf("after the end of the watch: %q, %v", rest, err)
	}
	waitClosed(t, store.watch)
}

func TestALongPollThatTheStoreEndsIsCompleteAndEmpty(t *testing.T) {
	store := &recorder{watch: newScriptedWatch()}
	response := open(t, t.Context(), serve(t, Config{Gate: openGate{store}})+"/v2/keys/a?wait=true")
	close(store.watch.events)
	if body, err := io.ReadAll(response.Body); err != nil || len(body) != 0 { // clients of etcd ask again then
		t.Errorf("%q, %v", body, err)
	}
	waitClosed(t, store.watch)
}

func TestAWatchBeyondTheLimitIsRefusedWithItsReason(t *testing.T) {
	store := &recorder{err: &kv.Error{Kind: kv.Unavailable, Cause: "no more than 2 watches"}}
	response := open(t, t.Context(), serve(t, Config{Gate: openGate{store}})+"/v2/keys/a?wait=true")
	body, err := io.ReadAll(response.Body)
	want := `{"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: too many requests: no more than 2 watches","index":0}` + "\n"
	if response.StatusCode != http.StatusTooManyRequests || err != nil || string(body) != want {
		t.Errorf("%d %q, %v", response.StatusCode, body, err)
	}
}

func TestAnEventIsEncodedOnceForAllWhoWaitForIt(t *testing.T) {
	var lines lines
	event := setEvent(42)
	first := lines.of(event)
	if again := lines.of(event); string(first) != setLine(42) || &again[0] != &first[0] {
		t.Errorf("encoded again: %q, %q", first, again)
	}
	shown := event
	shown.PrevNode = event.Node
	for range 2 { // an event that is shown to one with more than to the other has the same index
		if line := lines.of(shown); !strings.Contains(string(line), "prevNode") {
			t.Errorf("without its previous node: %s", line)
		}
		if line := lines.of(event); string(line) != setLine(42) {
			t.Errorf("with a previous node: %s", line)
		}
	}
	large := setEvent(43)
	large.Node.Value = strings.Repeat("x", lineBytesMax)
	lines.of(large)
	for i := range lines.latest {
		if known := lines.latest[i].Load(); known != nil && len(known.line) > lineBytesMax {
			t.Errorf("a line of %d bytes is kept", len(known.line))
		}
	}
}

func TestALongPollThatAsksForAStreamIsToldSoAndGetsIt(t *testing.T) {
	store := &recorder{watch: newScriptedWatch()}
	url := serve(t, Config{Gate: openGate{store}})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/v2/keys/a?wait=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Kvd-Watch", "stream")
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if got := response.Header.Get("Kvd-Watch"); got != "stream" {
		t.Errorf("answered %q", got)
	}
	lines := bufio.NewReader(response.Body)
	for index := kv.Index(42); index < 45; index++ {
		deliver(t, store.watch, setEvent(index))
		if line, err := lines.ReadString('\n'); err != nil || line != setLine(index) {
			t.Fatalf("%q, %v", line, err)
		}
	}
}

func TestAClientThatGoesReleasesItsWatch(t *testing.T) {
	for name, body := range map[string]io.Reader{"without a body": nil, "with an ignored body": strings.NewReader("value=1")} {
		t.Run(name, func(t *testing.T) {
			store := &recorder{watch: newScriptedWatch()}
			url := serve(t, Config{Gate: openGate{store}})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v2/keys/a?wait=true&stream=true", body)
			if err != nil {
				t.Fatal(err)
			}
			response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			cancel()
			waitClosed(t, store.watch)
		})
	}
}

func TestAStreamWhoseReaderNeverReadsIsCutOff(t *testing.T) {
	store := &recorder{watch: newScriptedWatch()}
	server := httptest.NewServer(table(Config{Gate: openGate{store}, Cluster: fakeCluster{}, WriteTimeout: 100 * time.Millisecond}))
	defer server.Close()
	connection, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	fmt.Fprint(connection, "GET /v2/keys/a?wait=true&stream=true HTTP/1.1\r\nHost: x\r\n\r\n")
	big := setEvent(42)
	big.Node.Value = strings.Repeat("x", 1<<20)
	deadline := time.After(patience)
	for { // the kernel's buffers take the first ones
		select {
		case store.watch.events <- big:
		case <-store.watch.closed:
			return
		case <-deadline:
			t.Fatal("the watch of a reader that never reads is still open")
		}
	}
}

func TestAnIdleStreamOutlivesTheWriteTimeout(t *testing.T) {
	store := &recorder{watch: newScriptedWatch()}
	const writeTimeout = 20 * time.Millisecond
	response := open(t, t.Context(), serve(t, Config{Gate: openGate{store}, WriteTimeout: writeTimeout})+"/v2/keys/a?wait=true&stream=true")
	lines := bufio.NewReader(response.Body)
	for index := kv.Index(42); index < 45; index++ {
		time.Sleep(2 * writeTimeout) // the passing of this time is what is tested
		deliver(t, store.watch, setEvent(index))
		if line, err := lines.ReadString('\n'); err != nil || line != setLine(index) {
			t.Fatalf("%q, %v", line, err)
		}
	}
}

func TestAWatchOutlivesTheTimeForItsBody(t *testing.T) {
	store := &recorder{watch: newScriptedWatch()}
	v2 := table(Config{Gate: openGate{store}, Cluster: fakeCluster{}})
	const bodyTimeout = 50 * time.Millisecond
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout)); err != nil {
			t.Error(err)
		}
		v2.ServeHTTP(w, r)
	}))
	defer server.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/v2/keys/a?wait=true", strings.NewReader("value=1"))
	if err != nil {
		t.Fatal(err)
	}
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	time.Sleep(2 * bodyTimeout) // the passing of this time is what is tested
	deliver(t, store.watch, setEvent(42))
	if body, err := io.ReadAll(response.Body); err != nil || string(body) != setLine(42) {
		t.Errorf("%q, %v", body, err)
	}
}
