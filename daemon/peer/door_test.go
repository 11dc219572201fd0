package peer

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener in memory, for tests in which time is not real.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	select {
	case <-p.done:
	default:
		close(p.done)
	}
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes"} }

func (p *pipes) dial() net.Conn {
	here, there := net.Pipe()
	p.conns <- there
	return here
}

// port starts a member on a listener in memory.
func port(t *testing.T, h http.Handler) (*Network, *pipes) {
	p := newPipes()
	town := newTown()
	n, err := New(Config{Listeners: []net.Listener{p}, Self: func() (uint64, uint64) { return cluster, 1 }, Address: town.address, Known: town.known, Handler: h})
	if err != nil {
		t.Fatal(err)
	}
	n.Serve()
	return n, p
}

func TestACallerThatDoesNotSayWhoItIsIsHungUpOnAfterTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, p := port(t, nil)
		defer n.Close()
		silent, slow := p.dial(), p.dial()
		var dripping sync.WaitGroup
		defer dripping.Wait()
		dripping.Go(func() {
			for range 100 {
				if _, err := slow.Write([]byte("G")); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		})
		began := time.Now()
		for _, conn := range []net.Conn{silent, slow} {
			io.ReadAll(conn)
			if took := time.Since(began); took > headerTimeout+time.Second || took < headerTimeout {
				t.Errorf("after %s", took)
			}
			conn.Close()
		}
	})
}

func TestANewConnectionTakesThePlaceOfTheOldestThatIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		n, p := port(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-release }))
		defer n.Close()
		defer close(release)
		busy := p.dial()
		defer busy.Close()
		io.WriteString(busy, "GET /join HTTP/1.1\r\nHost: a\r\n\r\n")
		synctest.Wait()
		silent := make([]net.Conn, guestsMax-1)
		for i := range silent {
			silent[i] = p.dial()
			defer silent[i].Close()
		}
		late := p.dial()
		defer late.Close()
		synctest.Wait()
		if open := n.door.guests.Len(); open != guestsMax {
			t.Errorf("%d are inside", open)
		}
		for i, want := range map[int]error{0: io.EOF, 1: nil} {
			silent[i].SetReadDeadline(time.Now())
			if _, err := silent[i].Read(make([]byte, 1)); want != nil && !errors.Is(err, want) || want == nil && errors.Is(err, io.EOF) {
				t.Errorf("number %d: %v", i, err)
			}
		}
		if n.door.guests.Front().Value.(*guest).busy != 1 {
			t.Error("the one that is being answered is gone")
		}
	})
}

func TestAConnectionIsRefusedWhenAllThatAreThereAreBeingAnswered(t *testing.T) {
	d := newDoor(slog.New(slog.DiscardHandler), &told{now: time.Now}, false)
	var there []*guest
	for range guestsMax {
		conn, _ := net.Pipe()
		g := d.enter(conn)
		d.busy(g, +1)
		there = append(there, g)
	}
	here, refused := net.Pipe()
	if d.enter(refused) != nil {
		t.Error("it is let in")
	}
	if _, err := here.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	there[7].Close()
	if conn, _ := net.Pipe(); d.enter(conn) == nil {
		t.Error("a place that was left stays taken")
	}
}

func TestWhatIsToldAgainWithinAMinuteIsNotTold(t *testing.T) {
	now := time.Unix(0, 0)
	told := told{now: func() time.Time { return now }}
	if !told.due("a") || told.due("a") || !told.due("b") {
		t.Error("within a minute")
	}
	now = now.Add(toldInterval)
	if !told.due("a") {
		t.Error("after a minute")
	}
	for i := range toldMax {
		told.due(string(rune(0x4e00 + i)))
	}
	if told.due("one more") {
		t.Error("there is no bound")
	}
	now = now.Add(toldInterval)
	if !told.due("one more") || len(told.last) != 1 {
		t.Error("what is old stays")
	}
}
