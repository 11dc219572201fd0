// Package discovery finds members of a cluster by the SRV records of a domain, under etcd's names. It
// knows how records are called and what each says; who of them is meant, and what to do when there are
// none, is for whoever asks.
//
//	r, err := discovery.Find(ctx, net.DefaultResolver, discovery.Query{Service: discovery.Servers, Domain: "example.org"})
//	// r.Secure: those of _etcd-server-ssl._tcp.example.org; r.Plain: those of _etcd-server._tcp.example.org
package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// The services of a domain.
const (
	Servers = "etcd-server" // the ports that members reach each other under
	Clients = "etcd-client" // the ports for clients
)

// targetsMax is how many records a service may have; a cluster is far smaller.
const targetsMax = 64

// Resolver is what records and addresses are asked for; *net.Resolver is one.
type Resolver interface {
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Query says which records are meant.
type Query struct {
	Service string // Servers or Clients
	Name    string // tells clusters of one domain apart; "" for the only one
	Domain  string
}

// CheckDomain returns why no domain can have that name, nil if one can.
func CheckDomain(domain string) error {
	if domain == "" || strings.ContainsAny(domain, ":/@, \t\n") {
		return fmt.Errorf("%q is no domain: use one such as example.org", domain)
	}
	return nil
}

// CheckName returns why a Query cannot have that name, nil if it can.
func CheckName(name string) error {
	if strings.ContainsAny(name, ".:/@, \t\n") {
		return fmt.Errorf("%q cannot be part of a record's name: leave out dots and the like", name)
	}
	return nil
}

// service is the name of the service over TLS, or plain.
func (q Query) service(secure bool) string {
	name := q.Service
	if secure {
		name += "-ssl"
	}
	if q.Name != "" {
		name += "-" + q.Name
	}
	return name
}

// Record returns the name of the records over TLS, or plain: "_etcd-server-ssl._tcp.example.org".
func (q Query) Record(secure bool) string { return "_" + q.service(secure) + "._tcp." + q.Domain }

// Target is one port that a record names.
type Target struct {
	Host string // lower case, without a dot at the end
	Port uint16
}

// String returns HOST:PORT.
func (t Target) String() string { return net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port))) }

// URL returns the target as an address over TLS, or plain.
func (t Target) URL(secure bool) string {
	if secure {
		return "https://" + t.String()
	}
	return "http://" + t.String()
}

// Targets are what records say, in the order of their priorities; those of one priority are in random order.
type Targets struct{ Secure, Plain []Target }

// ErrNoRecords is beneath the error of a domain that has none of the records.
var ErrNoRecords = errors.New("there are no such records")

// Find asks r for both kinds of records. At least one target is found, or there is an error: ErrNoRecords
// when there are none, and any other when r has not answered, or said something that cannot be used.
// Asking again may help then.
func Find(ctx context.Context, r Resolver, q Query) (found Targets, err error) {
	if found.Secure, err = lookup(ctx, r, q, true); err != nil {
		return Targets{}, err
	}
	if found.Plain, err = lookup(ctx, r, q, false); err != nil {
		return Targets{}, err
	}
	if len(found.Secure)+len(found.Plain) == 0 {
		return Targets{}, fmt.Errorf("%s, %s: %w", q.Record(true), q.Record(false), ErrNoRecords)
	}
	return found, nil
}

// lookup returns the targets of one kind of records, none if there are no such records.
func lookup(ctx context.Context, r Resolver, q Query, secure bool) ([]Target, error) {
	_, records, err := r.LookupSRV(ctx, q.service(secure), "tcp", q.Domain)
	switch {
	case IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, err // it names the record
	case len(records) > targetsMax:
		return nil, fmt.Errorf("there are %d records %s, and no cluster has more than %d members", len(records), q.Record(secure), targetsMax)
	}
	var targets []Target
	for _, record := range records {
		host := strings.ToLower(strings.TrimSuffix(record.Target, "."))
		if host == "" { // a record that says that there is no such service
			continue
		}
		targets = append(targets, Target{host, record.Port})
	}
	return targets, nil
}

// IsNotFound reports whether a resolver has said that there is nothing of a name, other than that it
// does not know.
func IsNotFound(err error) bool {
	var answer *net.DNSError
	return errors.As(err, &answer) && answer.IsNotFound
}
