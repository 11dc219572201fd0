package demo

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/pkg/program"
)

// signalReload makes a proxy read its configuration again: it is HAProxy's, and the built-in
// proxy follows.
const signalReload = syscall.SIGUSR2

// builtinCommand is the proxy for machines that have none. It reads the little it needs from the
// configuration that was rendered for HAProxy, and reads it again on signalReload.
func builtinCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:    "proxy",
		Short:  "serve what a rendered HAProxy configuration describes",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := dieWithParent(); err != nil {
				return err
			}
			env := program.EnvFrom(cmd.Context())
			config, err := readProxyConfig(file)
			if err != nil {
				return err
			}
			ring := &serverRing{}
			ring.servers.Store(&config.servers)
			signals, done := make(chan os.Signal, 1), make(chan struct{})
			signal.Notify(signals, signalReload)
			defer signal.Stop(signals)
			defer close(done)
			go func() {
				for {
					select {
					case <-signals:
						reload(env.Log, file, ring)
					case <-done:
						return
					}
				}
			}()
			return serve(cmd.Context(), config.bind, ring.handler())
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "rendered configuration")
	return cmd
}

// reload takes over the servers of file. A file that cannot be read changes nothing.
func reload(log *slog.Logger, file string, ring *serverRing) {
	config, err := readProxyConfig(file)
	if err != nil {
		log.Error("configuration not loaded, the old one stays", "file", file, "error", err)
		return
	}
	ring.servers.Store(&config.servers)
	log.Info("configuration loaded", "file", file, "servers", len(config.servers))
}

// proxyConfig is the part of an HAProxy configuration that the built-in proxy obeys.
type proxyConfig struct {
	bind    string   // first address of the first frontend, host:port
	servers []string // host:port of the servers of all backends
}

func readProxyConfig(path string) (proxyConfig, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return proxyConfig{}, err
	}
	config, err := parseProxyConfig(string(text))
	if err != nil {
		return proxyConfig{}, fmt.Errorf("%s: %w", path, err)
	}
	return config, nil
}

func parseProxyConfig(text string) (proxyConfig, error) {
	var config proxyConfig
	section := ""
	for number, line := range strings.Split(text, "\n") {
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		if line[0] != ' ' && line[0] != '\t' {
			section = words[0]
			continue
		}
		switch {
		case section == "frontend" && words[0] == "bind" && len(words) > 1 && config.bind == "":
			if _, _, err := net.SplitHostPort(words[1]); err != nil {
				return config, fmt.Errorf("line %d: bind: %w", number+1, err)
			}
			config.bind = strings.TrimPrefix(words[1], "*")
		case section == "backend" && words[0] == "server" && len(words) > 2:
			if _, _, err := net.SplitHostPort(words[2]); err != nil {
				return config, fmt.Errorf("line %d: server: %w", number+1, err)
			}
			config.servers = append(config.servers, words[2])
		}
	}
	if config.bind == "" {
		return config, errors.New("no frontend with a bind line")
	}
	return config, nil
}

// serverRing gives each request to the next server, and to the one after when that refuses.
type serverRing struct {
	servers atomic.Pointer[[]string]
	turn    atomic.Uint64
}

func (r *serverRing) handler() http.Handler {
	return &httputil.ReverseProxy{
		Rewrite:   func(p *httputil.ProxyRequest) { p.SetURL(&url.URL{Scheme: "http", Host: "backend"}) },
		Transport: r,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		},
	}
}

// RoundTrip implements http.RoundTripper. Only a connection that was refused moves on to another
// server: then the request has not been seen by anybody.
func (r *serverRing) RoundTrip(request *http.Request) (*http.Response, error) {
	servers := *r.servers.Load()
	err := errors.New("no server is registered")
	first := r.turn.Add(1)
	for try := range servers {
		server := servers[(first+uint64(try))%uint64(len(servers))]
		attempt := request.Clone(request.Context())
		attempt.URL.Host = server
		var response *http.Response
		if response, err = http.DefaultTransport.RoundTrip(attempt); err == nil || !errors.Is(err, syscall.ECONNREFUSED) {
			return response, err
		}
	}
	return nil, err
}
