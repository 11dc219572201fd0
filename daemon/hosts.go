package daemon

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/kvd-io/kvd/pkg/etcdv2"
)

// anyHost in place of a host name means all of them.
const anyHost = "*"

// hosts knows the names that this member answers to. A web page can have the name of its own server
// lead to this machine's address and then talk to kvd as if to its server (DNS rebinding); the
// browser sees one origin and hinders nothing. What gives it away is the name in the Host header.
//
// An address can be answered to without danger, and so can localhost: neither is looked up. So can
// the absence of a name, as in HTTP/1.0: every browser sends one.
type hosts struct {
	any   bool
	names map[string]bool // lower case, without port and trailing dot
}

// newHosts returns the hosts of a member: those of its URLs and each of names, which are host names
// or anyHost.
func newHosts(urls, names []string) hosts {
	h := hosts{names: map[string]bool{"localhost": true}}
	for _, text := range urls {
		if u, err := url.Parse(text); err == nil {
			names = append(names[:len(names):len(names)], u.Hostname())
		}
	}
	for _, name := range names {
		if name == anyHost {
			h.any = true
		}
		if name != "" {
			h.names[plainHost(name)] = true
		}
	}
	return h
}

// plainHost returns a host name in the one spelling that is compared.
func plainHost(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// answersTo reports whether host, as it stands in a Host header, means this member.
func (h hosts) answersTo(host string) bool {
	if h.any || host == "" {
		return true
	}
	if _, err := netip.ParseAddrPort(host); err == nil {
		return true
	}
	name := withoutPort(host)
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	if strings.ContainsAny(host, "[]") { // they are for addresses
		return false
	}
	name = plainHost(name)
	return h.names[name] || strings.HasSuffix(name, ".localhost")
}

func withoutPort(host string) string {
	name, _, err := net.SplitHostPort(host)
	if err != nil { // there is none
		name = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	return name
}

// wrap refuses requests that mean another host.
func (h hosts) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.answersTo(r.Host) {
			next.ServeHTTP(w, r)
			return
		}
		refuseHost(w, r.Host)
	})
}

// refuseHost answers with an error of the v2 API, whose clients show it.
func refuseHost(w http.ResponseWriter, host string) {
	name := plainHost(withoutPort(host))
	cause := fmt.Sprintf("this member is not known as %q; to reach it by that name, start kvd with --host-whitelist %s", name, name)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusForbidden)
	w.Write(append(etcdv2.AppendError(nil, etcdv2.NewError(etcdv2.CodeInvalidField, cause)), '\n'))
}

// hostProblem says why name cannot be an entry of --host-whitelist, "" if it can.
func hostProblem(name string) string {
	switch {
	case name == anyHost:
		return ""
	case name == "" || strings.ContainsAny(name, "/@* \t"):
		return "use a host name such as kvd.example, or * for all of them"
	case strings.Contains(name, ":"):
		return "use the name without a port; it is good for every port"
	}
	return ""
}
