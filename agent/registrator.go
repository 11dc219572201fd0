package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/kvd-io/kvd/pkg/program"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/spelling"
	"github.com/kvd-io/kvd/pkg/workload/docker"
)

// registrator holds registrator's settings that mean something else here, or nothing any more. Those
// that mean the same are settings of kvagent.
type registrator struct {
	ttlRefresh    time.Duration
	resync        time.Duration
	cleanup       bool
	deregister    string
	retryAttempts int
	retryInterval int
}

func (r *registrator) addFlags(flags *pflag.FlagSet) {
	flags.DurationVar(&r.ttlRefresh, "ttl-refresh", 0, "a setting of registrator: registrations are renewed every third of --ttl")
	flags.DurationVar(&r.resync, "resync", 0, "a setting of registrator: containers are compared with registrations all the time")
	flags.BoolVar(&r.cleanup, "cleanup", false, "a setting of registrator: what an earlier run has left is always removed")
	flags.StringVar(&r.deregister, "deregister", "always", "`which` containers that have ended are removed: always, or on-success, as registrator has it: one that has failed stays for --ttl if that is given, else until it is started again or removed from the engine")
	flags.IntVar(&r.retryAttempts, "retry-attempts", 0, "a setting of registrator: the store is waited for as long as it takes")
	flags.IntVar(&r.retryInterval, "retry-interval", 2000, "a setting of registrator: the store is asked again after at most 4 s")
	for _, name := range []string{"ttl-refresh", "resync", "cleanup", "retry-attempts", "retry-interval"} {
		flags.Lookup(name).Hidden = true
	}
}

func (r *registrator) validate() error {
	if r.deregister != "always" && r.deregister != "on-success" {
		return fmt.Errorf("--deregister %q: registrator knows always and on-success", r.deregister)
	}
	return nil
}

// failedHold is how long a container that has failed stays registered. ttl is the one that was given, 0 if
// none was: then registrator's registrations have no end.
func (r *registrator) failedHold(ttl time.Duration) time.Duration {
	switch {
	case r.deregister != "on-success":
		return 0
	case ttl == 0:
		return docker.Always
	}
	return ttl
}

// tell logs what the settings that were given mean here.
func (r *registrator) tell(origins map[string]program.Origin, log *slog.Logger) {
	for name, meaning := range map[string]string{
		"ttl-refresh":    "registrations are renewed every third of --ttl, without waking who watches them",
		"resync":         "every event and every minute compares all containers with all registrations; nothing is written for what is right",
		"cleanup":        "what an earlier run has left and no container stands behind is always removed at the start",
		"retry-attempts": "the store is waited for as long as it takes",
		"retry-interval": "a store that does not answer is asked again after 0.1 to 4 s",
	} {
		if given(origins, name) {
			log.Info("a setting of registrator has no effect here", "setting", name, "because", meaning)
		}
	}
}

func given(origins map[string]program.Origin, name string) bool {
	return origins[name] != "" && origins[name] != program.OriginDefault
}

// canonical returns our name of a flag that registrator spells otherwise.
func canonical(name string) string {
	if strings.EqualFold(name, "useIpFromLabel") {
		return "use-ip-from-label"
	}
	return name
}

// elsewhere says of flags that registrator's code or its forks suggest what takes their place.
func elsewhere() map[string]string {
	return map[string]string{
		"forceTags":        "use --tags, a list or a template",
		"hostIp":           "use --ip",
		"refreshTtl":       "use --ttl",
		"refreshInterval":  "registrations are renewed every third of --ttl",
		"resyncInterval":   "containers are compared with registrations all the time",
		"useIpFromEnv":     "use --use-ip-from-label, or the label kvd.SERVICE.address of the container",
		"useIpFromNetwork": "use --internal --network NAME, or the label kvd.SERVICE.network of the container",
	}
}

// registratorSocket is where registrator looks for the engine, which its users mount there:
// -v /var/run/docker.sock:/tmp/docker.sock.
const registratorSocket = "/tmp/docker.sock"

// engineOf returns the engine of registrator's users who name none: at socket if one is there, else the
// default one. Everybody may make a socket in /tmp, so that one counts only if it belongs to root or to
// whom this program runs as.
func engineOf(socket string) string {
	info, err := os.Lstat(socket)
	if err != nil || info.Mode().Type() != os.ModeSocket {
		return docker.DefaultHost
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return docker.DefaultHost
	}
	return "unix://" + socket
}

// uri is registrator's argument: which store, and where and how to write there.
type uri struct {
	endpoints []string // empty: the default one
	view      registry.View
}

// notURI says that an argument is neither a command nor registrator's.
func notURI(text string) error {
	var names []string
	for _, command := range commands() {
		names = append(names, command.Name())
	}
	if meant := spelling.Meant(text, names); meant != "" {
		return fmt.Errorf("unexpected argument %q: did you mean %s?", text, meant)
	}
	return fmt.Errorf("unexpected argument %q: a command (kvagent --help lists them) or registrator's URI is expected, like etcd://127.0.0.1:2379/services", text)
}

// parseURI reads etcd://HOST:PORT,HOST:PORT/PREFIX and skydns2://HOST:PORT/DOMAIN. isTLS says that the
// store is spoken to over TLS. The error says what takes the place of another backend.
func parseURI(text string, isTLS bool) (u uri, err error) {
	scheme, rest, found := strings.Cut(text, "://")
	if !found {
		return u, notURI(text)
	}
	hosts, path, _ := strings.Cut(rest, "/")
	httpScheme := "http://"
	if isTLS {
		httpScheme = "https://"
	}
	for _, host := range strings.Split(hosts, ",") {
		if host == "" {
			continue
		}
		if parsed, err := url.Parse(httpScheme + host); err != nil || parsed.Host != host {
			return u, fmt.Errorf("%q: %q is no HOST:PORT", text, host)
		}
		u.endpoints = append(u.endpoints, httpScheme+host)
	}
	switch scheme {
	case "etcd", "kvd":
		path = strings.TrimRight(path, "/")
		if path == "" {
			return u, fmt.Errorf("%q: registrations at the root of the store would be among everybody's keys; name a directory, as in etcd://%s/services", text, hosts)
		}
		u.view, err = registry.ParseView(string(registry.LayoutRegistrator) + ":/" + strings.TrimLeft(path, "/"))
	case "skydns2", "skydns":
		u.view, err = registry.ParseView(string(registry.LayoutSkyDNS) + ":" + strings.Trim(path, "/"))
	default:
		return u, backendError(scheme)
	}
	if err != nil {
		return u, fmt.Errorf("%q: %w", text, err)
	}
	return u, nil
}

// backendError says what takes the place of a backend of registrator's that there is not.
func backendError(scheme string) error {
	const otherwise = "; run kvd, or etcd with its v2 API, and use etcd://HOST:2379/services (address:port), skydns2://HOST:2379/DOMAIN (for DNS) or --layout json:/services (everything, with tags and states)"
	switch {
	case strings.HasPrefix(scheme, "consulkv"):
		return errors.New("kvagent does not write to Consul. etcd://HOST:2379/PREFIX has the same keys and values as consulkv://" + otherwise)
	case strings.HasPrefix(scheme, "consul"):
		return errors.New("kvagent does not write to Consul. Checks of containers (SERVICE_CHECK_HTTP and so on) are run by kvagent itself, and its --dns-listen answers for services as Consul's DNS does" + otherwise)
	case scheme == "zookeeper", scheme == "zk":
		return errors.New("kvagent does not write to ZooKeeper. --layout json:/services has what registrator writes there" + otherwise)
	case scheme == "etcd3", scheme == "etcdv3", scheme == "etcd2":
		return errors.New("kvagent speaks etcd's v2 API: etcd://HOST:2379/PREFIX, with kvd or an etcd that has --enable-v2")
	case scheme == "http", scheme == "https":
		return errors.New("a store is named with --endpoints " + scheme + "://HOST:PORT")
	}
	return fmt.Errorf("there is no backend %q%s", scheme, otherwise)
}
