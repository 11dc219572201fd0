package confd

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/kvd-io/kvd/e2e/parts"
)

// accepting returns what says whether a program accepts a file that its template has made, beyond the
// check_cmd of its resource file: nil for those with one.
func accepting(t *testing.T, program string) func(path string) error {
	t.Helper()
	switch program {
	case "haproxy", "haproxy-tcp":
		return acceptedInSilence(parts.Path(t, "haproxy"), "-c", "-f")
	case "nginx":
		return acceptedInSilence(parts.Path(t, "nginx"), "-t", "-c")
	case "varnish":
		parts.Need(t, "varnishd")
	case "caddy", "keepalived":
		parts.Need(t, program)
	case "prometheus":
		return acceptedByPromtool(t)
	case "dnsmasq":
		return func(path string) error { return acceptedByDnsmasq(t, path) }
	case "hosts":
		return func(path string) error { return acceptedAsHosts(t, path) }
	// Debian has neither of these. What is looked at is what their documentation says of the file.
	case "traefik":
		return wellFormedForTraefik
	case "envoy":
		return wellFormedForEnvoy
	default:
		t.Fatalf("nobody says whether %s accepts its file", program)
	}
	return func(string) error { return nil }
}

// acceptedInSilence runs a checker of the file that its last argument names, and takes a warning for an error,
// but for one: that a server's name does not resolve here says nothing of the template.
func acceptedInSilence(checker string, args ...string) func(string) error {
	return func(path string) error {
		output, err := exec.Command(checker, append(args, path)...).CombinedOutput()
		for line := range strings.Lines(string(output)) {
			if strings.Contains(strings.ToLower(line), "[warn") && !strings.Contains(line, "could not resolve address") {
				err = errors.Join(err, errors.New(line))
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", filepath.Base(checker), err, output)
		}
		return nil
	}
}

func acceptedByPromtool(t *testing.T) func(string) error {
	promtool := parts.Path(t, "promtool")
	return func(path string) error {
		dir := t.TempDir()
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		config := "scrape_configs:\n- job_name: kvd\n  file_sd_configs:\n  - files: [" + dir + "/kvd.json]\n"
		err = errors.Join(os.WriteFile(dir+"/kvd.json", text, 0o644), os.WriteFile(dir+"/prometheus.yml", []byte(config), 0o644))
		if err != nil {
			return err
		}
		return told(exec.Command(promtool, "check", "config", dir+"/prometheus.yml"))
	}
}

// acceptedByDnsmasq has dnsmasq read the file, once it has been told to end as soon as that is done.
func acceptedByDnsmasq(t *testing.T, path string) error {
	d := startDnsmasq(t, path)
	defer d.stop()
	if strings.Contains(d.log.String(), "bad ") {
		return errors.New(d.log.String())
	}
	return nil
}

// acceptedAsHosts asks the C library for localhost and for a service, with the file in place of
// /etc/hosts in a mount namespace.
func acceptedAsHosts(t *testing.T, path string) error {
	parts.Need(t, "mountns")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	names := []string{"localhost"}
	for _, line := range regexp.MustCompile(`(?m)^\S+ (\S+\.service\.kvd)$`).FindAllStringSubmatch(string(text), -1) {
		names = append(names, line[1])
	}
	script := `mount --bind "$0" /etc/hosts && for name; do getent -s hosts:files ahosts "$name" >/dev/null || { echo "no $name"; exit 1; }; done`
	return told(exec.Command("unshare", append([]string{"--mount", "sh", "-c", script, path}, names...)...))
}

// told runs cmd and adds to its error what it has printed.
func told(cmd *exec.Cmd) error {
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, output)
	}
	return nil
}

// readYAML reads a whole file into v, in which every field of the file must have a place.
func readYAML(path string, v any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var tree any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		return err
	}
	if tree == nil {
		tree = map[string]any{}
	}
	data, err := json.Marshal(tree)
	if err != nil {
		return err
	}
	decoder := json.NewDecoder(strings.NewReader(string(data)))
	decoder.DisallowUnknownFields()
	return decoder.Decode(v)
}

// wellFormedForTraefik compares with the dynamic configuration of Traefik 3, as far as the template uses
// it: routers with a rule of known matchers and a service that there is, services with URLs.
func wellFormedForTraefik(path string) error {
	var file struct {
		HTTP struct {
			Routers map[string]struct {
				Rule        string   `json:"rule"`
				Priority    int      `json:"priority"`
				Service     string   `json:"service"`
				EntryPoints []string `json:"entryPoints"`
			} `json:"routers"`
			Services map[string]struct {
				LoadBalancer struct {
					Servers []struct {
						URL    string `json:"url"`
						Weight *int   `json:"weight"`
					} `json:"servers"`
				} `json:"loadBalancer"`
			} `json:"services"`
		} `json:"http"`
	}
	if err := readYAML(path, &file); err != nil {
		return err
	}
	matcher := regexp.MustCompile("^(Host|HostRegexp|PathRegexp|PathPrefix)\\(`([^`]+)`\\)$")
	for name, router := range file.HTTP.Routers {
		if _, there := file.HTTP.Services[router.Service]; !there {
			return fmt.Errorf("router %s has the service %q, which there is not", name, router.Service)
		}
		if router.Priority < 1 {
			return fmt.Errorf("router %s has the priority %d", name, router.Priority)
		}
		for _, part := range strings.Split(router.Rule, " || ") {
			match := matcher.FindStringSubmatch(part)
			if match == nil {
				return fmt.Errorf("router %s has the rule %s", name, router.Rule)
			}
			if _, err := regexp.Compile(match[2]); err != nil {
				return fmt.Errorf("router %s: %w", name, err)
			}
		}
	}
	for name, service := range file.HTTP.Services {
		for _, server := range service.LoadBalancer.Servers {
			if server.Weight != nil && *server.Weight < 1 {
				return fmt.Errorf("service %s has a server of weight %d", name, *server.Weight)
			}
			if u, err := url.Parse(server.URL); err != nil || u.Scheme != "http" || u.Port() == "" || u.Path != "" {
				return fmt.Errorf("service %s has a server %q (%v)", name, server.URL, err)
			}
		}
	}
	return nil
}

// wellFormedForEnvoy compares with a DiscoveryResponse of ClusterLoadAssignments of Envoy's v3 API: each
// cluster once, addresses of IP, ports, and weights of at least 1.
func wellFormedForEnvoy(path string) error {
	var file struct {
		Resources []struct {
			Type        string `json:"@type"`
			ClusterName string `json:"cluster_name"`
			Endpoints   []struct {
				LBEndpoints []struct {
					Endpoint struct {
						Address struct {
							SocketAddress struct {
								Address   string `json:"address"`
								PortValue uint32 `json:"port_value"`
							} `json:"socket_address"`
						} `json:"address"`
					} `json:"endpoint"`
					Weight *uint32 `json:"load_balancing_weight"`
				} `json:"lb_endpoints"`
			} `json:"endpoints"`
		} `json:"resources"`
	}
	if err := readYAML(path, &file); err != nil {
		return err
	}
	if file.Resources == nil {
		return errors.New("no resources: [] would be an empty list")
	}
	seen := map[string]bool{}
	for _, cluster := range file.Resources {
		if cluster.Type != "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment" || cluster.ClusterName == "" || seen[cluster.ClusterName] {
			return fmt.Errorf("a resource %q of type %q, or a second one", cluster.ClusterName, cluster.Type)
		}
		seen[cluster.ClusterName] = true
		for _, group := range cluster.Endpoints {
			for _, endpoint := range group.LBEndpoints {
				at := endpoint.Endpoint.Address.SocketAddress
				if _, err := netip.ParseAddr(at.Address); err != nil || at.PortValue < 1 || at.PortValue > 65535 {
					return fmt.Errorf("cluster %s has the endpoint %+v", cluster.ClusterName, at)
				}
				if endpoint.Weight != nil && *endpoint.Weight < 1 {
					return fmt.Errorf("cluster %s has an endpoint of weight %d", cluster.ClusterName, *endpoint.Weight)
				}
			}
		}
	}
	return nil
}
