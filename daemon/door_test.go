package daemon

import (
	"bufio"
	"bytes"
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
)

// edgePatience bounds every wait for something that must happen soon.
const edgePatience = 20 * time.Second

// serveTest serves handler on a port of this machine and returns its address.
func serveTest(t *testing.T, handler http.Handler, l limits, log *slog.Logger) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := serve([]net.Listener{listener}, handler, newDoor(l, log), log)
	t.Cleanup(func() { s.Close() })
	return listener.Addr().String()
}

// caller is a connection that asks one request after the other.
type caller struct {
	net.Conn
	answers *bufio.Reader
}

func call(t *testing.T, address string) *caller {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(edgePatience))
	return &caller{conn, bufio.NewReader(conn)}
}

// ask sends a request, nothing for none, and returns the answer and its body.
func (c *caller) ask(t *testing.T, request string) (*http.Response, string) {
	t.Helper()
	if request != "" {
		io.WriteString(c, request)
	}
	answer, err := http.ReadResponse(c.answers, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, string(body)
}

const askRoot = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

var answerOK = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })

func TestConnectionsBeyondTheLimitAreToldSoAndTheirPlacesComeBack(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		limits limits
		cause  string
	}{
		{limits{connections: 2}, "no more than 2 connections at a time (--max-connections)"},
		{limits{connections: 9, connectionsPerAddress: 2}, "no more than 2 connections of 127.0.0.1/32 at a time (--max-connections-per-ip)"},
	} {
		var told bytes.Buffer
		address := serveTest(t, answerOK, c.limits, slog.New(slog.NewTextHandler(&told, nil)))
		first, second := call(t, address), call(t, address)
		for range 2 {
			for _, inside := range []*caller{first, second} {
				if answer, body := inside.ask(t, askRoot); answer.StatusCode != 200 || body != "ok" {
					t.Errorf("%d %q", answer.StatusCode, body)
				}
			}
			for range 3 {
				answer, body := call(t, address).ask(t, "PUT /v2/keys/a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nvalue")
				var wire struct {
					ErrorCode int
					Cause     string
				}
				if err := json.Unmarshal([]byte(body), &wire); err != nil || answer.StatusCode != 503 || wire.ErrorCode != 300 || !strings.Contains(wire.Cause, c.cause) || !answer.Close {
					t.Errorf("refused with %d %q", answer.StatusCode, body)
				}
			}
		}
		first.Close()
		for deadline := time.Now().Add(edgePatience); ; { // until the server has seen that it closed
			third := call(t, address)
			if answer, _ := third.ask(t, askRoot); answer.StatusCode == 200 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the place of a connection that closed stays taken")
			}
		}
		if n := strings.Count(told.String(), "connections refused"); n != 1 {
			t.Errorf("the log heard of the refusals %d times:\n%s", n, told.String())
		}
	}
}

func TestTheLimitsFollowFromTheOpenFiles(t *testing.T) {
	for _, c := range []struct {
		files     uint64
		config    Config
		want      limits
		wantError string
	}{
		{20_000, Config{}, limits{connections: 19_488, watchers: 18_270}, ""},
		{65_536, Config{MaxConnectionsPerIP: 7}, limits{connections: 65_024, watchers: 60_960, connectionsPerAddress: 7}, ""},
		{1024, Config{}, limits{connections: 512, watchers: 480}, ""},
		{64, Config{}, limits{connections: 32, watchers: 30}, ""},
		{20_000, Config{MaxConnections: 100}, limits{connections: 100, watchers: 93}, ""},
		{20_000, Config{MaxConnections: 100, MaxWatchers: 5}, limits{connections: 100, watchers: 5}, ""},
		{1024, Config{MaxConnections: 513}, limits{}, "more than the 512 that the limit of 1024 open files leaves"},
	} {
		got, err := limitsOf(&c.config, c.files)
		var setting *ConfigError
		if c.wantError != "" {
			if !errors.As(err, &setting) || setting.Flag != "max-connections" || !strings.Contains(err.Error(), c.wantError) {
				t.Errorf("%d files, %+v: %v", c.files, c.config, err)
			}
			continue
		}
		if err != nil || got != c.want {
			t.Errorf("%d files: %+v, %v, want %+v", c.files, got, err, c.want)
		}
	}
}

func TestATooLongHeadIsRefused(t *testing.T) {
	t.Parallel()
	address := serveTest(t, answerOK, limits{connections: 9}, slog.New(slog.DiscardHandler))
	for _, long := range []string{"GET /" + strings.Repeat("a", 2*headerBytesMax) + " HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("a", 2*headerBytesMax) + "\r\n\r\n"} {
		c := call(t, address)
		go io.WriteString(c, long) // the server does not read all of it
		if answer, _ := c.ask(t, ""); answer.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("%d", answer.StatusCode)
		}
	}
}

func TestAnUpgradeToHTTP2IsPassedOver(t *testing.T) {
	address := serveTest(t, answerOK, limits{connections: 9}, slog.New(slog.DiscardHandler))
	upgrade := "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
	if answer, body := call(t, address).ask(t, upgrade); answer.StatusCode != 200 || answer.Proto != "HTTP/1.1" || body != "ok" {
		t.Errorf("upgrade to HTTP/2: %d %q in %s", answer.StatusCode, body, answer.Proto)
	}
}

// pipes is a listener whose connections are in memory, so that their time can be a test's.
type pipes struct {
	waiting chan net.Conn
	closed  chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.waiting:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes"} }

func (p *pipes) dial() net.Conn {
	ours, theirs := net.Pipe()
	p.waiting <- theirs
	return ours
}

// hungUpAfter returns how long it takes until the server closes conn.
func hungUpAfter(conn net.Conn) time.Duration {
	start := time.Now()
	io.Copy(io.Discard, conn)
	return time.Since(start)
}

func TestWhoDawdlesIsCutOffAndHindersNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		listener := newPipes()
		s := serve([]net.Listener{listener}, limitBody(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n, err := io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, n, err)
		})), newDoor(limits{connections: 10_000}, slog.New(slog.DiscardHandler)), slog.New(slog.DiscardHandler))
		defer s.Close()

		var slow []net.Conn
		for i := range 5000 {
			conn := listener.dial()
			if i%2 == 0 {
				io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nX-")
			}
			slow = append(slow, conn)
		}
		start := time.Now()
		quick := listener.dial()
		io.WriteString(quick, askRoot)
		answer, err := http.ReadResponse(bufio.NewReader(quick), nil)
		if err != nil || answer.StatusCode != 200 || time.Since(start) > 0 {
			t.Fatalf("beside %d dawdlers, after %v: %+v, %v", len(slow), time.Since(start), answer, err)
		}
		io.Copy(io.Discard, answer.Body)
		for _, conn := range slow {
			io.Copy(io.Discard, conn)
		}
		if took := time.Since(start); took < readHeaderTimeout || took > readHeaderTimeout+roundInterval {
			t.Errorf("the head may take %v, want %v", took, readHeaderTimeout)
		}
		hungUpAfter(quick)
		if took := time.Since(start); took < idleTimeout || took > idleTimeout+roundInterval {
			t.Errorf("a connection may be idle for %v, want %v", took, idleTimeout)
		}

		late := listener.dial()
		io.WriteString(late, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
		start = time.Now()
		answer, err = http.ReadResponse(bufio.NewReader(late), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(answer.Body)
		if took := time.Since(start); took < bodyTimeout || took > bodyTimeout+roundInterval || !strings.Contains(string(body), "timeout") || hungUpAfter(late) > time.Second {
			t.Errorf("the body may take %v, want %v: %q", took, bodyTimeout, body)
		}

		deaf := listener.dial()
		io.WriteString(deaf, askRoot)
		time.Sleep(answerTimeout + 2*roundInterval)
		if n, err := io.Copy(io.Discard, deaf); n > 0 || err != nil { // it has been cut off: nothing is there to read any more
			t.Errorf("who takes no answer for %v gets %d bytes, %v", answerTimeout, n, err)
		}
	})
}

func TestAClientThatGoesWhileItWaitsIsNoticedInTheNextRound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		listener := newPipes()
		gone := make(chan time.Duration, 1)
		s := serve([]net.Listener{listener}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			start := time.Now()
			<-r.Context().Done()
			gone <- time.Since(start)
		}), newDoor(limits{connections: 10}, slog.New(slog.DiscardHandler)), slog.New(slog.DiscardHandler))
		defer s.Close()
		client := listener.dial()
		io.WriteString(client, askRoot)
		synctest.Wait()
		client.Close()
		if took := <-gone; took > roundInterval {
			t.Errorf("it was noticed after %v", took)
		}
	})
}
