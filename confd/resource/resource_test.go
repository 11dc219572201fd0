package resource_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/confd/install"
	"github.com/kvd-io/kvd/confd/resource"
)

func parse(t *testing.T, text, globalPrefix string) (resource.Resource, []resource.Problem) {
	t.Helper()
	r, warnings, err := resource.Parse("/c/conf.d/a.toml", []byte(text), "/c", globalPrefix)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return r, warnings
}

func TestEverySettingArrives(t *testing.T) {
	r, warnings := parse(t, `
[template]
src = "sub/nginx.tmpl"
dest = "/etc/nginx/nginx.conf"
prefix = "production/"
keys = ["/nginx/", "/app//x", "/nginx/below", "/nginx"]
mode = "0640"
uid = 12
gid = 13
check_cmd = "nginx -t -c {{.src}}"
check_cmd_timeout = 5
reload_cmd = "touch {{ .dest }}; docker ps --format '{{.ID}}'"
reload_cmd_timeout = "1m30s"
min_keys = 2
on_reload_failure = "rollback"
`, "")
	mode := fs.FileMode(0o640)
	want := resource.Resource{
		Name: "a", File: "/c/conf.d/a.toml", Src: "/c/templates/sub/nginx.tmpl", Dest: "/etc/nginx/nginx.conf",
		Prefix: "/production", Keys: []string{"/production/app/x", "/production/nginx"},
		Mode: &mode, UID: 12, GID: 13,
		Check:   install.Command{Shell: "nginx -t -c {{.src}}", Template: true, Timeout: 5 * time.Second},
		Reload:  install.Command{Shell: "touch /etc/nginx/nginx.conf; docker ps --format '{{.ID}}'", Timeout: 90 * time.Second},
		MinKeys: 2, Rollback: true,
	}
	if !reflect.DeepEqual(r, want) || len(warnings) > 0 {
		t.Errorf("got  %+v %q\nwant %+v", r, warnings, want)
	}
}

func TestDefaultsAreThoseOfConfd(t *testing.T) {
	r, _ := parse(t, "[template]\nsrc = \"a\"\ndest = \"/b\"\n", "")
	want := resource.Resource{
		Name: "a", File: "/c/conf.d/a.toml", Src: "/c/templates/a", Dest: "/b", Keys: []string{}, UID: -1, GID: -1,
	}
	if !reflect.DeepEqual(r, want) {
		t.Errorf("got  %+v\nwant %+v", r, want)
	}
}

func TestAGlobalPrefixReplacesTheResourcesOwn(t *testing.T) {
	for _, c := range []struct {
		own, global, key string
		prefix           string
		keys             []string
	}{
		{"/own", "", "/a", "/own", []string{"/own/a"}},
		{"/own", "/all", "/a", "/all", []string{"/all/a"}},
		{"", "all/", "/a/", "/all", []string{"/all/a"}},
		{"", "", "/", "", []string{""}},
		{"/own", "", "/", "/own", []string{"/own"}},
		{"/own", "", "../out", "/own", []string{"/out"}},
	} {
		r, _ := parse(t, "[template]\nsrc = \"a\"\ndest = \"/b\"\nprefix = \""+c.own+"\"\nkeys = [\""+c.key+"\"]\n", c.global)
		if r.Prefix != c.prefix || !slices.Equal(r.Keys, c.keys) {
			t.Errorf("%+v: got prefix %q, keys %q", c, r.Prefix, r.Keys)
		}
	}
}

func TestAModeWithoutLeadingZeroIsDecimalAndWarnedOf(t *testing.T) {
	for text, want := range map[string]fs.FileMode{"0644": 0o644, "644": 0o204, "0o600": 0o600, "0x1a4": 0o644} {
		r, warnings := parse(t, "[template]\nsrc = \"a\"\ndest = \"/b\"\nmode = \""+text+"\"\n", "")
		if *r.Mode != want || (len(warnings) == 1) != (text == "644") {
			t.Errorf("mode %q: got %v and warnings %q, want %v", text, *r.Mode, warnings, want)
		}
	}
}

func TestOwnersAreFoundByNameAndByNumber(t *testing.T) {
	r, _ := parse(t, "[template]\nsrc = \"a\"\ndest = \"/b\"\nowner = \"root\"\ngroup = \"0\"\nuid = 7\n", "")
	if r.UID != 7 || r.GID != 0 {
		t.Errorf("uid %d, gid %d, want 7 and 0: a number in uid wins", r.UID, r.GID)
	}
}

func TestUnknownSettingsAreIgnoredWithAWarning(t *testing.T) {
	_, warnings := parse(t, "[template]\nsrc = \"a\"\ndest = \"/b\"\nspeed = \"x\"\ndesc = \"not dest\"\n[elsewhere]\nname = \"y\"\n", "")
	if text := resource.Problems(warnings).Error(); !strings.Contains(text, "template.speed") || !strings.Contains(text, "template.desc") || !strings.Contains(text, "elsewhere.name") {
		t.Errorf("warnings %q name neither", warnings)
	}
}

func TestBadResourceFilesSayWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		"":                          "no [template] table",
		"[template":                 "line 1",
		"[template]\nmode = 0644":   "line 2: not valid TOML",
		"[template]\ndest = \"/b\"": "src is missing",
		"[template]\nsrc = \"a\"":   "dest is missing",
		"[template]\nsrc = \"a\"\ndest = \"/b\"\nkeys = \"/x\"":                   "line 4: template.keys: it must be a list: [\"/x\"]",
		"[template]\nsrc = \"a\"\ndest = \"/b\"\nkeys = [1]":                      "template.keys: it must be a list of texts",
		"[template]\nsrc = \"a\"\ndest = \"/b\"\nrelod_cmd = \"x\"":               "unknown setting \"template.relod_cmd\": did you mean reload_cmd?",
		"[template]\nsrc = \"a\"\ndest = \"/b\"\nreload_comand = \"x\"":           "did you mean reload_cmd?",
		"[Template]\nsrc = \"a\"\ndest = \"/b\"\ncheck_command_timeout = \"1s\"":  "did you mean check_cmd_timeout?",
		"[templates]\nsrc = \"a\"\ndest = \"/b\"":                                 "did you mean template?",
		"[template]\nsrc = \"a\"\ndest = \"/b\"\nmode = \"4755\"":                 "not a file mode",
		"[template]\nsrc = \"a\"\ndest = \"/b\"\nmode = \"rw\"":                   "not a file mode",
		"[template]\nsrc = \"a\"\ndest = \"/b\"\nowner = \"nobody-of-that-name\"": "not a user",
		"[template]\nsrc = \"a\"\ndest = \"/b\"\ngroup = \"nobody-of-that-name\"": "not a group",
		"[template]\nsrc = \"a\"\ndest = \"/b\"\nuid = -2":                        "not a number",
		"[template]\nsrc = \"a\"\ndest = \"/b\"\nmin_keys = -1":                   "line 4: min_keys is -1",
		"[template]\nsrc = \"a\"\ndest = \"/b\"\ncheck_cmd_timeout = \"soon\"":    "not a duration",
		"[template]\nsrc = \"a\"\ndest = \"/b\"\nreload_cmd_timeout = -1":         "not between",
		"[template]\nsrc = \"a\"\ndest = \"/b\"\non_reload_failure = \"pray\"":    "rollback",
	} {
		if _, _, err := resource.Parse("f", []byte(text), "", ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want an error with %q", text, err, want)
		}
	}
}

// write makes files below dir from their relative names.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func table(dest string) string { return "[template]\nsrc = \"a\"\ndest = \"" + dest + "\"\n" }

func TestLoadFindsFilesAsConfdDoes(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	write(t, elsewhere, map[string]string{"linked.toml": table("/linked"), "dir/inside.toml": table("/inside")})
	write(t, dir, map[string]string{
		"conf.d/b.toml": table("/b"), "conf.d/sub/a.toml": table("/sub-a"), "conf.d/xtoml": table("/x"),
		"conf.d/a.toml.bak": table("/bak"), "conf.d/a.TOML": table("/upper"),
	})
	symlink(t, filepath.Join(elsewhere, "linked.toml"), filepath.Join(dir, "conf.d", "link.toml"))
	symlink(t, "b.toml", filepath.Join(dir, "conf.d", "c.toml")) // is there already
	symlink(t, filepath.Join(elsewhere, "dir"), filepath.Join(dir, "conf.d", "linkdir"))
	symlink(t, filepath.Join(elsewhere, "dir"), filepath.Join(dir, "conf.d", "linkdir.toml"))

	if got, want := destinations(t, dir), []string{"/b", "/linked", "/sub-a", "/x"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAMountedConfigMapIsLoadedOnce(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"conf.d/..2024_01_02/a.toml": table("/a"), "conf.d/..2024_01_02/b.toml": table("/b")})
	symlink(t, "..2024_01_02", filepath.Join(dir, "conf.d", "..data"))
	symlink(t, "..data/a.toml", filepath.Join(dir, "conf.d", "a.toml"))
	symlink(t, "..data/b.toml", filepath.Join(dir, "conf.d", "b.toml"))

	if got, want := destinations(t, dir), []string{"/a", "/b"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestABrokenFileDoesNotTouchTheOthers(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"conf.d/a.toml": table("/a"), "conf.d/b.toml": "[template", "conf.d/c.toml": table("/c"), "conf.d/d.toml": table("/a")})
	loaded, err := resource.Load(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"", "b.toml: line 1: not valid TOML", "", "dest /a is already written by " + filepath.Join(dir, "conf.d", "a.toml")} {
		if err := loaded[i].Err; (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", loaded[i].File, err, want)
		}
	}
}

func TestAMissingDirectoryIsToldFromOneWithoutConfD(t *testing.T) {
	dir := t.TempDir()
	if _, err := resource.Load(filepath.Join(dir, "none"), ""); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "none does not exist: create it") {
		t.Errorf("missing directory: %v", err)
	}
	if _, err := resource.Load(dir, ""); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "conf.d is missing") {
		t.Errorf("directory without conf.d: %v", err)
	}
}

func destinations(t *testing.T, dir string) []string {
	t.Helper()
	loaded, err := resource.Load(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, l := range loaded {
		if l.Err != nil {
			t.Error(l.Err)
		}
		found = append(found, l.Resource.Dest)
	}
	return found
}

func symlink(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}
