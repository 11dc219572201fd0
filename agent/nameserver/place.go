package nameserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/kvd-io/kvd/pkg/listening"
)

const (
	// lookEvery is how often it is looked at which addresses there are.
	lookEvery   = 2 * time.Second
	listenTries = 20 // for a port that both protocols have free
)

func parsePlaces(listen []string) (list []listening.Place, err error) {
	for _, text := range listen {
		p, err := listening.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("cannot listen at %q: %w; use ADDRESS:PORT, or INTERFACE:PORT such as docker0:53", text, err)
		}
		list = append(list, p)
	}
	return list, nil
}

// follow returns what answers at places.
func (s *Server) follow(places []listening.Place) *listening.Follower[port] {
	return listening.New(listening.Config[port]{
		Places: places,
		Open:   func(_ context.Context, spot listening.Spot) (port, error) { return listen(spot.Address()) },
		Serve:  s.serve,
		Doing:  "answering names", Interval: lookEvery, Log: s.cfg.Log.With("domain", s.domain),
	})
}

// serve answers at both sockets of an address until they are closed.
func (s *Server) serve(ctx context.Context, p port) {
	var serving sync.WaitGroup
	for range udpWorkers {
		serving.Go(func() { s.serveUDP(ctx, p.udp) })
	}
	serving.Go(func() { s.serveTCP(ctx, p.tcp) })
	serving.Wait()
}

// port is one address that is listened on.
type port struct {
	udp *net.UDPConn
	tcp *net.TCPListener
}

// Addr implements listening.Listener: the address of both.
func (p port) Addr() net.Addr { return p.tcp.Addr() }

// Close implements listening.Listener.
func (p port) Close() error { return errors.Join(p.udp.Close(), p.tcp.Close()) }

// listen takes an address for both protocols; port 0 is one that both have free.
func listen(address netip.AddrPort) (p port, err error) {
	tries := 1
	if address.Port() == 0 {
		tries = listenTries
	}
	for range tries {
		if p, err = listenOnce(address); err == nil {
			return p, nil
		}
	}
	return port{}, err
}

func listenOnce(address netip.AddrPort) (port, error) {
	tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(address))
	if err != nil {
		return port{}, err
	}
	number := tcp.Addr().(*net.TCPAddr).AddrPort().Port()
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(address.Addr(), number)))
	if err != nil {
		tcp.Close()
		return port{}, err
	}
	p := port{udp, tcp}
	// An answer must come from the address that was asked, which one that listens everywhere has to be told.
	err6 := ipv6.NewPacketConn(udp).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
	err4 := ipv4.NewPacketConn(udp).SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true)
	if err6 != nil && err4 != nil {
		p.Close()
		return port{}, err4
	}
	return p, nil
}

// Taken returns an error if another process has one of the addresses now, before Run. What cannot be had for another
// reason, as an address or interface that is yet to come, is no error.
func (s *Server) Taken() error { return s.places.Taken() }
