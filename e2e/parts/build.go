package parts

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// programs are the binaries of this repository.
var programs = [...]string{"kvd", "kvctl", "kvsidekick", "kvagent", "kvconfd"}

// staleAfter is how long binaries that no test has asked for stay in the cache.
const staleAfter = 24 * time.Hour

// Build returns the absolute path of a folder with the five static binaries, built from the
// sources as they are now. They are kept in the user's cache under the sum of those sources, so
// that all test processes share one build and a stale binary cannot be met. The folder is not
// the caller's to change. KVD_BIN=FOLDER names ready binaries instead.
func Build(t testing.TB) string {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	bin := os.Getenv("KVD_BIN")
	if bin == "" {
		if bin, err = cachedBuild(root); err != nil {
			t.Fatalf("cannot build the programs: %v", err)
		}
	} else if !filepath.IsAbs(bin) {
		bin = filepath.Join(root, bin)
	}
	for _, program := range programs {
		if _, err := os.Stat(filepath.Join(bin, program)); err != nil {
			t.Fatalf("%s is not among the binaries: %v", program, err)
		}
	}
	return bin
}

func cachedBuild(root string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	cache = filepath.Join(cache, "kvd-test-binaries")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(cache, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()

	// Someone may save a file while the compiler runs: the binaries count for a sum only if it
	// is the same before and after.
	for range 3 {
		sum, err := sourceSum(root)
		if err != nil {
			return "", err
		}
		target := filepath.Join(cache, sum)
		now := time.Now()
		if os.Chtimes(target, now, now) == nil {
			return target, nil
		}
		removeStale(cache)
		fresh, err := os.MkdirTemp(cache, "building-")
		if err != nil {
			return "", err
		}
		if err := compile(root, fresh); err != nil {
			os.RemoveAll(fresh)
			return "", err
		}
		if after, err := sourceSum(root); err != nil || after != sum {
			os.RemoveAll(fresh)
			continue
		}
		return target, os.Rename(fresh, target)
	}
	return "", fmt.Errorf("the sources below %s changed during each of 3 builds", root)
}

func compile(root, target string) error {
	build := exec.Command("go", "build", "-trimpath", "-o", target+"/", "./cmd/...")
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, output)
	}
	return nil
}

// sourceSum hashes everything that may become part of a binary: all files of the module except
// tests, test data, documents and build output.
func sourceSum(root string) (string, error) {
	sum := sha256.New()
	fmt.Fprintln(sum, runtime.Version(), runtime.GOOS, runtime.GOARCH, os.Getenv("GOFLAGS"))
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			if path != root && (strings.HasPrefix(name, ".") || name == "testdata" || filepath.Dir(path) == root && (name == "bin" || name == "dist" || name == "docs")) {
				return filepath.SkipDir
			}
			return nil
		}
		if !entry.Type().IsRegular() || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		fmt.Fprintf(sum, "\x00%s\x00", relative)
		_, err = io.Copy(sum, file)
		return err
	})
	return hex.EncodeToString(sum.Sum(nil)[:12]), err
}

// removeStale deletes what nobody has used for a day, and what a killed build left behind.
func removeStale(cache string) {
	entries, err := os.ReadDir(cache)
	if err != nil {
		return
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err == nil && entry.IsDir() && time.Since(info.ModTime()) > staleAfter {
			os.RemoveAll(filepath.Join(cache, entry.Name()))
		}
	}
}

// lock waits for the file lock at path, which the end of the process releases as well.
func lock(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { file.Close() }, nil
}

// moduleRoot is the nearest folder with a go.mod, upwards from where the test runs.
func moduleRoot() (string, error) {
	folder, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(folder, "go.mod")); err == nil {
			return folder, nil
		}
		parent := filepath.Dir(folder)
		if parent == folder {
			return "", fmt.Errorf("no go.mod in this folder or above it")
		}
		folder = parent
	}
}
