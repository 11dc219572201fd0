package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// eventually waits until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("in vain waited until " + what)
		}
	}
}

// theirs returns the incoming streams of a kind.
func (n *Network) theirs(k kind) []*stream {
	n.mu.Lock()
	defer n.mu.Unlock()
	var found []*stream
	for _, s := range n.allStreams() {
		if s.incoming && s.kind == k {
			found = append(found, s)
		}
	}
	return found
}

// gates is a handler that answers a request once its gate is open, which its first bytes name. Safe
// for concurrent use.
type gates struct {
	mu      sync.Mutex
	entered int
	open    map[string]chan struct{}
}

const methodGate Method = 2

func (g *gates) gate(name string) chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open == nil {
		g.open = map[string]chan struct{}{}
	}
	if g.open[name] == nil {
		g.open[name] = make(chan struct{})
	}
	return g.open[name]
}

func (g *gates) handle(ctx context.Context, _ uint64, request []byte) ([]byte, error) {
	gate := g.gate(string(request[:min(len(request), 8)]))
	g.mu.Lock()
	g.entered++
	g.mu.Unlock()
	select {
	case <-gate:
		return request[:min(len(request), 8)], nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (g *gates) waiting(n int) func() bool {
	return func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.entered == n
	}
}

// gated joins a member whose method 2 is g.
func (t *town) gated(tb testing.TB, id uint64, g *gates) *Network {
	return t.join(tb, id, func(c *setup) { c.handlers[methodGate] = g.handle })
}

func asError(t *testing.T, err error) *Error {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("%v is no *Error", err)
	}
	return e
}

func TestManyCallsShareOneConnectionAndAreAnsweredInAnyOrder(t *testing.T) {
	town, g := newTown(), &gates{}
	a, b := town.join(t, 1), town.gated(t, 2, g)
	const calls = 20
	var order []string
	var mu sync.Mutex
	var work sync.WaitGroup
	for i := range calls {
		work.Go(func() {
			name := fmt.Sprint(i)
			answer, err := a.Call(within(t), 2, methodGate, []byte(name))
			if err != nil || string(answer) != name {
				t.Errorf("%s: %q, %v", name, answer, err)
			}
			mu.Lock()
			defer mu.Unlock()
			order = append(order, name)
		})
	}
	eventually(t, "all calls are being handled", g.waiting(calls))
	for i := range calls {
		close(g.gate(fmt.Sprint(calls - 1 - i)))
		eventually(t, "one more is answered", func() bool { mu.Lock(); defer mu.Unlock(); return len(order) == i+1 })
	}
	work.Wait()
	if order[0] != "19" || order[19] != "0" {
		t.Errorf("answered in the order %v", order)
	}
	if n := len(b.theirs(kindRPC)); n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestMessagesOfAnySizeArriveWhole(t *testing.T) {
	town := newTown()
	a, _ := town.join(t, 1), town.join(t, 2)
	var work sync.WaitGroup
	for _, size := range []int{0, 1, readBufferBytes - headerBytes, readBufferBytes, trustedBytes, trustedBytes + 1, 9*trustedBytes + 7} {
		work.Go(func() {
			request := bytes.Repeat([]byte{byte(size), 'x', byte(size >> 8)}, size/3+1)[:size]
			answer, err := a.Call(within(t), 2, methodEcho, request)
			if err != nil || !bytes.Equal(answer, request) {
				t.Errorf("of %d bytes %d came back, %v", size, len(answer), err)
			}
		})
	}
	work.Wait()
}

func TestWhatIsTooLargeIsRefusedByName(t *testing.T) {
	town := newTown()
	a := town.join(t, 1)
	town.join(t, 2, func(c *setup) {
		c.handlers[3] = func(context.Context, uint64, []byte) ([]byte, error) { return make([]byte, MessageBytesMax+1), nil }
	})
	_, err := a.Call(within(t), 2, methodEcho, make([]byte, MessageBytesMax+1))
	if e := asError(t, err); e.Sent || !errors.Is(err, ErrTooLarge) {
		t.Errorf("request: %v, sent %v", err, e.Sent)
	}
	_, err = a.Call(within(t), 2, 3, nil)
	if e := asError(t, err); !e.Sent || !strings.Contains(err.Error(), "16777217 bytes") {
		t.Errorf("answer: %v, sent %v", err, e.Sent)
	}
}

func TestACallThatIsGivenUpLeavesTheConnectionToTheOthers(t *testing.T) {
	town, g := newTown(), &gates{}
	a, b := town.join(t, 1), town.gated(t, 2, g)
	ctx, giveUp := context.WithCancel(within(t))
	result := make(chan error, 1)
	go func() {
		_, err := a.Call(ctx, 2, methodGate, []byte("slow"))
		result <- err
	}()
	eventually(t, "the call is being handled", g.waiting(1))
	before := b.theirs(kindRPC)[0]
	giveUp()
	err := <-result
	if e := asError(t, err); !e.Sent || !errors.Is(err, context.Canceled) {
		t.Errorf("%v, sent %v", err, e.Sent)
	}
	if _, err := a.Call(within(t), 2, methodEcho, nil); err != nil {
		t.Error(err)
	}
	close(g.gate("slow"))
	eventually(t, "the late answer has come", func() bool { return a.Stats()[0].InFlight == 0 })
	if now := b.theirs(kindRPC); len(now) != 1 || now[0] != before {
		t.Error("the connection is another one")
	}
}

func TestACallThatIsGivenUpBeforehandIsSurelyNotSent(t *testing.T) {
	town := newTown()
	a, _ := town.join(t, 1), town.join(t, 2)
	if _, err := a.Call(within(t), 2, methodEcho, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := a.Call(ctx, 2, methodEcho, nil)
	if e := asError(t, err); e.Sent || !errors.Is(err, context.Canceled) {
		t.Errorf("%v, sent %v", err, e.Sent)
	}
}

func TestABrokenConnectionFailsTheCallsInFlightAndIsReplaced(t *testing.T) {
	town, g := newTown(), &gates{}
	a, b := town.join(t, 1), town.gated(t, 2, g)
	results := make(chan error, 3)
	for i := range cap(results) {
		go func() {
			_, err := a.Call(within(t), 2, methodGate, []byte(fmt.Sprint(i)))
			results <- err
		}()
	}
	eventually(t, "the calls are being handled", g.waiting(3))
	b.theirs(kindRPC)[0].Close()
	for range cap(results) {
		err := <-results
		if e := asError(t, err); !e.Sent || !strings.Contains(err.Error(), "the connection broke") {
			t.Errorf("%v, sent %v", err, e.Sent)
		}
	}
	eventually(t, "a call goes through again", func() bool {
		_, err := a.Call(within(t), 2, methodEcho, nil)
		return err == nil
	})
	if s := a.Stats()[0]; s.Failures == 0 || s.LastError != nil || s.Connected.IsZero() {
		t.Errorf("%+v", s)
	}
}

func TestTheErrorOfAHandlerIsTheErrorOfTheCall(t *testing.T) {
	town := newTown()
	a := town.join(t, 1)
	town.join(t, 2, func(c *setup) {
		c.handlers[3] = func(context.Context, uint64, []byte) ([]byte, error) { return nil, errors.New("the vault\nis shut") }
		c.handlers[4] = func(context.Context, uint64, []byte) ([]byte, error) {
			return nil, fmt.Errorf("%w: another member leads", ErrNotHandled)
		}
	})
	for _, c := range []struct {
		method Method
		sent   bool
		text   string
	}{
		{3, true, "call 3 to member 2: the vault is shut"},
		{4, false, "call 4 to member 2: not handled: another member leads"},
		{9, false, "call 9 to member 2: not handled: there is no method 9; run releases of kvd that are next to each other"},
	} {
		_, err := a.Call(within(t), 2, c.method, nil)
		if e := asError(t, err); e.Sent != c.sent || err.Error() != c.text || errors.Is(err, ErrNotHandled) == c.sent {
			t.Errorf("%v, sent %v", err, e.Sent)
		}
	}
}

func TestTooManyBytesInFlightAreRefusedByName(t *testing.T) {
	town, g := newTown(), &gates{}
	a := town.join(t, 1)
	town.gated(t, 2, g)
	large := make([]byte, MessageBytesMax)
	var work sync.WaitGroup
	for range callBytesMax / MessageBytesMax {
		work.Go(func() {
			if _, err := a.Call(within(t), 2, methodGate, large); err != nil { // of the largest size there is
				t.Error(err)
			}
		})
	}
	eventually(t, "the calls are in flight", g.waiting(callBytesMax/MessageBytesMax))
	_, err := a.Call(within(t), 2, methodEcho, []byte("a straw"))
	if e := asError(t, err); e.Sent || !errors.Is(err, ErrBusy) {
		t.Errorf("%v, sent %v", err, e.Sent)
	}
	close(g.gate(string(large[:8])))
	work.Wait()
	if _, err := a.Call(within(t), 2, methodEcho, []byte("a straw")); err != nil {
		t.Error(err)
	}
}

func TestTooManyCallsInFlightAreRefusedByName(t *testing.T) {
	s := newSession(&stream{}, time.Now)
	for range callsMax {
		if _, err := s.send(methodEcho, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.send(methodEcho, nil); !errors.Is(err, ErrBusy) {
		t.Error(err)
	}
}

func TestTooManyRequestsOfAMemberAreAnsweredAsNotHandled(t *testing.T) {
	a := &answering{running: runningMax}
	if a.admit(0) {
		t.Error("one more is handled")
	}
	a = &answering{bytes: runningBytesMax - 1}
	if a.admit(2) || !a.admit(1) {
		t.Error("bytes are not counted")
	}
}

func TestAMemberThatCannotBeReachedIsToldAtOnceAndCalledAgainWhenItIsBack(t *testing.T) {
	town := newTown()
	a, b := town.join(t, 1), town.join(t, 2)
	address, _ := town.address(2)
	b.Close()
	eventually(t, "it is known to be gone", func() bool {
		_, err := a.Call(within(t), 2, methodEcho, nil)
		if err == nil {
			t.Fatal("a member that has closed answers")
		}
		return !asError(t, err).Sent && strings.Contains(err.Error(), address)
	})
	town.join(t, 2)
	eventually(t, "it answers", func() bool {
		_, err := a.Call(within(t), 2, methodEcho, nil)
		return err == nil
	})
}

func TestAMemberThatOpensAStreamIsDialedBackWithoutACall(t *testing.T) {
	for _, open := range []func(*Network) error{
		func(a *Network) error { return a.Connect(2) },
		func(a *Network) error {
			s, err := a.RaftStreams().Dial(2, 10*time.Second)
			if err == nil {
				s.Close()
			}
			return err
		},
	} {
		town := newTown()
		a, b := town.join(t, 1), town.join(t, 2)
		if err := open(a); err != nil {
			t.Fatal(err)
		}
		eventually(t, "both have measured the way to the other", func() bool {
			sa, sb := a.Stats(), b.Stats()
			return len(sa) == 1 && len(sb) == 1 && sa[0].RoundTrip > 0 && sb[0].RoundTrip > 0 && sa[0].RoundTripMax >= sa[0].RoundTrip
		})
		s := a.Stats()[0]
		if s.Member != 2 || s.Sent == 0 || s.Received == 0 || s.Connected.IsZero() || s.LastError != nil {
			t.Errorf("%+v", s)
		}
	}
}

func TestARemovedMemberIsCutOffOnBothSides(t *testing.T) {
	town, g := newTown(), &gates{}
	a, b := town.gated(t, 1, g), town.gated(t, 2, g)
	raft, err := a.RaftStreams().Dial(2, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer raft.Close()
	results := make(chan error, 2)
	for from, to := range map[*Network]uint64{a: 2, b: 1} {
		go func() {
			_, err := from.Call(within(t), to, methodGate, []byte("for ever"))
			results <- err
		}()
	}
	eventually(t, "the calls are being handled", g.waiting(2))
	town.remove(2)
	a.round()
	for range 2 {
		asError(t, <-results)
	}
	if _, err := raft.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("this side's stream: %v", err)
	}
	if all := a.theirs(kindRPC); len(all) != 0 {
		t.Errorf("%d streams are left", len(all))
	}
	eventually(t, "the member reads why", func() bool {
		_, err := b.Call(within(t), 1, methodEcho, nil)
		return strings.Contains(err.Error(), "member 2 is not a member of cluster c1, or not any more")
	})
}

func TestTheNewestConnectionOfAMemberTakesTheCalls(t *testing.T) {
	town := newTown()
	a, b := town.join(t, 1), town.join(t, 2)
	if _, err := a.Call(within(t), 2, methodEcho, nil); err != nil {
		t.Fatal(err)
	}
	old := b.theirs(kindRPC)[0]
	s, err := a.open(within(t), 2, kindRPC)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	eventually(t, "the old one is gone", func() bool {
		for _, s := range b.theirs(kindRPC) {
			if s == old {
				return false
			}
		}
		return true
	})
}

func TestRaftStreamsOfAMemberAreBounded(t *testing.T) {
	town := newTown()
	a, b := town.join(t, 1), town.join(t, 2)
	var first net.Conn
	for i := range raftStreamsMax + 1 {
		s, err := a.RaftStreams().Dial(2, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if i == 0 {
			first = s
		}
		there, err := b.RaftStreams().Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer there.Close()
	}
	first.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := first.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the oldest: %v", err)
	}
	if n := len(b.theirs(kindRaft)); n != raftStreamsMax {
		t.Errorf("%d streams", n)
	}
}

func TestPingsWithoutAnswerBreakTheConnection(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	go io.Copy(io.Discard, there)
	s := newSession(&stream{Conn: here, network: &Network{}, traffic: &traffic{}}, time.Now)
	over := make(chan error)
	go func() { over <- s.run() }()
	eventually(t, "a ping is in flight", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return !s.pinged.IsZero() })
	for range pingRounds {
		s.round()
	}
	if err := <-over; !strings.Contains(err.Error(), "no answer to a ping in 5s") {
		t.Error(err)
	}
}

func TestACallerThatIsSilentIsGone(t *testing.T) {
	town := newTown()
	b := town.join(t, 2)
	conn, err := net.Dial("tcp", b.RaftStreams().Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	town.move(1, "127.0.0.1:1")
	if _, err := (hello{kind: kindRPC, cluster: cluster, from: 1, to: 2}).say(conn, "there"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is listened to", func() bool { all := b.theirs(kindRPC); return len(all) == 1 && all[0].round.Load() != nil })
	for range silentRounds + 1 {
		b.round()
	}
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

func TestAnAnswerThatNobodyAskedForEndsTheSession(t *testing.T) {
	for text, h := range map[string]header{
		"answers request 77, which is not in flight": {id: 77, method: 1, flags: flagAnswer},
		"answers ping 77":                     {id: 77, flags: flagAnswer},
		"sends requests where answers belong": {id: 77, method: 1},
	} {
		here, there := net.Pipe()
		s := newSession(&stream{Conn: here, network: &Network{}, traffic: &traffic{}}, time.Now)
		go func() {
			readMessage(there)
			there.Write(h.append(nil))
		}()
		if err := s.run(); !strings.Contains(err.Error(), text) {
			t.Errorf("%v, want %q", err, text)
		}
		there.Close()
	}
}

func TestCloseWaitsForHandlersAndFailsCalls(t *testing.T) {
	town, g := newTown(), &gates{}
	a, b := town.join(t, 1), town.gated(t, 2, g)
	result := make(chan error)
	go func() {
		_, err := a.Call(within(t), 2, methodGate, []byte("for ever"))
		result <- err
	}()
	eventually(t, "the call is being handled", g.waiting(1))
	b.Close() // the handler's context ends
	asError(t, <-result)
	a.Close()
	a.Close()
	_, err := a.Call(within(t), 2, methodEcho, nil)
	if e := asError(t, err); e.Sent || !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if _, err := a.RaftStreams().Accept(); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if _, err := a.RaftStreams().Dial(2, 10*time.Second); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

func TestClosingAtAnyMomentLeavesNothingBehind(t *testing.T) {
	for range 30 {
		town := newTown()
		a, b := town.join(t, 1, quiet), town.join(t, 2, quiet)
		var work sync.WaitGroup
		for i := range 4 {
			work.Go(func() {
				from, to := a, uint64(2)
				if i%2 == 1 {
					from, to = b, 1
				}
				for {
					if _, err := from.Call(within(t), to, methodEcho, []byte("x")); errors.Is(err, net.ErrClosed) {
						return
					}
					if s, err := from.RaftStreams().Dial(to, 10*time.Second); err == nil {
						s.Close()
					}
				}
			})
		}
		work.Go(func() { a.Close() })
		b.Close()
		work.Wait()
		a.Close()
	}
}

func TestAFullQueueHoldsThoseWhoFillItUntilThereIsRoomOrItIsOver(t *testing.T) {
	w := newWriter(io.Discard)
	w.pending = make([]byte, queueBytesMax)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.put(header{}, []byte("late"))
	}()
	running := make(chan error)
	go func() { running <- w.run() }()
	<-done
	w.close()
	if err := <-running; err != nil {
		t.Error(err)
	}

	w = newWriter(io.Discard)
	w.pending = make([]byte, queueBytesMax)
	done = make(chan struct{})
	go func() {
		defer close(done)
		w.put(header{}, []byte("too late"))
	}()
	w.close()
	<-done
	if len(w.pending) != 0 {
		t.Error("what was put after the end is kept")
	}
}
