package agent

import (
	"fmt"
	"log/slog"

	"github.com/spf13/pflag"

	"github.com/kvd-io/kvd/agent/gateway"
	"github.com/kvd-io/kvd/pkg/workload/docker"
)

// defaultGatewayCache is room for the answers that containers of one host ask for again and again.
const defaultGatewayCache = 64 << 20

// gatewayCompanion lets containers use the store at an address of their host.
type gatewayCompanion struct {
	listen, allow, hosts []string
	cacheBytes           int64
}

func (*gatewayCompanion) name() string { return "gateway" }

func (g *gatewayCompanion) addFlags(flags *pflag.FlagSet) {
	flags.StringSliceVar(&g.listen, "gateway-listen", nil, "serve the store to containers at `address`, such as docker0:2379, 172.17.0.1:2379 or unix:/run/kvd/gateway/gateway.sock; repeatable")
	flags.StringArrayVar(&g.allow, "gateway-allow", nil, "`NETWORK=RULES` for those who come from an address, prefix, docker:NAME or unix, such as 172.17.0.0/16=r:/services,rw:/app; repeatable (default: read --prefix, for the networks listened at)")
	flags.StringSliceVar(&g.hosts, "gateway-host", nil, "`name` with a dot by which containers reach the gateway; repeatable")
	flags.Int64Var(&g.cacheBytes, "gateway-cache-bytes", defaultGatewayCache, "room for answers that are given again while a watch tells that they are true; 0: none")
}

func (g *gatewayCompanion) open(h host) (runner, error) {
	switch {
	case len(g.listen) == 0 && len(g.allow)+len(g.hosts) > 0:
		return nil, fmt.Errorf("--gateway-allow and --gateway-host: have a meaning only with --gateway-listen")
	case len(g.listen) == 0:
		return nil, nil
	case g.cacheBytes < 0:
		return nil, fmt.Errorf("--gateway-cache-bytes %d: must not be negative", g.cacheBytes)
	}
	engine, err := docker.New(docker.Config{Host: h.Engine})
	if err != nil {
		return nil, fmt.Errorf("--docker-host: %w", err)
	}
	server, err := gateway.New(gateway.Config{
		Listen: g.listen, Allow: g.allow, Services: h.Prefix, Hosts: g.hosts, Store: h.Config,
		CacheBytes: g.cacheBytes, Subnets: engine.Subnets, Log: h.Log.With(slog.String("server", "gateway")),
	})
	if err != nil {
		return nil, err
	}
	if err := server.Taken(); err != nil {
		return nil, err
	}
	return gatewayServer{server}, nil
}

// gatewayServer is a gateway that the status tells of.
type gatewayServer struct{ *gateway.Server }

func (g gatewayServer) report() ServerReport {
	s := g.Stats()
	return ServerReport{Listening: s.Listening, Waiting: s.Waiting, Figures: []Figure{
		{"connections", "gauge", "Connections of containers.", float64(s.Connections)},
		{"watches", "gauge", "Watches and long polls of containers.", float64(s.Watches)},
		{"requests_total", "counter", "Requests of containers.", float64(s.Requests)},
		{"refused_total", "counter", "Requests that no rule allows, and what was over a limit.", float64(s.Refused)},
		{"cache_hits_total", "counter", "Reads that were answered from memory.", float64(s.CacheHits)},
		{"cache_misses_total", "counter", "Reads that might have been answered from memory.", float64(s.CacheMisses)},
		{"cache_bytes", "gauge", "Memory for answers that are given again.", float64(s.CacheBytes)},
		{"upstream_failures_total", "counter", "Requests that no member has answered, or with an error of its own.", float64(s.UpstreamFailures)},
		{"members_left_total", "counter", "Members that were left for the next one.", float64(s.Moved)},
	}}
}
