package daemon

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/kvd-io/kvd/pkg/program"
)

func TestTheDefaultsAreValid(t *testing.T) {
	cfg := DefaultConfig()
	if err := cfg.Validate(); err != nil {
		t.Error(err)
	}
}

func TestAClusterThatNamesOnlyThisMemberIsValid(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Name, cfg.InitialCluster = "infra0", "infra0=http://10.0.0.1:2380,infra0=http://10.0.0.1:7001"
	if err := cfg.Validate(); err != nil {
		t.Error(err)
	}
}

func TestASettingThatCannotBeUsedIsNamedWithTheReason(t *testing.T) {
	for _, c := range []struct{ flag, value, want string }{
		{"cert-file", "a.crt", "no url of --listen-client-urls begins with https://"},
		{"trusted-ca-file", "ca.crt", "no url of --listen-client-urls begins with https://"},
		{"peer-cert-file", "a.crt", "no url of --listen-peer-urls begins with https://"},
		{"peer-cert-allowed-cn", "n1", "no url of --listen-peer-urls begins with https://"},
		{"client-cert-auth", "maybe", "use true or false"},
		{"peer-client-cert-auth", "optional", "a member without a certificate may not be let in"},
		{"client-cert-cn-as-user", "true", "add --trusted-ca-file"},
		{"tls-min-version", "TLS1.1", "use TLS1.2 or TLS1.3"},
		{"auto-tls", "true", "use --cert-file and --key-file"},
		{"peer-auto-tls", "true", "use --peer-cert-file and --peer-key-file"},
		{"listen-client-urls", "unix:///run/kvd.sock", "unix sockets are not available"},
		{"listen-client-urls", "127.0.0.1:53379", "as in http://127.0.0.1:53379"},
		{"listen-client-urls", "localhost:53379", "as in http://localhost:53379"},
		{"listen-client-urls", "[::1]:53379", "as in http://[::1]:53379"},
		{"listen-client-urls", "localhost", "it must begin with http://"},
		{"listen-client-urls", "http://127.0.0.1", "it needs a host and a port"},
		{"listen-client-urls", "http://:2379", "it needs a host"},
		{"listen-client-urls", "http://127.0.0.1:65536", `the port "65536"`},
		{"listen-client-urls", "http://127.0.0.1:2379/v2", "only a host and a port"},
		{"listen-client-urls", "http://user@127.0.0.1:2379", "only a host and a port"},
		{"listen-client-urls", "http://127.0.0.1:2379,http://b", `cannot use "http://b"`},
		{"advertise-client-urls", "http://b", `cannot use "http://b"`},
		{"initial-advertise-peer-urls", "x", `cannot use "x"`},
		{"initial-cluster", "n1=http://10.0.0.1:2380", "add --name n1"},
		{"initial-cluster", "n1=http://10.0.0.1:2380,n2=http://10.0.0.2:2380", `it names n1, n2, but not this member, "default"`},
		{"initial-cluster", "default=http://10.0.0.1:2380,n2=http://10.0.0.1:2380", `"default" and "n2" have the same url http://10.0.0.1:2380`},
		{"initial-cluster", "default=http://10.0.0.1:2380,n2=http://10.0.0.2:2380,n2=http://10.0.0.2:2380", "is there twice"},
		{"initial-cluster", "default=http://10.0.0.1:2380,n2=h2:2380", "as in http://h2:2380"},
		{"initial-cluster", "default", "not of the form name=url"},
		{"initial-cluster", "default=http://10.0.0.1:2380,default=http://10.0.0.2:2380", "each member needs a name of its own"},
		{"initial-cluster", "default=http://10.0.0.1:2380 n2=http://10.0.0.2:2380", "separated by commas"},
		{"listen-peer-urls", "http://127.0.0.1:2379", "is one of --listen-client-urls, too"},
		{"initial-cluster", "default=x", `cannot use "x"`},
		{"initial-cluster-state", "old", "unknown"},
		{"initial-cluster-token", "", "must not be empty"},
		{"discovery", "http://d/x", "no discovery service"},
		{"discovery-srv", "http://example.org", "no domain"},
		{"discovery-srv", "example.org:53", "no domain"},
		{"discovery-srv-name", "blue", "it needs --discovery-srv"},
		{"name", "", "cannot be a name"},
		{"name", "a=b", "cannot be a name"},
		{"heartbeat-interval", "0", "at least 1 ms"},
		{"election-timeout", "400", "less than five times the heartbeat interval"},
		{"election-timeout", "50001", "more than 50000 ms"},
		{"cors", "app.example", "an origin is scheme://host"},
		{"cors", "http://app.example/", "an origin is scheme://host"},
		{"cors", "*,null", "an origin is scheme://host"},
		{"host-whitelist", "kvd.example:2379", "without a port"},
		{"host-whitelist", "http://kvd.example", "use a host name"},
		{"host-whitelist", "*.example", "use a host name"},
		{"max-request-bytes", "10", "not between"},
		{"max-request-bytes", "10485761", "can pass on to each other"},
		{"experimental-log-store", "paper", "use wal or boltdb"},
	} {
		t.Run(c.flag+"="+c.value, func(t *testing.T) {
			cfg := DefaultConfig()
			flags := pflag.NewFlagSet("kvd", pflag.ContinueOnError)
			cfg.AddFlags(flags)
			if err := flags.Set(c.flag, c.value); err != nil {
				t.Fatal(err)
			}
			err := cfg.Validate()
			var setting *ConfigError
			if !errors.As(err, &setting) || setting.Flag != c.flag || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one about --%s with %q", err, c.flag, c.want)
			}
		})
	}
}

func TestAClusterMustAgreeWithTheAddressOfThisMember(t *testing.T) {
	for _, c := range []struct {
		advertise []string
		want      string // "" means that it agrees
	}{
		{nil, ""},
		{[]string{"http://10.0.0.1:7001", "http://10.0.0.1:2380"}, ""},
		{[]string{"http://10.0.0.1:2380"}, "http://10.0.0.1:2380 is not what --initial-cluster says of m1"},
	} {
		cfg := DefaultConfig()
		cfg.Name, cfg.InitialAdvertisePeerURLs = "m1", c.advertise
		cfg.InitialCluster = "m1=http://10.0.0.1:2380,m2=http://10.0.0.2:2380,m1=http://10.0.0.1:7001"
		err := cfg.Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v: %v, want %q", c.advertise, err, c.want)
		}
	}
	cfg := DefaultConfig()
	cfg.InitialClusterState = stateExisting
	if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "name some of its members beside this one") {
		t.Errorf("an existing cluster that is not named: %v", err)
	}
}

func TestThePrintedConfigurationNamesTheDataDirectory(t *testing.T) {
	for args, want := range map[string]string{
		"":                              "default.kvd default",
		"--name=n1":                     "n1.kvd default",
		"--name=n1 --data-dir=/var/kvd": "/var/kvd flag",
	} {
		var stdout strings.Builder
		env := &program.Env{Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: io.Discard}
		none := func(string) (string, bool) { return "", false }
		if code := program.Run(t.Context(), Program(), append(strings.Fields(args), "--print-config"), none, env); code != 0 {
			t.Fatalf("code %d", code)
		}
		_, row, _ := strings.Cut(stdout.String(), "\ndata-dir ")
		row, _, _ = strings.Cut(row, "\n")
		if got := strings.Join(strings.Fields(row), " "); got != want {
			t.Errorf("kvd %s: data-dir %q, want %q", args, got, want)
		}
	}
}

func TestEveryAliasIsOfAFlagThatExists(t *testing.T) {
	cfg := DefaultConfig()
	flags := pflag.NewFlagSet("kvd", pflag.ContinueOnError)
	cfg.AddFlags(flags)
	flags.String("log-level", "", "") // which all programs have
	for flag := range envAliases() {
		if flags.Lookup(flag) == nil {
			t.Errorf("there is no --%s", flag)
		}
	}
}

func TestAStartThatFailsLeavesNoListenerBehind(t *testing.T) {
	occupied, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer occupied.Close()
	var opened []net.Listener
	listen := func(network, address string) (net.Listener, error) {
		l, err := net.Listen(network, address)
		if err == nil {
			opened = append(opened, l)
		}
		return l, err
	}
	cfg := DefaultConfig()
	cfg.DataDir = t.TempDir()
	cfg.ListenClientURLs = []string{"http://127.0.0.1:0"}
	cfg.ListenPeerURLs = []string{"http://" + occupied.Addr().String()}
	if _, err := Open(t.Context(), cfg, Deps{Listen: listen}); err == nil || !strings.Contains(err.Error(), "in use by") {
		t.Fatalf("error %v", err)
	}
	if len(opened) == 0 {
		t.Fatal("no listener was opened")
	}
	for _, l := range opened {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the listener on %s was left open", l.Addr())
		}
	}
}

func TestADataDirectoryThatIsRefusedLeavesNoListenerBehind(t *testing.T) {
	cfg := DefaultConfig()
	cfg.DataDir = "/dev/null"
	var opened []net.Listener
	cfg.ListenClientURLs, cfg.ListenPeerURLs = []string{"http://127.0.0.1:0"}, []string{"http://127.0.0.1:0"}
	_, err := Open(t.Context(), cfg, Deps{Listen: func(network, address string) (net.Listener, error) {
		l, err := net.Listen(network, address)
		opened = append(opened, l)
		return l, err
	}})
	if err == nil || !strings.Contains(err.Error(), "--data-dir") {
		t.Fatalf("error %v", err)
	}
	for _, l := range opened {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the listener on %s was left open", l.Addr())
		}
	}
}

func TestOthersAreToldAnAddressThatTheyCanReach(t *testing.T) {
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	url := reachable([]net.Listener{l})[0]
	if strings.Contains(url, "0.0.0.0") {
		t.Errorf("advertised %s", url)
	}
	if reason := urlProblem(url); reason != "" {
		t.Errorf("advertised %s: %s", url, reason)
	}
}

func TestSettingsOfTLSThatDoNotFitTogetherAreNamed(t *testing.T) {
	for _, c := range []struct{ flags, flag, want string }{
		{"", "cert-file", "https in --listen-client-urls needs --cert-file and --key-file; kvctl cert makes them"},
		{"--cert-file=a", "key-file", "needs its key"},
		{"--key-file=a", "cert-file", "needs its certificate"},
		{"--cert-file=a --key-file=b --client-cert-auth", "client-cert-auth", "it needs --trusted-ca-file"},
		{"--cert-file=a --key-file=b --client-crl-file=c", "client-crl-file", "it needs --trusted-ca-file"},
		{"--cert-file=a --key-file=b --client-cert-cn-as-user", "client-cert-cn-as-user", "no client is asked for a certificate"},
		{"--cert-file=a --key-file=b --listen-peer-urls=https://127.0.0.1:2380", "peer-cert-file", "https in --listen-peer-urls needs --peer-cert-file and --peer-key-file"},
		{"--cert-file=a --key-file=b --listen-peer-urls=https://127.0.0.1:2380 --peer-cert-file=a --peer-key-file=b --peer-cert-allowed-cn=n1", "peer-cert-allowed-cn", "it needs --peer-trusted-ca-file"},
		{"--cert-file=a --key-file=b --listen-peer-urls=https://127.0.0.1:2380,http://127.0.0.1:2381 --peer-cert-file=a --peer-key-file=b", "listen-peer-urls", "http and https together"},
		{"--cert-file=a --key-file=b", "", ""},
		{"--cert-file=a --key-file=b --trusted-ca-file=c --client-cert-auth=optional --client-cert-cn-as-user --tls-min-version=TLS1.3", "", ""},
		{"--listen-client-urls=https://127.0.0.1:2379,http://127.0.0.1:2379 --cert-file=a --key-file=b", "", ""},
	} {
		cfg := DefaultConfig()
		flags := pflag.NewFlagSet("kvd", pflag.ContinueOnError)
		cfg.AddFlags(flags)
		if err := flags.Parse(append([]string{"--listen-client-urls=https://127.0.0.1:2379"}, strings.Fields(c.flags)...)); err != nil {
			t.Fatal(err)
		}
		err := cfg.Validate()
		var setting *ConfigError
		if c.flag == "" {
			if err != nil {
				t.Errorf("%s: %v", c.flags, err)
			}
			continue
		}
		if !errors.As(err, &setting) || setting.Flag != c.flag || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want one about --%s with %q", c.flags, err, c.flag, c.want)
		}
	}
}

func TestTheEnvironmentOfEtcdSetsTLS(t *testing.T) {
	for _, flag := range tlsFlagsOfEtcd {
		want := "ETCD_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
		if got := envAliases()[flag]; len(got) != 1 || got[0] != want {
			t.Errorf("--%s: %q, want %s", flag, got, want)
		}
	}
}
