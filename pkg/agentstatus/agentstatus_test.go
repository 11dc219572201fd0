package agentstatus

import (
	"strings"
	"testing"

	"github.com/kvd-io/kvd/pkg/fuzztest"
	"github.com/kvd-io/kvd/pkg/kv"
)

func TestKeysOfHostsAreToldFromThoseOfTargets(t *testing.T) {
	names := NamesOf("")
	for key, want := range map[string]string{
		"/_agents/edge1/kvconfd":                 "edge1",
		"/_agents/edge1/kvconfd-targets/haproxy": "",
		"/_agents/edge1/kvagent":                 "",
		"/_agents/kvconfd":                       "",
		"/_agents-sync/edge1/kvconfd":            "",
		"/_agents/a/b/kvconfd":                   "",
	} {
		if got := names.HostOf(key); got != want {
			t.Errorf("%s is of host %q, want %q", key, got, want)
		}
	}
	if got := names.HostOf(names.Host("edge1")); got != "edge1" {
		t.Errorf("the key of edge1 is of %q", got)
	}
}

func TestTheKeyOfATargetIsOneSegmentThatIsNotHidden(t *testing.T) {
	seen := map[string]string{}
	for _, name := range []string{"haproxy", "sites/a", "sites%2Fa", "_hidden", "%5Fhidden", "..", ".", "", "vhosts/_x"} {
		key := NamesOf("/status").Target("h", name)
		if kv.Clean(key) != key || kv.HiddenBelow(key, "/status") || kv.Parent(key) != "/status/h/kvconfd-targets" {
			t.Errorf("the key of %q is %s", name, key)
		}
		if other, taken := seen[key]; taken {
			t.Errorf("%q and %q have the key %s", name, other, key)
		}
		seen[key] = name
	}
}

func TestNamesOfHostsThatWouldBeHiddenOrTwoSegmentsAreRefused(t *testing.T) {
	for _, host := range []string{"", "_x", "a/b", "..", ".", strings.Repeat("x", 300)} {
		if CheckHost(host) == nil {
			t.Errorf("%q was accepted", host)
		}
	}
	for _, host := range []string{"edge1", "edge1.example.com"} {
		if err := CheckHost(host); err != nil {
			t.Error(err)
		}
	}
}

func TestAHostHasAWriteUnlessATargetThatFollowsItIsBehind(t *testing.T) {
	h := Host{Host: "edge1", Index: 10, Keys: []string{"/a", "/b"}, Targets: 2, Converged: 1,
		Behind: []Target{{Name: "b", State: "failed", Keys: []string{"/b"}}}}
	for _, c := range []struct {
		key   string
		index kv.Index
		want  bool
	}{
		{"/a/x", 10, true}, {"/a/x", 11, false}, {"/b/x", 10, false}, {"/a/_x", 10, true}, {"/ab", 10, true}, {"/", 10, false},
	} {
		if got := h.Has(c.key, c.index); got != c.want {
			t.Errorf("has %s at %d: %v", c.key, c.index, got)
		}
	}
	if h.Covers("/c") || h.Covers("/ab") || h.Covers("/a/_hidden") || !h.Covers("/a") || !h.Covers("/b/c/d") || !h.Covers("/") {
		t.Error("what the host follows is told wrongly")
	}
	if h.IsConverged(5) {
		t.Error("a host with a target that failed is not converged")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Host{Host: "edge1", Index: 7, Keys: []string{"/a"}, Targets: 1, Behind: []Target{{Name: "x", State: "failed", Step: "check", Err: "no"}}}.Value())
	f.Add(`{"host":1}`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, value string) {
		var h Host
		var err error
		fuzztest.WantBounded(t, 64*uint64(len(value))+fuzztest.Fixed, func() { h, err = Parse(value) })
		if err != nil {
			return
		}
		again, err := Parse(h.Value())
		if err != nil || again.Index != h.Index || len(again.Behind) != len(h.Behind) {
			t.Fatalf("%q is read as %+v, and written as %q", value, h, h.Value())
		}
		h.IsConverged(1)
		h.Has("/a", 1)
	})
}
