package resource_test

import (
	"strings"
	"testing"

	"github.com/kvd-io/kvd/confd/resource"
)

func each(t *testing.T, pattern, dest string) resource.Resource {
	t.Helper()
	r, _ := parse(t, table(dest)+"for_each = \""+pattern+"\"\n", "")
	return r
}

func TestAFileIsNamedByItsKey(t *testing.T) {
	for _, c := range []struct{ dest, key, want string }{
		{"/etc/v/{{.Name}}.conf", "/v/a.example.org", "/etc/v/a.example.org.conf"},
		{"/etc/v/site-{{base .Key}}", "/v/a", "/etc/v/site-a"},
		{"/etc/v/{{base (dir .Key)}}-{{.Name}}.conf", "/v/a/b", "/etc/v/a-b.conf"},
		{"/etc/v/{{toLower .Name}}.conf", "/v/Ab", "/etc/v/ab.conf"},
		{"/{{.Name}}", "/v/a", "/a"},
		{"/etc/v/{{.Name}}.conf", "/v/münchen:80", "/etc/v/münchen:80.conf"},
	} {
		if got, err := each(t, "/v/*", c.dest).DestOf(c.key); err != nil || got != c.want {
			t.Errorf("%s for %s: got %q, %v, want %q", c.dest, c.key, got, err, c.want)
		}
	}
}

func TestAKeyThatIsNoCleanNameIsRefusedByName(t *testing.T) {
	for _, key := range []string{
		"/v/..", "/v/.", "/v/.hidden", "/v/a b", "/v/a;reboot", "/v/$(id)", "/v/a\nb", "/v/`id`", "/v/a'b", "/v/a\"b", "/v/a*", "/v/a\x00", "/v/\xff",
		"/v/a\\b", "/v/{{.src}}", "/v/a|b", "/v/a&b", "/v/a<b", "/v/~(", "/v/" + strings.Repeat("x", 300), "/v/\u202e",
	} {
		for _, dest := range []string{"/etc/v/{{.Name}}.conf", "/etc/v/{{.Name}}"} {
			if got, err := each(t, "/v/*", dest).DestOf(key); err == nil || !strings.Contains(err.Error(), "rename the key") {
				t.Errorf("%q became %q, %v", key, got, err)
			}
		}
	}
	if got, err := each(t, "/v/*", "/etc/v/{{.Key}}.conf").DestOf("/v/a"); err == nil {
		t.Errorf("a whole key became %q", got)
	}
}

func TestTheKeysOfForEachAreFound(t *testing.T) {
	for _, c := range []struct{ pattern, key, want string }{
		{"/v/*", "/v/a", "/v/a"},
		{"/v/*", "/v/a/b/c", "/v/a"},
		{"/v/*", "/v", ""},
		{"/v/*", "/w/a", ""},
		{"/v/*/tls", "/v/a/tls/key", "/v/a/tls"},
		{"/v/*/tls", "/v/a/key", ""},
		{"/v/a?", "/v/ab", "/v/ab"},
		{"/v/[ab]", "/v/c", ""},
	} {
		got, ok := each(t, c.pattern, "/etc/{{.Name}}.x").Item(c.key)
		if ok != (c.want != "") || ok && got != c.want {
			t.Errorf("%s in %s: got %q, %v, want %q", c.key, c.pattern, got, ok, c.want)
		}
	}
	if _, ok := (resource.Resource{}).Item("/v/a"); ok {
		t.Error("a resource without for_each has items")
	}
}

func TestForEachReadsItsKeysWithoutBeingTold(t *testing.T) {
	r, _ := parse(t, table("/etc/{{.Name}}.x")+"for_each = \"/v/*\"\nprefix = \"/p\"\n", "")
	if len(r.Keys) != 1 || r.Keys[0] != "/p/v" || r.ForEach != "/v/*" {
		t.Errorf("got %q, %q", r.Keys, r.ForEach)
	}
	dir, prefix, suffix := each(t, "/v/*", "/etc/v/x-{{.Name}}.conf").Files()
	if dir != "/etc/v" || prefix != "x-" || suffix != ".conf" {
		t.Errorf("got %q %q %q", dir, prefix, suffix)
	}
}
