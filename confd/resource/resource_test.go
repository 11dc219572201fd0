package resource_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
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
symlink = "follow"
check_cmd = "nginx -t -c {{.src}}"
check_cmd_timeout = 5
check_dirs = ["/etc/nginx/", "/etc/ssl"]
reload_cmd = "touch {{ .dest }}; docker ps --format '{{.ID}}'"
reload_cmd_timeout = "1m30s"
reload_group = "nginx"
min_reload_interval = "2s"
on_reload_failure = "rollback"
confirm_cmd = ["curl", "-f", "http://127.0.0.1/{{.dest}}"]
confirm_cmd_timeout = "3s"
retry_max = "10s"
output_format = "yml"
debounce = "500ms"
debounce_max = "5s"
min_keys = 2
max_shrink_percent = 50
shrink_grace = "10m"
max_expired_percent = 30
expiry_grace = "90s"
sensitive = true
[nginx]
pid_file = "/run/n.pid"
[backend]
backend = "etcdv3"
nodes = ["https://a:2379", "b:2379"]
scheme = "https"
srv_domain = "example.org"
srv_record = "_x._tcp.example.org"
client_cert = "/c"
client_key = "/k"
client_cakeys = "/ca"
basic_auth = true
username = "u"
password = "p"
file = ["/f"]
filter = "*.yaml"
`, "")
	mode := fs.FileMode(0o640)
	want := resource.Resource{
		Name: "a", File: "/c/conf.d/a.toml", Src: "/c/templates/sub/nginx.tmpl", Dest: "/etc/nginx/nginx.conf",
		Prefix: "/production", Keys: []string{"/production/app/x", "/production/nginx"},
		Named: []string{"/production/nginx", "/production/app/x", "/production/nginx/below", "/production/nginx"},
		Mode:  &mode, UID: 12, GID: 13, FollowSymlink: true,
		Check:       install.Command{Shell: "nginx -t -c {{.src}}", Template: true, Timeout: 5 * time.Second, Sensitive: true},
		Reload:      install.Command{Shell: "touch /etc/nginx/nginx.conf; docker ps --format '{{.ID}}'", Timeout: 90 * time.Second, Sensitive: true},
		Confirm:     install.Command{Argv: []string{"curl", "-f", "http://127.0.0.1//etc/nginx/nginx.conf"}, Timeout: 3 * time.Second, Sensitive: true},
		ReloadGroup: "nginx", CheckDirs: []string{"/etc/nginx", "/etc/ssl"}, OutputFormat: "yaml",
		MinKeys: 2, MaxShrinkPercent: 50, ShrinkGrace: 10 * time.Minute, MaxExpiredPercent: 30, ExpiryGrace: 90 * time.Second,
		Debounce: 500 * time.Millisecond, DebounceMax: 5 * time.Second, MinReloadInterval: 2 * time.Second, RetryMax: 10 * time.Second,
		Rollback: true, Sensitive: true,
		Nginx: &resource.Nginx{PidFile: "/run/n.pid"},
		Backend: &resource.Backend{
			Backend: "etcdv3", Nodes: []string{"https://a:2379", "b:2379"}, Scheme: "https", SRVDomain: "example.org", SRVRecord: "_x._tcp.example.org",
			ClientCert: "/c", ClientKey: "/k", ClientCAKeys: "/ca", Username: "u", Password: "p", Files: []string{"/f"}, Filter: "*.yaml",
		},
	}
	if !reflect.DeepEqual(r, want) || len(warnings) > 0 {
		t.Errorf("got  %+v %q\nwant %+v", r, warnings, want)
	}
}

func TestTheTablesOfProgramsArrive(t *testing.T) {
	r, _ := parse(t, table("/d")+"[haproxy]\nsocket = \"/run/h.sock\"\nmaster_socket = \"/run/m.sock\"\n", "")
	if want := (&resource.HAProxy{Socket: "/run/h.sock", MasterSocket: "/run/m.sock"}); !reflect.DeepEqual(r.HAProxy, want) {
		t.Errorf("got %+v", r.HAProxy)
	}
	r, _ = parse(t, table("/d")+"[nginx]\n", "")
	if r.Nginx == nil || r.Nginx.PidFile != "/run/nginx.pid" {
		t.Errorf("got %+v", r.Nginx)
	}
	r, _ = parse(t, table("/d")+"[Caddy]\n", "")
	if r.Caddy == nil || r.Caddy.Admin != "localhost:2019" {
		t.Errorf("got %+v", r.Caddy)
	}
	r, _ = parse(t, table("/d")+"[caddy]\nadmin = \"unix//run/caddy.sock\"\n", "")
	if r.Caddy.Admin != "unix//run/caddy.sock" {
		t.Errorf("got %+v", r.Caddy)
	}
}

func TestWhatIsNotSaidHasAUsualValue(t *testing.T) {
	r, _ := parse(t, table("/d")+`check_cmd = ["true"]
reload_cmd = "true"
confirm_cmd = "true"
debounce = "2s"
max_shrink_percent = 50
max_expired_percent = 50
sensitive = true
[backend]
backend = "file"
file = ["/f"]
`, "")
	switch {
	case r.Check.Timeout != resource.DefaultCheckTimeout, r.Reload.Timeout != resource.DefaultReloadTimeout, r.Confirm.Timeout != resource.DefaultConfirmTimeout:
		t.Errorf("time-outs %v %v %v", r.Check.Timeout, r.Reload.Timeout, r.Confirm.Timeout)
	case r.DebounceMax != 8*time.Second || r.ShrinkGrace != resource.DefaultShrinkGrace || r.ExpiryGrace != resource.DefaultExpiryGrace:
		t.Errorf("got %v %v %v", r.DebounceMax, r.ShrinkGrace, r.ExpiryGrace)
	case r.Mode == nil || *r.Mode != 0o600:
		t.Error("a sensitive file does not have mode 0600")
	case r.Backend.Filter != "*" || r.Check.Template:
		t.Errorf("got %+v %+v", r.Backend, r.Check)
	}
}

func TestAGraceCanBeForEver(t *testing.T) {
	r, _ := parse(t, table("/d")+"max_shrink_percent = 50\nshrink_grace = \"forever\"\n", "")
	if r.MaxShrinkPercent != 50 || r.ShrinkGrace != 0 {
		t.Errorf("got %d, %v", r.MaxShrinkPercent, r.ShrinkGrace)
	}
}

func TestAListIsACommandWithoutAShell(t *testing.T) {
	r, _ := parse(t, table("/d")+`check_cmd = ["haproxy", "-c", "-f", "{{.src}}"]
reload_cmd = ["kill", "-USR2", "{{.dest}}"]
`, "")
	if !slices.Equal(r.Check.Argv, []string{"haproxy", "-c", "-f", "{{.src}}"}) || !slices.Equal(r.Reload.Argv, []string{"kill", "-USR2", "/d"}) {
		t.Errorf("got %v and %v", r.Check, r.Reload)
	}
}

func TestDefaultsAreThoseOfConfd(t *testing.T) {
	r, _ := parse(t, "[template]\nsrc = \"a\"\ndest = \"/b\"\n", "")
	want := resource.Resource{
		Name: "a", File: "/c/conf.d/a.toml", Src: "/c/templates/a", Dest: "/b", Keys: []string{}, Named: []string{}, UID: -1, GID: -1,
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
		"[template]\nsrc = \"a\"\ndest = \"/b\"\nkeys = \"/x\"":                                 "line 4: template.keys: it must be a list: [\"/x\"]",
		"[template]\nsrc = \"a\"\ndest = \"/b\"\nkeys = [1]":                                    "template.keys: it must be a list of texts",
		"[template]\nsrc = \"a\"\ndest = \"/b\"\nrelod_cmd = \"x\"":                             "unknown setting \"template.relod_cmd\": did you mean reload_cmd?",
		"[template]\nsrc = \"a\"\ndest = \"/b\"\nreload_comand = \"x\"":                         "did you mean reload_cmd?",
		"[Template]\nsrc = \"a\"\ndest = \"/b\"\ncheck_command_timeout = \"1s\"":                "did you mean check_cmd_timeout?",
		"[templates]\nsrc = \"a\"\ndest = \"/b\"":                                               "did you mean template?",
		"[template]\nsrc = \"a\"\ndest = \"/b\"\nmode = \"4755\"":                               "not a file mode",
		"[template]\nsrc = \"a\"\ndest = \"/b\"\nmode = \"rw\"":                                 "not a file mode",
		"[template]\nsrc = \"a\"\ndest = \"/b\"\nowner = \"nobody-of-that-name\"":               "not a user",
		"[template]\nsrc = \"a\"\ndest = \"/b\"\ngroup = \"nobody-of-that-name\"":               "not a group",
		"[template]\nsrc = \"a\"\ndest = \"/b\"\nuid = -2":                                      "not a number",
		"[template]\nsrc = \"a\"\ndest = \"/b\"\nmin_keys = -1":                                 "line 4: min_keys is -1",
		"[template]\nsrc = \"a\"\ndest = \"/b\"\ncheck_cmd_timeout = \"soon\"":                  "not a duration",
		"[template]\nsrc = \"a\"\ndest = \"/b\"\nreload_cmd_timeout = -1":                       "not between",
		"[template]\nsrc = \"a\"\ndest = \"/b\"\non_reload_failure = \"pray\"":                  "line 4: on_reload_failure is \"pray\"; use one of keep, rollback",
		table("/b") + "symlink = \"keep\"":                                                      "use one of replace, follow",
		table("/b") + "output_format = \"ini\"":                                                 "use one of json, yaml, yml, toml, xml",
		table("/b") + "max_shrink_percent = 101":                                                "use 1 to 100",
		table("/b") + "max_expired_percent = -1":                                                "use 1 to 100",
		table("/b") + "max_shrink_percent = 5\nshrink_grace = 0":                                "line 5: shrink_grace is 0",
		table("/b") + "debounce = \"2s\"\ndebounce_max = \"1s\"":                                "line 5: debounce_max 1s is shorter",
		table("/b") + "debounce = \"200h\"":                                                     "not between 0 and a week",
		table("/b") + "check_cmd = []":                                                          "line 4: template.check_cmd: it must be a text for the shell, or a list",
		table("/b") + "check_cmd = [\"\"]":                                                      "it must be a text for the shell, or a list",
		table("/b") + "check_cmd = [\"a\", 1]":                                                  "it must be a list of texts",
		table("/b") + "check_cmd = \"a\"\ncheck_cmd_timeout = \"0s\"":                           "check_cmd_timeout is 0",
		table("/b") + "check_cmd = \"a\\u0000b\"":                                               "zero byte",
		table("/b") + "check_dirs = [\"etc\"]":                                                  "not the absolute path",
		table("/b") + "check_dirs = [\"/\"]":                                                    "not the absolute path of a directory below the root",
		table("/c/conf.d/x"):                                                                    "line 3: dest /c/conf.d/x is in /c/conf.d, which is read",
		table("/c/templates"):                                                                   "is in /c/templates",
		table("/etc/{{.Name}}.conf"):                                                            "there is no for_each",
		table("/etc/a.conf") + "for_each = \"/v/*\"":                                            "is the same for every key",
		table("/etc/{{.Name}}/a.conf") + "for_each = \"/v/*\"":                                  "names the key in a directory",
		table("/etc/{{.Value}}.conf") + "for_each = \"/v/*\"":                                   "cannot be used with for_each",
		table("/etc/{{.Name}.conf") + "for_each = \"/v/*\"":                                     "cannot be used with for_each",
		table("/etc/{{.Name}}.conf") + "for_each = \"/v/[\"":                                    "not a pattern",
		table("/etc/{{.Name}}.conf") + "for_each = \"/\"":                                       "not a pattern",
		table("/etc/{{.Name}}.conf") + "for_each = \"/v/*\"\nkeys = [\"/w\"]":                   "add \"/v\" to keys",
		table("/etc/{{.Name}}.conf") + "for_each = \"/v/*\"\nreload_cmd = \"touch {{.dest}}\"":  "there are many",
		table("/b") + "[haproxy]":                                                               "socket is missing",
		table("/b") + "[haproxy]\nsocket = \"h\"":                                               "line 5: haproxy.socket \"h\" is not an absolute path",
		table("/b") + "[haproxy]\nsockt = \"/h\"":                                               "unknown setting \"haproxy.sockt\": did you mean socket?",
		table("/b") + "[haproxi]\nsocket = \"/h\"":                                              "did you mean haproxy?",
		table("/b") + "[nginx]\npidfile = \"/h\"":                                               "did you mean pid_file?",
		table("/b") + "[nginx]\n[caddy]":                                                        "[nginx] and [caddy]: one file is read by one program",
		table("/b") + "[backend]":                                                               "does not say which",
		table("/b") + "[backend]\nbackend = \"vault\"":                                          "one that kvconfd does not have",
		table("/b") + "[backend]\nbackend = \"file\"":                                           "at least one file",
		table("/b") + "[backend]\nbackend = \"etcd\"\nnode = [\"a\"]":                           "did you mean nodes?",
		table("/b") + "[backend]\nbackend = \"etcd\"\nscheme = \"ftp\"":                         "scheme is \"ftp\"",
		table("/b") + "[backend]\nbackend = \"etcd\"\nfilter = \"[\"":                           "not a pattern for file names",
		table("/b") + "[backend]\nbackend = \"etcd\"\npassword = \"a\"\npassword_file = \"/b\"": "keep one",
		table("/b") + "uid = \"x\"":                                                             "line 4: template.uid: it must be a whole number without quotes",
		table("/b") + "prefix = 1":                                                              "line 4: template.prefix: it must be a text in quotes",
		table("/b") + "sensitive = \"yes\"":                                                     "line 4: template.sensitive: it must be true or false without quotes",
		"[[template]]\nsrc = \"a\"":                                                             "line 1: template: it must be one table in brackets",
		"template = 1":                                                                          "line 1: template: it must be one table in brackets",
	} {
		if _, _, err := resource.Parse("f", []byte(text), "/c", ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want an error with %q", text, err, want)
		}
	}
}

func TestEverythingThatIsWrongIsToldAtOnce(t *testing.T) {
	_, _, err := resource.Parse("f", []byte("[template]\ndest = \"/b\"\nmode = \"rw\"\nsymlink = \"x\"\n"), "/c", "")
	var problems resource.Problems
	if !errors.As(err, &problems) || len(problems) != 3 {
		t.Errorf("got %v", err)
	}
}

func TestSettingsThatHaveNothingToWorkOnAreWarnedOf(t *testing.T) {
	for _, setting := range []string{
		`check_cmd_timeout = "1s"`, `check_dirs = ["/x"]`, `reload_cmd_timeout = "1s"`, `min_reload_interval = "1s"`, `on_reload_failure = "rollback"`,
		`confirm_cmd = "x"`, `confirm_cmd_timeout = "1s"`, `shrink_grace = "1s"`, `expiry_grace = "1s"`,
	} {
		_, warnings := parse(t, table("/d")+setting, "")
		name, _, _ := strings.Cut(setting, " ")
		if len(warnings) != 1 || warnings[0].Line != 4 || !strings.HasPrefix(warnings[0].Text, name+" has no effect without ") {
			t.Errorf("%s: warned of %v", setting, warnings)
		}
	}
}

func TestASettingInTheWrongTableIsSentToTheRightOne(t *testing.T) {
	_, warnings := parse(t, "reload_cmd = \"x\"\n"+table("/d")+"nodes = [\"x\"]\n", "")
	text := resource.Problems(warnings).Error()
	if !strings.Contains(text, "line 1: unknown setting \"reload_cmd\" is ignored; reload_cmd belongs below [template]") || !strings.Contains(text, "nodes belongs below [backend]") {
		t.Errorf("got %s", text)
	}
}

func TestCertificatesAreAlwaysVerified(t *testing.T) {
	_, warnings := parse(t, table("/d")+"[backend]\nbackend = \"etcd\"\nclient_insecure = true\n", "")
	if len(warnings) != 1 || warnings[0].Line != 6 || !strings.Contains(warnings[0].Text, "always verified") {
		t.Errorf("got %v", warnings)
	}
}

func TestAUserWithANumberIsNotLookedUpByName(t *testing.T) {
	r, warnings := parse(t, table("/d")+"uid = 5\nowner = \"nobody-of-that-name\"\n", "")
	if r.UID != 5 || len(warnings) != 1 || !strings.Contains(warnings[0].Text, "owner is not used") {
		t.Errorf("got %d, %v", r.UID, warnings)
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
	for i, want := range []string{"", "b.toml: line 1: not valid TOML", "", "line 3: dest /a is already written by " + filepath.Join(dir, "conf.d", "a.toml")} {
		if err := loaded[i].Err; (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", loaded[i].File, err, want)
		}
	}
}

func TestTheLastGoodVersionOfAFileKeepsItsDest(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"conf.d/b.toml": table("/b") + "reload_group = \"g\"\nreload_cmd = \"x\"\n", "conf.d/d.toml": table("/b"),
		"conf.d/e.toml": table("/e") + "reload_group = \"g\"\n",
	})
	loaded, err := resource.Load(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	working := []resource.Resource{loaded[0].Resource, loaded[2].Resource}
	for _, broken := range []string{"garbage", table("/a")} { // a dest that another one has
		write(t, dir, map[string]string{"conf.d/b.toml": broken, "conf.d/a.toml": table("/a")})
		loaded, err := resource.Load(dir, "", working...)
		if err != nil {
			t.Fatal(err)
		}
		b, d, e := loaded[1], loaded[2], loaded[3]
		if b.Err == nil || b.Last == nil || b.Last.Dest != "/b" {
			t.Errorf("%q: the broken file: %v, at work %+v", broken, b.Err, b.Last)
		}
		if d.Err == nil || !strings.Contains(d.Err.Error(), "of which the last good version is at work") {
			t.Errorf("%q: who wants its dest: %v", broken, d.Err)
		}
		if e.Err != nil || e.Resource.Reload.Shell != "x" {
			t.Errorf("%q: another member of its group: %v, it is reloaded by %+v", broken, e.Err, e.Resource.Reload)
		}
	}
}

func TestResourcesThatMeetInALinkedDirectoryAreRefused(t *testing.T) {
	dir, at := t.TempDir(), t.TempDir()
	if err := os.Mkdir(filepath.Join(at, "a"), 0o755); err != nil {
		t.Fatal(err)
	}
	symlink(t, "a", filepath.Join(at, "b"))
	symlink(t, "f", filepath.Join(at, "a", "link"))
	write(t, at, map[string]string{"a/f": ""})
	each := "for_each = \"/v/*\"\n"
	for _, c := range []struct {
		one, other string
		want       bool
	}{
		{table(at + "/a/f"), table(at + "/b/f"), true},
		{table(at + "/a/f"), table(at + "/b/g"), false},
		{table(at + "/a/later/f"), table(at + "/b/later/f"), true},
		{table(at+"/a/{{.Name}}.conf") + each, table(at + "/b/x.conf"), true},
		{table(at+"/a/{{.Name}}.conf") + each, table(at+"/b/{{.Name}}.conf") + each, true},
		{table(at + "/a/f"), table(at + "/a/link"), false},
		{table(at + "/a/f"), table(at+"/b/link") + "symlink = \"follow\"\n", true},
	} {
		write(t, dir, map[string]string{"conf.d/a.toml": c.one, "conf.d/b.toml": c.other})
		loaded, err := resource.Load(dir, "")
		if err != nil || loaded[0].Err != nil {
			t.Fatal(err, loaded[0].Err)
		}
		if got := loaded[1].Err; (got != nil) != c.want {
			t.Errorf("%s beside %s: %v", c.other, c.one, got)
		}
	}
}

func TestAPipeAmongResourceFilesIsNotWaitedFor(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"conf.d/a.toml": table("/a")})
	if err := syscall.Mkfifo(filepath.Join(dir, "conf.d", "b.toml"), 0o600); err != nil {
		t.Fatal(err)
	}
	loaded, err := resource.Load(dir, "")
	if err != nil || len(loaded) != 2 || loaded[0].Err != nil || loaded[1].Err == nil || !strings.Contains(loaded[1].Err.Error(), "not a file") {
		t.Errorf("got %+v, %v", loaded, err)
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
