package render

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/kvd-io/kvd/pkg/registry"
)

// Service is one service of the registry with those of its instances that take traffic.
type Service struct {
	Name    string   // letters, digits, "_", "-" and single dots within: safe in any proxy's configuration; unique whatever the case
	Servers []Server // in the order of their instance names; may be empty

	// Meta joins the meta entries of all its instances, also of those that take no traffic now: where
	// they differ, the first instance by name counts. Values have no control characters; nothing else
	// is known of them.
	Meta map[string]string
	// Domains are the host names in the instances' meta entry "domain", separated there by commas or
	// spaces: in lower case, sorted, and none of them a domain of another service too.
	Domains []string
}

// Server is one instance that is up. Its Address and Port are valid, whatever the store holds.
type Server struct {
	registry.Record
	ID   string // the instance's name in letters, digits, ".", "_", ":" and "-"; unique in its service
	IsIP bool   // Address is an IP address, not a host name
}

// TCP returns the servers that are reached over TCP.
func (s Service) TCP() []Server {
	return s.filter(func(server Server) bool { return server.Protocol != "udp" })
}

// TCPByIP returns the servers that are reached over TCP and registered with an IP address, for
// proxies that refuse a file with a host name which does not resolve.
func (s Service) TCPByIP() []Server {
	return s.filter(func(server Server) bool { return server.Protocol != "udp" && server.IsIP })
}

func (s Service) filter(keep func(Server) bool) (servers []Server) {
	for _, server := range s.Servers {
		if keep(server) {
			servers = append(servers, server)
		}
	}
	return servers
}

// HostPort returns address and port, with an IPv6 address in brackets.
func (s Server) HostPort() string { return net.JoinHostPort(s.Address, strconv.Itoa(s.Port)) }

// nameBytesMax is the longest host name, and so the longest name of a service.
const nameBytesMax = 253

var (
	serviceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$`)
	hostName    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]{0,62}(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*$`)
	notInID     = regexp.MustCompile(`[^A-Za-z0-9_.:-]`)
)

// services returns the services registered below dir, sorted by name. Whoever may write a record
// writes into the proxy's configuration, so a record that is not exactly one is left out and
// reported to skip; the others are not held up by it. An instance that is not up is left out in
// silence. Keys that are not DIR/SERVICE/INSTANCE are none of its business.
func services(tree Tree, dir string, skip func(key, why string)) []Service {
	found := []Service{}
	spelled := map[string]int{} // the name in lower case -> its position in found
	dir = cleanDir(dir)
	tree.children(dir, func(name string, isDir bool, _ KVPair) {
		if !isDir {
			return
		}
		if len(name) > nameBytesMax || !serviceName.MatchString(name) {
			skip(dir+"/"+name, "a service's name has letters, digits, dashes and underscores, and single dots between them")
			return
		}
		service := Service{Name: name, Meta: map[string]string{}}
		taken := map[string]bool{}
		tree.children(dir+"/"+name, func(instance string, isDir bool, pair KVPair) {
			if isDir {
				return
			}
			server, err := readServer(instance, pair.Value)
			switch {
			case err != nil:
				skip(pair.Key, err.Error())
			case taken[server.ID]:
				skip(pair.Key, "another instance is already called "+server.ID)
			case server.State == registry.StateUp:
				server.Service = name
				taken[server.ID] = true
				service.Servers = append(service.Servers, server)
				fallthrough
			default:
				service.addMeta(pair.Key, server.Meta, skip)
			}
		})
		slices.SortFunc(service.Servers, func(a, b Server) int { return cmp.Compare(a.Instance, b.Instance) })
		// Host names have no case, nor have nginx's upstreams: of two spellings the later one counts,
		// which is the one in lower case.
		if i, twice := spelled[strings.ToLower(name)]; twice {
			skip(dir+"/"+found[i].Name, "another service is called "+name)
			found[i] = service
			return
		}
		spelled[strings.ToLower(name)] = len(found)
		found = append(found, service)
	})
	slices.SortFunc(found, func(a, b Service) int { return cmp.Compare(a.Name, b.Name) })
	separateDomains(dir, found, skip)
	return found
}

// readServer decodes and validates one record. The key's segment, not the record, names it.
func readServer(instance, value string) (Server, error) {
	var server Server
	if err := json.Unmarshal([]byte(value), &server.Record); err != nil {
		return Server{}, fmt.Errorf("not a registration record: %w", err)
	}
	address, err := netip.ParseAddr(server.Address)
	server.IsIP = err == nil && address.Zone() == ""
	switch {
	case !server.IsIP && (len(server.Address) > nameBytesMax || !hostName.MatchString(server.Address)):
		return Server{}, fmt.Errorf("address %q is neither an IP address nor a host name", server.Address)
	case server.IsIP && (address.IsUnspecified() || address.IsMulticast()):
		return Server{}, fmt.Errorf("address %s is not one of a server", server.Address)
	case server.Port < 1 || server.Port > 65535:
		return Server{}, fmt.Errorf("port %d is not between 1 and 65535", server.Port)
	case hasControls(server.Record):
		return Server{}, errors.New("it contains control characters")
	}
	server.Instance, server.ID = instance, serverID(instance)
	server.Weight = min(max(server.Weight, 0), 256)
	return server, nil
}

// hasControls reports whether a text of r, printed by a template, could begin another line.
func hasControls(r registry.Record) bool {
	texts := slices.Concat([]string{r.Protocol, r.Host, r.Owner}, r.Tags)
	for key, value := range r.Meta {
		texts = append(texts, key, value)
	}
	return slices.ContainsFunc(texts, func(text string) bool { return strings.ContainsFunc(text, unicode.IsControl) })
}

// serverID spells instance with the letters that every proxy allows in a server's name. A name
// that had to be changed gets a hash of the original, so that two do not become one.
func serverID(instance string) string {
	id := notInID.ReplaceAllString(instance, "_")
	if id != instance {
		id += fmt.Sprintf("-%.4x", sha256.Sum256([]byte(instance)))
	}
	return id
}
