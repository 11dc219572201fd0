package ctl

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"

	"github.com/spf13/pflag"

	"github.com/kvd-io/kvd/pkg/discovery"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient/clientflags"
)

// byRecords is how endpoints are found by the SRV records of a domain.
type byRecords struct {
	domain, name string // domain "": they are not
	insecure     bool   // those without TLS count as well
}

func (b *byRecords) addFlags(flags *pflag.FlagSet) {
	flags.StringVarP(&b.domain, "discovery-srv", "D", "", "`domain` whose SRV records _etcd-client-ssl._tcp name the endpoints, in place of --endpoints")
	flags.StringVar(&b.name, "discovery-srv-name", "", "`name` that tells the store from others of that domain: the records are then _etcd-client-ssl-NAME._tcp")
	flags.BoolVar(&b.insecure, "insecure-discovery", false, "take endpoints without TLS as well, of the records _etcd-client._tcp: whoever answers for the DNS decides then where keys and passwords go")
}

// envAliases are the variables of etcdctl.
func envAliases() map[string][]string {
	aliases := clientflags.EnvAliases()
	maps.Copy(aliases, map[string][]string{
		"discovery-srv":      {"ETCDCTL_DISCOVERY_SRV"},
		"discovery-srv-name": {"ETCDCTL_DISCOVERY_SRV_NAME"},
		"insecure-discovery": {"ETCDCTL_INSECURE_DISCOVERY"},
	})
	return aliases
}

// endpoints returns what the records name, and tells of what it leaves out. Errors by Kind: Unavailable.
func (b byRecords) endpoints(ctx context.Context, resolver discovery.Resolver, stderr io.Writer) ([]string, error) {
	err := discovery.CheckDomain(b.domain)
	if err != nil {
		return nil, &usageError{text: "--discovery-srv: " + err.Error()}
	}
	if err := discovery.CheckName(b.name); err != nil {
		return nil, &usageError{text: "--discovery-srv-name: " + err.Error()}
	}
	query := discovery.Query{Service: discovery.Clients, Name: b.name, Domain: b.domain}
	found, err := discovery.Find(ctx, resolver, query)
	if err != nil {
		return nil, &kv.Error{Op: "discovery", Kind: kv.Unavailable, Err: fmt.Errorf("no endpoints were found: %w; publish the records, or name endpoints with --endpoints", err)}
	}
	var urls []string
	for _, t := range found.Secure {
		urls = append(urls, t.URL(true))
	}
	for _, t := range found.Plain {
		if b.insecure {
			urls = append(urls, t.URL(false))
		} else {
			fmt.Fprintf(stderr, "ignoring discovered insecure endpoint %q\n", t.URL(false)) // etcdctl's words
		}
	}
	if len(urls) == 0 {
		return nil, &kv.Error{Op: "discovery", Kind: kv.Unavailable, Err: fmt.Errorf(
			"there are records %s alone, whose endpoints speak without TLS: publish %s, or take them with --insecure-discovery", query.Record(false), query.Record(true))}
	}
	return urls, nil
}

// find replaces the endpoints by those that records name, if that is wanted.
func (s *settings) find(ctx context.Context, stderr io.Writer) error {
	if s.records.domain == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.client.RequestTimeout)
	defer cancel()
	endpoints, err := s.records.endpoints(ctx, net.DefaultResolver, stderr)
	if err != nil {
		return err
	}
	s.client.Endpoints = endpoints
	return nil
}
