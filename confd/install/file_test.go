package install_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/kvd-io/kvd/confd/install"
	"github.com/kvd-io/kvd/e2e/parts"
)

func destination(t *testing.T) install.File {
	t.Helper()
	return install.File{Path: filepath.Join(t.TempDir(), "proxy.cfg"), UID: -1, GID: -1}
}

func put(t *testing.T, f install.File, content string) {
	t.Helper()
	staged, err := f.Stage([]byte(content))
	if err != nil {
		t.Fatal(err)
	}
	if err := staged.Commit(); err != nil {
		t.Fatal(err)
	}
}

func differs(t *testing.T, f install.File, content string) bool {
	t.Helper()
	d, err := f.Differs([]byte(content))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func content(t *testing.T, f install.File) string {
	t.Helper()
	data, err := os.ReadFile(f.Path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// names lists the destination's directory.
func names(t *testing.T, f install.File) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(f.Path))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func ref[T any](value T) *T { return &value }

func TestAFileIsReplacedAndNothingElseIsLeft(t *testing.T) {
	f := destination(t)
	if !differs(t, f, "one") {
		t.Error("a missing file does not differ")
	}
	put(t, f, "one")
	before, err := os.Stat(f.Path)
	if err != nil {
		t.Fatal(err)
	}
	if before.Mode() != 0o644 {
		t.Errorf("a new file has mode %v, want 0644", before.Mode())
	}
	if differs(t, f, "one") || !differs(t, f, "two") || !differs(t, f, "on") {
		t.Error("Differs does not see exactly the content")
	}
	put(t, f, "two")
	after, err := os.Stat(f.Path)
	if err != nil {
		t.Fatal(err)
	}
	if os.SameFile(before, after) {
		t.Error("the file was written in place; a reader could have seen half of it")
	}
	if got := names(t, f); !slices.Equal(got, []string{"proxy.cfg"}) || content(t, f) != "two" {
		t.Errorf("directory has %q, content %q", got, content(t, f))
	}
}

func TestAMissingDirectoryIsNamed(t *testing.T) {
	f := install.File{Path: filepath.Join(t.TempDir(), "none", "proxy.cfg"), UID: -1, GID: -1}
	if _, err := f.Stage(nil); err == nil || !strings.Contains(err.Error(), "directory "+filepath.Dir(f.Path)+" does not exist; create it") || strings.Contains(err.Error(), "/.proxy") {
		t.Errorf("got %v", err)
	}
}

func TestTheModeOfAnExistingFileIsKeptUnlessOneIsGiven(t *testing.T) {
	f := destination(t)
	put(t, f, "one")
	if err := os.Chmod(f.Path, 0o600); err != nil {
		t.Fatal(err)
	}
	if differs(t, f, "one") {
		t.Error("a mode that nobody asked for counts as a difference")
	}
	put(t, f, "two")
	if info, _ := os.Stat(f.Path); info.Mode() != 0o600 {
		t.Errorf("mode %v, want 0600 as before", info.Mode())
	}
	f.Mode = ref(fs.FileMode(0o640))
	if !differs(t, f, "two") {
		t.Error("the wrong mode does not count as a difference")
	}
	put(t, f, "two")
	if info, _ := os.Stat(f.Path); info.Mode() != 0o640 {
		t.Errorf("mode %v, want 0640", info.Mode())
	}
}

func TestTheStagedFileAlreadyHasItsModeAndOwner(t *testing.T) {
	parts.Need(t, "root")
	f := destination(t)
	f.Mode, f.UID, f.GID = ref(fs.FileMode(0o400)), 1234, 2345
	staged, err := f.Stage([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(staged.Path)
	if err != nil {
		t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	if info.Mode() != 0o400 || owner.Uid != 1234 || owner.Gid != 2345 {
		t.Errorf("staged as %v %d:%d", info.Mode(), owner.Uid, owner.Gid)
	}
	if err := staged.Commit(); err != nil {
		t.Fatal(err)
	}
	if differs(t, f, "secret") {
		t.Error("differs right after Commit")
	}
	if err := os.Chown(f.Path, 0, 0); err != nil {
		t.Fatal(err)
	}
	if !differs(t, f, "secret") {
		t.Error("the wrong owner does not count as a difference")
	}
}

func TestAFailureLeavesTheOldFileAndNoStagedOne(t *testing.T) {
	f := destination(t)
	put(t, f, "old")
	f.Path = filepath.Join(filepath.Dir(f.Path), "missing", "proxy.cfg")
	if _, err := f.Stage([]byte("new")); err == nil || !strings.Contains(err.Error(), "cannot write") {
		t.Errorf("staging in a missing directory: %v", err)
	}

	directory := destination(t)
	if err := os.MkdirAll(filepath.Join(directory.Path, "full"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := directory.Differs(nil); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("a directory as destination: %v", err)
	}
	staged, err := directory.Stage([]byte("new"))
	if err != nil {
		t.Fatal(err)
	}
	if err := staged.Commit(); err == nil {
		t.Error("a directory was replaced")
	}
	staged.Discard()
	if got := names(t, directory); !slices.Equal(got, []string{"proxy.cfg"}) {
		t.Errorf("left behind: %q", got)
	}
}

func TestALinkAtTheDestinationIsReplacedNotFollowed(t *testing.T) {
	f := destination(t)
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, f.Path); err != nil {
		t.Fatal(err)
	}
	if !differs(t, f, "precious") {
		t.Error("a link counts as the file")
	}
	put(t, f, "new")
	if data, _ := os.ReadFile(victim); string(data) != "precious" || content(t, f) != "new" {
		t.Errorf("the link's target has %q, the destination %q", data, content(t, f))
	}
}

func TestSweepRemovesOnlyStagedFilesOfItsOwnThatNobodyWorksOn(t *testing.T) {
	f := destination(t)
	dir := filepath.Dir(f.Path)
	for _, name := range []string{".proxy.cfg.123", ".proxy.cfg.reload-pending", "..proxy.cfg.last-good.7", ".proxy.cfg.12x", ".other.cfg.123", "proxy.cfg.123", ".123"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	staged, err := f.Stage([]byte("text"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Sweep(); err != nil {
		t.Fatal(err)
	}
	want := []string{filepath.Base(staged.Path), ".123", ".other.cfg.123", ".proxy.cfg.12x", ".proxy.cfg.reload-pending", "proxy.cfg.123"}
	slices.Sort(want)
	if got := names(t, f); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := staged.Commit(); err != nil || content(t, f) != "text" {
		t.Errorf("%v, the file is %q", err, content(t, f))
	}
}

func TestSweepOfAManifestRemovesWhatIsStagedOfItsFiles(t *testing.T) {
	f := destination(t)
	dir := filepath.Dir(f.Path)
	m, err := install.OpenManifest(dir, "sites", "", "")
	if err == nil {
		err = m.Note(map[string][]byte{f.Path: []byte("text")})
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".proxy.cfg.1", "..proxy.cfg.last-good.2", "..sites.manifest.3", ".somebody.else.4"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	staged, err := f.Stage([]byte("text"))
	if err == nil {
		err = m.Sweep()
	}
	if err != nil {
		t.Fatal(err)
	}
	want := []string{filepath.Base(staged.Path), ".sites.manifest", ".somebody.else.4"}
	slices.Sort(want)
	if got := names(t, f); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestWhatIsStagedCanBeRunByItsCheck(t *testing.T) {
	f := destination(t)
	mode := fs.FileMode(0o755)
	f.Mode = &mode
	staged, err := f.Stage([]byte("#!/bin/sh\nexit 0\n"))
	if err != nil {
		t.Fatal(err)
	}
	defer staged.Discard()
	if output, err := install.Run(t.Context(), install.Command{Argv: []string{"{{.src}}"}}, install.Vars{Src: staged.Path, Dest: f.Path}); err != nil {
		t.Errorf("%v %s", err, output)
	}
}

func TestADebtIsRememberedUntilItIsPaid(t *testing.T) {
	f := destination(t)
	owes := func() bool {
		t.Helper()
		owes, err := f.Owes()
		if err != nil {
			t.Fatal(err)
		}
		return owes
	}
	if owes() {
		t.Error("owes before anything happened")
	}
	put(t, f, "good")
	if err := f.KeepGood(install.Good{Content: []byte("good"), Index: 7, Keys: 3}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.Owe(); err != nil {
			t.Fatal(err)
		}
		put(t, f, "bad")
	}
	if good, ok, err := f.Good(); err != nil || !ok || string(good.Content) != "good" || good.Index != 7 || good.Keys != 3 || !owes() {
		t.Errorf("kept %+v %v %v, owes %v", good, ok, err, owes())
	}
	if err := errors.Join(f.Paid(), f.ForgetGood()); err != nil {
		t.Fatal(err)
	}
	if _, ok, _ := f.Good(); ok || owes() {
		t.Error("still owing, or something to go back to, after Paid and ForgetGood")
	}
	if got := names(t, f); !slices.Equal(got, []string{"proxy.cfg"}) {
		t.Errorf("left behind: %q", got)
	}
}
