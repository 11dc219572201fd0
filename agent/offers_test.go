package agent

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload"
)

func options() Options {
	return Options{Host: "h1", Address: netip.MustParseAddr("10.0.0.7")}
}

// container returns a running container of the image shop/web:1 with the given ports.
func container(ports ...workload.Port) workload.Workload {
	return workload.Workload{
		ID: "c0ffee", Run: "1", Name: "w1", Image: "shop/web:1", State: workload.Running, Reason: "running",
		Addresses: map[string]string{"bridge": "172.17.0.2"}, Ports: ports,
	}
}

func published(number, hostNumber int) workload.Port {
	return bound(number, "0.0.0.0", hostNumber)
}

func bound(number int, ip string, hostNumber int) workload.Port {
	return workload.Port{Number: number, Protocol: "tcp", HostIP: ip, HostNumber: hostNumber}
}

func exposed(number int) workload.Port { return workload.Port{Number: number, Protocol: "tcp"} }

func with(w workload.Workload, change func(*workload.Workload)) workload.Workload {
	change(&w)
	return w
}

func labelled(w workload.Workload, labels ...string) workload.Workload {
	w.Labels = pairs(labels)
	return w
}

func pairs(list []string) map[string]string {
	m := map[string]string{}
	for _, pair := range list {
		key, value, _ := strings.Cut(pair, "=")
		m[key] = value
	}
	return m
}

// decided is Offers for containers.
func decided(containers []workload.Workload, opts Options) ([]Offer, []Refusal) {
	return Offers(seenIn(SourceDocker, containers...), opts)
}

func seenIn(source string, workloads ...workload.Workload) (seen []Seen) {
	for _, w := range workloads {
		seen = append(seen, Seen{Source: source, Workload: w})
	}
	return seen
}

// brief is what the tables compare of a record: SERVICE/INSTANCE ADDRESS:PORT.
func brief(r registry.Record) string {
	return fmt.Sprintf("%s/%s %s", r.Service, r.Instance, netip.AddrPortFrom(netip.MustParseAddr(r.Address), uint16(r.Port)))
}

func TestContainersBecomeRecords(t *testing.T) {
	udp := workload.Port{Number: 53, Protocol: "udp", HostIP: "0.0.0.0", HostNumber: 53}
	for _, c := range []struct {
		name       string
		containers []workload.Workload
		options    func(*Options)
		want       []string // briefs
		refused    string   // part of the only refusal's reason; "" means that there is none
	}{
		{name: "a published port", containers: []workload.Workload{container(published(80, 32768))},
			want: []string{"web/h1_w1_80 10.0.0.7:32768"}},
		{name: "a port that is only exposed", containers: []workload.Workload{container(exposed(80))},
			refused: "not published"},
		{name: "no port at all", containers: []workload.Workload{container()}},
		{name: "both families are one endpoint", containers: []workload.Workload{container(published(80, 8080), bound(80, "::", 8080))},
			want: []string{"web/h1_w1_80 10.0.0.7:8080"}},
		{name: "the binding of the address's family counts", containers: []workload.Workload{container(published(80, 8080), bound(80, "::", 8081))},
			options: func(o *Options) { o.Address = netip.MustParseAddr("fd00::7") },
			want:    []string{"web/h1_w1_80 [fd00::7]:8081"}},
		{name: "one binding of several stands for the port", containers: []workload.Workload{container(bound(80, "10.9.9.9", 81), published(80, 8080))},
			want: []string{"web/h1_w1_80 10.0.0.7:8080"}},
		{name: "published on one address", containers: []workload.Workload{container(bound(80, "192.168.1.5", 8080))},
			want: []string{"web/h1_w1_80 192.168.1.5:8080"}},
		{name: "published on one IPv6 address", containers: []workload.Workload{container(bound(80, "fd00::5", 8080))},
			want: []string{"web/h1_w1_80 [fd00::5]:8080"}},
		{name: "published for this host alone", containers: []workload.Workload{container(bound(80, "127.0.0.1", 8080))},
			refused: "127.0.0.1 alone"},
		{name: "published for this host alone, and that is meant", containers: []workload.Workload{container(bound(80, "127.0.0.1", 8080))},
			options: func(o *Options) { o.Address = netip.MustParseAddr("127.0.0.1") },
			want:    []string{"web/h1_w1_80 127.0.0.1:8080"}},
		{name: "published on no address", containers: []workload.Workload{container(bound(80, "localhost", 8080))},
			refused: "not an IP address"},
		{name: "several ports", containers: []workload.Workload{container(published(80, 8080), published(443, 8443))},
			want: []string{"web-443/h1_w1_443 10.0.0.7:8443", "web-80/h1_w1_80 10.0.0.7:8080"}},
		{name: "several ports with names", containers: []workload.Workload{
			labelled(container(published(80, 8080), published(443, 8443)), "SERVICE_NAME=shop", "SERVICE_443_NAME=secure")},
			want: []string{"secure/h1_w1_443 10.0.0.7:8443", "shop-80/h1_w1_80 10.0.0.7:8080"}},
		{name: "an ignored port does not count", containers: []workload.Workload{
			labelled(container(published(80, 8080), published(9000, 9000)), "SERVICE_9000_IGNORE=yes")},
			want: []string{"web/h1_w1_80 10.0.0.7:8080"}, refused: "SERVICE_9000_IGNORE is set"},
		{name: "an exposed port does not count", containers: []workload.Workload{container(published(80, 8080), exposed(9000))},
			want: []string{"web/h1_w1_80 10.0.0.7:8080"}, refused: "not published"},
		{name: "tcp and udp of one port are one service", containers: []workload.Workload{container(published(53, 53), udp)},
			want: []string{"web/h1_w1_53 10.0.0.7:53", "web/h1_w1_53_udp 10.0.0.7:53"}},
		{name: "a label wins over the environment", containers: []workload.Workload{
			with(labelled(container(published(80, 8080)), "SERVICE_NAME=label"), func(w *workload.Workload) { w.Env = pairs([]string{"SERVICE_NAME=env"}) })},
			want: []string{"label/h1_w1_80 10.0.0.7:8080"}},
		{name: "the environment names the service", containers: []workload.Workload{
			with(container(published(80, 8080)), func(w *workload.Workload) { w.Env = pairs([]string{"SERVICE_NAME=env", "PATH=/bin"}) })},
			want: []string{"env/h1_w1_80 10.0.0.7:8080"}},
		{name: "a port's own environment wins over a general label", containers: []workload.Workload{
			with(labelled(container(published(80, 8080)), "SERVICE_NAME=label"), func(w *workload.Workload) { w.Env = pairs([]string{"SERVICE_80_NAME=env"}) })},
			want: []string{"env/h1_w1_80 10.0.0.7:8080"}},
		{name: "compose names the service", containers: []workload.Workload{labelled(container(published(80, 8080)), composeService+"=cart")},
			want: []string{"cart/h1_w1_80 10.0.0.7:8080"}},
		{name: "an instance of its own", containers: []workload.Workload{labelled(container(published(80, 8080)), "SERVICE_ID=web-1")},
			want: []string{"web/web-1 10.0.0.7:8080"}},
		{name: "ignored", containers: []workload.Workload{labelled(container(published(80, 8080)), "SERVICE_IGNORE=1")},
			refused: "SERVICE_IGNORE is set"},
		{name: "ignored in so many words", containers: []workload.Workload{labelled(container(published(80, 8080)), "SERVICE_IGNORE=please")},
			refused: "SERVICE_IGNORE is set"},
		{name: "not ignored", containers: []workload.Workload{labelled(container(published(80, 8080)), "SERVICE_IGNORE=False")},
			want: []string{"web/h1_w1_80 10.0.0.7:8080"}},
		{name: "explicit, and it is", containers: []workload.Workload{labelled(container(published(80, 8080)), "SERVICE_80_NAME=web")},
			options: func(o *Options) { o.Explicit = true },
			want:    []string{"web/h1_w1_80 10.0.0.7:8080"}},
		{name: "explicit, and it is not", containers: []workload.Workload{container(published(80, 8080))},
			options: func(o *Options) { o.Explicit = true },
			refused: "--explicit"},
		{name: "stopped", containers: []workload.Workload{
			with(container(published(80, 8080)), func(w *workload.Workload) { w.State, w.Reason = workload.Stopped, "exited" })},
			refused: "does not run: exited"},
		{name: "internal", containers: []workload.Workload{container(published(80, 8080))},
			options: func(o *Options) { o.Internal = true },
			want:    []string{"web/h1_w1_80 172.17.0.2:80"}},
		{name: "internal, only exposed", containers: []workload.Workload{container(exposed(80))},
			options: func(o *Options) { o.Internal = true },
			want:    []string{"web/h1_w1_80 172.17.0.2:80"}},
		{name: "internal, of several networks the first by name", containers: []workload.Workload{
			with(container(exposed(80)), func(w *workload.Workload) { w.Addresses = pairs([]string{"z=10.9.0.1", "a=10.8.0.1"}) })},
			options: func(o *Options) { o.Internal = true },
			want:    []string{"web/h1_w1_80 10.8.0.1:80"}},
		{name: "internal, of several networks the one asked for", containers: []workload.Workload{
			with(container(exposed(80)), func(w *workload.Workload) { w.Addresses = pairs([]string{"z=10.9.0.1", "a=10.8.0.1"}) })},
			options: func(o *Options) { o.Internal, o.Network = true, "z" },
			want:    []string{"web/h1_w1_80 10.9.0.1:80"}},
		{name: "internal, not in the network asked for", containers: []workload.Workload{container(exposed(80))},
			options: func(o *Options) { o.Internal, o.Network = true, "z" },
			refused: `no address in network "z"`},
		{name: "internal, without a network", containers: []workload.Workload{
			with(container(exposed(80)), func(w *workload.Workload) { w.Addresses = nil })},
			options: func(o *Options) { o.Internal = true },
			refused: "no address of its own"},
		{name: "the host's network", containers: []workload.Workload{
			with(container(published(80, 80)), func(w *workload.Workload) { w.Addresses, w.HostNetwork = nil, true })},
			want: []string{"web/h1_w1_80 10.0.0.7:80"}},
		{name: "internal, the host's network", containers: []workload.Workload{
			with(container(published(80, 80)), func(w *workload.Workload) { w.Addresses, w.HostNetwork = nil, true })},
			options: func(o *Options) { o.Internal = true },
			want:    []string{"web/h1_w1_80 10.0.0.7:80"}},
		{name: "two of a kind", containers: []workload.Workload{
			container(published(80, 8080)),
			with(container(published(80, 8081)), func(w *workload.Workload) { w.ID, w.Name = "decaf", "w2" })},
			want: []string{"web/h1_w1_80 10.0.0.7:8080", "web/h1_w2_80 10.0.0.7:8081"}},
		{name: "two that claim one instance: the elder has it", containers: []workload.Workload{
			with(labelled(container(published(80, 8081)), "SERVICE_ID=one"), func(w *workload.Workload) { w.ID, w.Name, w.Run = "a", "younger", "2" }),
			labelled(container(published(80, 8080)), "SERVICE_ID=one")},
			want: []string{"web/one 10.0.0.7:8080"}, refused: `an instance named "one" already, of w1`},
		{name: "a name of an engine that allows more", containers: []workload.Workload{
			with(container(published(80, 8080)), func(w *workload.Workload) { w.Name = "a b/ü" })},
			want: []string{"web/h1_a-b--_80 10.0.0.7:8080"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := options()
			if c.options != nil {
				c.options(&opts)
			}
			offers, refusals := decided(c.containers, opts)
			var got []string
			for _, offer := range offers {
				got = append(got, brief(offer.Record))
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			switch {
			case c.refused == "" && len(refusals) > 0:
				t.Errorf("unexpected refusals %+v", refusals)
			case c.refused != "" && (len(refusals) != 1 || !strings.Contains(refusals[0].Reason, c.refused)):
				t.Errorf("refusals %+v, want one with %q", refusals, c.refused)
			}
		})
	}
}

func TestARecordCarriesWhatTheContainerSays(t *testing.T) {
	w := labelled(container(published(80, 8080)),
		`SERVICE_TAGS=a, b\,c ,a,`, "SERVICE_80_WEIGHT=7", "SERVICE_REGION=north", "SERVICE_80_region=south", "SERVICE_81_REGION=east", "OTHER=x")
	opts := options()
	opts.Tags, _ = ParseTags(`b\,c,all`, nil)
	offers, refusals := decided([]workload.Workload{w}, opts)
	if len(refusals) > 0 || len(offers) != 1 {
		t.Fatalf("offers %+v, refusals %+v", offers, refusals)
	}
	want := registry.Record{
		Service: "web", Instance: "h1_w1_80", Address: "10.0.0.7", Port: 8080, Protocol: "tcp", State: registry.StateUp,
		Weight: 7, Tags: []string{"a", "b,c", "all"}, Meta: map[string]string{"region": "south"}, Host: "h1", ID: "h1:w1:80",
	}
	if !reflect.DeepEqual(offers[0].Record, want) {
		t.Errorf("got %+v, want %+v", offers[0].Record, want)
	}
}

func TestWhatCannotBeUsedIsNamedAsAMistake(t *testing.T) {
	long := strings.Repeat("x", 2000)
	many := []string{}
	for i := range entriesMax + 1 {
		many = append(many, fmt.Sprintf("SERVICE_X%03d=1", i))
	}
	for _, c := range []struct {
		name   string
		labels []string
		kept   bool // the container is registered all the same
		want   string
	}{
		{"a name with a slash", []string{"SERVICE_NAME=../../secrets"}, false, "SERVICE_NAME"},
		{"a hidden name", []string{"SERVICE_NAME=_hidden"}, false, "SERVICE_NAME"},
		{"a name that ends a line", []string{"SERVICE_NAME=web\n}"}, false, "SERVICE_NAME"},
		{"a name that is too long", []string{"SERVICE_NAME=" + long}, false, "at most 128"},
		{"dots alone", []string{"SERVICE_NAME=.."}, false, "SERVICE_NAME"},
		{"a port's name with a slash", []string{"SERVICE_80_NAME=a/b"}, false, "SERVICE_80_NAME"},
		{"an instance with a slash", []string{"SERVICE_ID=a/b"}, false, "SERVICE_ID"},
		{"a compose service with a slash", []string{composeService + "=a/b"}, false, composeService},
		{"a weight that is no number", []string{"SERVICE_WEIGHT=heavy"}, true, "SERVICE_WEIGHT"},
		{"a weight out of range", []string{"SERVICE_WEIGHT=257"}, true, "1 to 256"},
		{"a tag that ends a line", []string{"SERVICE_TAGS=a\nb"}, true, "tag"},
		{"a tag that is too long", []string{"SERVICE_TAGS=" + long}, true, "at most 256"},
		{"too many tags", []string{"SERVICE_TAGS=" + numbers(entriesMax+1)}, true, "more than 64 tags"},
		{"meta that ends a line", []string{"SERVICE_REGION=a\r\nb"}, true, "SERVICE_REGION"},
		{"meta that is not UTF-8", []string{"SERVICE_REGION=\xff"}, true, "SERVICE_REGION"},
		{"meta that is too long", []string{"SERVICE_REGION=" + long}, true, "at most 1024"},
		{"meta with a strange name", []string{"SERVICE_A B=c"}, true, "left out"},
		{"too much meta", many, true, "more than 64 entries like SERVICE_"},
		{"a check that runs a command", []string{"SERVICE_CHECK=exec:/bin/sh"}, true, "SERVICE_CHECK"},
		{"a check of somebody else", []string{"SERVICE_CHECK=http://169.254.169.254/latest"}, true, "SERVICE_CHECK"},
		{"a check of another port", []string{"SERVICE_CHECK=tcp:127.0.0.1:22"}, true, "SERVICE_CHECK"},
	} {
		t.Run(c.name, func(t *testing.T) {
			offers, refusals := decided([]workload.Workload{labelled(container(published(80, 8080)), c.labels...)}, options())
			if len(refusals) != 1 || !refusals[0].Mistake || !strings.Contains(refusals[0].Reason, c.want) {
				t.Errorf("refusals %+v, want one mistake with %q", refusals, c.want)
			}
			if kept := len(offers) == 1; kept != c.kept {
				t.Errorf("offers %+v", offers)
			}
		})
	}
}

func numbers(n int) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprint(i))
	}
	return strings.Join(list, ",")
}

func TestTheChecksOfAPortAskItsContainer(t *testing.T) {
	for _, c := range []struct {
		name   string
		w      workload.Workload
		change func(*Options)
		want   string
	}{
		{"published", container(published(80, 8080)), nil, "tcp:172.17.0.2:80, published tcp:10.0.0.7:8080"},
		{"in two networks", with(container(published(80, 8080)), func(w *workload.Workload) { w.Addresses = pairs([]string{"b=10.2.0.1", "a=fd00::1"}) }), nil,
			"tcp:[fd00::1]:80, tcp:10.2.0.1:80, published tcp:10.0.0.7:8080"},
		{"the host's network", with(container(published(80, 80)), func(w *workload.Workload) { w.Addresses, w.HostNetwork = nil, true }), nil, "tcp:10.0.0.7:80"},
		{"internal", container(published(80, 8080)), func(o *Options) { o.Internal = true }, "tcp:172.17.0.2:80"},
		{"over http", labelled(container(published(80, 8080)), "SERVICE_CHECK=http:/healthz"), nil,
			"http://172.17.0.2:80/healthz, published http://10.0.0.7:8080/healthz"},
		{"of this port", labelled(container(published(80, 8080)), "SERVICE_CHECK=none", "SERVICE_80_CHECK=tcp"), nil,
			"tcp:172.17.0.2:80, published tcp:10.0.0.7:8080"},
		{"none", labelled(container(published(80, 8080)), "SERVICE_CHECK=none"), nil, "none"},
		{"its own health", with(container(published(80, 8080)), func(w *workload.Workload) { w.Health = workload.HealthHealthy }), nil, "none"},
		{"tcp rather than its own health", with(labelled(container(published(80, 8080)), "SERVICE_CHECK=tcp"), func(w *workload.Workload) { w.Health = workload.HealthUnhealthy }), nil,
			"tcp:172.17.0.2:80, published tcp:10.0.0.7:8080"},
		{"udp cannot be asked", container(workload.Port{Number: 53, Protocol: "udp", HostIP: "0.0.0.0", HostNumber: 53}), nil, "none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := options()
			if c.change != nil {
				c.change(&opts)
			}
			offers, refusals := decided([]workload.Workload{c.w}, opts)
			if len(offers) != 1 {
				t.Fatalf("offers %+v, refusals %+v", offers, refusals)
			}
			if got := checkText(offers[0]); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func checkText(offer Offer) string {
	if offer.Monitor == nil {
		return "none"
	}
	return offer.Monitor.Check.String()
}

func TestAnImageGivesItsLastPart(t *testing.T) {
	for image, want := range map[string]string{
		"redis":                                 "redis",
		"redis:7":                               "redis",
		"library/redis:7-alpine":                "redis",
		"registry:5000/team/web":                "web",
		"registry:5000/team/web:1.2":            "web",
		"web@sha256:" + strings.Repeat("a", 64): "web",
		"registry:5000/team/web:1.2@sha256:" + strings.Repeat("a", 64): "web",
		"sha256:" + strings.Repeat("a", 64):                            "",
		"":                                                             "",
	} {
		if got := imageName(image); got != want {
			t.Errorf("imageName(%q) = %q, want %q", image, got, want)
		}
	}
}

func TestAContainerOfANamelessImageHasToNameItsService(t *testing.T) {
	w := container(published(80, 8080))
	w.Image = "sha256:" + strings.Repeat("a", 64)
	offers, refusals := decided([]workload.Workload{w}, options())
	if len(offers) != 0 || len(refusals) != 1 || !strings.Contains(refusals[0].Reason, "set SERVICE_NAME") {
		t.Errorf("offers %+v, refusals %+v", offers, refusals)
	}
}

// Whatever a container says, its records are valid, have keys of their own directly below their
// service, and the answer is the same however the containers are ordered.
func TestNothingAContainerSaysEscapesThePrefix(t *testing.T) {
	text := rapid.OneOf(
		rapid.String(),
		rapid.SampledFrom([]string{"..", "/", "_x", "a/b", "../../etc", "a\x00b", "web", "80", "", "true", strings.Repeat("y", 5000)}),
	)
	key := rapid.OneOf(
		rapid.SampledFrom([]string{"SERVICE_NAME", "SERVICE_ID", "SERVICE_80_NAME", "SERVICE_80_ID", "SERVICE_TAGS", "SERVICE_WEIGHT", "SERVICE_CHECK", "SERVICE_", "SERVICE_80_", composeService}),
		rapid.Map(rapid.String(), func(s string) string { return "SERVICE_" + s }),
	)
	port := rapid.Custom(func(t *rapid.T) workload.Port {
		p := workload.Port{Number: rapid.IntRange(1, 65535).Draw(t, "number"), Protocol: rapid.SampledFrom([]string{"tcp", "udp"}).Draw(t, "protocol")}
		if rapid.Bool().Draw(t, "published") {
			p.HostIP, p.HostNumber = rapid.OneOf(rapid.SampledFrom([]string{"0.0.0.0", "::", "127.0.0.1", "::1", "10.1.1.1"}), text).Draw(t, "ip"), rapid.IntRange(1, 65535).Draw(t, "host port")
		}
		return p
	})
	rapid.Check(t, func(t *rapid.T) {
		var containers []workload.Workload
		for i := range rapid.IntRange(1, 3).Draw(t, "containers") {
			containers = append(containers, workload.Workload{
				ID: fmt.Sprint(i), Name: text.Draw(t, "name"), Image: text.Draw(t, "image"), State: workload.Running,
				Labels: rapid.MapOf(key, text).Draw(t, "labels"), Env: rapid.MapOf(key, text).Draw(t, "env"),
				Addresses: rapid.MapOf(text, text).Draw(t, "addresses"),
				Ports:     rapid.SliceOfN(port, 0, 4).Draw(t, "ports"),
			})
		}
		opts := options()
		opts.Internal = rapid.Bool().Draw(t, "internal")
		offers, refusals := decided(containers, opts)
		keys := map[string]bool{}
		for _, offer := range offers {
			if err := offer.Record.Validate(); err != nil {
				t.Fatalf("invalid record: %v", err)
			}
			key := offer.Record.Key("/services")
			if strings.Count(key, "/") != 3 || strings.Contains(key, "..") && strings.Contains(key, "/..") || strings.Contains(key, "/_") {
				t.Fatalf("key %q", key)
			}
			if keys[key] {
				t.Fatalf("two offers have the key %q", key)
			}
			keys[key] = true
		}
		shuffled := rapid.Permutation(containers).Draw(t, "order")
		again, refusedAgain := decided(shuffled, opts)
		if !reflect.DeepEqual(again, offers) || len(refusedAgain) != len(refusals) {
			t.Fatal("the order of the containers matters")
		}
	})
}
