package kvclient_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// wire is what lies between a client and a server: it passes requests on, and for each connection
// leaves the answers of server to back.
type wire struct {
	listener net.Listener
	target   string
	back     func(client, server *net.TCPConn)
	work     sync.WaitGroup

	mu    sync.Mutex // guards conns
	conns []net.Conn
}

// newWire returns the URL of a wire to target. It is taken down when the test ends.
func newWire(t testing.TB, target string, back func(client, server *net.TCPConn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: listener, target: strings.TrimPrefix(target, "http://"), back: back}
	w.work.Go(w.accept)
	t.Cleanup(func() {
		listener.Close()
		w.mu.Lock()
		for _, conn := range w.conns {
			conn.Close()
		}
		w.mu.Unlock()
		w.work.Wait()
	})
	return "http://" + listener.Addr().String()
}

func (w *wire) accept() {
	for {
		near, err := w.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", w.target)
		if err != nil {
			near.Close()
			continue
		}
		w.mu.Lock()
		w.conns = append(w.conns, near, far)
		w.mu.Unlock()
		client, server := near.(*net.TCPConn), far.(*net.TCPConn)
		w.work.Go(func() { io.Copy(server, client); server.CloseWrite() })
		w.work.Go(func() { w.back(client, server) })
	}
}

// faults are what may become of an answer of a store that has acted on the request.
var faults = map[string]func(client, server *net.TCPConn){
	"reset in the middle of the head": func(client, server *net.TCPConn) {
		io.CopyN(client, server, 20)
		client.SetLinger(0)
		client.Close()
	},
	"closed in the middle of the body": func(client, server *net.TCPConn) {
		untilBody(client, server)
		io.CopyN(client, server, 10)
		client.Close()
	},
	"half closed before the answer": func(client, server *net.TCPConn) {
		io.CopyN(io.Discard, server, 1)
		client.CloseWrite()
		io.Copy(io.Discard, server)
	},
	"never passed on": func(client, server *net.TCPConn) { io.Copy(io.Discard, server) },
	"stuck in the middle of the body": func(client, server *net.TCPConn) {
		untilBody(client, server)
		io.CopyN(client, server, 10)
		io.Copy(io.Discard, server)
	},
	"one byte at a time": func(client, server *net.TCPConn) {
		for {
			if _, err := io.CopyN(client, server, 1); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond) // the fault itself: slower than the client is patient
		}
	},
	"garbage": func(client, server *net.TCPConn) {
		io.CopyN(io.Discard, server, 1)
		client.Write([]byte("\x00\xff\r\n\r\n\x01"))
		client.Close()
	},
	"a page of something in between":   instead("text/html", "<html>please log in</html>"),
	"JSON of something in between":     instead("application/json", `{"status":"ok"}`),
	"JSON that ends too early":         instead("application/json", `{"action":"get","node":{"key":"/a","val`),
	"JSON of the wrong type":           instead("text/plain", `["action"]`),
	"a body without an end":            endless(`{"action":"get","node":{"key":"/a","value":"`),
	"a head without an end":            endless("HTTP/1.1 200 OK\r\nX-Filler: "),
	"a chunk that is none":             instead("application/json", "", "Transfer-Encoding: chunked"),
	"a length that is never delivered": instead("application/json", "{", "Content-Length: 1000"),
}

// untilBody passes on the head of an answer.
func untilBody(client, server *net.TCPConn) {
	var head bytes.Buffer
	for !bytes.HasSuffix(head.Bytes(), []byte("\r\n\r\n")) {
		if _, err := io.CopyN(io.MultiWriter(&head, client), server, 1); err != nil {
			return
		}
	}
}

// instead answers with a status of 200 and body, in place of what the store says.
func instead(contentType, body string, header ...string) func(client, server *net.TCPConn) {
	return func(client, server *net.TCPConn) {
		io.CopyN(io.Discard, server, 1)
		fmt.Fprintf(client, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: %s\r\n%s\r\n\r\n%s", contentType, strings.Join(append(header, "X-Over: and over"), "\r\n"), body)
		client.Close()
	}
}

// endless answers with start and then with letters for as long as they are taken.
func endless(start string) func(client, server *net.TCPConn) {
	return func(client, server *net.TCPConn) {
		io.CopyN(io.Discard, server, 1)
		if !strings.HasPrefix(start, "HTTP") {
			start = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + start
		}
		client.Write([]byte(start))
		for letters := bytes.Repeat([]byte("x"), 32<<10); ; {
			if _, err := client.Write(letters); err != nil {
				return
			}
		}
	}
}

// patient for half a second, and for a megabyte.
func throughFault(t *testing.T, endpoints ...string) *kvclient.Client {
	cfg := inOrder(endpoints...)
	cfg.RequestTimeout, cfg.ResponseBytesMax = 500*time.Millisecond, 1<<20
	return open(t, cfg)
}

func TestAReadGetsItsAnswerFromTheNextEndpointWhateverBecomesOfTheFirst(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	set(t, open(t, inOrder(url)), "/a", "1")
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			client := throughFault(t, newWire(t, url, fault), url)
			result, err := client.Read(t.Context(), aRead)
			if name == "a body without an end" { // the next member's would be as long
				if !kv.Is(err, kv.TooLarge) {
					t.Errorf("got %v, want the kind %q", err, kv.TooLarge)
				}
				return
			}
			if err != nil || result.Node.Value != "1" {
				t.Errorf("got %+v, %v", result, err)
			}
		})
	}
}

func TestAWriteWhoseAnswerIsLostIsDoneOnceAndSaysThatItMayBe(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	direct := open(t, inOrder(url))
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			before := set(t, direct, "/before", name)
			client := throughFault(t, newWire(t, url, fault), url)
			_, err := client.Write(t.Context(), kv.Write{Op: kv.OpCreateInOrder, Key: "/queue", Value: name})
			if !kv.Is(err, kv.Unknown) && !kv.Is(err, kv.Timeout) {
				t.Errorf("got %v, want the kind %q or %q", err, kv.Unknown, kv.Timeout)
			}
			// The store has acted before it answered, and the next write is the next one after it.
			if after := set(t, direct, "/after", name); after.Index != before.Index+2 {
				t.Errorf("the store went from %d to %d, want one write in between", before.Index, after.Index)
			}
		})
	}
}

func TestAWatchLosesNothingWhateverBecomesOfItsEndpoint(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	direct := open(t, inOrder(url))
	for name, fault := range faults {
		if name == "stuck in the middle of the body" { // a connection that lives and is silent is what a watch is
			continue
		}
		t.Run(name, func(t *testing.T) {
			first := set(t, direct, "/w", "1")
			client := throughFault(t, newWire(t, url, fault), url)
			w, err := client.Watch(t.Context(), kv.WatchFrom{Key: "/w", Index: first.Index})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			set(t, direct, "/w", "2")
			wantValues(t, w, "1", "2")
		})
	}
}

// Each value is new, so that what was written twice or not at all shows in the end.
func TestWritersThroughRestartsAndCutsWriteNothingTwice(t *testing.T) {
	const rounds, writers = 12, 4
	cluster := daemontest.Start(t, 1)
	one, two := newLink(t, cluster.URL()), newLink(t, cluster.URL())
	acknowledged := make([]map[string]bool, writers)
	ctx, stop := context.WithCancel(t.Context())
	var work sync.WaitGroup
	for i := range writers {
		acknowledged[i] = map[string]bool{}
		cfg := inOrder(one.URL, two.URL)
		cfg.RequestTimeout = time.Second
		client := open(t, cfg)
		work.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				value := fmt.Sprintf("%d-%d", i, n)
				_, err := client.Write(ctx, kv.Write{Op: kv.OpCreateInOrder, Key: "/queue", Value: value})
				if err == nil {
					acknowledged[i][value] = true
				}
			}
		})
	}
	direct := open(t, inOrder(cluster.URL()))
	for round := range rounds {
		// Between two faults something is written.
		for before := indexOf(t, direct); indexOf(t, direct) < before+20; {
			if t.Context().Err() != nil {
				t.Fatal(t.Context().Err())
			}
		}
		switch round % 3 {
		case 0:
			one.cut()
		case 1:
			two.cut()
		case 2:
			cluster.Restart()
		}
	}
	stop()
	work.Wait()
	result, err := direct.Read(t.Context(), kv.Read{Key: "/queue", Recursive: true})
	if err != nil {
		t.Fatal(err)
	}
	times := map[string]int{}
	for _, node := range result.Node.Nodes {
		times[node.Value]++
	}
	for value, n := range times {
		if n != 1 {
			t.Errorf("%s was written %d times", value, n)
		}
	}
	for _, values := range acknowledged {
		for value := range values {
			if times[value] != 1 {
				t.Errorf("%s was acknowledged and is not there", value)
			}
		}
	}
}

func indexOf(t *testing.T, client *kvclient.Client) kv.Index {
	t.Helper()
	result, err := client.Read(t.Context(), kv.Read{})
	if err != nil {
		t.Fatal(err)
	}
	return result.Index
}
