package daemon

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/kvd-io/kvd/pkg/tlsconfig"
)

// portsTried is how many ports behind an occupied one are tried for one to offer.
const portsTried = 100

type listenFunc func(network, address string) (net.Listener, error)

// port is a listener on which TLS is spoken.
type port struct {
	net.Listener
	plain bool              // and plain HTTP as well: what comes decides
	tls   *tlsconfig.Server // nil until useTLS
}

// useTLS has all ports among listeners speak TLS with secure.
func useTLS(listeners []net.Listener, secure *tlsconfig.Server) {
	for _, l := range listeners {
		if p, ok := l.(*port); ok {
			p.tls = secure
		}
	}
}

// listenAll opens a listener for each URL, or none; those for https are *port. Of two URLs with one
// address, http and https, there is one listener for both. taken holds the ports that are spoken for.
func listenAll(listen listenFunc, flag string, urls []string, taken map[int]bool) ([]net.Listener, error) {
	var listeners []net.Listener
	var problems []error
	for _, text := range oncePerAddress(urls) {
		l, err := listen("tcp", address(text))
		if err != nil {
			problems = append(problems, listenError(listen, flag, text, err, taken))
			continue
		}
		if isHTTPS(text) || spokenTwice(urls, text) {
			l = &port{Listener: l, plain: spokenTwice(urls, text)}
		}
		listeners = append(listeners, l)
	}
	if len(problems) > 0 {
		closeAll(listeners)
		return nil, errors.Join(problems...)
	}
	return listeners, nil
}

// spokenTwice reports whether one of urls has the address of text and the other scheme. Port 0 is
// never the same.
func spokenTwice(urls []string, text string) bool {
	return slices.ContainsFunc(urls, func(other string) bool {
		return address(other) == address(text) && isHTTPS(other) != isHTTPS(text) && !strings.HasSuffix(address(text), ":0")
	})
}

// oncePerAddress returns urls without those for which one before has a listener.
func oncePerAddress(urls []string) []string {
	var kept []string
	for _, text := range urls {
		if !spokenTwice(kept, text) {
			kept = append(kept, text)
		}
	}
	return kept
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close()
	}
}

// listenError says why an address cannot be listened on and what would work instead.
func listenError(listen listenFunc, flag, text string, err error, taken map[int]bool) error {
	host, port, _ := net.SplitHostPort(address(text))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		number, _ := strconv.Atoi(port)
		why, remedy := occupied(lookAtPort("/proc", number))
		offer := "choose another port"
		if free, ok := freePort(listen, host, number, taken); ok {
			offer = fmt.Sprintf("use a free port: --%s %s%s", flag, text[:strings.Index(text, "//")+2], net.JoinHostPort(host, strconv.Itoa(free)))
		}
		return fmt.Errorf("cannot listen on %s: %s; %s, or %s", text, why, remedy, offer)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("cannot listen on %s: this machine does not have the address %s; use one that it has, or 0.0.0.0 for all (--%s)", text, host, flag)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("cannot listen on %s: ports below 1024 are reserved on this machine; use a higher one (--%s)", text, flag)
	}
	return fmt.Errorf("cannot listen on %s (--%s): %w", text, flag, err)
}

// occupied says why a port that is in use cannot be had, and what to do about that.
func occupied(use portUse, holder string) (why, remedy string) {
	switch use {
	case listening:
		return "it is in use by " + holder, "stop it"
	case calling:
		return "a connection of " + holder + " begins at that port", "end it"
	case lingering:
		return "a connection that began at that port has ended, and the system keeps the port for up to a minute", "try again then"
	}
	return "it is in use by a socket that the system does not list", "try again"
}

// freePort finds a port behind the occupied one that can be listened on, and marks it as taken.
func freePort(listen listenFunc, host string, occupied int, taken map[int]bool) (int, bool) {
	for port := occupied + 1; port <= min(occupied+portsTried, 65535); port++ {
		if taken[port] {
			continue
		}
		if l, err := listen("tcp", net.JoinHostPort(host, strconv.Itoa(port))); err == nil {
			l.Close()
			taken[port] = true
			return port, true
		}
	}
	return 0, false
}

// onLoopback reports whether only this machine reaches l.
func onLoopback(l net.Listener) bool {
	a, ok := l.Addr().(*net.TCPAddr)
	return ok && a.IP.IsLoopback()
}

// reachable returns the URLs that others can reach listeners under, for those that are not
// configured: the port that was opened, and for "every address" one that the machine has.
func reachable(listeners []net.Listener) []string {
	var urls []string
	for _, l := range listeners {
		host, number, _ := net.SplitHostPort(l.Addr().String())
		if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
			host = ownAddress()
		}
		p, secure := l.(*port)
		if secure {
			urls = append(urls, (&url.URL{Scheme: "https", Host: net.JoinHostPort(host, number)}).String())
		}
		if !secure || p.plain {
			urls = append(urls, (&url.URL{Scheme: "http", Host: net.JoinHostPort(host, number)}).String())
		}
	}
	return urls
}

// ownAddress returns an address of this machine that others can use, or the loopback address.
func ownAddress() string {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return "127.0.0.1"
	}
	for _, want4 := range []bool{true, false} {
		for _, a := range addresses {
			n, ok := a.(*net.IPNet)
			if ok && n.IP.IsGlobalUnicast() && (n.IP.To4() != nil) == want4 {
				return n.IP.String()
			}
		}
	}
	return "127.0.0.1"
}
