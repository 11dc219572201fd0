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

// Service is one service of the registry with those of its instances that take traffic. What it
// holds is shared by renders and does not change.
type Service struct {
	Name    string   // letters, digits, "_", "-" and single dots within: safe in any proxy's configuration; unique whatever the case
	Servers []Server // in the order of their instance names; may be empty

	Lower  string `json:"-"` // Name in lower case
	Dotted bool   `json:"-"` // Name has a dot, and so may be a whole host name

	TCP []Server `json:"-"` // those that are reached over TCP
	// TCPByIP are those that are reached over TCP and registered with an IP address, for proxies that
	// refuse a file with a host name which does not resolve.
	TCPByIP []Server `json:"-"`

	// Meta joins the meta entries of all its instances, also of those that take no traffic now: where
	// they differ, the first instance by name counts. Values have no control characters; nothing else
	// is known of them.
	Meta map[string]string
	// Domains are the host names in the instances' meta entry "domain", separated there by commas or
	// spaces: in lower case, sorted, and none of them a domain of another service too.
	Domains Texts
}

// Server is one instance that is up: its registry.Record, without methods and in one piece, because
// text/template looks those up slowly. Its Address and Port are valid, whatever the store holds.
type Server struct {
	Service  string            `json:"service"`
	Instance string            `json:"instance"`
	Address  string            `json:"address"`
	Port     int               `json:"port"`
	Protocol string            `json:"protocol"`
	State    string            `json:"state"`
	Kept     bool              `json:"kept,omitempty"`
	Weight   int               `json:"weight,omitempty"` // 1 to registry.WeightMax; 0 if the record does not say one
	Tags     Texts             `json:"tags,omitempty"`
	Meta     map[string]string `json:"meta,omitempty"`
	Host     string            `json:"host,omitempty"`
	Owner    string            `json:"owner,omitempty"`

	ID       string // the instance's name in letters, digits, ".", "_", ":" and "-"; unique in its service
	HostPort string // address and port, with an IPv6 address in brackets
	IsIP     bool   // Address is an IP address, not a host name
}

// Texts is a list that belongs to a record: what works in place works on a copy of it.
type Texts []string

// only returns the servers that are wanted, without a copy if all of them are.
func only(servers []Server, want func(Server) bool) (wanted []Server) {
	for i, server := range servers {
		if !want(server) {
			wanted = slices.Clone(servers[:i])
			for _, server := range servers[i+1:] {
				if want(server) {
					wanted = append(wanted, server)
				}
			}
			return wanted
		}
	}
	return servers
}

// nameBytesMax is the longest host name, and so the longest name of a service.
const nameBytesMax = 253

var (
	serviceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$`)
	hostName    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]{0,62}(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*$`)
	notInID     = regexp.MustCompile(`[^A-Za-z0-9_.:-]`)
)

// services returns the services registered below dir, sorted by name. Whoever may write a record
// writes into the proxy's configuration, so a record that is not exactly one is left out and
// reported in r.skipped; the others are not held up by it. An instance that is not up is left out in
// silence. Keys that are not DIR/SERVICE/INSTANCE are none of its business.
//
// It looks at each key below dir, and decodes the records that have changed since the last run.
func (r *run) services(dir string) ([]Service, error) {
	dir = cleanDir(dir)
	r.reads.dir(dir)
	found := make([]Service, 0, len(r.records.before))
	spelled := make(map[string]int, len(r.records.before)) // the name in lower case -> its position in found
	add := func(key string, instances []KVPair) {
		name := key[len(dir)+1:]
		known := r.records.of(key, name, instances)
		for _, skipped := range known.skipped {
			r.skip(skipped)
		}
		if known.refused {
			return
		}
		// Host names have no case, nor have nginx's upstreams: of two spellings the later one counts,
		// which is the one in lower case.
		if i, twice := spelled[known.service.Lower]; twice {
			r.skip(skipped{dir + "/" + found[i].Name, "another service is called " + name})
			found[i] = known.copy()
			return
		}
		spelled[known.service.Lower] = len(found)
		found = append(found, known.copy())
	}
	at, instances := "", []KVPair(nil) // the key of a service, and its instances so far
	r.tree.below(dir+"/", func(key, value string) {
		name, instance, isDir := strings.Cut(key[len(dir)+1:], "/")
		if !isDir || name == "" {
			return
		}
		if service := key[:len(dir)+1+len(name)]; service != at {
			if at != "" {
				add(at, instances)
			}
			at, instances = service, instances[:0]
		}
		if instance != "" && !strings.Contains(instance, "/") {
			instances = append(instances, KVPair{instance, value})
		}
	})
	if at != "" {
		add(at, instances)
	}
	slices.SortFunc(found, func(a, b Service) int { return cmp.Compare(a.Name, b.Name) })
	separateDomains(dir, found, func(key, why string) { r.skip(skipped{key, why}) })
	return found, r.spend(64 * len(found))
}

// skip notes a record that was left out.
func (r *run) skip(s skipped) {
	if r.t.env.Sensitive {
		s.why = "not a record that can be used"
	}
	r.skipped = append(r.skipped, s.key+": "+s.why)
}

// records remembers decoded services, so that a change of one record does not decode all the others
// again. It keeps those of the last run only.
type records struct {
	before, now map[string]*decoded
}

// next returns the records for the run after.
func (r records) next() records { return records{before: r.now, now: map[string]*decoded{}} }

// decoded is a service as it was decoded from instances. It does not change.
type decoded struct {
	instances []KVPair // by their last segments
	service   Service
	refused   bool // the service cannot have this name
	skipped   []skipped
}

type skipped struct{ key, why string }

// copy returns the service with domains of its own, which are compared with those of other services.
func (d *decoded) copy() Service {
	service := d.service
	service.Domains = slices.Clone(service.Domains)
	return service
}

// of returns the service name at key with these instances.
func (r records) of(key, name string, instances []KVPair) *decoded {
	for _, known := range []*decoded{r.now[key], r.before[key]} {
		if known != nil && slices.Equal(known.instances, instances) {
			r.now[key] = known
			return known
		}
	}
	r.now[key] = decode(key, name, slices.Clone(instances))
	return r.now[key]
}

func decode(key, name string, instances []KVPair) *decoded {
	d := &decoded{instances: instances, service: Service{
		Name: name, Lower: strings.ToLower(name), Dotted: strings.Contains(name, "."), Meta: map[string]string{},
	}}
	if len(name) > nameBytesMax || !serviceName.MatchString(name) {
		d.refused = true
		d.skipped = []skipped{{key, "a service's name has letters, digits, dashes and underscores, and single dots between them"}}
		return d
	}
	taken := map[string]bool{}
	skip := func(key, why string) { d.skipped = append(d.skipped, skipped{key, why}) }
	for _, instance := range instances {
		server, err := readServer(instance.Key, instance.Value)
		switch {
		case err != nil:
			skip(key+"/"+instance.Key, err.Error())
		case taken[server.ID]:
			skip(key+"/"+instance.Key, "another instance is already called "+server.ID)
		case server.State == registry.StateUp:
			server.Service = name
			taken[server.ID] = true
			d.service.Servers = append(d.service.Servers, server)
			fallthrough
		default:
			d.service.addMeta(key+"/"+instance.Key, server.Meta, skip)
		}
	}
	d.service.TCP = only(d.service.Servers, func(s Server) bool { return s.Protocol != "udp" })
	d.service.TCPByIP = only(d.service.TCP, func(s Server) bool { return s.IsIP })
	return d
}

// readServer decodes and validates one record. The key's segment, not the record, names it.
func readServer(instance, value string) (Server, error) {
	var r registry.Record
	if err := json.Unmarshal([]byte(value), &r); err != nil {
		return Server{}, fmt.Errorf("not a registration record: %w", err)
	}
	address, err := netip.ParseAddr(r.Address)
	isIP := err == nil && address.Zone() == ""
	switch {
	case !isIP && (len(r.Address) > nameBytesMax || !hostName.MatchString(r.Address)):
		return Server{}, fmt.Errorf("address %q is neither an IP address nor a host name", r.Address)
	case isIP && (address.IsUnspecified() || address.IsMulticast()):
		return Server{}, fmt.Errorf("address %s is not one of a server", r.Address)
	case r.Port < 1 || r.Port > 65535:
		return Server{}, fmt.Errorf("port %d is not between 1 and 65535", r.Port)
	case r.Weight < 0 || r.Weight > registry.WeightMax:
		return Server{}, fmt.Errorf("weight %d is not between 1 and %d, nor 0 for none", r.Weight, registry.WeightMax)
	case hasControls(r):
		return Server{}, errors.New("it contains control characters")
	}
	return Server{
		Service: r.Service, Instance: instance, Address: r.Address, Port: r.Port, Protocol: r.Protocol, State: r.State, Kept: r.Kept,
		Weight: r.Weight, Tags: r.Tags, Meta: r.Meta, Host: r.Host, Owner: r.Owner,
		ID: serverID(instance), HostPort: net.JoinHostPort(r.Address, strconv.Itoa(r.Port)), IsIP: isIP,
	}, nil
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
		sum := sha256.Sum256([]byte(instance))
		id += fmt.Sprintf("-%x", sum[:4])
	}
	return id
}
