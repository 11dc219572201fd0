package agent

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

func TestBadSettingsOfTheGatewayAreNamedAndNothingStarts(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct{ flags, want string }{
		{"--gateway-allow 10.0.0.0/8=r:/a", "only with --gateway-listen"},
		{"--gateway-host kvd.example", "only with --gateway-listen"},
		{"--gateway-listen docker0", "--gateway-listen"},
		{"--gateway-listen " + taken.Addr().String(), "in use"},
		{"--gateway-listen 127.0.0.1:0 --gateway-allow everybody", "--gateway-allow"},
		{"--gateway-listen 127.0.0.1:0 --gateway-cache-bytes -1", "must not be negative"},
		{"--gateway-listen 0.0.0.0:0", "--gateway-allow"},
	} {
		var g gatewayCompanion
		flags := pflag.NewFlagSet("kvagent", pflag.ContinueOnError)
		g.addFlags(flags)
		if err := flags.Parse(strings.Fields(c.flags)); err != nil {
			t.Fatal(err)
		}
		runner, err := g.open(host{Prefix: "/services", Log: slog.New(slog.DiscardHandler)})
		if runner != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v, want %q", c.flags, runner, err, c.want)
		}
	}
	var none gatewayCompanion
	if runner, err := none.open(host{}); runner != nil || err != nil {
		t.Errorf("without flags: %v, %v", runner, err)
	}
}

func TestTheStatusTellsWhatTheGatewayDoes(t *testing.T) {
	g := gatewayCompanion{listen: []string{"127.0.0.1:0", "kvd-none:2379"}, cacheBytes: 1}
	all, err := open([]companion{&g}, host{Prefix: "/services", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); all.run(ctx, slog.New(slog.DiscardHandler)) }()
	defer func() { cancel(); <-done }()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		r := all.report()[0]
		if r.Name == "gateway" && len(r.Listening) == 1 && len(r.Waiting) == 1 && len(r.Figures) > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", r)
		}
	}
}
