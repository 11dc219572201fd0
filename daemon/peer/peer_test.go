package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const cluster = 0xc1

// town is what members know of each other: who lives where. Safe for concurrent use.
type town struct {
	mu        sync.Mutex
	addresses map[uint64]string
}

func newTown() *town { return &town{addresses: map[uint64]string{}} }

func (t *town) address(id uint64) (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	address, ok := t.addresses[id]
	return address, ok
}

func (t *town) known(id uint64) bool {
	_, ok := t.address(id)
	return ok
}

func (t *town) move(id uint64, address string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.addresses[id] = address
}

func (t *town) remove(id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.addresses, id)
}

// methodEcho answers with the request.
const methodEcho Method = 1

// methodMirror answers at once with the request, if that has an even length, else what echo answers.
const methodMirror Method = 200

func mirror(_ uint64, request []byte) ([]byte, bool) { return request, len(request)%2 == 0 }

func echo(_ context.Context, _ uint64, request []byte) ([]byte, error) { return request, nil }

// setup is what a member is started with.
type setup struct {
	Config
	handlers map[Method]Handler
	patience patience // long by default: the machine may be busy
}

// join starts member id of the town on a port of its own; change may alter what it is. It is closed
// with the test.
func (t *town) join(tb testing.TB, id uint64, change ...func(*setup)) *Network {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	t.move(id, l.Addr().String())
	c := setup{Config: Config{
		Listeners: []net.Listener{l}, Self: func() (uint64, uint64) { return cluster, id }, Address: t.address, Known: t.known,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("hello at " + r.URL.Path)) }),
		Log:     slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})).With("at", id),
	}, handlers: map[Method]Handler{methodEcho: echo}, patience: patience{10 * time.Second, 10 * time.Second}}
	for _, f := range change {
		f(&c)
	}
	n, err := New(c.Config)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { n.Close() })
	n.patience = c.patience
	for method, h := range c.handlers {
		n.Handle(method, h)
	}
	n.HandleAtOnce(methodMirror, mirror)
	n.Serve()
	return n
}

// within returns a context that ends before the test binary does.
func within(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	tb.Cleanup(cancel)
	return ctx
}

func TestACallReturnsWhatTheHandlerOfTheOtherMemberAnswers(t *testing.T) {
	town := newTown()
	a, _ := town.join(t, 1), town.join(t, 2)
	answer, err := a.Call(within(t), 2, methodEcho, []byte("over there"))
	if err != nil || string(answer) != "over there" {
		t.Fatalf("%q, %v", answer, err)
	}
}

func TestWhatCanBeAnsweredAtOnceNeverReachesTheHandler(t *testing.T) {
	town := newTown()
	a := town.join(t, 1)
	town.join(t, 2, func(c *setup) {
		c.handlers[methodMirror] = func(_ context.Context, _ uint64, request []byte) ([]byte, error) {
			if len(request)%2 == 0 {
				t.Error("the handler was asked")
			}
			return []byte("handled"), nil
		}
	})
	var calls sync.WaitGroup
	for i := range 1000 {
		calls.Go(func() {
			request := fmt.Sprint("request ", i)
			want := request
			if len(request)%2 != 0 {
				want = "handled"
			}
			if answer, err := a.Call(within(t), 2, methodMirror, []byte(request)); err != nil || string(answer) != want {
				t.Errorf("%s: %q, %v", request, answer, err)
			}
		})
	}
	calls.Wait()
}

func TestRaftStreamsCarryBytesBothWays(t *testing.T) {
	town := newTown()
	a, b := town.join(t, 1), town.join(t, 2)
	here, err := a.RaftStreams().Dial(2, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	there, err := b.RaftStreams().Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	for _, way := range []struct{ from, to net.Conn }{{here, there}, {there, here}} {
		way.from.Write([]byte("ballot"))
		got := make([]byte, 6)
		if n, err := way.to.Read(got); err != nil || string(got[:n]) != "ballot" {
			t.Fatalf("%q, %v", got[:n], err)
		}
	}
}

func TestThePortServesTheHandlerBesideStreams(t *testing.T) {
	town := newTown()
	a := town.join(t, 1)
	got, err := Get(within(t), "http://"+a.RaftStreams().Addr().String()+"/kvd/cluster", nil)
	if err != nil || string(got) != "hello at /kvd/cluster" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestACallToAMemberThatNobodyKnowsIsSurelyNotSent(t *testing.T) {
	a := newTown().join(t, 1)
	_, err := a.Call(within(t), 9, methodEcho, nil)
	var e *Error
	if !errors.As(err, &e) || e.Sent || !errors.Is(err, ErrUnknownMember) {
		t.Fatalf("%v", err)
	}
}
