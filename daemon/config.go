package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/kvd-io/kvd/daemon/raftnode"
	"github.com/kvd-io/kvd/daemon/service"
	"github.com/kvd-io/kvd/pkg/discovery"
	"github.com/kvd-io/kvd/pkg/invite"
)

// Config is every setting of the daemon. The flags bound to it by AddFlags have etcd's names and
// units; DefaultConfig holds the defaults.
type Config struct {
	Name    string
	DataDir string // "" means NAME.kvd in the working directory

	ListenClientURLs         []string
	AdvertiseClientURLs      []string // nil: derived from where it listens
	ListenPeerURLs           []string
	InitialAdvertisePeerURLs []string // nil: derived from where it listens

	InitialCluster      string // "" means this member alone
	InitialClusterState string
	InitialClusterToken string
	Join                string // an invitation; "" for a member that was not invited
	ForceNewCluster     bool   // see Recover
	Discovery           string // refused: there is no discovery service
	DiscoverySRV        string // domain whose SRV records name the founders, "" for none
	DiscoverySRVName    string // tells clusters of that domain apart

	HeartbeatInterval uint // ms
	ElectionTimeout   uint // ms; 0: it follows what is measured
	KeepLeader        bool // also one that is much slower than another member

	CORS            []string // origins whose web pages may use the API, anyOrigin for all
	HostWhitelist   []string // further names that clients reach this member by, anyHost for all
	MaxRequestBytes int64

	ReadMode string // readLocal or readQuorum

	MaxConnections      uint // 0 means as many as the limit of open files leaves
	MaxConnectionsPerIP uint // 0 means any number
	MaxWatchers         uint // 0 means fifteen of sixteen connections

	QuotaBackendBytes int64 // that the store may hold; 0 means the default, as in etcd

	LogStore string

	SnapshotInterval time.Duration // between scheduled snapshots; 0: none
	SnapshotKeep     uint
	SnapshotDir      string // "" is none

	ClientTLS, PeerTLS TLS // of the https ports for clients and for members
	TLSMinVersion      string
	CertUsers          bool // a client certificate stands for the user of its common name

	MetricsCompat string // metricsEtcd or metricsOff

	founder string // what InitialCluster calls this member, as discover has found it; "" for Name
}

// The addresses that etcd uses as well.
const (
	defaultClientURL = "http://127.0.0.1:2379"
	defaultPeerURL   = "http://127.0.0.1:2380"
)

// The range of the quota: every value up to the usual size of a request fits, and a machine could
// hold what it allows in memory.
const (
	quotaMin = 2 << 20
	quotaMax = 64 << 30
)

const (
	stateNew      = "new"
	stateExisting = "existing"
)

// How a read without quorum=true is answered.
const (
	readLocal  = "local"  // from what this member holds, at once
	readQuorum = "quorum" // as with quorum=true
)

// DefaultConfig returns the configuration of a single member on this machine.
func DefaultConfig() Config {
	return Config{
		Name:                "default",
		ListenClientURLs:    []string{defaultClientURL},
		ListenPeerURLs:      []string{defaultPeerURL},
		InitialClusterState: stateNew,
		InitialClusterToken: "kvd-cluster",
		HeartbeatInterval:   100,
		ReadMode:            readLocal,
		MaxRequestBytes:     3 << 19,
		QuotaBackendBytes:   service.DefaultQuota,
		LogStore:            raftnode.LogStoreWAL,
		SnapshotKeep:        24,
		ClientTLS:           TLS{ClientCerts: certsOff},
		PeerTLS:             TLS{ClientCerts: certsOff},
		TLSMinVersion:       defaultTLSVersion,
		MetricsCompat:       metricsEtcd,
	}
}

// AddFlags defines the flags of all settings on flags, bound to c, with c's values as defaults.
func (c *Config) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&c.Name, "name", c.Name, "name of this member, for people; it is kept in the data directory")
	flags.StringVar(&c.DataDir, "data-dir", c.DataDir, "`directory` with the data of this member alone (default NAME.kvd in the working directory)")
	dir := flags.Lookup("data-dir")
	dir.Value = derived{Value: dir.Value, otherwise: c.dataDir}
	flags.StringSliceVar(&c.ListenClientURLs, "listen-client-urls", c.ListenClientURLs, "`urls` to serve clients on")
	flags.StringSliceVar(&c.AdvertiseClientURLs, "advertise-client-urls", c.AdvertiseClientURLs, "client `urls` to tell others (default: those it listens on)")
	flags.StringSliceVar(&c.ListenPeerURLs, "listen-peer-urls", c.ListenPeerURLs, "`urls` to serve other members on")
	flags.StringSliceVar(&c.InitialAdvertisePeerURLs, "initial-advertise-peer-urls", c.InitialAdvertisePeerURLs, "peer `urls` to tell others (default: those it listens on)")
	flags.StringVar(&c.InitialCluster, "initial-cluster", c.InitialCluster, "the `members` of a new cluster, or some of one to join, as name=url,name=url with this member among them; it counts for a new data directory only (default NAME=its peer url)")
	flags.StringVar(&c.InitialClusterState, "initial-cluster-state", c.InitialClusterState, "new: --initial-cluster begins together; existing: this member was added to a cluster that runs, and joins it")
	flags.StringVar(&c.InitialClusterToken, "initial-cluster-token", c.InitialClusterToken, "tells this cluster from others, the same for all members; it is kept in the data directory")
	flags.BoolVar(&c.ForceNewCluster, "force-new-cluster", c.ForceNewCluster, "make a member that has lost its quorum the only one of a new cluster before it starts, as kvd recover does; once")
	flags.StringVar(&c.DiscoverySRV, "discovery-srv", c.DiscoverySRV, "`domain` whose SRV records _etcd-server._tcp, or _etcd-server-ssl._tcp for https, name the members that begin together, in place of --initial-cluster; it counts for a new data directory only")
	flags.StringVar(&c.DiscoverySRVName, "discovery-srv-name", c.DiscoverySRVName, "`name` that tells this cluster from others of that domain: the records are then _etcd-server-NAME._tcp")
	flags.StringVar(&c.Join, "join", c.Join, "the `line` that kvctl member invite has printed: join that cluster; it counts for a new data directory only")
	flags.UintVar(&c.HeartbeatInterval, "heartbeat-interval", c.HeartbeatInterval, "`ms` between signs of life of a leader; checked against --election-timeout, 1000 if that is 0, from which the real interval follows: 3 to 6 hundredths of that")
	flags.UintVar(&c.ElectionTimeout, "election-timeout", c.ElectionTimeout, "`ms` without a leader until a member stands for election at the latest; 0: from 1000 to 10000, as round trips, syncs of the log and the load of the machine ask for; a sole member stands at once")
	flags.BoolVar(&c.KeepLeader, "keep-leader", c.KeepLeader, "leave the leadership where it is, though another member has a much faster disk or link")
	flags.StringVar(&c.ReadMode, "read-mode", c.ReadMode, "`how` reads are answered that do not say quorum=true: local, at once from what this member holds, or quorum, as if they did")
	flags.StringSliceVar(&c.CORS, "cors", c.CORS, "`origins` whose web pages may use this store, as scheme://host:port, or * for all (default none)")
	flags.StringSliceVar(&c.HostWhitelist, "host-whitelist", c.HostWhitelist, "`names` that clients reach this member by, beside addresses, localhost, the machine's name and those of --advertise-client-urls; * for all")
	flags.Int64Var(&c.MaxRequestBytes, "max-request-bytes", c.MaxRequestBytes, "largest body of a request, in `bytes`")
	flags.UintVar(&c.MaxConnections, "max-connections", c.MaxConnections, "connections of clients at a time; 0 means as many as the limit of open files leaves")
	flags.UintVar(&c.MaxConnectionsPerIP, "max-connections-per-ip", c.MaxConnectionsPerIP, "connections of one client address at a time, of one network /64 for IPv6; 0 means any number: proxies and containers share addresses")
	flags.UintVar(&c.MaxWatchers, "max-watchers", c.MaxWatchers, "watches at a time; 0 means fifteen sixteenths of the connections")
	flags.Int64Var(&c.QuotaBackendBytes, "quota-backend-bytes", c.QuotaBackendBytes, "`bytes` that keys, values and what it takes to keep them may use; above it only what makes the store smaller is done; 0 is the default")
	flags.StringVar(&c.LogStore, "experimental-log-store", c.LogStore, "how the log is kept on disk: wal, or boltdb, which is slower and older; fixed for the life of a data directory")
	flags.DurationVar(&c.SnapshotInterval, "snapshot-interval", c.SnapshotInterval, "`time` between snapshots that are written to --snapshot-dir, such as 1h; 0: none are")
	flags.UintVar(&c.SnapshotKeep, "snapshot-keep", c.SnapshotKeep, "how many snapshots stay in --snapshot-dir")
	flags.StringVar(&c.SnapshotDir, "snapshot-dir", c.SnapshotDir, "`directory` for the snapshots of --snapshot-interval, of this member alone; made if absent")
	flags.StringVar(&c.MetricsCompat, "metrics-compat", c.MetricsCompat, "further `names` for metrics: etcd, for dashboards and alerts made for it, or off")
	c.addTLSFlags(flags)
	flags.StringVar(&c.Discovery, "discovery", c.Discovery, "refused")
	flags.Lookup("discovery").Hidden = true
}

// derived shows, in place of an empty setting, what follows from others.
type derived struct {
	pflag.Value
	otherwise func() string
}

func (d derived) String() string { return cmp.Or(d.Value.String(), d.otherwise()) }

// envAliases are etcd's environment variables for the flags that etcd has as well.
func envAliases() map[string][]string {
	aliases := map[string][]string{}
	for _, flag := range append(tlsFlagsOfEtcd,
		"name", "data-dir", "listen-client-urls", "advertise-client-urls", "listen-peer-urls",
		"initial-advertise-peer-urls", "initial-cluster", "initial-cluster-state", "initial-cluster-token", "force-new-cluster",
		"heartbeat-interval", "election-timeout", "cors", "host-whitelist", "max-request-bytes", "quota-backend-bytes", "discovery", "discovery-srv", "discovery-srv-name", "log-level",
	) {
		aliases[flag] = []string{"ETCD_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))}
	}
	return aliases
}

// ConfigError is a setting that cannot be used.
type ConfigError struct {
	Flag   string // without dashes
	Reason string
}

func (e *ConfigError) Error() string { return "--" + e.Flag + ": " + e.Reason }

func configErrorf(flag, format string, args ...any) error {
	return &ConfigError{Flag: flag, Reason: fmt.Sprintf(format, args...)}
}

// Validate returns all that is wrong with c, each a *ConfigError, joined.
func (c *Config) Validate() error {
	problems := []error{
		checkURLs("listen-client-urls", c.ListenClientURLs, true),
		checkURLs("advertise-client-urls", c.AdvertiseClientURLs, false),
		checkURLs("listen-peer-urls", c.ListenPeerURLs, true),
		checkURLs("initial-advertise-peer-urls", c.InitialAdvertisePeerURLs, false),
		c.checkCluster(),
		c.checkTLS(),
	}
	refuse := func(wrong bool, flag, format string, args ...any) {
		if wrong {
			problems = append(problems, configErrorf(flag, format, args...))
		}
	}
	refuse(c.Name == "" || strings.ContainsAny(c.Name, "=,/\x00\n"), "name", "%q cannot be a name: it must not be empty nor contain any of = , /", c.Name)
	for _, text := range c.ListenPeerURLs {
		refuse(!strings.HasSuffix(address(text), ":0") && slices.ContainsFunc(c.ListenClientURLs, func(u string) bool { return address(u) == address(text) }),
			"listen-peer-urls", "%s is one of --listen-client-urls, too: clients and members need ports of their own, such as 2379 and 2380", text)
	}
	refuse(c.InitialClusterToken == "", "initial-cluster-token", "it must not be empty")
	refuse(c.HeartbeatInterval == 0, "heartbeat-interval", "it must be at least 1 ms")
	shortest := cmp.Or(c.ElectionTimeout, uint(raftnode.ElectionShortest/time.Millisecond))
	refuse(shortest < 5*c.HeartbeatInterval, "election-timeout", "%d ms is less than five times the heartbeat interval of %d ms", shortest, c.HeartbeatInterval)
	refuse(c.ElectionTimeout > 50_000, "election-timeout", "%d ms is more than 50000 ms: the cluster would be without a leader for that long", c.ElectionTimeout)
	refuse(c.ReadMode != readLocal && c.ReadMode != readQuorum, "read-mode", "%q is unknown: use %s or %s", c.ReadMode, readLocal, readQuorum)
	_, err := newCORS(c.CORS)
	refuse(err != nil, "cors", "%v; an origin is scheme://host or scheme://host:port, or * for all of them", err)
	for _, name := range c.HostWhitelist {
		reason := hostProblem(name)
		refuse(reason != "", "host-whitelist", "cannot use %q: %s", name, reason)
	}
	refuse(c.MaxRequestBytes < 1<<10 || c.MaxRequestBytes > 10<<20, "max-request-bytes", "%d is not between 1024 and 10485760 bytes, which members can pass on to each other", c.MaxRequestBytes)
	refuse(c.QuotaBackendBytes != 0 && (c.QuotaBackendBytes < quotaMin || c.QuotaBackendBytes > quotaMax), "quota-backend-bytes",
		"%d is not between %d and %d bytes; there is no unlimited store, as all of it is in memory, and 0 means %d", c.QuotaBackendBytes, quotaMin, quotaMax, service.DefaultQuota)
	refuse(c.LogStore != raftnode.LogStoreWAL && c.LogStore != raftnode.LogStoreBoltDB, "experimental-log-store",
		"%q is unknown: use %s or %s", c.LogStore, raftnode.LogStoreWAL, raftnode.LogStoreBoltDB)
	refuse(c.SnapshotInterval < 0 || c.SnapshotInterval > 0 && c.SnapshotInterval < time.Second, "snapshot-interval", "%v is too short: give at least 1s, or 0 for none", c.SnapshotInterval)
	refuse(c.SnapshotInterval > 0 && c.SnapshotDir == "", "snapshot-interval", "it needs --snapshot-dir, a directory on another disk than the data at best")
	refuse(c.SnapshotKeep == 0, "snapshot-keep", "at least one snapshot must stay")
	refuse(c.MetricsCompat != metricsEtcd && c.MetricsCompat != metricsOff, "metrics-compat", "%q is unknown: use %s or %s", c.MetricsCompat, metricsEtcd, metricsOff)
	return errors.Join(problems...)
}

// checkCluster refuses what no cluster can begin with.
func (c *Config) checkCluster() error {
	switch {
	case c.Discovery != "":
		return configErrorf("discovery", "there is no discovery service; name the members with --initial-cluster, or by the DNS with --discovery-srv")
	case c.DiscoverySRVName != "" && c.DiscoverySRV == "":
		return configErrorf("discovery-srv-name", "it needs --discovery-srv, the domain that has the records")
	case c.DiscoverySRV != "" && (c.InitialCluster != "" || c.Join != ""):
		return configErrorf("discovery-srv", "the members are named once: leave out --initial-cluster and --join")
	case c.Join != "" && (c.InitialCluster != "" || c.InitialClusterState != stateNew):
		return configErrorf("join", "an invitation says which cluster it is: leave out --initial-cluster and --initial-cluster-state")
	case c.Join != "":
		if _, err := invite.Parse(c.Join); err != nil {
			return configErrorf("join", "this is no invitation: %v", err)
		}
		return nil
	case c.InitialClusterState != stateNew && c.InitialClusterState != stateExisting:
		return configErrorf("initial-cluster-state", "%q is unknown: use %s or %s", c.InitialClusterState, stateNew, stateExisting)
	}
	if c.DiscoverySRV != "" {
		if err := discovery.CheckDomain(c.DiscoverySRV); err != nil {
			return configErrorf("discovery-srv", "%v", err)
		}
		if err := discovery.CheckName(c.DiscoverySRVName); err != nil {
			return configErrorf("discovery-srv-name", "%v", err)
		}
		return nil
	}
	founders, err := raftnode.ParseFounders(c.InitialCluster)
	if err != nil {
		return configErrorf("initial-cluster", "%v", err)
	}
	if c.InitialClusterState == stateExisting && len(founders) < 2 {
		return configErrorf("initial-cluster", "to join an existing cluster, name some of its members beside this one, as %s=url,other=url", c.Name)
	}
	if len(founders) == 0 {
		return nil
	}
	var problems []error
	var own []string
	for _, f := range founders {
		problems = append(problems, checkURLs("initial-cluster", f.PeerURLs, false))
		if f.Name == c.Name {
			own = f.PeerURLs
		}
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	switch {
	case own == nil && len(founders) == 1:
		return configErrorf("initial-cluster", "it names %q, but this member is %q; add --name %s", founders[0].Name, c.Name, founders[0].Name)
	case own == nil:
		var names []string
		for _, f := range founders {
			names = append(names, f.Name)
		}
		return configErrorf("initial-cluster", "it names %s, but not this member, %q: add it, or start with the --name that is meant", strings.Join(names, ", "), c.Name)
	case c.InitialAdvertisePeerURLs == nil && len(own) > 1 && !c.listensOn(own):
		return configErrorf("initial-cluster", "it names %s %d times, with %s: each member needs a name of its own; if it is one member with several addresses, say so with --initial-advertise-peer-urls", c.Name, len(own), strings.Join(own, ","))
	case c.InitialAdvertisePeerURLs != nil && !slices.Equal(own, slices.Sorted(slices.Values(c.InitialAdvertisePeerURLs))):
		return configErrorf("initial-advertise-peer-urls", "%s is not what --initial-cluster says of %s, which is %s: give both the same, or leave this one out",
			strings.Join(c.InitialAdvertisePeerURLs, ","), c.Name, strings.Join(own, ","))
	}
	return nil
}

// listensOn reports whether the peer port may be reached at all of urls: they are of one host, or it listens
// at each of them, or everywhere.
func (c *Config) listensOn(urls []string) bool {
	everywhere := func(text string) bool {
		host, _, _ := net.SplitHostPort(address(text))
		return net.ParseIP(host).IsUnspecified()
	}
	elsewhere := func(text string) bool {
		host, _, _ := net.SplitHostPort(address(text))
		first, _, _ := net.SplitHostPort(address(urls[0]))
		return host != first
	}
	return slices.ContainsFunc(c.ListenPeerURLs, everywhere) || !slices.ContainsFunc(urls, elsewhere) ||
		!slices.ContainsFunc(urls, func(u string) bool { return !slices.Contains(c.ListenPeerURLs, u) })
}

// founders returns the members of InitialCluster, of a configuration that was validated.
func (c *Config) founders() []raftnode.Founder {
	founders, _ := raftnode.ParseFounders(c.InitialCluster)
	return founders
}

// peerURLs returns what the other members are to reach this one under; nil if that follows from where
// it listens.
func (c *Config) peerURLs() []string {
	if c.InitialAdvertisePeerURLs != nil && c.founder == "" {
		return c.InitialAdvertisePeerURLs
	}
	for _, f := range c.founders() {
		if f.Name == cmp.Or(c.founder, c.Name) {
			return f.PeerURLs
		}
	}
	return nil
}

func checkURLs(flag string, urls []string, required bool) error {
	if required && len(urls) == 0 {
		return configErrorf(flag, "at least one url is needed, such as %s", defaultClientURL)
	}
	var problems []error
	for _, text := range urls {
		if reason := urlProblem(text); reason != "" {
			problems = append(problems, configErrorf(flag, "cannot use %q: %s", text, reason))
		}
	}
	return errors.Join(problems...)
}

// urlProblem says why text is not the URL of a listener, "" if it is.
func urlProblem(text string) string {
	if _, _, err := net.SplitHostPort(text); err == nil && !strings.Contains(text, "/") && urlProblem("http://"+text) == "" {
		return "it must begin with http:// or https://, as in http://" + text
	}
	u, err := url.Parse(text)
	switch {
	case strings.ContainsAny(strings.TrimSpace(text), " \t"):
		return "it has a space in it; urls are separated by commas"
	case err != nil:
		return errors.Unwrap(err).Error()
	case u.Scheme == "unix" || u.Scheme == "unixs":
		return "unix sockets are not available; use http://HOST:PORT"
	case u.Scheme != "http" && u.Scheme != "https":
		return "it must begin with http:// or https://, as in " + defaultClientURL
	case u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return "only a host and a port may follow " + u.Scheme + "://"
	}
	host, port, err := net.SplitHostPort(u.Host)
	if err != nil {
		return "it needs a host and a port, as in " + defaultClientURL
	}
	if host == "" {
		return "it needs a host; use 0.0.0.0 for every address of this machine"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n > 65535 {
		return fmt.Sprintf("the port %q is not a number from 0 to 65535", port)
	}
	return ""
}

// address returns HOST:PORT of a URL that was validated.
func address(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return text
	}
	return u.Host
}

func (c *Config) dataDir() string {
	if c.DataDir != "" {
		return c.DataDir
	}
	return c.Name + ".kvd"
}

func (c *Config) electionTimeout() time.Duration {
	return time.Duration(c.ElectionTimeout) * time.Millisecond
}
