package install_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/confd/install"
	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/fuzztest"
)

// site is the manifest of a resource that writes *.conf files.
type site struct {
	t   *testing.T
	dir string
	*install.Manifest
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir()}
	s.reopen()
	return s
}

// reopen reads the manifest as a new start does.
func (s *site) reopen() {
	s.t.Helper()
	var err error
	if s.Manifest, err = install.OpenManifest(s.dir, "sub/sites", "", ".conf"); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

// make writes files as an agent does: noted first.
func (s *site) make(files map[string]string) {
	s.t.Helper()
	s.note(files)
	for name, text := range files {
		put(s.t, install.File{Path: s.path(name), UID: -1, GID: -1}, text)
	}
}

func (s *site) note(files map[string]string) {
	s.t.Helper()
	contents := map[string][]byte{}
	for name, text := range files {
		contents[s.path(name)] = []byte(text)
	}
	if err := s.Note(contents); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) wantGone(current []string, want ...string) {
	s.t.Helper()
	for i, name := range current {
		current[i] = s.path(name)
	}
	for i, name := range want {
		want[i] = s.path(name)
	}
	if got := s.Gone(current); !slices.Equal(got, want) {
		s.t.Errorf("gone are %q, want %q", got, want)
	}
}

func (s *site) wantFiles(want ...string) {
	s.t.Helper()
	if got := names(s.t, install.File{Path: s.path("x")}); !slices.Equal(got, want) {
		s.t.Errorf("the directory has %q, want %q", got, want)
	}
}

func TestFilesWhoseKeyIsGoneAreRemovedAndNoOthers(t *testing.T) {
	s := newSite(t)
	s.make(map[string]string{"a.conf": "a", "b.conf": "b", "c.conf": "c"})
	if err := os.WriteFile(s.path("by-hand.conf"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.reopen()
	s.wantGone([]string{"b.conf", "new.conf"}, "a.conf", "c.conf")
	b := install.File{Path: s.path("a.conf")}
	if err := errors.Join(b.Owe(), b.KeepGood(install.Good{}), os.Remove(s.path("c.conf"))); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(s.Gone([]string{s.path("b.conf")})); err != nil {
		t.Fatal(err)
	}
	s.wantFiles(".sub~sites.manifest", "b.conf", "by-hand.conf")
	s.wantGone([]string{"b.conf"})
	s.reopen()
	s.wantGone(nil, "b.conf")
}

func TestAFileThatSomebodyHasChangedIsNotRemoved(t *testing.T) {
	s := newSite(t)
	s.make(map[string]string{"a.conf": "a", "b.conf": "b", "c.conf": "c", "d.conf": "d"})
	if err := errors.Join(
		os.WriteFile(s.path("a.conf"), []byte("edited"), 0o600),
		os.Remove(s.path("b.conf")), os.Symlink("/etc/passwd", s.path("b.conf")),
		os.Remove(s.path("c.conf")), os.Mkdir(s.path("c.conf"), 0o700),
	); err != nil {
		t.Fatal(err)
	}
	err := s.Remove(s.Gone(nil))
	for _, name := range []string{"a.conf", "b.conf", "c.conf"} {
		if err == nil || !strings.Contains(err.Error(), s.path(name)+" is no longer wanted, but somebody has changed it") {
			t.Errorf("%s: %v", name, err)
		}
		if s.Check(s.path(name)) == nil {
			t.Errorf("%s is said to be as it was written", name)
		}
	}
	s.wantFiles(".sub~sites.manifest", "a.conf", "b.conf", "c.conf")
	s.wantGone([]string{}, "a.conf", "b.conf", "c.conf")
	if err := errors.Join(os.Remove(s.path("a.conf")), os.Remove(s.path("b.conf")), os.Remove(s.path("c.conf")), s.Remove(s.Gone(nil))); err != nil {
		t.Error(err)
	}
	s.wantGone(nil)
}

func TestACrashBetweenNotingAndWritingLosesNoFile(t *testing.T) {
	s := newSite(t)
	s.make(map[string]string{"a.conf": "one"})
	for _, version := range []string{"two", "three", "four"} { // noted, never written
		s.note(map[string]string{"a.conf": version})
		s.reopen()
	}
	if err := s.Remove(s.Gone(nil)); err != nil {
		t.Fatal(err)
	}
	s.wantFiles(".sub~sites.manifest")
}

func TestWhatIsNotedAlreadyWritesNothing(t *testing.T) {
	s := newSite(t)
	s.note(map[string]string{"a.conf": "one"})
	before, err := os.Stat(s.path(".sub~sites.manifest"))
	if err != nil {
		t.Fatal(err)
	}
	s.note(map[string]string{"a.conf": "one"})
	if after, err := os.Stat(s.path(".sub~sites.manifest")); err != nil || !os.SameFile(before, after) {
		t.Errorf("the manifest was written again: %v", err)
	}
}

func TestOnlyFilesOfTheResourceAreNoted(t *testing.T) {
	s := newSite(t)
	for _, path := range []string{"/etc/passwd", s.path("../x.conf"), s.path("sub/x.conf"), s.path("x.txt"), s.path(".x.conf"), s.path(".conf")} {
		if err := s.Note(map[string][]byte{path: nil, s.path("good.conf"): nil}); err == nil {
			t.Errorf("%s was noted", path)
		}
		if err := s.Remove([]string{path}); err == nil {
			t.Errorf("%s was removed", path)
		}
	}
	s.wantGone(nil)
}

func TestAManifestThatAnotherCouldHaveWrittenIsNotBelieved(t *testing.T) {
	s := newSite(t)
	s.make(map[string]string{"a.conf": "a"})
	path := s.path(".sub~sites.manifest")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	restore := func() error { os.Remove(path); return os.WriteFile(path, good, 0o600) }
	for name, tamper := range map[string]func() error{
		"cut off": func() error { return os.WriteFile(path, good[:len(good)-2], 0o600) },
		"another name": func() error {
			return os.WriteFile(path, []byte(strings.Replace(string(good), "a.conf", "../a.conf", 1)), 0o600)
		},
		"another ending": func() error {
			return os.WriteFile(path, []byte(strings.Replace(string(good), "a.conf", "a.txt", 1)), 0o600)
		},
		"another format":  func() error { return os.WriteFile(path, []byte(strings.Replace(string(good), ":1", ":2", 1)), 0o600) },
		"empty":           func() error { return os.WriteFile(path, nil, 0o600) },
		"writable by all": func() error { return os.Chmod(path, 0o666) },
		"a link":          func() error { return errors.Join(os.Rename(path, s.path("moved")), os.Symlink("moved", path)) },
	} {
		if err := errors.Join(restore(), tamper()); err != nil {
			t.Fatal(err)
		}
		if _, err := install.OpenManifest(s.dir, "sub/sites", "", ".conf"); err == nil || !strings.Contains(err.Error(), "remove it") || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := restore(); err != nil {
		t.Fatal(err)
	}
	s.reopen()
	s.wantGone(nil, "a.conf")
}

func TestAManifestOfAnotherUserIsNotBelieved(t *testing.T) {
	parts.Need(t, "root")
	s := newSite(t)
	s.make(map[string]string{"a.conf": "a"})
	if err := os.Chown(s.path(".sub~sites.manifest"), 1234, 1234); err != nil {
		t.Fatal(err)
	}
	if _, err := install.OpenManifest(s.dir, "sub/sites", "", ".conf"); err == nil {
		t.Error("it was believed")
	}
}

func TestTheDebtOfAManifestOutlivesItsFiles(t *testing.T) {
	s := newSite(t)
	s.make(map[string]string{"a.conf": "a"})
	err := s.Remove(s.Gone(nil))
	if err := errors.Join(s.File().Owe(), err); err != nil {
		t.Fatal(err)
	}
	s.reopen()
	if owes, err := s.File().Owes(); !owes || err != nil {
		t.Errorf("got %v, %v", owes, err)
	}
}

func FuzzParseManifest(f *testing.F) {
	sum := strings.Repeat("0f", 32)
	for _, seed := range []string{"", "{}", `{"format":1,"files":{}}`, `{"format":1,"files":{"a.conf":["` + sum + `"]}}`, `{"format":1,"files":{"../a.conf":["` + sum + `"]}}`, `{"format":1,"files":{"a.conf":["x"]}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fuzztest.WantBounded(t, 256*uint64(len(data))+fuzztest.Fixed, func() {
			files, err := install.ParseManifest(data)
			if err != nil {
				return
			}
			for name := range maps.Keys(files) {
				if name != filepath.Base(name) || strings.HasPrefix(name, ".") || !strings.HasSuffix(name, ".conf") {
					t.Fatalf("%q was believed", name)
				}
			}
		})
	})
}

func FuzzParseGood(f *testing.F) {
	f.Add([]byte("kvconfd last-good 1 index=1 keys=-1 sha256=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n"))
	f.Add([]byte("kvconfd last-good 1 index=99999999999999999999 keys=1 sha256=\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		fuzztest.WantBounded(t, 64*uint64(len(data))+fuzztest.Fixed, func() {
			if good, err := install.ParseGood(data); err == nil && !strings.HasSuffix(string(data), "\n"+string(good.Content)) {
				t.Fatalf("got %q of %q", good.Content, data)
			}
		})
	})
}

func TestAFileIsKnownHoweverManyVersionsOfItWereRefused(t *testing.T) {
	s := newSite(t)
	s.make(map[string]string{"a.conf": "accepted"})
	for i := range 40 {
		s.note(map[string]string{"a.conf": fmt.Sprint("refused ", i)})
	}
	s.reopen()
	if err := s.Remove(s.Gone(nil)); err != nil {
		t.Error(err)
	}
	s.wantFiles(".sub~sites.manifest")
}
