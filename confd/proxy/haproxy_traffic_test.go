package proxy

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// load asks address all the time, on new connections, and counts what does not end in "ok".
type load struct {
	asked, failed atomic.Int64
	stop          chan struct{}
	group         sync.WaitGroup
	first         atomic.Pointer[string]
}

func startLoad(address string, clients int) *load {
	l := &load{stop: make(chan struct{})}
	for range clients {
		l.group.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				default:
				}
				l.asked.Add(1)
				if got := get(address); !strings.HasSuffix(got, "ok") {
					l.failed.Add(1)
					l.first.CompareAndSwap(nil, &got)
				}
			}
		})
	}
	return l
}

func (l *load) end(t testing.TB) {
	t.Helper()
	close(l.stop)
	l.group.Wait()
	t.Logf("%d requests", l.asked.Load())
	if l.failed.Load() > 0 {
		t.Errorf("%d of %d requests failed, the first with: %s", l.failed.Load(), l.asked.Load(), *l.first.Load())
	}
}

func TestNoRequestFailsWhileServersComeMoveAndGo(t *testing.T) {
	for name, c := range map[string]struct{ keep, moves bool }{
		"closing": {}, "keeping connections": {keep: true}, "moving": {keep: true, moves: true},
	} {
		t.Run(name, func(t *testing.T) {
			address := freeAddress(t)
			var backends []string
			for i := range 4 {
				backends = append(backends, newBackend(t, fmt.Sprintf("%d ok", i), c.keep))
			}
			rng := rand.New(rand.NewPCG(3, 0))
			text := func() string {
				var servers strings.Builder
				for _, i := range rng.Perm(6)[:1+rng.IntN(4)] {
					backend := backends[i%len(backends)]
					if c.moves {
						backend = backends[rng.IntN(len(backends))]
					}
					fmt.Fprintf(&servers, "    server s%d %s weight %d%s\n", i, backend, 1+rng.IntN(200), []string{"", " maxconn 500"}[i%2])
				}
				return frontend(address) + "backend web\n    balance roundrobin\n" + servers.String()
			}
			live := text()
			r := newHARig(t, live)
			load := startLoad(address, 4)
			for range 40 {
				next := text()
				if kind := r.bring(live, next); kind == Reload && !c.moves {
					t.Error("reload")
				}
				live = next
			}
			load.end(t)
		})
	}
}

func TestNoRequestFailsWhileHAProxyIsReloaded(t *testing.T) {
	address := freeAddress(t)
	text := frontend(address) + "backend web\n    server a " + newBackend(t, "ok", false) + "\n"
	r := newHARig(t, text)
	load := startLoad(address, 2)
	for i := range 5 {
		next := fmt.Sprintf("%sbackend new%d\n", text, i)
		if kind := r.bring(text, next); kind != Reload {
			t.Fatalf("it took a %s", kind)
		}
		text = next
	}
	load.end(t)
}

func TestAMovedServerIsNotReachedOverItsOldConnections(t *testing.T) {
	address := freeAddress(t)
	one, two := newBackend(t, "one", true), newBackend(t, "two", true)
	text := func(server string) string {
		return frontend(address) + "backend web\n    http-reuse always\n    server a " + server + "\n"
	}
	r := newHARig(t, text(one))
	for _, step := range [][2]string{{one, two}, {two, one}, {one, two}} {
		get(address)
		r.until("no request is under way", func() bool {
			used, _ := connections(r.send("show servers conn web"), "web/a")
			return len(used) == 1 && used[0] == "0"
		})
		if kind := r.bring(text(step[0]), text(step[1])); kind != Runtime {
			t.Errorf("it took a %s", kind)
		}
		want := map[string]string{one: "one", two: "two"}[step[1]]
		for range 10 {
			if got := get(address); got != want {
				t.Errorf("answered by %q, want %q", got, want)
			}
		}
	}
}

func TestAServerWithRequestsUnderWayMovesByAReload(t *testing.T) {
	address := freeAddress(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	text := func(server string) string {
		return frontend(address) + "backend web\n    http-reuse always\n    server a " + server + " no-check\n"
	}
	old, next := text(listener.Addr().String()), text(newBackend(t, "new", true))
	r := newHARig(t, old)
	answer := make(chan string)
	go func() { answer <- get(address) }()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Read(make([]byte, 4096))
	plan, err := r.Plan(t.Context(), []byte(r.config(old)), []byte(r.config(next)))
	if err != nil || plan.Kind != Runtime {
		t.Fatalf("%v, %v", plan, err)
	}
	if err := r.Apply(t.Context(), plan); err == nil || !strings.Contains(err.Error(), "requests under way at its old address") {
		t.Errorf("got %v", err)
	}
	mark, err := r.Mark(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.write(r.config(next))
	r.reload()
	if err := r.Confirm(t.Context(), []byte(r.config(next)), mark); err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold")
	if got := <-answer; got != "old" {
		t.Errorf("the request under way is answered with %q", got)
	}
	if got := get(address); got != "new" {
		t.Errorf("the next request is answered by %q", got)
	}
}

func TestARemovedServerFinishesItsRequestsAndIsDeletedThen(t *testing.T) {
	address := freeAddress(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	other := newBackend(t, "other", false)
	text := func(servers string) string {
		return frontend(address) + "backend web\n    balance roundrobin\n" + servers
	}
	slow := "    server slow " + listener.Addr().String() + " no-check\n"
	fast := "    server fast " + other + "\n"
	r := newHARig(t, text(slow))
	answer := make(chan string)
	go func() { answer <- get(address) }()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Read(make([]byte, 4096))

	if kind := r.bring(text(slow), text(fast)); kind != Runtime {
		t.Fatalf("it took a %s", kind)
	}
	confirm := func(servers string) {
		t.Helper()
		if err := r.Confirm(t.Context(), []byte(r.config(text(servers))), Mark{}); err != nil {
			t.Errorf("a server that finishes its requests is taken for a difference: %v", err)
		}
	}
	confirm(fast)
	if got := get(address); got != "other" {
		t.Errorf("a request after the removal is answered by %q", got)
	}
	exists := func() bool {
		states, err := r.ask(t.Context())
		_, ok := states["web"]["slow"]
		return err == nil && ok
	}
	if !exists() {
		t.Error("a server with a request is gone")
	}
	// It comes back, with another weight, and goes again.
	back := fast + "    server slow " + listener.Addr().String() + " weight 0 no-check\n"
	for _, step := range [][2]string{{fast, back}, {back, fast}} {
		if kind := r.bring(text(step[0]), text(step[1])); kind != Runtime {
			t.Fatalf("it took a %s", kind)
		}
		confirm(step[1])
	}
	io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nslow")
	if got := <-answer; got != "slow" {
		t.Errorf("the request that ran while its server was removed: %q", got)
	}
	r.until("the removed server is deleted", func() bool { confirm(fast); return !exists() })
}

func TestHealthChecksOfAddedAndMovedServersRun(t *testing.T) {
	dead, alive := freeAddress(t), newBackend(t, "ok", false)
	text := func(downinter, server string) string {
		return "backend web\n    default-server inter 20ms fastinter 20ms downinter " + downinter + "\n" + server
	}
	status := func(r *haRig) string {
		for line := range strings.Lines(r.send("show stat -1 4 -1")) {
			if fields := strings.Split(line, ","); fields[0] == "web" && fields[1] == "a" {
				return fields[17]
			}
		}
		return ""
	}
	server := func(address string) string { return "    server a " + address + "\n" }
	r := newHARig(t, text("20ms", ""))
	r.bring(text("20ms", ""), text("20ms", server(dead)))
	r.until("the check of an added server finds it dead", func() bool { return status(r) == "DOWN" })
	r.bring(text("20ms", server(dead)), text("20ms", server(alive)))
	r.until("the check of a moved server finds it alive", func() bool { return strings.HasPrefix(status(r), "UP") })
	r.bring(text("20ms", server(alive)), text("20ms", server(dead)))
	r.until("the check of a moved server finds it dead", func() bool { return status(r) == "DOWN" })

	r.bring(text("20ms", server(dead)), text("1h", server(dead)))
	r.until("the check finds it dead", func() bool { return status(r) == "DOWN" })
	r.bring(text("1h", server(dead)), text("1h", server(alive))) // the next check is an hour away
	if got := status(r); !strings.HasPrefix(got, "UP") {
		t.Errorf("moved to a live address the server is %q", got)
	}
}

func TestSticksStayWithTheirServerByName(t *testing.T) {
	address := freeAddress(t)
	one, two, three := newBackend(t, "one", false), newBackend(t, "two", false), newBackend(t, "three", false)
	text := func(servers string) string {
		return frontend(address) + "backend web\n    balance roundrobin\n    stick-table type ip size 1k expire 1h\n    stick on src\n" + servers
	}
	a, b, c := "    server a "+one+"\n", "    server b "+two+"\n", "    server c "+three+"\n"
	r := newHARig(t, text(a+b))
	stuck := get(address)
	gone, kept := a, b
	if stuck == "one" {
		gone, kept = b, a
	}
	live := a + b
	for _, next := range []string{c + kept, kept, gone + c + kept} {
		if kind := r.bring(text(live), text(next)); kind != Runtime {
			t.Fatalf("it took a %s", kind)
		}
		live = next
		for range 4 {
			if got := get(address); got != stuck {
				t.Errorf("with %q: answered by %q, the client sticks to %q", next, got, stuck)
			}
		}
	}
	r.bring(text(live), text(c))
	if got := get(address); got != "three" {
		t.Errorf("after its server is gone the client is answered by %q", got)
	}
}
