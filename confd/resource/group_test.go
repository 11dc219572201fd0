package resource_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/confd/resource"
)

func load(t *testing.T, files map[string]string) []resource.Loaded {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, files)
	loaded, err := resource.Load(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

func TestAGroupHasOneReloadAndTheSecrecyOfItsMostSecretMember(t *testing.T) {
	group := "reload_group = \"g\"\ncheck_cmd = \"true {{.src}}\"\n"
	loaded := load(t, map[string]string{
		"conf.d/a.toml": table("/a") + group,
		"conf.d/b.toml": table("/b") + group + "reload_cmd = \"x\"\nreload_cmd_timeout = \"5s\"\n",
		"conf.d/c.toml": table("/c") + group + "reload_cmd = \"x\"\nreload_cmd_timeout = \"2m\"\nsensitive = true\n",
		"conf.d/d.toml": table("/d") + "reload_cmd = \"y\"\n",
	})
	for _, l := range loaded[:3] {
		if r := l.Resource; l.Err != nil || r.Reload.Shell != "x" || r.Reload.Timeout != 2*time.Minute || !r.Reload.Sensitive || !r.Check.Sensitive {
			t.Errorf("%s: %+v %v", l.File, r.Reload, l.Err)
		}
	}
	if r := loaded[3].Resource; r.Reload.Shell != "y" || r.Reload.Sensitive {
		t.Errorf("not of the group: %+v", r.Reload)
	}
}

func TestAGroupWithTwoReloadCommandsIsRefused(t *testing.T) {
	loaded := load(t, map[string]string{
		"conf.d/a.toml": table("/a") + "reload_group = \"g\"\nreload_cmd = \"x\"\n",
		"conf.d/b.toml": table("/b") + "reload_group = \"g\"\nreload_cmd = [\"x\"]\n",
	})
	if err := loaded[1].Err; loaded[0].Err != nil || err == nil || !strings.Contains(err.Error(), "make them equal, or leave the group") {
		t.Errorf("got %v and %v", loaded[0].Err, err)
	}
}

func TestFilesThatCouldBeOneAreRefused(t *testing.T) {
	each := "for_each = \"/v/*\"\n"
	for _, c := range []struct {
		one, other string
		want       bool
	}{
		{table("/e/{{.Name}}.conf") + each, table("/e/main.conf"), true},
		{table("/e/main.conf"), table("/e/{{.Name}}.conf") + each, true},
		{table("/e/{{.Name}}.conf") + each, table("/e/main.cfg"), false},
		{table("/e/{{.Name}}.conf") + each, table("/f/main.conf"), false},
		{table("/e/{{.Name}}.conf") + each, table("/e/.conf"), false},
		{table("/e/{{.Name}}.conf") + each, table("/e/x-{{.Name}}.conf") + each, true},
		{table("/e/y-{{.Name}}.conf") + each, table("/e/x-{{.Name}}.conf") + each, false},
		{table("/e/{{.Name}}.conf") + each, table("/e/{{.Name}}.cfg") + each, false},
	} {
		loaded := load(t, map[string]string{"conf.d/a.toml": c.one, "conf.d/b.toml": c.other})
		if err := loaded[1].Err; (err != nil) != c.want || err != nil && !strings.Contains(err.Error(), "another dest") {
			t.Errorf("%s%s: got %v", c.one, c.other, err)
		}
	}
}

func TestAResourceIsNamedByItsPathBelowConfD(t *testing.T) {
	var names []string
	for _, l := range load(t, map[string]string{"conf.d/b.toml": table("/b"), "conf.d/sub/a.toml": table("/a"), "conf.d/xtoml": table("/x")}) {
		names = append(names, l.Resource.Name)
	}
	if got := strings.Join(names, " "); got != "b sub/a xtoml" {
		t.Errorf("got %s", got)
	}
	if r, _, err := resource.Parse(filepath.Join("/elsewhere", "x.toml"), []byte(table("/x")), "/c", ""); err != nil || r.Name != "x" {
		t.Errorf("got %q, %v", r.Name, err)
	}
}
