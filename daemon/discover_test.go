package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/pkg/discovery"
	"github.com/kvd-io/kvd/pkg/discovery/dnstest"
)

const (
	srvPlain  = "_etcd-server._tcp.example.org. 60 IN SRV 0 0 "
	srvSecure = "_etcd-server-ssl._tcp.example.org. 60 IN SRV 0 0 "
)

func host(name, address string) string {
	kind := "A"
	if strings.Contains(address, ":") {
		kind = "AAAA"
	}
	return fmt.Sprintf("%s.example.org. 60 IN %s %s", name, kind, address)
}

func TestAMemberFindsItselfAmongTheRecordsByItsAddress(t *testing.T) {
	server := dnstest.Start(t,
		srvPlain+"2380 n1.example.org.", srvPlain+"2380 n2.example.org.", srvPlain+"2381 n2.example.org.",
		host("n1", "192.0.2.1"), host("n1", "2001:db8::1"), host("n2", "192.0.2.2"), host("other", "192.0.2.2"))
	for own, want := range map[string]string{
		"http://n1.example.org:2380":        "n1.example.org:2380",
		"http://192.0.2.1:2380":             "n1.example.org:2380",
		"http://[2001:db8::1]:2380":         "n1.example.org:2380",
		"http://[::ffff:192.0.2.1]:2380":    "n1.example.org:2380",
		"http://OTHER.example.org:2380":     "n2.example.org:2380",
		"http://other.example.org.:2381":    "n2.example.org:2381",
		"http://192.0.2.1:2381":             "",
		"http://unknown.other.example:2380": "",
	} {
		s := search{Query: discovery.Query{Service: discovery.Servers, Domain: "example.org"}, resolver: server.Resolver(), own: []string{own}}
		members, self, err := s.look(t.Context())
		if want == "" && err == nil || want != "" && (err != nil || self.String() != want || len(members) != 3) {
			t.Errorf("%s: %v of %v, %v; want %q", own, self, members, err, want)
		}
	}
}

// recordsThatAreWrong are zones that no cluster can be formed from, for a member at 192.0.2.1:2380.
var recordsThatAreWrong = []struct {
	name    string
	records []string
	secure  bool // the member's port
	wants   string
	setting bool // nothing changes until somebody changes a setting or the records
}{
	{"no records", nil, false, "--discovery-srv: _etcd-server-ssl._tcp.example.org, _etcd-server._tcp.example.org: there are no such records: publish one for every member", false},
	{"a host without an address", []string{srvPlain + "2380 n1.example.org.", srvPlain + "2380 n9.example.org.", host("n1", "192.0.2.1")}, false,
		"a record _etcd-server._tcp.example.org names the host n9.example.org, which has no address", false},
	{"not this member", []string{srvPlain + "2380 n2.example.org.", srvPlain + "7000 n1.example.org.", host("n1", "192.0.2.1"), host("n2", "192.0.2.2")}, false,
		"and this member is at 192.0.2.1:2380: publish a record for it, or give --initial-advertise-peer-urls what its record says", true},
	{"two with one target", []string{srvPlain + "2380 n1.example.org.", "_etcd-server._tcp.example.org. 60 IN SRV 1 0 2380 N1.example.org.", host("n1", "192.0.2.1")}, false,
		"two records _etcd-server._tcp.example.org name n1.example.org:2380", true},
	{"two with one address", []string{srvPlain + "2380 n1.example.org.", srvPlain + "2380 n2.example.org.", host("n1", "192.0.2.1"), host("n2", "192.0.2.1")}, false,
		"both are at 192.0.2.1:2380: each member needs an address of its own", true},
	{"http and https", []string{srvPlain + "2380 n1.example.org.", srvSecure + "2380 n2.example.org."}, true,
		"records for both _etcd-server-ssl._tcp.example.org (n2.example.org:2380) and _etcd-server._tcp.example.org (n1.example.org:2380): members speak one of http and https", true},
	{"https alone, for a member of http", []string{srvSecure + "2380 n1.example.org."}, false,
		"there are records _etcd-server-ssl._tcp.example.org, but none _etcd-server._tcp.example.org, and this member speaks http: give --listen-peer-urls the scheme https", true},
	{"http alone, for a member of https", []string{srvPlain + "2380 n1.example.org."}, true, "and this member speaks https: give --listen-peer-urls the scheme http,", true},
}

func TestRecordsThatAreWrongAreRefusedByWhatIsWrong(t *testing.T) {
	server := dnstest.Start(t)
	for _, c := range recordsThatAreWrong {
		server.Set(t, c.records...)
		s := search{
			Query:    discovery.Query{Service: discovery.Servers, Domain: "example.org"},
			resolver: server.Resolver(), own: []string{"http://192.0.2.1:2380"}, secure: c.secure,
		}
		_, _, err := s.patiently(t.Context(), slog.New(slog.DiscardHandler))
		var setting *ConfigError
		if err == nil || !strings.Contains(err.Error(), c.wants) || errors.As(err, &setting) != c.setting {
			t.Errorf("%s: %v\nwant %q, of a setting: %v", c.name, err, c.wants, c.setting)
		}
	}
}

func TestAMemberThatSeveralRecordsLeadToIsRefused(t *testing.T) {
	server := dnstest.Start(t, srvPlain+"2380 n1.example.org.", srvPlain+"2380 n2.example.org.", host("n1", "192.0.2.1"), host("n2", "192.0.2.2"))
	s := search{
		Query:    discovery.Query{Service: discovery.Servers, Domain: "example.org"},
		resolver: server.Resolver(), own: []string{"http://192.0.2.1:2380", "http://192.0.2.2:2380"},
	}
	if _, _, err := s.look(t.Context()); err == nil || !strings.Contains(err.Error(), "several records _etcd-server._tcp.example.org lead to this member: ") {
		t.Error(err)
	}
}

// lateResolver does not know until some time has passed.
type lateResolver struct {
	since time.Time
	after time.Duration
}

func (r lateResolver) LookupSRV(ctx context.Context, _, _, _ string) (string, []*net.SRV, error) {
	if time.Since(r.since) < r.after {
		return "", nil, &net.DNSError{Err: "server misbehaving", Server: "192.0.2.53:53", IsTemporary: true}
	}
	return "", []*net.SRV{{Target: "n1.example.org.", Port: 2380}}, ctx.Err()
}

func (r lateResolver) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
}

func TestAResolverThatDoesNotKnowIsAskedForAMinute(t *testing.T) {
	for after, wants := range map[time.Duration]string{30 * time.Second: "", 2 * time.Minute: "no answer in 1m0s: look at /etc/resolv.conf"} {
		synctest.Test(t, func(t *testing.T) {
			var told bytes.Buffer
			s := search{
				Query:    discovery.Query{Service: discovery.Servers, Domain: "example.org"},
				resolver: lateResolver{time.Now(), after}, own: []string{"https://192.0.2.1:2380"}, secure: true,
			}
			_, _, err := s.patiently(t.Context(), slog.New(slog.NewTextHandler(&told, nil)))
			var setting *ConfigError
			switch {
			case wants == "" && !strings.Contains(fmt.Sprint(err), "there are records for both"): // it has answered, the same to all
				t.Error(err)
			case wants != "" && (!strings.Contains(fmt.Sprint(err), wants) || errors.As(err, &setting)):
				t.Error(err)
			}
			if !strings.Contains(told.String(), "cannot be found by their records yet") || !strings.Contains(told.String(), "server misbehaving") {
				t.Errorf("it has told\n%s", &told)
			}
		})
	}
}

func TestAMemberWithoutAnAnswerStopsWhenItIsToldTo(t *testing.T) {
	server := dnstest.Start(t)
	server.Be(dnstest.Silent)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	cfg := DefaultConfig()
	cfg.DiscoverySRV, cfg.DataDir = "example.org", filepath.Join(t.TempDir(), "data")
	cfg.ListenClientURLs, cfg.ListenPeerURLs = []string{"http://127.0.0.1:0"}, []string{"http://127.0.0.1:0"}
	if _, err := Open(ctx, cfg, Deps{Resolver: server.Resolver()}); err == nil || !strings.Contains(err.Error(), "lookup _etcd-server-ssl._tcp.example.org") {
		t.Error(err)
	}
}
