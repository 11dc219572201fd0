package agent

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/health"
	"github.com/kvd-io/kvd/pkg/registrar"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload"
)

// briefs is what the tables compare of offers.
func briefs(offers []Offer) (list []string) {
	for _, offer := range offers {
		r := offer.Record
		if r.Port == 0 {
			list = append(list, fmt.Sprintf("%s/%s %s", r.Service, r.Instance, r.Address))
			continue
		}
		list = append(list, brief(r))
	}
	return list
}

func TestLabelsOfOurOwnDescribeServices(t *testing.T) {
	twoNetworks := func(w *workload.Workload) {
		w.Addresses = pairs([]string{"front=10.8.0.2", "back=10.9.0.2"})
		w.Addresses6 = pairs([]string{"front=fd08::2"})
	}
	dual := func(o *Options) { o.Other = netip.MustParseAddr("fd00::7") }
	for _, c := range []struct {
		name    string
		w       workload.Workload
		options func(*Options)
		want    []string
		refused string // part of the only refusal
	}{
		{name: "a port of several", w: labelled(container(published(80, 8080), published(81, 8081)), "kvd.web.port=80"),
			want: []string{"web/h1_w1_80 10.0.0.7:8080"}, refused: "labels say nothing about it"},
		{name: "the only port", w: labelled(container(published(80, 8080)), "kvd.web.tags=a"),
			want: []string{"web/h1_w1_80 10.0.0.7:8080"}},
		{name: "two services of one port", w: labelled(container(published(80, 8080)), "kvd.web.port=80", "kvd.api.port=80", "kvd.api.id=api-1"),
			want: []string{"api/api-1 10.0.0.7:8080", "web/h1_w1_80 10.0.0.7:8080"}},
		{name: "a service with dots in its name", w: labelled(container(published(80, 8080)), "kvd.shop.web.port=80"),
			want: []string{"shop.web/h1_w1_80 10.0.0.7:8080"}},
		{name: "they stand before registrator's for their port", w: labelled(container(published(80, 8080), published(81, 8081)),
			"kvd.web.port=80", "SERVICE_80_NAME=old", "SERVICE_81_NAME=admin"),
			want: []string{"admin/h1_w1_81 10.0.0.7:8081", "web/h1_w1_80 10.0.0.7:8080"}},
		{name: "udp", w: labelled(container(workload.Port{Number: 53, Protocol: "udp", HostIP: "0.0.0.0", HostNumber: 53}), "kvd.dns.port=53/udp"),
			want: []string{"dns/h1_w1_53_udp 10.0.0.7:53"}},
		{name: "explicit is what they are", w: labelled(container(published(80, 8080)), "kvd.web.port=80"),
			options: func(o *Options) { o.Explicit = true }, want: []string{"web/h1_w1_80 10.0.0.7:8080"}},
		{name: "no port", w: labelled(container(), "kvd.worker.port=none"), options: func(o *Options) { o.Internal = true },
			want: []string{"worker/h1_w1 172.17.0.2"}},
		{name: "no port, and nothing published", w: labelled(container(published(80, 8080)), "kvd.worker.port=none"), want: []string{"worker/h1_w1 10.0.0.7"}, refused: "say nothing about it"},
		{name: "its own address, for this one", w: labelled(container(published(80, 8080)), "kvd.web.address=internal"),
			want: []string{"web/h1_w1_80 172.17.0.2:80"}},
		{name: "its published address, for this one", w: labelled(container(published(80, 8080)), "kvd.web.address=published"),
			options: func(o *Options) { o.Internal = true }, want: []string{"web/h1_w1_80 10.0.0.7:8080"}},
		{name: "a network", w: with(labelled(container(exposed(80)), "kvd.web.network=back"), twoNetworks),
			want: []string{"web/h1_w1_80 10.9.0.2:80"}},
		{name: "a network and a family", w: with(labelled(container(exposed(80)), "kvd.web.network=front", "kvd.web.family=ipv6"), twoNetworks),
			want: []string{"web/h1_w1_80 [fd08::2]:80"}},
		{name: "a family that the network has not", w: with(labelled(container(exposed(80)), "kvd.web.network=back", "kvd.web.family=6"), twoNetworks),
			refused: `no IPv6 address in network "back"`},
		{name: "an address of its own", w: with(labelled(container(published(80, 8080)), "kvd.web.address=10.9.0.2"), twoNetworks),
			want: []string{"web/h1_w1_80 10.9.0.2:80"}},
		{name: "this host's address", w: labelled(container(published(80, 8080)), "kvd.web.address=10.0.0.7"),
			want: []string{"web/h1_w1_80 10.0.0.7:8080"}},
		{name: "a port of this host that is not its own", w: labelled(container(), "kvd.web.address=10.0.0.7", "kvd.web.port=22"),
			refused: "not published"},
		{name: "this host's address without a port", w: labelled(container(), "kvd.web.address=10.0.0.7", "kvd.web.port=none"),
			want: []string{"web/h1_w1 10.0.0.7"}},
		{name: "somebody else's address", w: labelled(container(published(80, 8080)), "kvd.web.address=169.254.169.254"),
			refused: "neither the container's nor this host's"},
		{name: "the other family of this host", w: labelled(container(published(80, 8080), bound(80, "::", 8080)), "kvd.web.family=ipv6"),
			options: dual, want: []string{"web/h1_w1_80 [fd00::7]:8080"}},
		{name: "a family that it is not published on", w: labelled(container(published(80, 8080)), "kvd.web.family=ipv6"),
			options: dual, refused: "not published on IPv6"},
		{name: "a family that this host has not", w: labelled(container(published(80, 8080)), "kvd.web.family=ipv6"),
			refused: "no IPv6 address that is known"},
		{name: "a port that is not exposed, on the host's network", w: with(labelled(container(), "kvd.web.port=8080"), func(w *workload.Workload) { w.Addresses, w.HostNetwork = nil, true }),
			want: []string{"web/h1_w1_8080 10.0.0.7:8080"}},
		{name: "a port that is not exposed, of its own", w: labelled(container(), "kvd.web.port=8080", "kvd.web.address=internal"),
			want: []string{"web/h1_w1_8080 172.17.0.2:8080"}},
		{name: "a port that is not published", w: labelled(container(exposed(80)), "kvd.web.port=80"), refused: "not published"},
		{name: "no port is said and there are two", w: labelled(container(published(80, 8080), published(81, 8081)), "kvd.web.tags=a", "SERVICE_IGNORE=1"),
			refused: "it has 2 ports: kvd.web.port=NUMBER"},
		{name: "ignored", w: labelled(container(published(80, 8080)), "kvd.web.port=80", "kvd.ignore=true"), refused: "kvd.ignore is set"},
		{name: "told to stop and not to drain", w: with(labelled(container(published(80, 8080)), "kvd.web.drain=no"), func(w *workload.Workload) { w.State = workload.Stopping }),
			refused: "kvd.web.drain is no"},
		{name: "an option that there is not", w: labelled(container(published(80, 8080)), "kvd.web.wieght=1", "kvd.web.port=80"),
			want: []string{"web/h1_w1_80 10.0.0.7:8080"}, refused: "did you mean weight?"},
		{name: "a name that escapes", w: labelled(container(published(80, 8080)), "kvd.../../etc.port=80", "SERVICE_NAME=web"),
			want: []string{"web/h1_w1_80 10.0.0.7:8080"}, refused: "label"},
		{name: "a protocol that there is not", w: labelled(container(published(80, 8080)), "kvd.web.port=80", "kvd.web.protocol=sctp", "SERVICE_IGNORE=1"), refused: "must be tcp or udp"},
		{name: "a port out of range", w: labelled(container(published(80, 8080)), "kvd.web.port=99999", "SERVICE_IGNORE=1"), refused: "1 to 65535"},
		{name: "an id that escapes", w: labelled(container(published(80, 8080)), "kvd.web.id=../x", "SERVICE_IGNORE=1"), refused: "an id has at most"},
		{name: "an id as registrator has it", w: labelled(container(published(80, 8080)), "kvd.web.id=h:web:80"),
			want: []string{"web/h:web:80 10.0.0.7:8080"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := options()
			if c.options != nil {
				c.options(&opts)
			}
			offers, refusals := decided([]workload.Workload{c.w}, opts)
			if got := briefs(offers); !reflect.DeepEqual(got, c.want) {
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

func TestLabelsOfOurOwnSayHowAServiceIsKept(t *testing.T) {
	w := labelled(container(published(80, 8080)), "kvd.web.port=80", "kvd.web.tags=a,b", "kvd.web.weight=7", "kvd.web.meta.zone=eu", "kvd.web.meta.a.b=c",
		"kvd.web.check=http:/healthz", "kvd.web.check-interval=5", "kvd.web.check-timeout=500ms", "kvd.web.check-rise=2", "kvd.web.check-fall=4",
		"kvd.web.unhealthy=mark", "kvd.web.keep-last=yes")
	offers, refusals := decided([]workload.Workload{w}, options())
	if len(offers) != 1 || len(refusals) > 0 {
		t.Fatalf("offers %+v, refusals %+v", offers, refusals)
	}
	o := offers[0]
	want := registry.Record{Service: "web", Instance: "h1_w1_80", ID: "h1:w1:80", Address: "10.0.0.7", Port: 8080, Protocol: "tcp", State: registry.StateUp,
		Weight: 7, Tags: []string{"a", "b"}, Meta: map[string]string{"zone": "eu", "a.b": "c"}, Host: "h1"}
	if !reflect.DeepEqual(o.Record, want) {
		t.Errorf("got %+v, want %+v", o.Record, want)
	}
	if o.Unhealthy != registrar.UnhealthyMark || !o.KeepLast || o.Source != SourceDocker || o.Workload != "w1" || o.Address != "published on every address of this host" {
		t.Errorf("unexpected offer %+v", o)
	}
	monitor := *o.Monitor
	monitor.Check = nil
	if want := (health.Monitor{Interval: 5 * time.Second, Timeout: 500 * time.Millisecond, Rise: 2, Fall: 4}); monitor != want {
		t.Errorf("monitor %+v, want %+v", monitor, want)
	}
	if got := checkText(o); got != "http://172.17.0.2:80/healthz, published http://10.0.0.7:8080/healthz" {
		t.Errorf("it checks %s", got)
	}
}

func TestOnlyAnAdministratorMayReachBeyondAWorkload(t *testing.T) {
	labels := pairs([]string{"kvd.db.port=5432", "kvd.db.address=db.example.net", "kvd.db.check=exec:/bin/true"})
	file := workload.Workload{ID: "/etc/kvd/services.d/db.yaml", Name: "db", State: workload.Running, HostNetwork: true, Trusted: true, Labels: labels}
	offers, refusals := Offers(seenIn(SourceFile, file), options())
	if len(refusals) > 0 || len(offers) != 1 || offers[0].Record.Address != "db.example.net" || offers[0].Record.Port != 5432 || offers[0].Record.Instance != "h1_db_5432" || checkText(offers[0]) != "exec:/bin/true" {
		t.Errorf("a file: offers %+v, refusals %+v", offers, refusals)
	}
	file.Trusted = false
	offers, refusals = Offers(seenIn(SourceFile, file), options())
	if len(offers) > 0 || len(refusals) != 2 {
		t.Errorf("a file that everybody may write to: offers %+v, refusals %+v", offers, refusals)
	}
	unit := workload.Workload{ID: "web@1.service", Name: "web@1.service", Run: "abc", State: workload.Running, Trusted: true, Labels: pairs([]string{"kvd.web.port=8080"})}
	offers, refusals = Offers(seenIn(SourceSystemd, unit), options())
	if len(refusals) > 0 || len(offers) != 1 || brief(offers[0].Record) != "web/h1_web-1_8080 10.0.0.7:8080" || checkText(offers[0]) != "tcp:10.0.0.7:8080" {
		t.Errorf("a unit: offers %+v, refusals %+v", offers, refusals)
	}
}

func TestTheAdministratorsWordCountsBeforeAContainers(t *testing.T) {
	file := Seen{SourceFile, workload.Workload{ID: "/f/web.yaml", Name: "web", State: workload.Running, Trusted: true, Labels: pairs([]string{"kvd.web.port=80", "kvd.web.id=one"})}}
	claims := Seen{SourceDocker, labelled(container(published(80, 8080)), "kvd.web.id=one")}
	offers, refusals := Offers([]Seen{claims, file}, options())
	if len(offers) != 1 || offers[0].Source != SourceFile || len(refusals) != 1 || refusals[0].Workload != "w1" || !refusals[0].Mistake {
		t.Errorf("offers %+v, refusals %+v", offers, refusals)
	}
}

func TestWhatAStateOfAContainerMeansIsLeftToTheRegistrar(t *testing.T) {
	for _, state := range []workload.State{workload.Starting, workload.Running, workload.Stopping} {
		w := container(published(80, 8080))
		w.State, w.Health = state, workload.HealthStarting
		offers, refusals := decided([]workload.Workload{w}, options())
		if len(offers) != 1 || len(refusals) > 0 || offers[0].State != state || offers[0].Health != workload.HealthStarting || offers[0].Run != w.Run {
			t.Errorf("%s: offers %+v, refusals %+v", state, offers, refusals)
		}
	}
}

func TestThousandsOfLabelsAreBounded(t *testing.T) {
	w := container(published(80, 8080))
	w.Labels = map[string]string{}
	for i := range 5000 {
		w.Labels[fmt.Sprintf("kvd.s%04d.port", i)] = "80"
		w.Labels[fmt.Sprintf("kvd.web.meta.k%04d", i)] = strings.Repeat("x", 100)
		w.Labels[fmt.Sprintf("SERVICE_A B%d", i)] = "x"
		w.Labels[fmt.Sprintf("kvd.web.o%d", i)] = "x"
	}
	offers, refusals := decided([]workload.Workload{w}, options())
	if len(offers) > servicesMax || len(refusals) > 2*servicesMax {
		t.Errorf("%d offers, %d refusals", len(offers), len(refusals))
	}
}
