package ctl

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/pkg/discovery/dnstest"
	"github.com/kvd-io/kvd/pkg/kv"
)

func TestEndpointsAreFoundByRecords(t *testing.T) {
	server := dnstest.Start(t,
		"_etcd-client-ssl._tcp.example.org. 60 IN SRV 1 0 2379 n1.example.org.",
		"_etcd-client-ssl._tcp.example.org. 60 IN SRV 2 0 2379 n2.example.org.",
		"_etcd-client._tcp.example.org. 60 IN SRV 0 0 2389 n3.example.org.",
		"_etcd-client-blue._tcp.example.org. 60 IN SRV 0 0 2379 b1.example.org.",
	)
	for _, c := range []struct {
		records byRecords
		want    []string
		told    string
		fails   string
	}{
		{byRecords{domain: "example.org"}, []string{"https://n1.example.org:2379", "https://n2.example.org:2379"}, "ignoring discovered insecure endpoint \"http://n3.example.org:2389\"\n", ""},
		{byRecords{domain: "example.org", insecure: true}, []string{"https://n1.example.org:2379", "https://n2.example.org:2379", "http://n3.example.org:2389"}, "", ""},
		{byRecords{domain: "example.org", name: "blue", insecure: true}, []string{"http://b1.example.org:2379"}, "", ""},
		{byRecords{domain: "example.org", name: "blue"}, nil, "ignoring discovered insecure endpoint \"http://b1.example.org:2379\"\n", "publish _etcd-client-ssl-blue._tcp.example.org, or take them with --insecure-discovery"},
		{byRecords{domain: "example.org", name: "red"}, nil, "", "no endpoints were found: _etcd-client-ssl-red._tcp.example.org, _etcd-client-red._tcp.example.org: there are no such records"},
		{byRecords{domain: "example.org:53"}, nil, "", "--discovery-srv: \"example.org:53\" is no domain"},
		{byRecords{domain: "example.org", name: "a.b"}, nil, "", "--discovery-srv-name: \"a.b\" cannot be part"},
	} {
		var told bytes.Buffer
		got, err := c.records.endpoints(t.Context(), server.Resolver(), &told)
		if !slices.Equal(got, c.want) || told.String() != c.told || (err == nil) != (c.fails == "") || err != nil && !strings.Contains(err.Error(), c.fails) {
			t.Errorf("%+v: %q, told %q, %v", c.records, got, &told, err)
		}
	}
	server.Be(dnstest.Ill)
	if _, err := (byRecords{domain: "example.org"}).endpoints(t.Context(), server.Resolver(), new(bytes.Buffer)); !kv.Is(err, kv.Unavailable) || diagnose(err).Exit != exitUnreachable {
		t.Errorf("%v", err)
	}
}
