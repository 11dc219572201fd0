package confd

import (
	"slices"
	"testing"

	"github.com/kvd-io/kvd/pkg/kvclient"
)

func TestEndpointsComeFromTheSettingsOrFromDNSAndGetTheirScheme(t *testing.T) {
	lookup := func(record string) ([]string, error) { return []string{record + ":1", "[::1]:2"}, nil }
	for _, c := range []struct {
		cfg  Config
		want []string
	}{
		{Config{}, []string{}},
		{Config{Client: kvclient.Config{Endpoints: []string{"a:1", "https://b:2"}}}, []string{"a:1", "https://b:2"}},
		{Config{Scheme: "http", Client: kvclient.Config{Endpoints: []string{"a:1", "https://b:2"}}}, []string{"http://a:1", "https://b:2"}},
		{Config{SRV: "record", Scheme: "https", Client: kvclient.Config{Endpoints: []string{"unused"}}}, []string{"https://record:1", "https://[::1]:2"}},
	} {
		if got, err := endpoints(c.cfg, Deps{Lookup: lookup}); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%+v: got %q, %v; want %q", c.cfg, got, err, c.want)
		}
	}
}

func TestAnSRVDomainNamesARecordOfTheBackend(t *testing.T) {
	for want, o := range map[string]options{
		"_etcd._tcp.example.com.": {Config: Config{Backend: backendEtcd}, srvDomain: "example.com"},
		"_kvd._tcp.example.com.":  {Config: Config{Backend: backendKvd}, srvDomain: "example.com."},
		"_x._tcp.example.com":     {Config: Config{Backend: backendKvd}, srvDomain: "unused", srvRecord: "_x._tcp.example.com"},
		"":                        {},
	} {
		if got := o.config().SRV; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
