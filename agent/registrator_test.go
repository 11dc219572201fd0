package agent

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/workload"
	"github.com/kvd-io/kvd/pkg/workload/docker"
)

// keys are what registrator's layout has of offers: NAME/ID = ADDRESS:PORT.
func keys(offers []Offer) (list []string) {
	for _, offer := range offers {
		r := offer.Record
		list = append(list, fmt.Sprintf("%s/%s = %s", r.Service, r.ID, netip.AddrPortFrom(netip.MustParseAddr(r.Address), uint16(r.Port))))
	}
	return list
}

func TestWithItsURIServicesAreNamedAsRegistratorNamesThem(t *testing.T) {
	udp := workload.Port{Number: 53, Protocol: "udp", HostIP: "0.0.0.0", HostNumber: 53}
	for _, c := range []struct {
		name    string
		w       workload.Workload
		options func(*Options)
		want    []string
	}{
		{"one port", container(published(80, 8080)), nil, []string{"web/h1:w1:80 = 10.0.0.7:8080"}},
		{"two ports", container(published(80, 8080), published(443, 8443)), nil,
			[]string{"web-443/h1:w1:443 = 10.0.0.7:8443", "web-80/h1:w1:80 = 10.0.0.7:8080"}},
		{"an ignored port counts", labelled(container(published(80, 8080), published(443, 8443)), "SERVICE_443_IGNORE=1"), nil,
			[]string{"web-80/h1:w1:80 = 10.0.0.7:8080"}},
		{"an exposed port does not count", container(published(80, 8080), exposed(443)), nil, []string{"web/h1:w1:80 = 10.0.0.7:8080"}},
		{"internal, an exposed port counts", container(published(80, 8080), exposed(443)), func(o *Options) { o.Internal = true },
			[]string{"web-443/h1:w1:443 = 172.17.0.2:443", "web-80/h1:w1:80 = 172.17.0.2:80"}},
		{"tcp and udp of one number are two", container(published(53, 53), udp), nil,
			[]string{"web-53/h1:w1:53 = 10.0.0.7:53", "web-53/h1:w1:53:udp = 10.0.0.7:53"}},
		{"a port's own name has no number", labelled(container(published(80, 8080), published(443, 8443)), "SERVICE_NAME=shop", "SERVICE_443_NAME=secure"), nil,
			[]string{"secure/h1:w1:443 = 10.0.0.7:8443", "shop-80/h1:w1:80 = 10.0.0.7:8080"}},
		{"compose's name is not looked at", labelled(container(published(80, 8080)), composeService+"=cart"), nil, []string{"web/h1:w1:80 = 10.0.0.7:8080"}},
		{"an id of its own", labelled(container(published(80, 8080)), "SERVICE_ID=h:web:80"), nil, []string{"web/h:web:80 = 10.0.0.7:8080"}},
		{"a digest is no part of a name", with(container(published(80, 8080)), func(w *workload.Workload) { w.Image = "web@sha256:" + strings.Repeat("a", 64) }), nil,
			[]string{"web/h1:w1:80 = 10.0.0.7:8080"}},
		{"not ignored is not ignored", labelled(container(published(80, 8080)), "SERVICE_IGNORE=false"), nil, []string{"web/h1:w1:80 = 10.0.0.7:8080"}},
		{"-ip stands for another address", container(bound(80, "192.168.1.5", 8080)), func(o *Options) { o.Forced = true },
			[]string{"web/h1:w1:80 = 10.0.0.7:8080"}},
		{"-ip does not make loopback reachable", container(bound(80, "127.0.0.1", 8080)), func(o *Options) { o.Forced = true }, nil},
		{"the address in a label", labelled(container(published(80, 8080)), "net.ip=10.77.0.3/24"), func(o *Options) { o.AddressLabel = "net.ip" },
			[]string{"web/h1:w1:80 = 10.77.0.3:8080"}},
		{"the address in a label, internal", labelled(container(exposed(80)), "net.ip=10.77.0.3"), func(o *Options) { o.AddressLabel, o.Internal = "net.ip", true },
			[]string{"web/h1:w1:80 = 10.77.0.3:80"}},
		{"no such label", container(published(80, 8080)), func(o *Options) { o.AddressLabel = "net.ip" }, []string{"web/h1:w1:80 = 10.0.0.7:8080"}},
		{"no address in the label", labelled(container(published(80, 8080)), "net.ip=here"), func(o *Options) { o.AddressLabel = "net.ip" }, nil},
		{"the host's network", with(container(published(80, 80)), func(w *workload.Workload) { w.Addresses, w.HostNetwork = nil, true }), nil,
			[]string{"web/h1:w1:80 = 10.0.0.7:80"}},
		{"another container's network", with(container(exposed(80)), func(w *workload.Workload) { w.NetworkOf = "owner" }), nil,
			[]string{"web/h1:w1:80 = 172.17.0.2:80"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := options()
			opts.Registrator = true
			if c.options != nil {
				c.options(&opts)
			}
			offers, refusals := decided([]workload.Workload{c.w}, opts)
			if got := keys(offers); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %q, want %q; refusals %+v", got, c.want, refusals)
			}
		})
	}
}

func TestWhatSharesANetworkIsPublishedAsItsOwnerIs(t *testing.T) {
	owner := with(container(published(80, 8080)), func(w *workload.Workload) {
		w.ID, w.Name, w.Labels = "owner", "pod", pairs([]string{"SERVICE_IGNORE=1"})
	})
	sharer := with(container(exposed(80)), func(w *workload.Workload) { w.NetworkOf = "owner" })
	offers, _ := decided([]workload.Workload{sharer, owner}, options())
	if got := briefs(offers); fmt.Sprint(got) != "[web/h1_w1_80 10.0.0.7:8080]" {
		t.Errorf("got %q", got)
	}
}

func TestRegistratorsChecksAreRunHere(t *testing.T) {
	for _, c := range []struct {
		labels []string
		want   string // the first check that is asked
		told   string // part of the only mistake
	}{
		{[]string{"SERVICE_CHECK_HTTP=/health?x=1", "SERVICE_CHECK_INTERVAL=15s", "SERVICE_CHECK_TIMEOUT=1s"}, "http://172.17.0.2:80/health?x=1", ""},
		{[]string{"SERVICE_80_CHECK_HTTP=/health"}, "http://172.17.0.2:80/health", ""},
		{[]string{"SERVICE_CHECK_HTTPS=/health", "SERVICE_CHECK_TLS_SKIP_VERIFY=true"}, "https+insecure://172.17.0.2:80/health", ""},
		{[]string{"SERVICE_CHECK_TCP=true"}, "tcp:172.17.0.2:80", ""},
		{[]string{"SERVICE_CHECK_HTTP=/x", "SERVICE_CHECK_TCP=true", "SERVICE_CHECK_INITIAL_STATUS=passing", "SERVICE_CHECK_DEREGISTER_AFTER=10m"}, "http://172.17.0.2:80/x", ""},
		{[]string{"SERVICE_CHECK_SCRIPT=curl --silent --fail example.com"}, "tcp:172.17.0.2:80", "must not run commands"},
		{[]string{"SERVICE_CHECK_CMD=/bin/true"}, "tcp:172.17.0.2:80", "must not run commands"},
		{[]string{"SERVICE_CHECK_TTL=30s"}, "tcp:172.17.0.2:80", "nobody can report"},
		{[]string{"SERVICE_CHECK_HTTP=/x", "SERVICE_CHECK_HTTP_METHOD=POST"}, "http://172.17.0.2:80/x", "checks ask with GET"},
		{[]string{"SERVICE_CHECK_HTTP=/x", "SERVICE_CHECK_HTTP_METHOD=HEAD"}, "http://172.17.0.2:80/x method=HEAD", ""},
		{[]string{"SERVICE_CHECK_GRPC=true"}, "grpc://172.17.0.2:80", ""},
		{[]string{"SERVICE_CHECK_GRPC=true", "SERVICE_CHECK_GRPC_USE_TLS=true", "SERVICE_CHECK_TLS_SKIP_VERIFY=1"}, "grpcs+insecure://172.17.0.2:80", ""},
		{[]string{"SERVICE_CHECK_HTTP=//169.254.169.254/x"}, "tcp:172.17.0.2:80", "path of a URL"},
		{[]string{"SERVICE_CHECK_HTTP=@169.254.169.254/x"}, "http://172.17.0.2:80/@169.254.169.254/x", ""},
		{[]string{"SERVICE_CHECK_HTTP=/x\r\nHost: y"}, "tcp:172.17.0.2:80", "path of a URL"},
		{[]string{"SERVICE_CHECK_INTERVAL=1ns"}, "tcp:172.17.0.2:80", "from 1s to 1h"},
		{[]string{"SERVICE_CHECK=tcp", "SERVICE_CHECK_HTTP=/x"}, "tcp:172.17.0.2:80", ""},
	} {
		offers, refusals := decided([]workload.Workload{labelled(container(published(80, 8080)), c.labels...)}, options())
		if len(offers) != 1 || !strings.HasPrefix(checkText(offers[0]), c.want+",") || offers[0].Record.Meta["check_http"] != "" {
			t.Errorf("%q: offers %+v, want %s", c.labels, offers, c.want)
		}
		switch {
		case c.told == "" && len(refusals) > 0, c.told != "" && (len(refusals) != 1 || !refusals[0].Mistake || !strings.Contains(refusals[0].Reason, c.told)):
			t.Errorf("%q: refusals %+v, want %q", c.labels, refusals, c.told)
		}
	}
}

func TestRegistratorsArgumentSaysWhereAndHow(t *testing.T) {
	for text, want := range map[string]string{
		"etcd://10.0.0.1:2379/services":             "[http://10.0.0.1:2379] registrator:/services",
		"etcd://10.0.0.1:2379,10.0.0.2:2379/a/b/":   "[http://10.0.0.1:2379 http://10.0.0.2:2379] registrator:/a/b",
		"etcd:///services":                          "[] registrator:/services",
		"etcd://[fd00::1]:2379/services":            "[http://[fd00::1]:2379] registrator:/services",
		"skydns2://10.0.0.1:2379/cluster.local":     "[http://10.0.0.1:2379] skydns:cluster.local",
		"skydns2://10.0.0.1:2379,10.0.0.2/dom.ain.": "[http://10.0.0.1:2379 http://10.0.0.2] skydns:dom.ain",
	} {
		u, err := parseURI(text, false)
		if got := fmt.Sprint(u.endpoints, u.view); err != nil || got != strings.Replace(want, "] ", "] ", 1) && got != strings.ReplaceAll(want, "] ", "]") {
			t.Errorf("%s: %s, %v; want %s", text, got, err, want)
		}
	}
	if u, err := parseURI("etcd://h:1/p", true); err != nil || u.endpoints[0] != "https://h:1" {
		t.Errorf("with TLS: %+v, %v", u, err)
	}
}

func TestWhatHasFailedStaysAsLongAsRegistratorsUsersAskFor(t *testing.T) {
	for _, c := range []struct {
		deregister string
		ttl, want  time.Duration
	}{
		{"always", 0, 0},
		{"always", time.Minute, 0},
		{"on-success", 0, docker.Always},
		{"on-success", time.Minute, time.Minute},
	} {
		r := registrator{deregister: c.deregister}
		if got := r.failedHold(c.ttl); got != c.want {
			t.Errorf("-deregister %s -ttl %v: %v, want %v", c.deregister, c.ttl, got, c.want)
		}
	}
}

func TestRegistratorsSocketIsUsedWhereItIsMounted(t *testing.T) {
	socket := t.TempDir() + "/docker.sock"
	if got := engineOf(socket); got != docker.DefaultHost {
		t.Errorf("without a socket: %s", got)
	}
	if err := os.WriteFile(socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := engineOf(socket); got != docker.DefaultHost {
		t.Errorf("with a file that is no socket: %s", got)
	}
	os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if got, want := engineOf(socket), "unix://"+socket; got != want {
		t.Errorf("with a socket: %s, want %s", got, want)
	}
	if os.Geteuid() != 0 {
		return // who is not root cannot give it away
	}
	if err := os.Chown(socket, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if got := engineOf(socket); got != docker.DefaultHost {
		t.Errorf("with a socket of somebody else: %s", got)
	}
}

func TestRegistratorsFlagsAreTakenWithOneDashBeforeAndAfterItsArgument(t *testing.T) {
	const flags = "-ip=10.0.0.7 -internal -explicit -ttl 60 -ttl-refresh 30 -resync 60 -cleanup -deregister on-success -tags a,b -useIpFromLabel l -retry-attempts=-1 -retry-interval 500"
	for _, line := range []string{flags + " etcd://127.0.0.1:1/services", "etcd://127.0.0.1:1/services " + flags, "--docker-host unix:///nowhere etcd://127.0.0.1:1/services " + strings.ReplaceAll(flags, " -", " --")} {
		args := append(strings.Fields(line), "--dry-run", "--source", "file", "--services-dir", t.TempDir())
		if code, stderr := kvagent(t, nil, args...); code != 0 {
			t.Errorf("%s: exit code %d, %s", line, code, stderr)
		}
	}
}

func TestTagsAreMadeByTemplatesAsRegistratorMakesThem(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"zone": {"name": "eu-1", "ids": [7, 8]}}`)
	}))
	defer server.Close()
	w := workload.Workload{ID: "e20f9c1a7656" + strings.Repeat("0", 52), Name: "w1", Image: "shop/web:1",
		Labels: pairs([]string{"com.example.arn=arn:aws:task/368f"}), Env: pairs([]string{"ENVIRONMENT=test", "SERVICE_80_NAME=foo", "SERVICE_90_NAME=bar"}),
		Addresses: pairs([]string{"bridge=172.17.0.2"})}
	for text, want := range map[string]string{
		"a,b":                                         "a b",
		"{{.Name}}":                                   "/w1",
		"{{strSlice .ID 0 12}}":                       "e20f9c1a7656",
		"{{strSlice .ID 60}}":                         "0000",
		"{{strSlice .ID 60 70}}":                      w.ID,
		"{{sIndex 0 .Config.Env}}":                    "ENVIRONMENT=test",
		"{{sIndex -1 .Config.Env}}":                   "SERVICE_90_NAME=bar",
		"{{sIndex 99 .Config.Env}}":                   "SERVICE_90_NAME=bar",
		`{{mIndex "com.example.arn" .Config.Labels}}`: "arn:aws:task/368f",
		`{{toUpper "foo"}},{{toLower "FoO"}}`:         "FOO foo",
		`{{replace -1 "=" "" "=foo="}}`:               "foo",
		`{{join "," .Config.Env}}`:                    "ENVIRONMENT=test SERVICE_80_NAME=foo SERVICE_90_NAME=bar",
		`{{join "+" (split "/" "proc/bus")}}`:         "proc+bus",
		`{{splitIndex -1 "/" (index .Config.Labels "com.example.arn")}}`:                  "368f",
		`{{matchFirstElement "^SERVICE_" .Config.Env}}`:                                   "SERVICE_80_NAME=foo",
		`{{range matchAllElements "^SERVICE_" .Config.Env}}{{.}},{{end}}`:                 "SERVICE_80_NAME=foo SERVICE_90_NAME=bar",
		`{{jsonParse (httpGet "URL") "zone::name"}}`:                                      "eu-1",
		`{{jsonParse (httpGet "URL") "zone::ids::[1]"}}`:                                  "8",
		`{{jsonParse (httpGet "URL") "nothing::here"}}`:                                   "",
		`{{.NetworkSettings.IPAddress}} {{.HostConfig.NetworkMode}} {{.Config.Hostname}}`: "172.17.0.2 bridge e20f9c1a7656",
	} {
		tags, err := ParseTags(strings.ReplaceAll(text, "URL", server.URL), newFetcher().get)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got, _, err := tags.of(w)
		if strings.Join(got, " ") != want || err != nil {
			t.Errorf("%s: %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestTagsThatCannotBeMadeAreLeftOutAndTriedAgain(t *testing.T) {
	answers := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answers++
		w.Write(make([]byte, fetchBytesMax+1))
	}))
	defer server.Close()
	opts := options()
	var err error
	if opts.Tags, err = ParseTags(`{{printf "%s" (httpGet "`+server.URL+`")}}`, newFetcher().get); err != nil {
		t.Fatal(err)
	}
	plan := newPlanner(opts)
	first, second := container(published(80, 8080)), container(published(80, 8081))
	second.ID, second.Name = "decaf", "w2"
	offers, refusals := plan.offers(seenIn(SourceDocker, first, second))
	if len(offers) != 2 || len(refusals) != 2 || !strings.Contains(refusals[0].Reason, "could not be fetched") || !plan.again {
		t.Errorf("offers %+v, refusals %+v, again %v", offers, refusals, plan.again)
	}
	if answers != 1 {
		t.Errorf("a server that fails was asked %d times", answers)
	}
	if opts.Tags, err = ParseTags(`{{sIndex 0 .Config.Env}}`, nil); err != nil {
		t.Fatal(err)
	}
	more, refusals := decided([]workload.Workload{first}, opts)
	if len(more) != 1 || len(refusals) != 1 || !strings.Contains(refusals[0].Reason, "empty list") {
		t.Errorf("offers %+v, refusals %+v", more, refusals)
	}
	if opts.Tags, err = ParseTags(`{{range split "" .Name}}{{range split "" $.ID}}{{$.Config.Labels}}{{end}}{{end}}`, nil); err != nil {
		t.Fatal(err)
	}
	huge := labelled(first, "x="+strings.Repeat("y", renderedBytesMax))
	if _, refusals = decided([]workload.Workload{huge}, opts); len(refusals) != 1 || !strings.Contains(refusals[0].Reason, "longer than") {
		t.Errorf("refusals %+v", refusals)
	}
}
