package resource_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/kvd-io/kvd/confd/resource"
)

// lint looks at a configuration directory with these files; # in a text is the directory itself.
func lint(t *testing.T, files map[string]string, globalPrefix string) (findings []resource.Finding, dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range files {
		files[name] = strings.ReplaceAll(text, "#", dir)
	}
	write(t, dir, files)
	return resource.Lint(dir, globalPrefix), dir
}

func TestAGoodDirectoryHasNoFindings(t *testing.T) {
	findings, _ := lint(t, map[string]string{
		"templates/a.tmpl": "", "out/x": "",
		"conf.d/a.toml": `[template]
src = "a.tmpl"
dest = "#/out/a"
prefix = "/p"
keys = ["/a", "/b"]
check_cmd = "FOO=bar sh -n {{.src}}"
reload_cmd = ["true"]
confirm_cmd = "test -e {{.dest}}"
`}, "")
	if len(findings) > 0 {
		t.Errorf("got %v", findings)
	}
}

func TestWhatIsWrongIsFoundWithItsLine(t *testing.T) {
	for _, c := range []struct{ name, settings, want string }{
		{"a missing template", "src = \"none.tmpl\"\ndest = \"#/out/a\"\nkeys = [\"/\"]", "2: error: template #/templates/none.tmpl does not exist"},
		{"a template that is a directory", "src = \"\\u002e\"\ndest = \"#/out/a\"\nkeys = [\"/\"]", "2: error: template #/templates is not a file"},
		{"a missing directory", "src = \"a.tmpl\"\ndest = \"#/none/a\"\nkeys = [\"/\"]", "3: warning: the directory #/none does not exist; create it"},
		{"a missing directory of many", "src = \"a.tmpl\"\ndest = \"#/none/{{.Name}}.x\"\nfor_each = \"/x/*\"", "3: warning: the directory #/none does not exist; create it"},
		{"a directory as dest", "src = \"a.tmpl\"\ndest = \"#/out\"\nkeys = [\"/\"]", "3: error: dest #/out is a directory"},
		{"no keys", good, "1: warning: there are no keys"},
		{"a key below another", good + "keys = [\"/a/b\", \"/a\"]", "4: note: key \"/a/b\" is below \"/a\""},
		{"a key given twice", good + "keys = [\"/a\", \"a/\"]", "4: note: key \"a/\" is there twice"},
		{"a prefix given twice", good + "prefix = \"/p\"\nkeys = [\"/p/a\"]", "5: warning: key \"/p/a\" has the prefix /p already, which is put before it once more: /p/p/a is read"},
		{"a key outside the prefix", good + "prefix = \"/p\"\nkeys = [\"../a\"]", "5: warning: key \"../a\" leads out of the prefix /p"},
		{"a missing program", good + "keys = [\"/\"]\nreload_cmd = \"no-such-proxy -s reload\"", "5: warning: reload_cmd starts no-such-proxy, which is not found"},
		{"a missing program in a list", good + "keys = [\"/\"]\ncheck_cmd = [\"/no/such\", \"{{.src}}\"]", "5: warning: check_cmd starts /no/such, which is not found"},
		{"a missing program after variables", good + "keys = [\"/\"]\nreload_cmd = \"A=1 B=2 no-such-proxy\"", "5: warning: reload_cmd starts no-such-proxy"},
		{"a check of nothing", good + "keys = [\"/\"]\ncheck_cmd = \"true\"", "5: warning: check_cmd names neither {{.src}} nor {{.dir}}"},
		{"braces in a check", good + "keys = [\"/\"]\ncheck_cmd = \"true {{.src}} {{.ID}}\"", "5: warning: check_cmd has {{.ID}}, which is left"},
		{"braces in a reload", good + "keys = [\"/\"]\nreload_cmd = \"true {{.src}}\"", "5: warning: reload_cmd has {{.src}}, which is left"},
		{"an idle setting", good + "keys = [\"/\"]\nshrink_grace = \"1s\"", "5: warning: shrink_grace has no effect"},
		{"a decimal mode", good + "keys = [\"/\"]\nmode = \"644\"", "5: warning: mode \"644\" is a decimal number"},
		{"a misspelt setting", good + "keys = [\"/\"]\nrelod_cmd = \"x\"", "5: error: unknown setting \"template.relod_cmd\": did you mean reload_cmd?"},
		{"bad TOML", "src = ", "2: error: not valid TOML"},
		{"a group without reload", good + "keys = [\"/\"]\nreload_group = \"g\"", "5: warning: no member of reload_group \"g\" has a reload_cmd"},
		{"a secret for all", good + "keys = [\"/\"]\nsensitive = true\nmode = \"0644\"", "6: warning: mode 0644 lets everybody"},
		{"a missing check directory", good + "keys = [\"/\"]\ncheck_cmd = \"true {{.dir}}\"\ncheck_dirs = [\"/no/such\"]", "6: warning: there is no directory /no/such"},
		{"a missing certificate", good + "keys = [\"/\"]\n[backend]\nbackend = \"etcd\"\nclient_cert = \"/no/such\"", "7: warning: client_cert cannot be read"},
		{"a password for all", good + "keys = [\"/\"]\n[backend]\nbackend = \"etcd\"\npassword = \"x\"", "7: warning: everybody can read this password"},
	} {
		findings, dir := lint(t, map[string]string{"templates/a.tmpl": "", "out/x": "", "conf.d/a.toml": "[template]\n" + c.settings + "\n"}, "")
		want := filepath.Join(dir, "conf.d/a.toml") + ":" + strings.ReplaceAll(c.want, "#", dir)
		if len(findings) != 1 || !strings.HasPrefix(findings[0].String(), want) {
			t.Errorf("%s: got %v, want %s", c.name, findings, want)
		}
	}
}

func TestADestThatCannotBeAFileIsFound(t *testing.T) {
	out := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(out, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"null": "/dev/null", "circle": "circle", "dangling": filepath.Join(out, "nowhere/file")} {
		if err := os.Symlink(to, filepath.Join(out, link)); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"pipe":     "error: " + out + "/pipe is a device, pipe or socket",
		"null":     "error: " + out + "/null is a device, pipe or socket",
		"circle":   "error: " + out + "/circle is a symbolic link that leads to more than",
		"dangling": "warning: the directory " + out + "/nowhere does not exist",
	} {
		findings, _ := lint(t, map[string]string{"templates/a.tmpl": "", "conf.d/a.toml": "[template]\nsrc = \"a.tmpl\"\ndest = \"" + filepath.Join(out, name) + "\"\nkeys = [\"/\"]\nsymlink = \"follow\"\n"}, "")
		if len(findings) != 1 || !strings.Contains(findings[0].String(), "a.toml:3: "+want) {
			t.Errorf("%s: got %v, want %s", name, findings, want)
		}
	}
}

const good = "src = \"a.tmpl\"\ndest = \"#/out/a\"\n"

func TestWhatResourcesHaveInCommonIsFound(t *testing.T) {
	toml := func(dest, more string) string {
		return "[template]\nsrc = \"a.tmpl\"\ndest = \"" + dest + "\"\nkeys = [\"/a\"]\n" + more
	}
	findings, dir := lint(t, map[string]string{
		"templates/a.tmpl": "", "out/x": "",
		"conf.d/a.toml": toml("#/out/a", ""), "conf.d/b.toml": toml("#/out/a", ""), "conf.d/c.toml": toml("#/out/c", "prefix = \"/p\"\n"),
		"conf.d/d.toml": toml("#/out/s-{{.Name}}", "for_each = \"/a/*\"\n"), "conf.d/e.toml": toml("#/out/s-e", ""),
	}, "/q")
	var got []string
	for _, f := range findings {
		got = append(got, strings.ReplaceAll(f.String(), dir+"/conf.d/", ""))
	}
	want := []string{
		"b.toml:3: error: dest " + dir + "/out/a is already written by a.toml; give one of them another dest",
		"c.toml:2: note: a.toml has the same src",
		"c.toml:5: note: the prefix of the program, /q, replaces prefix = \"/p\"",
		"d.toml:2: note: a.toml has the same src",
		"e.toml:3: error: dest " + dir + "/out/s-e and dest " + dir + "/out/s-{{.Name}} of d.toml could be one file",
	}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || !strings.HasPrefix(got[i], want[i]) {
			t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

func TestADirectoryWithoutResourcesIsFound(t *testing.T) {
	dir := t.TempDir()
	if got := resource.Lint(dir, ""); len(got) != 1 || got[0].Severity != resource.Error {
		t.Errorf("got %v", got)
	}
	if err := os.Mkdir(filepath.Join(dir, "conf.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := resource.Lint(dir, ""); len(got) != 1 || !strings.HasPrefix(got[0].String(), "warning: there are no resource files") {
		t.Errorf("got %v", got)
	}
}
