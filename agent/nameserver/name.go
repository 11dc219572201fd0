package nameserver

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/kvd-io/kvd/pkg/registry"
)

// what a name in the domain stands for.
type what int

const (
	nothing    what = iota // there can be no such name
	apex                   // the domain itself
	nameserver             // ns
	empty                  // has no records, and names below it
	listing                // all services
	service                // a service, all of it or a part
	protocols              // a service by protocol or tag, for SRV
)

// meaning is a name of the domain, understood.
type meaning struct {
	what    what
	service string // in the case of the question, as all below
	part    string // with service: a tag or an instance; with protocols: a protocol or a tag
}

// understand returns what a name means that is domain or below it, both in lower case.
func understand(name, domain string) meaning {
	labels := dns.SplitDomainName(strings.TrimSuffix(name, domain))
	slices.Reverse(labels)
	if len(labels) == 0 {
		return meaning{what: apex}
	}
	if labels[0] == "ns" && len(labels) == 1 {
		return meaning{what: nameserver}
	}
	if labels[0] != "service" || len(labels) > 4 {
		return meaning{}
	}
	below := labels[1:]
	switch {
	case len(below) == 0:
		return meaning{what: empty}
	case below[0] == "_udp" && len(below) > 1 && below[1] == "_dns-sd":
		switch {
		case len(below) == 2:
			return meaning{what: empty}
		case below[2] == "_services":
			return meaning{what: listing}
		}
		return meaning{}
	case len(below) == 3:
		return meaning{}
	case below[0][0] == '_' && len(below) == 1: // some service may have the tag, and asks for what is below next
		return meaning{what: empty}
	case below[0][0] == '_' && below[1][0] == '_':
		return meaning{what: protocols, service: below[1][1:], part: below[0][1:]}
	case len(below) == 1:
		return meaning{what: service, service: below[0]}
	}
	return meaning{what: service, service: below[0], part: below[1]}
}

// isLabel reports whether text can be asked for as one label of a name. The DNS knows others, but no resolver
// and no command line agrees on how they are written.
func isLabel(text string) bool {
	if text == "" || len(text) > 63 {
		return false
	}
	for i := range len(text) {
		switch c := text[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

// An instance whose name is no label, or is not the only thing of this name in its service, is known by a
// digest of it.
const (
	aliasPrefix = "i-"
	aliasBytes  = 10
	aliasLength = len(aliasPrefix) + 2*aliasBytes
)

func alias(r *registry.Record) string {
	sum := sha256.Sum256([]byte(r.Service + "/" + r.Instance))
	return aliasPrefix + hex.EncodeToString(sum[:aliasBytes])
}

// isAlias reports whether a label has the form of an alias.
func isAlias(label string) bool {
	return len(label) == aliasLength && strings.HasPrefix(label, aliasPrefix)
}

// labels returns the names of the instances of a service, all of which are given: a label for each of them that
// stands for nothing else.
func labels(all []registry.Record) func(*registry.Record) string {
	uses := map[string]int{}
	for i := range all {
		uses[strings.ToLower(all[i].Instance)]++
		for _, tag := range all[i].Tags {
			uses[strings.ToLower(tag)]++
		}
	}
	return func(r *registry.Record) string {
		name := strings.ToLower(r.Instance)
		if !isLabel(name) || uses[name] != 1 || isAlias(name) {
			return alias(r)
		}
		return name
	}
}

func hasTag(r *registry.Record, tag string) bool {
	return slices.ContainsFunc(r.Tags, func(t string) bool { return strings.EqualFold(t, tag) })
}
