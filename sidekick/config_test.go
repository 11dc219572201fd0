package sidekick

import (
	"strings"
	"testing"
)

func TestInstanceNamesAreDNSLabels(t *testing.T) {
	for host, want := range map[string]string{
		"node1":                   "node1-8080",
		"Node_1.example.org":      "node-1-8080",
		"":                        "host-8080",
		"---":                     "host-8080",
		"größe":                   "gr--e-8080",
		strings.Repeat("x", 100):  strings.Repeat("x", 57) + "-8080",
		strings.Repeat("ü-", 100): "host-8080",
	} {
		got := instanceName(host, 8080)
		if got != want || len(got) > 63 {
			t.Errorf("%q became %q, want %q", host, got, want)
		}
	}
}

func TestChecksOfUDPServicesAreOffUnlessAskedFor(t *testing.T) {
	for want, cfg := range map[string]Config{
		"tcp":    {Protocol: "tcp"},
		"none":   {Protocol: "udp"},
		"http:/": {Protocol: "udp", Check: "http:/"},
	} {
		if got := cfg.checkForm(); got != want {
			t.Errorf("%+v: check %q, want %q", cfg, got, want)
		}
	}
}
