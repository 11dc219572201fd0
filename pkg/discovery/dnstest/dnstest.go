// Package dnstest is a server of the DNS for tests, on loopback, over UDP and TCP. It answers what a test
// has told it, or as a server answers that is ill; it asks nobody else.
package dnstest

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// Mood is how a server answers.
type Mood int

const (
	Well   Mood = iota
	Silent      // not at all
	Ill         // that it cannot tell now
)

// Server is a running server. It is safe for concurrent use.
type Server struct {
	address string // of both protocols

	mu      sync.Mutex // guards the fields below
	records []dns.RR
	mood    Mood
	asked   []string // questions, "NAME TYPE"
}

// Start starts a server on 127.0.0.1, which ends with the test. records are lines of a zone:
// "_etcd-server._tcp.example.org. 60 IN SRV 0 0 2380 n1.example.org.".
func Start(t testing.TB, records ...string) *Server {
	t.Helper()
	return StartAt(t, "127.0.0.1:0", records...)
}

// StartAt is Start at an address of the test's choice.
func StartAt(t testing.TB, address string, records ...string) *Server {
	t.Helper()
	s := &Server{}
	s.Set(t, records...)
	tcp, udp, err := listen(address)
	if err != nil {
		t.Fatalf("dnstest: %v", err)
	}
	s.address = tcp.Addr().String()
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait) // after the shutdowns
	for _, server := range []*dns.Server{{Listener: tcp, Handler: s}, {PacketConn: udp, Handler: s}} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		serving.Go(func() {
			if err := server.ActivateAndServe(); err != nil {
				t.Errorf("dnstest: %v", err)
			}
		})
		<-started
		t.Cleanup(func() {
			if err := server.Shutdown(); err != nil {
				t.Errorf("dnstest: %v", err)
			}
		})
	}
	return s
}

// listen takes a port that both protocols have free.
func listen(address string) (tcp net.Listener, udp net.PacketConn, err error) {
	for range 20 {
		if tcp, err = net.Listen("tcp", address); err != nil {
			return nil, nil, err
		}
		if udp, err = net.ListenPacket("udp", tcp.Addr().String()); err == nil {
			return tcp, udp, nil
		}
		tcp.Close()
	}
	return nil, nil, err
}

// Set replaces all records.
func (s *Server) Set(t testing.TB, records ...string) {
	t.Helper()
	var parsed []dns.RR
	for _, line := range records {
		r, err := dns.NewRR(line)
		if err != nil || r == nil {
			t.Fatalf("dnstest: %q: %v", line, err)
		}
		parsed = append(parsed, r)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records = parsed
}

// Be sets how the server answers from now on.
func (s *Server) Be(m Mood) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mood = m
}

// Asked returns the questions so far, as "_etcd-server._tcp.example.org. SRV".
func (s *Server) Asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// Address returns HOST:PORT.
func (s *Server) Address() string { return s.address }

// Resolver returns a resolver that asks this server and nobody else.
func (s *Server) Resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, s.address)
	}}
}

// ServeDNS implements dns.Handler.
func (s *Server) ServeDNS(w dns.ResponseWriter, request *dns.Msg) {
	reply, ok := s.answer(request)
	if !ok {
		return
	}
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		size := dns.MinMsgSize
		if o := request.IsEdns0(); o != nil {
			size = int(o.UDPSize())
		}
		reply.Truncate(size)
	}
	_ = w.WriteMsg(reply) // the one who asked may have gone
}

// answer returns the reply, and false if there is to be none.
func (s *Server) answer(request *dns.Msg) (*dns.Msg, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	reply := new(dns.Msg).SetReply(request)
	if len(request.Question) != 1 {
		return reply.SetRcode(request, dns.RcodeFormatError), true
	}
	q := request.Question[0]
	s.asked = append(s.asked, fmt.Sprintf("%s %s", strings.ToLower(q.Name), dns.TypeToString[q.Qtype]))
	switch s.mood {
	case Silent:
		return nil, false
	case Ill:
		return reply.SetRcode(request, dns.RcodeServerFailure), true
	}
	known := false
	for _, r := range s.records {
		if !strings.EqualFold(r.Header().Name, q.Name) {
			continue
		}
		known = true
		if r.Header().Rrtype == q.Qtype {
			reply.Answer = append(reply.Answer, r)
		}
	}
	if !known {
		reply.SetRcode(request, dns.RcodeNameError)
	}
	return reply, true
}
