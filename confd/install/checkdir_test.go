package install_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/confd/install"
	"github.com/kvd-io/kvd/e2e/parts"
)

// tree makes files below a new directory; # in a name or text stands for that directory.
func tree(t *testing.T, files map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "#", dir)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// stageAll stages files of a tree.
func stageAll(t *testing.T, dir string, files map[string]string) (staged []*install.Staged) {
	t.Helper()
	for name, text := range files {
		f := install.File{Path: filepath.Join(dir, name), UID: -1, GID: -1}
		s, err := f.Stage([]byte(strings.ReplaceAll(text, "#", dir)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Discard)
		staged = append(staged, s)
	}
	return staged
}

func checkDir(t *testing.T, change install.Change, dirs ...string) *install.CheckDir {
	t.Helper()
	t.Setenv("TMPDIR", t.TempDir())
	c, err := install.NewCheckDir(change, dirs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Remove() })
	return c
}

// mirrored lists the files below a directory of a check directory, with their contents; | stands for the check
// directory and # for dir in them.
func mirrored(t *testing.T, c *install.CheckDir, dir string) map[string]string {
	t.Helper()
	root := filepath.Join(c.Path, dir)
	found := map[string]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := os.Stat(path); err != nil || info.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		found[strings.TrimPrefix(path, root+"/")] = strings.NewReplacer(c.Path, "|", dir, "#").Replace(string(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func wantTree(t *testing.T, got, want map[string]string) {
	t.Helper()
	for name, text := range want {
		if got[name] != text {
			t.Errorf("%s has %q, want %q", name, got[name], text)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s is there", name)
		}
	}
}

func TestACheckSeesAllNewFilesOfAGroupAndTheOldOnesBesideThem(t *testing.T) {
	dir := tree(t, map[string]string{
		"main.conf":    "include #/sites/*.conf; # old",
		"other.conf":   "nothing to rename",
		"sites/a.conf": "old a", "sites/b.conf": "old b", "sites/c.conf": "cert #/main.conf; not #x/y nor x#/y",
		"sites/.a.conf.reload-pending": "", "far/away": "x",
	})
	staged := stageAll(t, dir, map[string]string{"main.conf": "include #/sites/*.conf; new", "sites/a.conf": "new a"})
	c := checkDir(t, install.Change{Staged: staged, Removed: []string{filepath.Join(dir, "sites/b.conf")}})
	wantTree(t, mirrored(t, c, dir), map[string]string{
		"main.conf": "include |#/sites/*.conf; new", "other.conf": "nothing to rename",
		"sites/a.conf": "new a", "sites/c.conf": "cert |#/main.conf; not #x/y nor x#/y",
	})
	if vars := c.Vars(dir + "/main.conf"); vars.Src != c.Path+dir+"/main.conf" || vars.Dest != dir+"/main.conf" || vars.Dir != c.Path {
		t.Errorf("got %+v", vars)
	}
	if got := content(t, install.File{Path: filepath.Join(dir, "sites/a.conf")}); got != "old a" {
		t.Errorf("the real file has %q", got)
	}
	if data, err := os.ReadFile(c.Path + dir + "/far/away"); err != nil || string(data) != "x" {
		t.Errorf("a directory beside is not linked to: %v", err)
	}
	if info, err := os.Stat(c.Path); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory has mode %v, %v", info.Mode(), err)
	}
	if err := c.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "far/away")); err != nil {
		t.Errorf("what was linked to is gone: %v", err)
	}
}

func TestDirectoriesToBeCheckedAreMirroredWithAllThatIsBelow(t *testing.T) {
	dir := tree(t, map[string]string{
		"nginx.conf":             "include #/sites/x/*;",
		"sites/x/one":            "include #/snippets/tls;",
		"snippets/tls":           "old",
		"elsewhere/include-link": "include #/snippets/tls;",
	})
	symlink(t, filepath.Join(dir, "elsewhere/include-link"), filepath.Join(dir, "sites/x/two"))
	symlink(t, "../nowhere", filepath.Join(dir, "sites/x/dangling"))
	staged := stageAll(t, dir, map[string]string{"snippets/tls": "new"})
	c := checkDir(t, install.Change{Staged: staged}, dir+"/sites", dir)
	if err := os.Remove(filepath.Join(dir, "sites/x/dangling")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(c.Path + dir + "/sites/x/dangling"); err != nil {
		t.Errorf("a link to nothing is not mirrored: %v", err)
	}
	os.Remove(c.Path + dir + "/sites/x/dangling")
	wantTree(t, mirrored(t, c, dir), map[string]string{
		"nginx.conf": "include |#/sites/x/*;", "sites/x/one": "include |#/snippets/tls;", "sites/x/two": "include |#/snippets/tls;",
		"snippets/tls": "new", "elsewhere/include-link": "include |#/snippets/tls;",
	})
}

func TestAMemberThatStaysIsCheckedWithTheNewVersionOfAnother(t *testing.T) {
	dir := tree(t, map[string]string{"main/main.conf": "include #/parts/a.conf", "parts/a.conf": "old"})
	staged := stageAll(t, dir, map[string]string{"parts/a.conf": "new"})
	main := filepath.Join(dir, "main/main.conf")
	c := checkDir(t, install.Change{Staged: staged, Kept: []string{main}})
	if data, err := os.ReadFile(c.Vars(main).Src); err != nil || string(data) != "include "+c.Path+dir+"/parts/a.conf" {
		t.Errorf("got %q, %v", data, err)
	}
}

func TestBinaryFilesAreLinkedAsTheyAre(t *testing.T) {
	dir := tree(t, map[string]string{"data.bin": "\x00 #/data.bin"})
	c := checkDir(t, install.Change{Staged: stageAll(t, dir, map[string]string{"a": "#/a\x00"})})
	wantTree(t, mirrored(t, c, dir), map[string]string{"data.bin": "\x00 #/data.bin", "a": "#/a\x00"})
}

func TestAStagedFileKeepsItsModeInTheCheck(t *testing.T) {
	dir := t.TempDir()
	f := install.File{Path: filepath.Join(dir, "key.pem"), UID: -1, GID: -1, Mode: ref(fs.FileMode(0o640))}
	staged, err := f.Stage([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	defer staged.Discard()
	c := checkDir(t, install.Change{Staged: []*install.Staged{staged}})
	if info, err := os.Stat(c.Vars(f.Path).Src); err != nil || info.Mode() != 0o640 {
		t.Errorf("got %v, %v", info, err)
	}
}

func TestADirectoryThatIsNotThereIsMirroredAsAnEmptyOne(t *testing.T) {
	c := checkDir(t, install.Change{}, "/no/such/directory")
	if entries, err := os.ReadDir(c.Path + "/no/such/directory"); err != nil || len(entries) > 0 {
		t.Errorf("got %v, %v", entries, err)
	}
}

func TestACheckDirectoryOfACrashIsRemovedAndNoneThatIsInUse(t *testing.T) {
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	victim := tree(t, map[string]string{"precious": "x"})
	for _, name := range []string{"kvconfd-check-1", "another"} {
		path := filepath.Join(temporary, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		symlink(t, victim, filepath.Join(path, "link"))
	}
	working, err := install.NewCheckDir(install.Change{}, []string{victim})
	if err != nil {
		t.Fatal(err)
	}
	defer working.Remove()
	if err := install.SweepCheckDirs(); err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(temporary + "/*")
	want := []string{temporary + "/another", working.Path}
	if slices.Sort(want); !slices.Equal(left, want) {
		t.Errorf("left: %q, want %q", left, want)
	}
	if _, err := os.Stat(filepath.Join(victim, "precious")); err != nil {
		t.Error(err)
	}
}

func TestNginxChecksAnIncludedFileBeforeItIsInstalled(t *testing.T) {
	parts.Need(t, "nginx")
	dir := tree(t, map[string]string{
		"nginx.conf": `pid #/nginx.pid; error_log stderr; events {} http { access_log off; include mime.types; include #/conf.d/*.conf; }`,
		"mime.types": `types { text/html html; }`,
		"conf.d/vhosts.conf": `server { listen 127.0.0.1:1; }
`,
		"conf.d/upstreams.conf": `upstream old { server 127.0.0.1:1; }`,
		"snippets/tls.conf":     `add_header X-Old 1;`,
	})
	check := install.Command{Argv: []string{"nginx", "-t", "-p", "{{.dir}}" + dir, "-c", "{{.dir}}" + dir + "/nginx.conf"}}
	bySrc := install.Command{Shell: "nginx -t -c {{.src}}", Template: true}

	good := map[string]string{
		"conf.d/vhosts.conf":    "server { listen 127.0.0.1:1; include #/snippets/tls.conf; location / { proxy_pass http://fresh; } }\n",
		"conf.d/upstreams.conf": "upstream fresh { server 127.0.0.1:1; }\n", // each needs the other
	}
	c := checkDir(t, install.Change{Staged: stageAll(t, dir, good)}, dir)
	for _, run := range []struct {
		check install.Command
		dest  string
	}{{check, "conf.d/vhosts.conf"}, {bySrc, "nginx.conf"}} {
		if output, err := install.Run(t.Context(), run.check, c.Vars(filepath.Join(dir, run.dest))); err != nil || !strings.Contains(output, "test is successful") {
			t.Errorf("the good version: %v", err)
		}
	}

	bad := map[string]string{"conf.d/vhosts.conf": "server { listen 127.0.0.1:1; }\nserver { no_such_directive 1; }\n"}
	c = checkDir(t, install.Change{Staged: stageAll(t, dir, bad)}, dir)
	_, err := install.Run(t.Context(), check, c.Vars(filepath.Join(dir, "conf.d/vhosts.conf")))
	if want := `"no_such_directive" in ` + dir + "/conf.d/vhosts.conf:2"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("the bad version: got %v, want %q", err, want)
	}

	// The upstream is still used by a file that stays.
	stay := stageAll(t, dir, map[string]string{"conf.d/vhosts.conf": "server { listen 127.0.0.1:1; location / { proxy_pass http://old:80; } }\n"})
	c = checkDir(t, install.Change{Staged: stay, Removed: []string{filepath.Join(dir, "conf.d/upstreams.conf")}}, dir)
	if _, err := install.Run(t.Context(), check, c.Vars(filepath.Join(dir, "conf.d/vhosts.conf"))); err == nil || !strings.Contains(err.Error(), "host not found in upstream") {
		t.Errorf("without the removed file: %v", err)
	}
}

func TestHAProxyChecksItsMapsAndCertificateListsBeforeTheyAreInstalled(t *testing.T) {
	parts.Need(t, "haproxy")
	dir := tree(t, map[string]string{
		"haproxy.cfg": `
defaults
  mode http
  timeout connect 1s
  timeout client 1s
  timeout server 1s
frontend f
  bind 127.0.0.1:1
  use_backend %[path,map(#/backends.map)]
  acl blocked src -f #/blocked.lst
  http-request deny if blocked
`,
		"backends.map": "/a a\n",
	})
	check := install.Command{Shell: "haproxy -c -f {{.src}}", Template: true}
	main := filepath.Join(dir, "haproxy.cfg")

	// The list is new: without it the old configuration does not start.
	c := checkDir(t, install.Change{Staged: stageAll(t, dir, map[string]string{"backends.map": "/b b\n"})})
	if _, err := install.Run(t.Context(), check, c.Vars(main)); err == nil || !strings.Contains(err.Error(), dir+"/blocked.lst") || strings.Contains(err.Error(), c.Path) {
		t.Errorf("without the list: %v", err)
	}
	c = checkDir(t, install.Change{Staged: stageAll(t, dir, map[string]string{"backends.map": "/b b\n", "blocked.lst": "10.0.0.0/8\n"})})
	if output, err := install.Run(t.Context(), check, c.Vars(main)); err != nil {
		t.Errorf("with the list: %v %s", err, output)
	}
	c = checkDir(t, install.Change{Staged: stageAll(t, dir, map[string]string{"blocked.lst": "not an address\n"})})
	if _, err := install.Run(t.Context(), check, c.Vars(main)); err == nil || !strings.Contains(err.Error(), "not an address") {
		t.Errorf("with a bad list: %v", err)
	}
}

func symlink(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

func TestAPrivateDirectoryIsMadeInMemoryWhereThereIsRoom(t *testing.T) {
	t.Setenv("TMPDIR", "")
	c, err := install.NewCheckDir(install.Change{}, []string{t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Remove()
	if _, err := os.Stat("/dev/shm"); err == nil && filepath.Dir(c.Path) != "/dev/shm" {
		t.Errorf("it is %s", c.Path)
	}
	t.Setenv("TMPDIR", "/no/such/directory")
	if _, err := install.NewCheckDir(install.Change{}, nil); err == nil || !strings.Contains(err.Error(), "TMPDIR names where") {
		t.Errorf("got %v", err)
	}
}
