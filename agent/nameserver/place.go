package nameserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/kvd-io/kvd/pkg/pace"
)

const (
	// lookEvery is how often it is seen to that the server listens where it should: addresses and interfaces
	// come and go, those of a container engine later than this host starts.
	lookEvery        = 2 * time.Second
	listenTries      = 20 // for a port that both protocols have free
	interfaceNameMax = 15 // bytes, on Linux
)

// place is one entry of Config.Listen.
type place struct {
	text    string
	address netip.Addr // valid for ADDRESS:PORT
	iface   string     // of INTERFACE:PORT
	port    uint16
}

func parsePlace(text string) (place, error) {
	p := place{text: text}
	refuse := func(why string) (place, error) {
		return p, fmt.Errorf("cannot listen at %q: %s; use ADDRESS:PORT, or INTERFACE:PORT such as docker0:53", text, why)
	}
	host, number, err := net.SplitHostPort(text)
	if err != nil {
		return refuse("there is no port")
	}
	port, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		return refuse("the port is no number")
	}
	p.port = uint16(port)
	switch p.address, err = netip.ParseAddr(host); {
	case err == nil:
		return p, nil
	case host == "":
		p.address = netip.IPv6Unspecified()
		return p, nil
	case host == "localhost" || strings.Contains(host, ":") || len(host) > interfaceNameMax:
		return refuse("that is neither an address nor an interface")
	}
	p.iface = host
	return p, nil
}

// addresses returns where p is now.
func (p place) addresses() ([]netip.AddrPort, error) {
	if p.iface == "" {
		return []netip.AddrPort{netip.AddrPortFrom(p.address, p.port)}, nil
	}
	iface, err := net.InterfaceByName(p.iface)
	if err != nil {
		return nil, fmt.Errorf("there is no interface %s yet", p.iface)
	}
	all, err := iface.Addrs()
	if err != nil {
		return nil, err
	}
	var list []netip.AddrPort
	for _, address := range all {
		if network, err := netip.ParsePrefix(address.String()); err == nil && !network.Addr().IsLinkLocalUnicast() {
			list = append(list, netip.AddrPortFrom(network.Addr(), p.port))
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("interface %s has no address yet", p.iface)
	}
	return list, nil
}

// port is one address that is listened on.
type port struct {
	udp *net.UDPConn
	tcp *net.TCPListener
}

func (p port) close() {
	p.udp.Close()
	p.tcp.Close()
}

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
		p.close()
		return port{}, err4
	}
	return p, nil
}

// Taken returns an error if another process has one of the addresses now, before Run. What cannot be had for another
// reason, as an address or interface that is yet to come, is no error.
func (s *Server) Taken() error {
	for _, p := range s.places {
		wanted, _ := p.addresses() // an interface that is not there yet
		for _, address := range wanted {
			port, err := listen(address)
			if err == nil {
				port.close()
			} else if !errors.Is(err, syscall.EADDRNOTAVAIL) {
				return fmt.Errorf("%s: %w", p.text, err)
			}
		}
	}
	return nil
}

// attend answers where p is, and follows it, until ctx ends.
func (s *Server) attend(ctx context.Context, p place) {
	open := map[netip.AddrPort]port{}
	var serving sync.WaitGroup
	defer func() {
		for _, port := range open {
			port.close()
		}
		s.conns.closeAll()
		serving.Wait()
	}()
	look := func() {
		wanted, err := p.addresses()
		if p.iface != "" {
			s.note(p.text, "", err)
		}
		maps.DeleteFunc(open, func(address netip.AddrPort, port port) bool {
			if slices.Contains(wanted, address) {
				return false
			}
			port.close()
			s.note(address.String(), "", nil)
			s.cfg.Log.Info("no longer answering names", "address", address.String())
			return true
		})
		for _, address := range wanted {
			if _, is := open[address]; is {
				continue
			}
			port, err := listen(address)
			if err != nil {
				s.note(address.String(), "", err)
				continue
			}
			open[address] = port
			s.note(address.String(), port.tcp.Addr().String(), nil)
			s.cfg.Log.Info("answering names", "domain", s.domain, "address", port.tcp.Addr().String())
			for range udpWorkers {
				serving.Go(func() { s.serveUDP(ctx, port.udp) })
			}
			serving.Go(func() { s.serveTCP(ctx, port.tcp) })
		}
	}
	look()
	for range pace.Every(ctx.Done(), lookEvery) {
		look()
	}
}

// listening is what is known of an address, or of a place whose addresses are not known.
type listening struct {
	at  string // "" while it cannot be had
	err error
}

// note keeps what is known of an address or a place, and logs what is wrong when it is new. Neither at nor err:
// there is nothing to know any more.
func (s *Server) note(name, at string, err error) {
	s.mu.Lock()
	before := s.listening[name]
	if at == "" && err == nil {
		delete(s.listening, name)
	} else {
		s.listening[name] = listening{at, err}
	}
	s.mu.Unlock()
	if err != nil && (before.err == nil || before.err.Error() != err.Error()) {
		s.cfg.Log.Warn("not answering names, trying again", "address", name, "err", err)
	}
}

// whereabouts returns the addresses listened at, and why others are not.
func (s *Server) whereabouts() (at, waiting []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(s.listening)) {
		if l := s.listening[name]; l.err != nil {
			waiting = append(waiting, name+": "+l.err.Error())
		} else {
			at = append(at, l.at)
		}
	}
	return at, waiting
}
