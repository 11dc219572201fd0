package proxy

import (
	"net/netip"
	"strings"
	"testing"
)

func TestLinesWithTabsAndQuotesAreWhatTheyAre(t *testing.T) {
	c := parseHAProxy([]byte("defaults\nbackend\tweb\n\tserver\ta\t10.0.0.1:80 sni\tstr(\"x\")\n"))
	section := c.sections[1]
	if section.opaque != "a server line is quoted" || section.lines[0] != "server a\t10.0.0.1:80 sni\tstr(\"x\")" {
		t.Errorf("opaque: %q, lines: %q", section.opaque, section.lines)
	}
	if err := NewHAProxy(HAProxyConfig{}).compare(t.Context(), c, haStates{"web": {"a": {addr: netip.MustParseAddrPort("10.0.0.1:80")}}}); err != nil {
		t.Errorf("with the server running: %v", err)
	}
}

func TestAServerThatMovesInOrOutOfAConditionTakesAReload(t *testing.T) {
	const inside = "defaults\nbackend web\n.if defined(X)\n    server a 10.0.0.1:80\n.endif\n"
	const outside = "defaults\nbackend web\n.if defined(X)\n.endif\n    server a 10.0.0.1:80\n"
	if got := planOf(t, inside, outside); !strings.HasPrefix(got, "reload") {
		t.Error(got)
	}
	if got := planOf(t, inside, strings.Replace(inside, "80\n", "80  # as ever\n", 1)); got != "nothing" {
		t.Errorf("another comment: %s", got)
	}
}

// The defaults of a file that has none may be in one that HAProxy reads before it.
func TestWhatAnotherFileMayHaveSaidOfServersIsNotGuessed(t *testing.T) {
	const unsaid = "backend web\n    server a 10.0.0.1:80\n    server b 10.0.0.2:80 weight 7 enabled\n"
	for _, c := range []struct{ from, to, want string }{
		{"10.0.0.1:80", "10.0.0.9:80", "runtime: set server web/a address 10.0.0.9:80"},
		{"weight 7", "weight 8", "runtime: set server web/b weight 8"},
		{"enabled", "disabled", "reload"},
		{"weight 7 ", "", "reload"},
		{" enabled", "", "reload"},
		{"10.0.0.1:80", "10.0.0.1:80 weight 2", "reload"},
		{"    server a 10.0.0.1:80\n", "", "reload"},
		{"web\n", "web\n    server c 10.0.0.3:80\n", "reload"},
	} {
		if got := planOf(t, unsaid, strings.Replace(unsaid, c.from, c.to, 1)); !strings.HasPrefix(got, c.want) {
			t.Errorf("%q -> %q: %s, want %s", c.from, c.to, got, c.want)
		}
		elsewhere := "defaults x from y\n" + unsaid
		if got := planOf(t, elsewhere, strings.Replace(elsewhere, c.from, c.to, 1)); !strings.HasPrefix(got, c.want) {
			t.Errorf("defaults from another file: %q -> %q: %s, want %s", c.from, c.to, got, c.want)
		}
	}
	running := haStates{"web": {
		"a": {addr: netip.MustParseAddrPort("10.0.0.1:80"), weight: 50, initialWeight: 50, admin: adminForcedMaint | adminConfigMaint},
		"b": {addr: netip.MustParseAddrPort("10.0.0.2:80"), weight: 7, initialWeight: 7},
	}}
	h := NewHAProxy(HAProxyConfig{})
	if err := h.compare(t.Context(), parseHAProxy([]byte(unsaid)), running); err != nil {
		t.Errorf("what another file said of a: %v", err)
	}
	if err := h.compare(t.Context(), parseHAProxy([]byte(strings.Replace(unsaid, "weight 7", "weight 9", 1))), running); err == nil {
		t.Error("the weight of b, which its line says, is not that of the file")
	}
}
