package ctl_test

import (
	"os"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/daemon/daemontest"
)

func TestEndpointsComeFromFlagThenKVCTLThenETCDCTL(t *testing.T) {
	live, dead := daemontest.Start(t, 1).URL(), refusing(t)
	for _, c := range []struct {
		name string
		env  map[string]string
		args string
	}{
		{"flag", map[string]string{"KVCTL_ENDPOINTS": dead, "ETCDCTL_ENDPOINTS": dead}, "--endpoints|" + live + "|ls"},
		{"flag after the command", map[string]string{"KVCTL_ENDPOINTS": dead}, "ls|--endpoints|" + live},
		{"short flag", nil, "-C|" + live + "|ls"},
		{"old names", nil, "--peers|" + live + "|--no-sync|--timeout|1s|ls"},
		{"own variable", map[string]string{"KVCTL_ENDPOINTS": live, "ETCDCTL_ENDPOINTS": dead}, "ls"},
		{"etcdctl's variable", map[string]string{"ETCDCTL_ENDPOINTS": live}, "ls"},
		{"etcdctl's second", map[string]string{"ETCDCTL_ENDPOINT": live, "ETCDCTL_PEERS": dead}, "ls"},
		{"etcdctl's third", map[string]string{"ETCDCTL_PEERS": dead + "," + live}, "ls"},
		{"without scheme", map[string]string{"KVCTL_ENDPOINTS": strings.TrimPrefix(live, "http://")}, "ls"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := (call{env: c.env, args: strings.Split(c.args, "|")}).run(t); got.code != 0 {
				t.Errorf("code %d: %s", got.code, got.stderr)
			}
		})
	}
}

func TestAMissingValueOnATerminalIsSaid(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("part missing: pseudo-terminal: %v", err)
	}
	defer terminal.Close()
	got := call{endpoint: refusing(t), stdin: terminal, args: []string{"set", "/a"}}.run(t)
	if got.code != 1 || !strings.Contains(got.stderr, "value required\nhint: give it as an argument or through a pipe") {
		t.Errorf("code %d: %q", got.code, got.stderr)
	}
}

func TestDebugShowsRequestsThatCurlCanRepeat(t *testing.T) {
	live := daemontest.Start(t, 1).URL()
	got := kvctl(t, live, "--debug", "set", "--ttl", "60", "/it's", "a'b c")
	want := "cURL Command: curl -X PUT '" + live + "/v2/keys/it%27s' -d 'ttl=60&value=a%27b+c'\n"
	if got.stderr != want {
		t.Errorf("got %q, want %q", got.stderr, want)
	}
}

func TestCompletionOffersOneLevelOfKeys(t *testing.T) {
	live := daemontest.Start(t, 1).URL()
	for _, key := range []string{"/services/web/1", "/services/db/1", "/services/solo", "/other"} {
		kvctl(t, live, "set", key, "1")
	}
	for begun, want := range map[string]string{
		"/":                "/other\n/services/\n",
		"/services/":       "/services/db/\n/services/solo\n/services/web/\n",
		"/services/w":      "/services/web/\n",
		"/services/web/1x": "",
		"/none/":           "",
	} {
		got, _, _ := strings.Cut(kvctl(t, live, "__complete", "get", begun).stdout, ":")
		if got != want {
			t.Errorf("%s: got %q, want %q", begun, got, want)
		}
	}
	if got := kvctl(t, refusing(t), "__complete", "get", "/"); !strings.HasPrefix(got.stdout, ":") {
		t.Errorf("without a store: %q", got.stdout)
	}
}
