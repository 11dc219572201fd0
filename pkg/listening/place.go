package listening

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const (
	socketMode       = 0o660
	socketFolderMode = 0o755
	socketPathMax    = 107 // bytes, on Linux
	interfaceNameMax = 15  // bytes, on Linux
)

// Place is where a server is to listen: an address, an interface with whatever addresses it has, or a unix
// socket. It is made by Parse or ParseSocket.
type Place struct {
	text    string
	address netip.Addr // valid for ADDRESS:PORT
	iface   string     // of INTERFACE:PORT
	port    uint16
	socket  string // of unix:PATH
	mode    fs.FileMode
}

// Parse reads "ADDRESS:PORT", where no address is every one of this machine, or "INTERFACE:PORT" for the addresses
// of an interface, which need not exist yet. An error says why text is neither.
func Parse(text string) (Place, error) {
	p := Place{text: text}
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return Place{}, errors.New("there is no port")
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return Place{}, errors.New("the port is no number")
	}
	p.port = uint16(number)
	switch p.address, err = netip.ParseAddr(host); {
	case err == nil:
		return p, nil
	case host == "":
		p.address = netip.IPv6Unspecified()
		return p, nil
	case host == "localhost" || strings.Contains(host, ":") || len(host) > interfaceNameMax:
		return Place{}, errors.New("that is neither an address nor an interface")
	}
	p.iface = host
	return p, nil
}

// ParseSocket reads "unix:PATH" or "unix:PATH?mode=0666"; the mode is 0660 otherwise. ok is whether text is meant
// as one, an error why it is none then.
func ParseSocket(text string) (p Place, ok bool, err error) {
	rest, ok := strings.CutPrefix(text, "unix:")
	if !ok {
		return Place{}, false, nil
	}
	path, query, _ := strings.Cut(strings.TrimPrefix(rest, "//"), "?")
	values, err := url.ParseQuery(query)
	if err != nil || !filepath.IsAbs(path) || len(path) > socketPathMax {
		return Place{}, true, fmt.Errorf("a socket has an absolute path of at most %d bytes", socketPathMax)
	}
	p = Place{text: text, socket: filepath.Clean(path), mode: socketMode}
	if values.Has("mode") {
		mode, err := strconv.ParseUint(values.Get("mode"), 8, 32)
		if err != nil || mode > 0o777 {
			return Place{}, true, errors.New("the mode of a socket is such as 0660")
		}
		p.mode = fs.FileMode(mode)
	}
	return p, true, nil
}

// Everywhere reports whether p is at every address of this machine.
func (p Place) Everywhere() bool { return p.address.IsValid() && p.address.IsUnspecified() }

// Spot is one of the addresses at which a place is now. A socket is one spot.
type Spot struct {
	name    string
	place   Place
	address netip.AddrPort // not valid for a socket
	on      []netip.Prefix // networks of the address on the interface of its place
}

// Address is the address, with port 0 if any port will do; it is not valid for a socket.
func (s Spot) Address() netip.AddrPort { return s.address }

// Networks returns the networks that the address is in now, none for a socket. For a place that names no interface
// it looks through all of this machine.
func (s Spot) Networks() []netip.Prefix {
	if s.place.iface == "" && s.address.IsValid() {
		return networksOf(s.address.Addr())
	}
	return s.on
}

// spots returns where p is now, by name.
func (p Place) spots() (map[string]Spot, error) {
	if p.socket != "" {
		return map[string]Spot{p.socket: {name: p.socket, place: p}}, nil
	}
	list := map[string]Spot{}
	add := func(address netip.Addr, on []netip.Prefix) {
		s := Spot{place: p, address: netip.AddrPortFrom(address, p.port)}
		s.name = s.address.String()
		s.on = append(list[s.name].on, on...)
		list[s.name] = s
	}
	if p.iface == "" {
		add(p.address, nil)
		return list, nil
	}
	iface, err := net.InterfaceByName(p.iface)
	if err != nil {
		return nil, fmt.Errorf("there is no interface %s yet", p.iface)
	}
	all, err := prefixesOf(iface)
	if err != nil {
		return nil, err
	}
	for _, prefix := range all {
		if address := prefix.Addr(); !address.IsLinkLocalUnicast() {
			add(address, []netip.Prefix{prefix.Masked()})
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

// lost reports whether somebody has removed the socket of p.
func (p Place) lost() bool {
	if p.socket == "" {
		return false
	}
	_, err := os.Lstat(p.socket)
	return errors.Is(err, fs.ErrNotExist)
}

// Listen opens a listener, of TCP or of a socket, whose folder is made and whose file takes the place of what a
// dead process has left.
func (s Spot) Listen(ctx context.Context) (net.Listener, error) {
	var config net.ListenConfig
	p := s.place
	if p.socket == "" {
		return config.Listen(ctx, "tcp", s.name)
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
