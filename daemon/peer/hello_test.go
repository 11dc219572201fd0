package peer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// journal is a log that can be read. It is safe for concurrent use.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) count(text string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Count(j.text.String(), text)
}

func (j *journal) keep(c *setup) { c.Log = slog.New(slog.NewTextHandler(j, nil)) }

func is(cluster, member uint64) func(*setup) {
	return func(c *setup) { c.Self = func() (uint64, uint64) { return cluster, member } }
}

func TestAMemberThatIsSetUpWronglyIsToldWhatIsWrongAndWhatToDo(t *testing.T) {
	for _, c := range []struct {
		name          string
		caller, other func(*setup)
		status        int
		say           []string
	}{
		{"another cluster", is(0xabc, 1), nil, StatusOtherCluster, []string{"abc", "c1", "--initial-cluster-token"}},
		{"another member", nil, is(cluster, 3), StatusOtherMember, []string{"member 3 lives at this address", "wants member 2", "kvctl member update"}},
		{"a stranger", is(cluster, 0x99), nil, StatusUnknownMember, []string{"member 99 is not a member of cluster c1", "empty --data-dir"}},
		{"itself", nil, is(cluster, 1), http.StatusConflict, []string{"both sides are member 1", "copied"}},
		{"not ready", nil, is(0, 2), StatusNotReady, []string{"not a member of a cluster yet"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			town, here, there := newTown(), &journal{}, &journal{}
			a := town.join(t, 1, here.keep, orNothing(c.caller))
			town.join(t, 2, there.keep, orNothing(c.other))
			for range 3 {
				_, err := a.RaftStreams().Dial(2, 10*time.Second)
				refusal, ok := errors.AsType[*Refusal](err)
				if !ok || refusal.Status != c.status {
					t.Fatalf("raft: %v", err)
				}
				for _, want := range append(c.say, "connect to member 2: "+refusal.Address) {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%v does not say %q", err, want)
					}
				}
			}
			_, err := a.Call(within(t), 2, methodEcho, nil)
			if e := asError(t, err); e.Sent || !strings.Contains(err.Error(), c.say[0]) {
				t.Errorf("call: %v", err)
			}
			for who, j := range map[string]*journal{"the caller": here, "the other": there} {
				if n := j.count(c.say[0]); n == 0 {
					t.Errorf("%s does not know", who)
				}
			}
			if n := there.count("refused a connection"); n != 1 {
				t.Errorf("the other tells it %d times", n)
			}
		})
	}
}

func orNothing(f func(*setup)) func(*setup) {
	if f == nil {
		return func(*setup) {}
	}
	return f
}

func TestRequestsForStreamsThatMakeNoSenseAreRefused(t *testing.T) {
	town := newTown()
	a := town.join(t, 1)
	address := a.RaftStreams().Addr().String()
	good := hello{kind: kindRPC, cluster: cluster, from: 2, to: 1}.request(address)
	for _, c := range []struct {
		change, to string
		want       string
	}{
		{"kvd-peer/1", "kvd-peer/2", "HTTP/1.1 426 "},
		{"Connection: Upgrade", "Connection: close", "HTTP/1.1 426 "},
		{"GET", "POST", "HTTP/1.1 426 "},
		{"stream/rpc", "stream/gossip", "HTTP/1.1 404 "},
		{"Kvd-To: 1", "Kvd-To: 0", "HTTP/1.1 400 "},
		{"Kvd-From: 2", "Kvd-From: two", "HTTP/1.1 400 "},
		{"Kvd-Cluster-Id: c1", "Kvd-Cluster-Id: " + strings.Repeat("1", 17), "HTTP/1.1 400 "},
		{"Kvd-From: 2", "Kvd-From: " + strings.Repeat("2", 2*headerBytesMax), "HTTP/1.1 431 "},
	} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(conn, strings.Replace(good, c.change, c.to, 1))
		got, _ := bufio.NewReader(conn).ReadString('\n')
		if !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %q", c.to[:min(len(c.to), 40)], got)
		}
		conn.Close()
	}
}

func TestBytesThatComeWithTheHandshakeBelongToTheStream(t *testing.T) {
	town := newTown()
	b := town.join(t, 2)
	town.move(1, "127.0.0.1:1")
	conn, err := net.Dial("tcp", b.RaftStreams().Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, hello{kind: kindRaft, cluster: cluster, from: 1, to: 2}.request("there")+"early")
	there, err := b.RaftStreams().Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	got := make([]byte, 5)
	if _, err := io.ReadFull(there, got); string(got) != "early" {
		t.Errorf("%q, %v", got, err)
	}

	early, err := readWelcome(bufio.NewReader(strings.NewReader(welcome+"soon")), "there")
	if string(early) != "soon" || err != nil {
		t.Errorf("%q, %v", early, err)
	}
}

func TestWhatIsNotKvdIsSaidToBeNotKvd(t *testing.T) {
	for answer, want := range map[string]string{
		"":                                   "the other side has closed the connection",
		"SSH-2.0-OpenSSH_9.2\r\n":            "what answers there is not kvd",
		"HTTP/1.1 101 Yes\r\n\r\n":           "what answers there is not kvd",
		"HTTP/1.1 404 Not Found\r\n\r\n":     "there refuses: 404 Not Found",
		"\x15\x03\x01\x00\x02\x02\x46":       "it speaks https there",
		"HTTP/1.1 500 A\r\n\r\nx\x1b[31my\n": "there refuses: x [31my",
	} {
		_, err := readWelcome(bufio.NewReader(strings.NewReader(answer)), "there")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", answer, err)
		}
	}
}

func TestAHostThatAcceptsAndSaysNothingIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // the system accepts
	town := newTown()
	a := town.join(t, 1, func(c *setup) { c.patience.hello = 50 * time.Millisecond })
	town.move(2, l.Addr().String())
	_, err = a.RaftStreams().Dial(2, 10*time.Second)
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()+": it accepts connections, but does not answer") {
		t.Error(err)
	}
}

func TestDialsEndSoonWhenTheHostDoesNotAnswer(t *testing.T) {
	town := newTown()
	var limits []time.Duration
	a := town.join(t, 1, func(c *setup) {
		c.patience = patience{connectTimeout, helloTimeout}
		c.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			deadline, _ := ctx.Deadline()
			limits = append(limits, time.Until(deadline))
			return nil, errors.New("no route")
		}
	})
	town.move(2, "192.0.2.1:1")
	for _, timeout := range []time.Duration{10 * time.Second, 100 * time.Millisecond} {
		if _, err := a.RaftStreams().Dial(2, timeout); err == nil {
			t.Error("connected to nobody")
		}
	}
	if limits[0] > connectTimeout || limits[1] > 100*time.Millisecond {
		t.Error(limits)
	}
}

func TestGetReturnsRefusalsAsErrorsAndBoundsAnswers(t *testing.T) {
	town := newTown()
	a := town.join(t, 1, func(c *setup) {
		c.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/large":
				w.Write(make([]byte, bodyBytesMax+1))
			case "/join":
				body, err := io.ReadAll(r.Body)
				fmt.Fprintf(w, "%s %d %v", r.Method, len(body), err)
			default:
				http.Error(w, "not yet", http.StatusServiceUnavailable)
			}
		})
	})
	url := "http://" + a.RaftStreams().Addr().String()
	if _, err := Get(within(t), url+"/large", nil); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if got, err := Post(within(t), url+"/join", []byte("{}"), nil); string(got) != "POST 2 <nil>" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := Post(within(t), url+"/join", make([]byte, bodyBytesMax+1), nil); err == nil && !strings.Contains(string(got), "request body too large") {
		t.Errorf("%q", got)
	}
	_, err := Get(within(t), url+"/", nil)
	if r, ok := errors.AsType[*Refusal](err); !ok || r.Status != 503 || !strings.HasSuffix(err.Error(), " refuses: not yet") {
		t.Error(err)
	}
	for _, bad := range []string{"ftp://a:1/", "http://nobody/", "https://127.0.0.1:1/", "://", "http://127.0.0.1:1/"} {
		if _, err := Get(within(t), bad, nil); err == nil {
			t.Errorf("%s is fine", bad)
		}
	}
}

func TestStrangersThatAreLetInAreFewAndLeaveNothingBehind(t *testing.T) {
	town := newTown()
	b := town.join(t, 1, func(c *setup) { c.Known = func(uint64) bool { return true } })
	strangers := make([]net.Conn, strangersMax+1)
	for i := range strangers {
		conn, err := net.Dial("tcp", b.RaftStreams().Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := (hello{kind: kindRPC, cluster: cluster, from: uint64(100 + i), to: 1}).say(conn, "there"); err != nil {
			t.Fatal(err)
		}
		strangers[i] = conn
		eventually(t, "it is in", func() bool { return len(b.theirs(kindRPC)) == min(i+1, strangersMax) })
	}
	if _, err := strangers[0].Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the oldest: %v", err)
	}
	if all := b.Stats(); len(all) != 0 {
		t.Errorf("%+v", all)
	}
	for _, conn := range strangers {
		conn.Close()
	}
	eventually(t, "they are gone", func() bool { return len(b.theirs(kindRPC)) == 0 })
	b.round()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.members) != 0 {
		t.Errorf("%d are remembered", len(b.members))
	}
}

func TestAMemberThatRunsOnTwoHostsIsTold(t *testing.T) {
	town, log := newTown(), &journal{}
	b := town.join(t, 2, log.keep)
	town.move(1, "127.0.0.1:1")
	for _, from := range []string{"127.0.0.1", "127.0.0.1", "127.0.0.2"} {
		if log.count("runs on both hosts") != 0 {
			t.Error("told before there are two")
		}
		conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp", b.RaftStreams().Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		before := b.theirs(kindRPC)
		if _, err := (hello{kind: kindRPC, cluster: cluster, from: 1, to: 2}).say(conn, "there"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is the one", func() bool { now := b.theirs(kindRPC); return len(now) == 1 && !slices.Equal(now, before) })
	}
	eventually(t, "it is told", func() bool { return log.count("from=127.0.0.2 earlier=127.0.0.1") == 1 })
}
