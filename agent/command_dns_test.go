package agent

import (
	"encoding/json"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestBadSettingsOfTheDNSAreNamedAndNothingStarts(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct{ flags, want string }{
		{"--dns-listen " + taken.Addr().String(), "in use"},
		{"--dns-ttl 5s", "--dns-ttl: has a meaning only with --dns-listen"},
		{"--dns-allow 10.0.0.0/8", "--dns-allow: has a meaning only with --dns-listen"},
		{"--dns-listen localhost:53", "neither an address nor an interface"},
		{"--dns-listen 127.0.0.1:0 --dns-domain .", "domain"},
		{"--dns-listen 127.0.0.1:0 --dns-ttl 5ms", "whole seconds"},
		{"--dns-listen 127.0.0.1:0 --dns-allow everybody", `--dns-allow "everybody"`},
		{"--dns-listen 127.0.0.1:0 --dns-stale -1s", "must not be negative"},
	} {
		var d dnsCompanion
		flags := pflag.NewFlagSet("kvagent", pflag.ContinueOnError)
		d.addFlags(flags)
		if err := flags.Parse(strings.Fields(c.flags)); err != nil {
			t.Fatal(err)
		}
		runner, err := d.open(host{Prefix: "/services", Log: slog.New(slog.DiscardHandler)})
		if runner != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v, want %q", c.flags, runner, err, c.want)
		}
	}
}

func TestTheStatusSaysHowTheDNSFares(t *testing.T) {
	var d dnsCompanion
	flags := pflag.NewFlagSet("kvagent", pflag.ContinueOnError)
	d.addFlags(flags)
	if err := flags.Parse([]string{"--dns-listen", "127.0.0.1:0"}); err != nil {
		t.Fatal(err)
	}
	r, err := open([]companion{&d, &gatewayCompanion{}}, host{Prefix: "/services", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	report := Report{Servers: r.report()}
	data, err := json.Marshal(report)
	if err != nil || !strings.Contains(string(data), `"name":"dns","figures":[{"name":"complete","value":0}`) {
		t.Errorf("%s, %v", data, err)
	}
	var again Report
	if err := json.Unmarshal(data, &again); err != nil {
		t.Error(err)
	}
	var metrics strings.Builder
	writeMetrics(&metrics, report)
	for _, want := range []string{"kvagent_dns_complete 0\n", "kvagent_dns_answers_total 0\n", "# TYPE kvagent_dns_truncated_total counter\n"} {
		if !strings.Contains(metrics.String(), want) {
			t.Errorf("%q is not in\n%s", want, &metrics)
		}
	}
}

func TestANetworkIsOneOrAnAddress(t *testing.T) {
	for text, want := range map[string]string{"10.1.2.3/8": "10.0.0.0/8", "10.1.2.3": "10.1.2.3/32", "::ffff:10.1.2.3": "10.1.2.3/32", "fe80::1%eth0": "fe80::1/128", "fd00::/8": "fd00::/8"} {
		if got, err := parseNetwork(text); err != nil || got.String() != want {
			t.Errorf("%q: %v, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "x", "10.0.0.0/33", "10.0.0"} {
		if got, err := parseNetwork(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}
