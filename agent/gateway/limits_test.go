package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/daemontest"
)

func address(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
}

func TestAConnectionTooManyIsRefusedInWords(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	g := start(t, urls(cluster), everything, func(cfg *Config) { cfg.ConnectionsPerClient = 2 })
	var held []net.Conn
	for range 2 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		held = append(held, conn)
	}
	await(t, "both are inside", func() bool { return g.Stats().Connections == 2 })
	want(t, call(t, "GET", g.url+"/v2/keys/a", ""), 503, "no more than 2 connections of one client")
	held[0].Close()
	await(t, "there is room again", func() bool {
		r, err := try("GET", g.url+"/v2/keys/a", "")
		return err == nil && r.status == 404
	})
	if g.Stats().Refused == 0 {
		t.Error("the refusal is not counted")
	}
}

func TestAWatchTooManyIsRefusedInWords(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	g := start(t, urls(cluster), everything, func(cfg *Config) { cfg.WatchesPerClient = 1 })
	response, err := http.Get(g.url + "/v2/keys/a?wait=true")
	if err != nil {
		t.Fatal(err)
	}
	want(t, call(t, "GET", g.url+"/v2/keys/a?wait=true", ""), 429, "no more than 1 watches of one client")
	response.Body.Close()
	await(t, "a client that has gone leaves its place", func() bool { return g.Stats().Watches == 0 })
}

func TestNoEndpointIsToldInTheWordsOfTheAPI(t *testing.T) {
	g := start(t, []string{"127.0.0.1:1"}, everything)
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		want(t, call(t, method, g.url+"/v2/keys/a", ""), 503, `"errorCode":300`)
	}
	want(t, call(t, "GET", g.url+"/v2/keys/a?wait=true", ""), 503, "connection refused")
	want(t, call(t, "GET", g.url+"/health", ""), 503, `"health":"false"`)
	if g.Stats().UpstreamFailures == 0 {
		t.Error("failures are not counted")
	}
}

func TestASocketIsServedWithItsModeAndAStaleOneIsReplaced(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	folder, err := os.MkdirTemp("", "kvd-gw") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(folder)
	path := filepath.Join(folder, "deep", "gateway.sock")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	g := start(t, urls(cluster), func(cfg *Config) {
		cfg.Listen, cfg.Allow = []string{"unix:" + path + "?mode=0606"}, []string{"unix=rw:/app"}
	})
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o606 {
		t.Errorf("%v, %v", info, err)
	}
	say := func(request string) string {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: anything.example\r\nConnection: close\r\n\r\n", request)
		answer, _ := io.ReadAll(conn)
		return string(answer)
	}
	if answer := say("PUT /v2/keys/app/a?value=1"); !strings.Contains(answer, "201 Created") {
		t.Error(answer)
	}
	if answer := say("GET /v2/keys/other"); !strings.Contains(answer, "403 Forbidden") || !strings.Contains(answer, "who uses this socket") {
		t.Error(answer)
	}
	second, err := New(Config{Listen: []string{"unix:" + path}, Services: "/services"})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Taken(); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a socket that is served is taken over: %v", err)
	}
	os.Remove(path)
	await(t, "the socket is there again", func() bool { _, err := os.Stat(path); return err == nil })
	g.stop()
	if _, err := os.Stat(path); err == nil {
		t.Error("the socket is still there after the stop")
	}
}

func TestPlacesThatAreNoneAreNamed(t *testing.T) {
	for _, text := range []string{"", "docker0", "172.17.0.1", "a.very.long.host.name.example:2379", "localhost:2379", "docker0:x", "docker0:70000", "unix:", "unix:relative", "unix:/a?mode=999", "unix:/a?mode=7777", "unix:" + strings.Repeat("/x", 60)} {
		if p, err := parsePlace(text); err == nil || !strings.Contains(err.Error(), "--gateway-listen") {
			t.Errorf("%q: %+v, %v", text, p, err)
		}
	}
	if _, err := New(Config{}); err == nil {
		t.Error("nowhere")
	}
}

func TestABodyThatWaitsToBeAskedForIsAskedFor(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	g := start(t, urls(cluster), everything)
	conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "PUT /v2/keys/a HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\nExpect: 100-continue\r\n\r\n")
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.Contains(line, "100 Continue") {
		t.Errorf("%q, %v", line, err)
	}
	fmt.Fprint(conn, "value=1")
	rest := make([]byte, 1024)
	n, _ := conn.Read(rest)
	if n == 0 {
		t.Error("no answer after the body")
	}
}

func TestAClientThatClosesItsSideAfterItsRequestIsAnswered(t *testing.T) {
	g := start(t, urls(daemontest.Start(t, 1)), everything)
	for _, request := range []string{"PUT /v2/keys/a?value=1", "GET /v2/keys/a?quorum=true", "DELETE /v2/keys/a"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(patience))
		fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", request)
		conn.(*net.TCPConn).CloseWrite()
		answer, _ := io.ReadAll(conn)
		conn.Close()
		if !strings.HasPrefix(string(answer), "HTTP/1.1 20") {
			t.Errorf("%s: %s", request, answer)
		}
	}
}

func TestLargeFormsAreHeldInANumberThatIsBounded(t *testing.T) {
	g := start(t, urls(daemontest.Start(t, 1)), everything)
	var held []net.Conn
	defer func() {
		for _, conn := range held {
			conn.Close()
		}
	}()
	for range largeMost {
		conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, conn)
		fmt.Fprintf(conn, "PUT /v2/keys/a HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000000\r\n\r\nvalue=")
	}
	await(t, "all are being read", func() bool { return len(g.large) == largeMost })
	want(t, call(t, "PUT", g.url+"/v2/keys/a", "value="+strings.Repeat("x", 100_000)), 503, "no more than")
	want(t, call(t, "PUT", g.url+"/v2/keys/a", "value=small"), 201, "small")
	for _, conn := range held {
		conn.Close()
	}
	await(t, "there is room again", func() bool { return len(g.large) == 0 })
}
