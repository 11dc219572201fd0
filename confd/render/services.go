package render

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"

	"github.com/kvd-io/kvd/pkg/registry"
)

// Service is one service of the registry with those of its instances that take traffic.
type Service struct {
	Name    string   // letters, digits, ".", "_" and "-": safe in any proxy's configuration
	Servers []Server // in the order of their instance names; may be empty
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

var (
	serviceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$`)
	hostName    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$`)
	notInID     = regexp.MustCompile(`[^A-Za-z0-9_.:-]`)
)

// services returns the services registered below dir, sorted by name. Whoever may write a record
// writes into the proxy's configuration, so a record that is not exactly one is left out and
// reported to skip; the others are not held up by it. An instance that is not up is left out in
// silence. Keys that are not DIR/SERVICE/INSTANCE are none of its business.
func services(tree Tree, dir string, skip func(key, why string)) []Service {
	found := []Service{}
	dir = cleanDir(dir)
	tree.children(dir, func(name string, isDir bool, _ KVPair) {
		if !isDir {
			return
		}
		if !serviceName.MatchString(name) {
			skip(dir+"/"+name, "a service's name has letters, digits, dots, dashes and underscores only")
			return
		}
		service := Service{Name: name}
		tree.children(dir+"/"+name, func(instance string, isDir bool, pair KVPair) {
			if isDir {
				return
			}
			server, err := readServer(instance, pair.Value)
			if err != nil {
				skip(pair.Key, err.Error())
			} else if server.State == registry.StateUp {
				service.Servers = append(service.Servers, server)
			}
		})
		slices.SortFunc(service.Servers, func(a, b Server) int { return cmp.Compare(a.Instance, b.Instance) })
		found = append(found, service)
	})
	slices.SortFunc(found, func(a, b Service) int { return cmp.Compare(a.Name, b.Name) })
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
	case !server.IsIP && !hostName.MatchString(server.Address):
		return Server{}, fmt.Errorf("address %q is neither an IP address nor a host name", server.Address)
	case server.Port < 1 || server.Port > 65535:
		return Server{}, fmt.Errorf("port %d is not between 1 and 65535", server.Port)
	}
	server.Instance, server.ID = instance, serverID(instance)
	server.Weight = min(max(server.Weight, 0), 256)
	return server, nil
}

// serverID spells instance with the letters that every proxy allows in a server's name. A name
// that had to be changed gets a hash of the original, so that two never become one.
func serverID(instance string) string {
	id := notInID.ReplaceAllString(instance, "_")
	if id != instance {
		id += fmt.Sprintf("-%.4x", sha256.Sum256([]byte(instance)))
	}
	return id
}
