package raftnode

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestADirectoryThatIsNotThisMembersIsRefused(t *testing.T) {
	template := t.TempDir()
	node, _ := open(t, testConfig(template))
	propose(t, node, "/a")
	if err := node.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		spoil func(dir string, cfg *Config) error
		want  string
	}{
		{"another member's name", func(_ string, cfg *Config) error { cfg.Name = "n2"; return nil }, `belongs to member "n1"`},
		{"another cluster's token", func(_ string, cfg *Config) error { cfg.ClusterToken = "other"; return nil }, `a cluster with the token "test"`},
		{"another log store", func(_ string, cfg *Config) error { cfg.LogStore = LogStoreBoltDB; return nil }, "start with --experimental-log-store wal"},
		{"a newer format", func(dir string, _ *Config) error { return edit(dir, `"format": 1`, `"format": 2`) }, "written by a newer kvd"},
		{"a damaged identity", func(dir string, _ *Config) error { return os.Truncate(filepath.Join(dir, identityFile), 10) }, "is damaged"},
		{"an identity without an id", func(dir string, _ *Config) error { return edit(dir, `"member_id"`, `"x"`) }, "is damaged"},
		{"a lost log", func(dir string, _ *Config) error { return os.RemoveAll(filepath.Join(dir, raftDir)) }, "restore it from a backup"},
		{"an emptied log", func(dir string, _ *Config) error {
			return errors.Join(os.RemoveAll(filepath.Join(dir, raftDir)), os.Mkdir(filepath.Join(dir, raftDir), 0o700))
		}, "had its data there: restore it from a backup"},
		{"a lost identity", func(dir string, _ *Config) error { return os.Remove(filepath.Join(dir, identityFile)) }, "not a data directory of kvd"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			if err := os.CopyFS(dir, os.DirFS(template)); err != nil {
				t.Fatal(err)
			}
			cfg := testConfig(dir)
			if err := c.spoil(dir, &cfg); err != nil {
				t.Fatal(err)
			}
			if err := openError(t, cfg); !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q, want %q in it", err, c.want)
			}
		})
	}
}

// edit replaces text in the identity of dir.
func edit(dir, old, replacement string) error {
	path := filepath.Join(dir, identityFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !strings.Contains(string(data), old) {
		return errors.New("the identity does not hold " + old)
	}
	return os.WriteFile(path, []byte(strings.Replace(string(data), old, replacement, 1)), 0o600)
}

func TestADirectoryWithOtherThingsInItIsRefusedAndLeftAlone(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "letter.txt"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := openError(t, testConfig(dir)); !strings.Contains(err.Error(), `it holds "letter.txt"`) {
		t.Errorf("error %q", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 || info.Mode().Perm() != 0o755 {
		t.Errorf("the directory was changed: %v, mode %s, %v", entries, info.Mode(), err)
	}
}

func TestAPathThatIsNoDirectoryIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, filepath.Join(file, "below")} {
		if err := openError(t, testConfig(path)); !strings.Contains(err.Error(), "not a directory") || !strings.Contains(err.Error(), "--data-dir") {
			t.Errorf("%s: error %q", path, err)
		}
	}
}

func TestADirectoryInUseIsRefusedByNameAndPid(t *testing.T) {
	cfg := testConfig(t.TempDir())
	open(t, cfg)
	err := openError(t, cfg)
	for _, want := range []string{"in use by another process", "member n1", "pid "} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q, want %q in it", err, want)
		}
	}
}

func TestOnlyTheOwnerCanReadTheDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	open(t, testConfig(dir))
	for _, path := range []string{filepath.Dir(dir), dir, filepath.Join(dir, raftDir), filepath.Join(dir, raftDir, walDir)} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
	}
	for _, file := range []string{identityFile, lockFile, filepath.Join(raftDir, stableFile)} {
		info, err := os.Stat(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %s", file, info.Mode())
		}
	}
}

func TestAFirstStartThatWasCutShortBeginsAgain(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(dir).withDefaults()
	id := Identity{Format: identityFormat, Name: cfg.Name, MemberID: 1, ClusterID: 2, ClusterToken: cfg.ClusterToken, LogStore: cfg.LogStore}
	half := filepath.Join(dir, raftDir, walDir)
	if err := errors.Join(id.write(dir), os.MkdirAll(half, 0o700), os.WriteFile(filepath.Join(half, "wal-meta.db"), []byte("half"), 0o600)); err != nil {
		t.Fatal(err)
	}
	node, _ := open(t, cfg)
	propose(t, node, "/a")
	if got := node.Status().MemberID; got != 1 {
		t.Errorf("member %s, want the one that had begun", got)
	}
}

func TestAMachineThatCannotReadAnEntryStops(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperDir+"="+dir, helperFault+"=panic")
	output, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != ExitFault || !strings.Contains(string(output), "cannot be applied: unknown command") {
		t.Errorf("the process ended with %v and said:\n%s", err, output)
	}
}

func TestADirectoryThatCannotBeMadeIsNoDirectoryToChown(t *testing.T) {
	there := t.TempDir()
	missing := filepath.Join(there, "none", "such")
	denied := func(path string) error {
		return dirError(path, &fs.PathError{Op: "mkdir", Path: path, Err: syscall.EACCES})
	}
	if text := denied(missing).Error(); strings.Contains(text, "chown") || !strings.Contains(text, there+" does not let uid") {
		t.Errorf("of a missing one: %s", text)
	}
	if text := denied(there).Error(); !strings.Contains(text, "permission denied") || !strings.Contains(text, "chown it") {
		t.Errorf("of one that is there: %s", text)
	}
	if !errors.Is(denied(missing), fs.ErrPermission) {
		t.Error("the cause is lost")
	}
}
