package registry

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/pkg/fuzztest"
)

func TestEachLayoutIsWrittenAsItsReadersExpect(t *testing.T) {
	v6 := Record{Service: "web", Instance: "H1_shop:80", ID: "h1:shop:80", Address: "2001:db8::5", Port: 8080, Protocol: "tcp",
		State: StateUp, Weight: 5, Meta: map[string]string{"version": "1.2", "Host": "elsewhere", "port": "99", "OWNER": "me"}, Owner: "m1/r1"}
	portless := Record{Service: "web", Instance: "a", Address: "db.example.org", Protocol: "udp", State: StateUp, Owner: "m1/r1"}
	for _, c := range []struct {
		view       string
		record     Record
		key, value string
	}{
		{"json:/services", v6, "/services/web/H1_shop:80", `{"service":"web","instance":"H1_shop:80","address":"2001:db8::5","port":8080,"protocol":"tcp","state":"up","weight":5,"meta":{"Host":"elsewhere","OWNER":"me","port":"99","version":"1.2"},"owner":"m1/r1"}`},
		{"registrator:/reg", v6, "/reg/web/h1:shop:80", "[2001:db8::5]:8080"},
		{"registrator:/reg/deep", Record{Service: "dns", Instance: "b", Address: "10.0.0.1", Port: 53, State: StateUp, ID: "h1:dns:53:udp"}, "/reg/deep/dns/h1:dns:53:udp", "10.0.0.1:53"},
		{"registrator:/reg", Record{Service: "web", Instance: "b", Address: "10.0.0.1", Port: 53, State: StateUp}, "/reg/web/b", "10.0.0.1:53"},
		{"registrator:/reg", portless, "", ""},
		{"skydns:Services.Example.", v6, "/skydns/example/services/web/h1-shop-80", `{"host":"2001:db8::5","port":8080,"weight":5,"ttl":10,"owner":"m1/r1"}`},
		{"skydns:kvd", portless, "/skydns/kvd/web/a", `{"host":"db.example.org","port":-1,"ttl":10,"owner":"m1/r1"}`},
		{"coreos:/old", v6, "/old/web/H1_shop:80", `{"host":"2001:db8::5","owner":"m1/r1","port":8080,"version":"1.2"}`},
	} {
		view, err := ParseView(c.view)
		if err != nil {
			t.Fatal(err)
		}
		key, err := view.key(c.record)
		if key != c.key || err != nil {
			t.Errorf("%s: key %q, %v", c.view, key, err)
		}
		if key == "" {
			continue
		}
		value := view.value(c.record)
		if value != c.value {
			t.Errorf("%s: value %s\nwant %s", c.view, value, c.value)
		}
		if address, port := view.endpoint(value); address != c.record.Address || port != c.record.Port {
			t.Errorf("%s: endpoint %s %d", c.view, address, port)
		}
		if owner := view.owner(value); view.namesOwner() && owner != c.record.Owner || !view.namesOwner() && owner != "" {
			t.Errorf("%s: owner %q", c.view, owner)
		}
	}
}

func TestOnlyTheCanonicalLayoutHasRecordsThatAreNotUp(t *testing.T) {
	for _, state := range []string{StateDraining, StateMaintenance, StateUnhealthy} {
		record := web()
		record.State = state
		if err := record.Validate(); err != nil {
			t.Error(err)
		}
		for _, text := range []string{"registrator:/r", "skydns:kvd", "coreos:/c"} {
			view, _ := ParseView(text)
			if key, err := view.key(record); key != "" || err != nil {
				t.Errorf("%s %s has the key %q, %v", state, text, key, err)
			}
		}
		if key, _ := (View{"/services", LayoutJSON}).key(record); key != webKey {
			t.Errorf("%s has the key %q", state, key)
		}
	}
}

func TestNamesThatAreNoDNSLabelsAreRefusedOrChangedWithoutBecomingAnothers(t *testing.T) {
	view, _ := ParseView("skydns:kvd")
	long := strings.Repeat("x", 100)
	labels := map[string]string{}
	for instance, want := range map[string]string{"A_b.c:80": "a-b-c-80", "-x-": "x", long: "", long + "y": "", "ü1": "1"} {
		key, err := view.key(Record{Service: "web", Instance: instance, State: StateUp})
		label := strings.TrimPrefix(key, "/skydns/kvd/web/")
		if err != nil || !isLabel(label) || want != "" && label != want || labels[label] != "" {
			t.Errorf("instance %q is %q, %v", instance, label, err)
		}
		labels[label] = instance
	}
	for _, record := range []Record{
		{Service: "Web", Instance: "a"}, {Service: "a.b", Instance: "a"}, {Service: "-a", Instance: "a"}, {Service: long, Instance: "a"},
		{Service: "web", Instance: "::"}, {Service: "dns", Instance: "NS"}, {Service: "dns", Instance: "apex"},
	} {
		record.State = StateUp
		if key, err := view.key(record); err == nil {
			t.Errorf("%+v has the key %s", record, key)
		}
	}
}

func TestViewsThatMakeNoSenseAreRefusedInWords(t *testing.T) {
	for text, want := range map[string]string{
		"":                    "is no layout",
		"/services":           "is no layout",
		"consul:/x":           "there are json, registrator",
		"json:":               "must begin with a slash",
		"json:services":       "must begin with a slash",
		"json:/":              "below the root",
		"registrator:/_x":     "hidden",
		"skydns:":             "no domain name",
		"skydns:a..b":         "no domain name",
		"skydns:/skydns/kvd":  "no domain name",
		"skydns:../services":  "no domain name",
		"coreos:/services/..": "is a path",
	} {
		if view, err := ParseView(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is %+v, %v; want %q", text, view, err, want)
		}
	}
	for _, c := range []struct {
		views []string
		want  string
	}{
		{[]string{"json:/a", "registrator:/a"}, "share the directory /a"},
		{[]string{"json:/a", "coreos:/a/b"}, "in the directory of the other"},
		{[]string{"coreos:/a/b", "json:/c", "json:/a"}, "in the directory of the other"},
		{[]string{"skydns:a", "skydns:b.a"}, "in the directory of the other"},
		{[]string{"json:/a", "json:/a"}, "twice"},
		{[]string{"json:/a", "json:/ab", "skydns:a"}, ""},
	} {
		var views []View
		for _, text := range c.views {
			view, err := ParseView(text)
			if err != nil {
				t.Fatal(err)
			}
			views = append(views, view)
		}
		if err := ValidateViews(views); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.views, err, c.want)
		}
	}
}

func FuzzParseView(f *testing.F) {
	for _, text := range []string{"json:/services", "registrator:/a/b", "skydns:dom.ain", "skydns:a_b.", "coreos:/x", "json:/a:b", ":", "skydns:\xff"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		view, err := ParseView(text)
		if err != nil {
			return
		}
		if again, err := ParseView(view.String()); err != nil || again != view {
			t.Fatalf("%q is %v, and that %v, %v", text, view, again, err)
		}
		if err := ValidateViews([]View{view}); err != nil {
			t.Fatalf("%q is %v, which is refused: %v", text, view, err)
		}
	})
}

// FuzzValues reads a text as the value of a key in each layout: as anybody may have written it.
func FuzzValues(f *testing.F) {
	for _, value := range []string{"10.0.0.1:80", "[::1]:80", `{"host":"a","port":1,"owner":"m/r"}`, `{"address":"a","Owner":"x"}`, `{"port":1e400}`, "[[[[", `{"owner":5}`, ":", "a:-1"} {
		f.Add(value, "web", "a")
	}
	f.Fuzz(func(t *testing.T, value, service, instance string) {
		for _, view := range []View{{"/j", LayoutJSON}, {"/r", LayoutRegistrator}, {"/skydns/k", LayoutSkyDNS}, {"/c", LayoutCoreOS}} {
			fuzztest.WantBounded(t, 64*uint64(len(value))+fuzztest.Fixed, func() {
				view.owner(value)
				view.endpoint(value)
			})
			record := Record{Service: service, Instance: instance, ID: instance, Address: "10.0.0.1", Port: 80, Protocol: "tcp", State: StateUp,
				Owner: "m/r", Meta: map[string]string{"m": value}}
			key, err := view.key(record)
			if err != nil || record.Validate() != nil {
				continue
			}
			if rest, ok := strings.CutPrefix(key, view.Prefix+"/"); !ok || strings.Count(rest, "/") != 1 || strings.Contains(rest, "..") && !strings.Contains(service+instance, "..") {
				t.Fatalf("%v: the key is %q", view, key)
			}
			written := view.value(record)
			if view.Layout != LayoutRegistrator && (!json.Valid([]byte(written)) || view.owner(written) != "m/r") {
				t.Fatalf("%v: the value is %q", view, written)
			}
			if address, port := view.endpoint(written); address != "10.0.0.1" || port != 80 {
				t.Fatalf("%v: the value %q is at %s %d", view, written, address, port)
			}
		}
	})
}
