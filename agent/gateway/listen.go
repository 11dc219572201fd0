package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/kvd-io/kvd/pkg/pace"
)

// place is one entry of Config.Listen.
type place struct {
	text    string
	address netip.Addr // valid for ADDRESS:PORT
	iface   string     // of INTERFACE:PORT
	port    uint16
	socket  string // of unix:PATH
	mode    fs.FileMode
}

const (
	socketMode        = 0o660
	interfaceNameMax  = 15 // bytes, on Linux
	socketPathMax     = 107
	socketFolderMode  = 0o755
	usualPlaceExample = "use ADDRESS:PORT, INTERFACE:PORT such as docker0:2379, or unix:PATH"
)

func parsePlace(text string) (place, error) {
	p := place{text: text, mode: socketMode}
	refuse := func(why string) (place, error) {
		return p, fmt.Errorf("--gateway-listen %q: %s; %s", text, why, usualPlaceExample)
	}
	if rest, ok := strings.CutPrefix(text, "unix:"); ok {
		path, query, _ := strings.Cut(strings.TrimPrefix(rest, "//"), "?")
		values, err := url.ParseQuery(query)
		if err != nil || !filepath.IsAbs(path) || len(path) > socketPathMax {
			return refuse(fmt.Sprintf("a socket has an absolute path of at most %d bytes", socketPathMax))
		}
		p.socket = filepath.Clean(path)
		if values.Has("mode") {
			mode, err := strconv.ParseUint(values.Get("mode"), 8, 32)
			if err != nil || mode > 0o777 {
				return refuse("the mode of a socket is such as 0660")
			}
			p.mode = fs.FileMode(mode)
		}
		return p, nil
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return refuse("there is no port")
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return refuse("the port is no number")
	}
	p.port = uint16(number)
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

// everywhere reports whether p is at every address of this machine.
func (p place) everywhere() bool { return p.address.IsValid() && p.address.IsUnspecified() }

// listening is what is known of one address of a place.
type listening struct {
	listener net.Listener // nil while it cannot be had
	err      error
}

// addresses returns where p is now: addresses with the networks that they are in, by the name that a listener
// gets. A socket is one address.
func (p place) addresses() (map[string][]netip.Prefix, error) {
	if p.socket != "" {
		return map[string][]netip.Prefix{p.socket: nil}, nil
	}
	port := func(address netip.Addr) string { return netip.AddrPortFrom(address, p.port).String() }
	if p.iface == "" {
		return map[string][]netip.Prefix{port(p.address): networksOf(p.address)}, nil
	}
	iface, err := net.InterfaceByName(p.iface)
	if err != nil {
		return nil, fmt.Errorf("there is no interface %s yet", p.iface)
	}
	all, err := prefixesOf(iface)
	if err != nil {
		return nil, err
	}
	list := map[string][]netip.Prefix{}
	for _, prefix := range all {
		if address := prefix.Addr(); !address.IsLinkLocalUnicast() {
			list[port(address)] = append(list[port(address)], prefix.Masked())
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("interface %s has no address yet", p.iface)
	}
	return list, nil
}

// networksOf returns the networks that an address of this machine is in.
func networksOf(address netip.Addr) (list []netip.Prefix) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil
	}
	for _, iface := range interfaces {
		prefixes, _ := prefixesOf(&iface) // one that has just gone has none
		for _, prefix := range prefixes {
			if prefix.Addr() == address.Unmap().WithZone("") {
				list = append(list, prefix.Masked())
			}
		}
	}
	if len(list) == 0 && address.IsLoopback() && address.Is4() {
		list = append(list, netip.MustParsePrefix("127.0.0.0/8"))
	}
	return list
}

func prefixesOf(iface *net.Interface) (list []netip.Prefix, err error) {
	addresses, err := iface.Addrs()
	if err != nil {
		return nil, err
	}
	for _, address := range addresses {
		if prefix, err := netip.ParsePrefix(address.String()); err == nil {
			list = append(list, prefix)
		}
	}
	return list, nil
}

// attend listens where p is, and follows it, until ctx ends.
func (s *Server) attend(ctx context.Context, server *http.Server, p place) {
	open := map[string]*doorway{}
	var serving sync.WaitGroup
	defer func() {
		for _, l := range open {
			l.Close()
		}
		serving.Wait()
	}()
	look := func() {
		wanted, err := p.addresses()
		if p.iface != "" {
			s.note(p.text, nil, err)
		}
		maps.DeleteFunc(open, func(name string, l *doorway) bool {
			if _, still := wanted[name]; still && !p.lost() {
				return false
			}
			l.Close()
			s.note(name, nil, nil)
			s.log.Info("no longer listening", "address", name)
			return true
		})
		for name, networks := range wanted {
			if open[name] != nil {
				open[name].networks.Store(&networks)
				continue
			}
			listener, err := p.listen(ctx, name)
			s.note(name, listener, err)
			if err != nil {
				continue
			}
			s.log.Info("listening", "address", listener.Addr().String(), "for", p.text)
			d := &doorway{Listener: listener, clients: s.clients}
			d.networks.Store(&networks)
			open[name] = d
			serving.Go(func() { _ = server.Serve(d) }) // ends when d is closed
		}
	}
	look()
	for range pace.Every(ctx.Done(), listenInterval) {
		look()
	}
}

// Taken returns an error if another process has one of the addresses or sockets now, before Run. What cannot be
// had for another reason, as an address that is yet to come, is no error.
func (s *Server) Taken() error {
	for _, p := range s.places {
		wanted, _ := p.addresses() // an interface that is not there yet is no error either
		for name := range wanted {
			l, err := p.listen(context.Background(), name)
			if err == nil {
				err = l.Close()
			}
			if err != nil && !errors.Is(err, syscall.EADDRNOTAVAIL) {
				s.store.Close()
				return fmt.Errorf("--gateway-listen %s: %w", p.text, err)
			}
		}
	}
	return nil
}

// lost reports whether somebody has removed the socket of p.
func (p place) lost() bool {
	if p.socket == "" {
		return false
	}
	_, err := os.Lstat(p.socket)
	return errors.Is(err, fs.ErrNotExist)
}

// listen opens a listener at one of the addresses of p.
func (p place) listen(ctx context.Context, name string) (net.Listener, error) {
	var config net.ListenConfig
	if p.socket == "" {
		return config.Listen(ctx, "tcp", name)
	}
	if err := os.MkdirAll(filepath.Dir(p.socket), socketFolderMode); err != nil {
		return nil, fmt.Errorf("cannot make the folder of the socket: %w", err)
	}
	if err := removeStale(p.socket); err != nil {
		return nil, err
	}
	listener, err := config.Listen(ctx, "unix", p.socket)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(p.socket, p.mode); err != nil {
		listener.Close()
		return nil, err
	}
	return listener, nil
}

// removeStale removes a socket that nobody serves any more.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is there and is no socket", path)
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return fmt.Errorf("another process serves %s", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

// note keeps what is known of an address or a place, and tells the log of what is wrong when it is new. Neither
// a listener nor an error: there is nothing to know any more.
func (s *Server) note(name string, listener net.Listener, err error) {
	s.mu.Lock()
	before := s.listening[name]
	if listener == nil && err == nil {
		delete(s.listening, name)
	} else {
		s.listening[name] = listening{listener, err}
	}
	s.mu.Unlock()
	if err != nil && (before.err == nil || before.err.Error() != err.Error()) && !s.over() {
		s.log.Warn("not listening, trying again", "address", name, "err", err)
	}
}

// over reports whether the gateway is to stop.
func (s *Server) over() bool { return s.stopping.Err() != nil }

// whereabouts returns the addresses listened at, and why others are not.
func (s *Server) whereabouts() (at, waiting []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(s.listening)) {
		if l := s.listening[name]; l.err != nil {
			waiting = append(waiting, name+": "+l.err.Error())
		} else {
			at = append(at, l.listener.Addr().String())
		}
	}
	return at, waiting
}
