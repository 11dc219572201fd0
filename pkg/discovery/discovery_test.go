package discovery_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/discovery"
	"github.com/kvd-io/kvd/pkg/discovery/dnstest"
)

func servers(name string) discovery.Query {
	return discovery.Query{Service: discovery.Servers, Name: name, Domain: "example.org"}
}

func TestRecordsAreFoundUnderEtcdsNames(t *testing.T) {
	server := dnstest.Start(t,
		"_etcd-server._tcp.example.org. 60 IN SRV 20 0 2380 N2.example.org.",
		"_etcd-server._tcp.example.org. 60 IN SRV 10 0 2381 n1.example.org.",
		"_etcd-server-ssl-blue._tcp.example.org. 60 IN SRV 0 0 2380 b1.example.org.",
		"_etcd-client._tcp.example.org. 60 IN SRV 0 0 2379 n1.example.org.",
		"_etcd-client-ssl._tcp.example.org. 60 IN SRV 0 0 0 .",
	)
	for _, c := range []struct {
		query         discovery.Query
		secure, plain []discovery.Target
	}{
		{servers(""), nil, []discovery.Target{{Host: "n1.example.org", Port: 2381}, {Host: "n2.example.org", Port: 2380}}},
		{servers("blue"), []discovery.Target{{Host: "b1.example.org", Port: 2380}}, nil},
		{discovery.Query{Service: discovery.Clients, Domain: "example.org"}, nil, []discovery.Target{{Host: "n1.example.org", Port: 2379}}},
	} {
		found, err := discovery.Find(t.Context(), server.Resolver(), c.query)
		if err != nil || !slices.Equal(found.Secure, c.secure) || !slices.Equal(found.Plain, c.plain) {
			t.Errorf("%+v: %+v, %v", c.query, found, err)
		}
	}
	if got := (discovery.Target{Host: "n1.example.org", Port: 2380}).URL(true); got != "https://n1.example.org:2380" {
		t.Errorf("%s", got)
	}
}

func TestADomainWithoutRecordsIsNotOneThatCannotBeAsked(t *testing.T) {
	server := dnstest.Start(t, "_etcd-server-ssl._tcp.example.org. 60 IN SRV 0 0 2380 n1.example.org.")
	_, err := discovery.Find(t.Context(), server.Resolver(), servers("red"))
	if !errors.Is(err, discovery.ErrNoRecords) || !strings.Contains(err.Error(), "_etcd-server-ssl-red._tcp.example.org, _etcd-server-red._tcp.example.org: there are no such records") {
		t.Errorf("without records: %v", err)
	}
	server.Be(dnstest.Ill)
	if _, err := discovery.Find(t.Context(), server.Resolver(), servers("")); err == nil || errors.Is(err, discovery.ErrNoRecords) || discovery.IsNotFound(err) {
		t.Errorf("a server that is ill: %v", err)
	}
	server.Be(dnstest.Silent)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := discovery.Find(ctx, server.Resolver(), servers("")); err == nil || errors.Is(err, discovery.ErrNoRecords) || !strings.Contains(err.Error(), "lookup _etcd-server-ssl._tcp.example.org") {
		t.Errorf("a server that is silent: %v", err)
	}
}

func TestMoreRecordsThanADatagramHoldsAreFoundUpToABound(t *testing.T) {
	var records []string
	for i := range 65 {
		records = append(records, fmt.Sprintf("_etcd-server._tcp.example.org. 60 IN SRV 0 0 2380 a-host-with-a-long-name-%d.example.org.", i))
	}
	server := dnstest.Start(t, records[:64]...)
	found, err := discovery.Find(t.Context(), server.Resolver(), servers(""))
	if err != nil || len(found.Plain) != 64 {
		t.Errorf("%d, %v", len(found.Plain), err)
	}
	server.Set(t, records...)
	if _, err := discovery.Find(t.Context(), server.Resolver(), servers("")); err == nil || !strings.Contains(err.Error(), "there are 65 records _etcd-server._tcp.example.org, and no cluster has more than 64 members") {
		t.Errorf("%v", err)
	}
}
