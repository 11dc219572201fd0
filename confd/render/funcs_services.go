package render

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
)

var serviceFunctions = []function{
	fn("services DIR", "The registered services below DIR, sorted by name; see [Services](#services-1).",
		`{{range services "/services"}}{{.Name}}:{{range .Servers}} {{.ID}}={{.HostPort}}{{end}}; {{end}}`,
		"api: a1=10.0.0.9:9000; web: w1=10.0.0.1:80 w2=[2001:db8::2]:80; ", FromKvd, func(r *run) any { return r.services }),
	fn("withTag TAG SERVERS", "Those of a service's servers that have this tag.",
		`{{range services "/services"}}{{range withTag "canary" .Servers}}{{.ID}} {{end}}{{end}}`, "w2 ", FromKvd,
		plain(func(tag string, servers []Server) []Server {
			return only(servers, func(s Server) bool { return slices.Contains(s.Tags, tag) })
		})),
	fn("withoutTag TAG SERVERS", "Those of a service's servers that do not have this tag.",
		`{{range services "/services"}}{{range withoutTag "canary" .Servers}}{{.ID}} {{end}}{{end}}`, "a1 w1 ", FromKvd,
		plain(func(tag string, servers []Server) []Server {
			return only(servers, func(s Server) bool { return !slices.Contains(s.Tags, tag) })
		})),
	fn("safeName TEXT", "TEXT in the letters that every proxy allows in a name: letters, digits, `.`, `_`, `:` and `-`. If it had to be changed, a hash of the original follows, so that two texts do not become one name.",
		`{{safeName "web-1"}} {{safeName "a b"}}`, "web-1 a_b-c8687a08", FromKvd, plain(serverID)),
	fn("hostport HOST PORT", "HOST and PORT with a colon between them, an IPv6 address in brackets.",
		`{{hostport "::1" 80}} {{hostport "h" "80"}}`, "[::1]:80 h:80", FromKvd,
		plain(func(host string, port any) string { return net.JoinHostPort(host, fmt.Sprint(port)) })),
	fn("isIP TEXT", "Whether TEXT is an IP address.",
		`{{isIP "10.0.0.1"}} {{isIP "example.org"}}`, "true false", FromKvd,
		plain(func(text string) bool { _, err := netip.ParseAddr(text); return err == nil })),
}
