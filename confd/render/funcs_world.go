package render

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

var worldFunctions = []function{
	fn("getenv NAME [DEFAULT]", "The environment variable NAME; DEFAULT if it is not set or empty.", `[{{getenv "NONE"}}] {{getenv "NONE" "fallback"}}`, "[] fallback", FromConfd, func(r *run) any {
		return func(name string, fallback ...string) string {
			if value := r.t.env.World.Getenv(name); value != "" || len(fallback) == 0 {
				return value
			}
			return fallback[0]
		}
	}),
	fn("hostname", "The name of the machine.", "", "", FromFork, func(r *run) any { return r.t.env.World.Hostname }),
	fn("datetime", "The time now, of Go's type `time.Time`: `{{datetime.Format \"2006-01-02\"}}`. The file changes with every pass, and is reloaded each time.", "", "", FromConfd, func(r *run) any {
		return func() time.Time { r.reads.world = true; return r.t.env.World.Now() }
	}),
	fn("fileExists PATH", "Whether there is a file or directory PATH.", "", "", FromConfd, func(r *run) any {
		return func(path string) bool { r.reads.world = true; return r.t.env.World.FileExists(path) }
	}),
	fn("lookupIP HOST", "The IP addresses of HOST, sorted as texts; none if it has none or cannot be found.", "", "", FromConfd,
		func(r *run) any { return r.lookup("") }),
	fn("lookupIPV4 HOST", "The IPv4 addresses of HOST.", "", "", FromConfd, func(r *run) any { return r.lookup(".") }),
	fn("lookupIPV6 HOST", "The IPv6 addresses of HOST.", "", "", FromConfd, func(r *run) any { return r.lookup(":") }),
	fn("lookupSRV SERVICE PROTOCOL NAME", "The SRV records of `_SERVICE._PROTOCOL.NAME`, sorted, each with `.Target`, `.Port`, `.Priority` and `.Weight`.", "", "", FromConfd,
		func(r *run) any { return r.lookupSRV }),
	fn("lookupIfaceIPV4 NAME", "The first IPv4 address of the network interface NAME; no text if there is none.", "", "", FromFork,
		func(r *run) any { return r.lookupInterface(true) }),
	fn("lookupIfaceIPV6 NAME", "The first IPv6 address of the network interface NAME.", "", "", FromFork,
		func(r *run) any { return r.lookupInterface(false) }),
}

// lookup returns a function that returns a host's addresses which contain mark.
func (r *run) lookup(mark string) func(host string) []string {
	return func(host string) (texts []string) {
		r.reads.world = true
		addresses, err := r.t.env.World.LookupIP(host)
		if err != nil {
			return nil
		}
		for _, ip := range addresses {
			if text := ip.String(); strings.Contains(text, mark) {
				texts = append(texts, text)
			}
		}
		slices.Sort(texts)
		return texts
	}
}

func (r *run) lookupSRV(service, proto, name string) []*net.SRV {
	r.reads.world = true
	records, err := r.t.env.World.LookupSRV(service, proto, name)
	if err != nil {
		return []*net.SRV{}
	}
	text := func(r *net.SRV) string { return fmt.Sprintf("%s%d%d%d", r.Target, r.Port, r.Priority, r.Weight) }
	slices.SortFunc(records, func(a, b *net.SRV) int { return strings.Compare(text(a), text(b)) })
	return records
}

func (r *run) lookupInterface(v4 bool) func(name string) string {
	return func(name string) string {
		r.reads.world = true
		addresses, err := r.t.env.World.Interface(name)
		if err != nil {
			return ""
		}
		for _, address := range addresses {
			if network, ok := address.(*net.IPNet); ok && (network.IP.To4() != nil) == v4 {
				return network.IP.String()
			}
		}
		return ""
	}
}

// templateFunctions is a function and no variable, because include comes back to the table.
func templateFunctions() []function {
	return []function{
		fn("include NAME [DATA]", "What the template file NAME, below the templates directory, makes of DATA as its dot. It has all functions but none of this template's `define`s. Ten may include each other, none itself.", "", "", FromFork,
			func(r *run) any { return r.include }),
	}
}
