package install

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Staged files and check directories are locked by the process that works on them, and the lock ends with it. So what
// can be locked is a leftover, in whichever container it was made, and is removed at once: it may hold secrets.

// staleAfter is the age at which what a file system cannot lock does not belong to a running pass any more.
const staleAfter = time.Hour

// lockedMax bounds the descriptors that are kept open for locks. Of a group that stages more files than this, the
// rest could be taken for leftovers by another kvconfd that starts with the same dest; what is missing then is staged again.
const lockedMax = 512

// hold locks what was just made at path until it is closed, which nil may be too: then it cannot be locked. ok is false
// if a sweep took it for a leftover before that.
func hold(path string) (lock *os.File, ok bool) {
	lock, err := lockAt(path)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK), errors.Is(err, fs.ErrNotExist):
		return nil, false
	case err != nil:
		return nil, true
	case lock.Fd() > lockedMax:
		lock.Close()
		return nil, true
	}
	return lock, true
}

// lockAt locks what is at path. The error is syscall.EWOULDBLOCK if somebody has it locked, and fs.ErrNotExist if it
// is not there any more.
func lockAt(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		return nil, err
	}
	locked, err := file.Stat()
	if err == nil {
		var there fs.FileInfo
		if there, err = os.Lstat(path); err == nil && !os.SameFile(locked, there) {
			err = fs.ErrNotExist
		}
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// removeLeft removes what is at path, if nobody works on it.
func removeLeft(path string, remove func(path string) error) error {
	info, err := os.Lstat(path)
	if err != nil {
		return nil // gone
	}
	lock, err := lockAt(path)
	switch {
	case err == nil:
		defer lock.Close()
	case errors.Is(err, syscall.EWOULDBLOCK), errors.Is(err, fs.ErrNotExist), time.Since(info.ModTime()) <= staleAfter:
		return nil
	}
	return remove(path)
}

// Sweep puts right what a crash left: it removes staged files that no process works on, and puts back the content
// of a destination that was being written in place. It is to be called before the first pass.
func (f File) Sweep() error {
	problems := []error{f.Heal()}
	target, err := f.target()
	if err != nil {
		return errors.Join(append(problems, err)...)
	}
	beside := f.staged()
	for _, dir := range slices.Compact([]string{filepath.Dir(f.Path), filepath.Dir(target)}) {
		problems = append(problems, sweepStaged(dir, func(name string) bool {
			return name == short(filepath.Base(target)) || slices.Contains(beside, name)
		}))
	}
	return errors.Join(problems...)
}

// staged returns by which names stagedFor knows what is staged of what is kept beside the destination.
func (f File) staged() (names []string) {
	for _, suffix := range []string{debtSuffix, goodSuffix, keptSuffix, madeSuffix} {
		names = append(names, short(filepath.Base(f.hidden(suffix))))
	}
	return names
}

// Sweep removes what a crash has left staged of the manifest's files, and of the manifest. It is to be called before
// the first pass.
func (m *Manifest) Sweep() error {
	ours := map[string]bool{}
	for _, name := range m.File().staged() {
		ours[name] = true
	}
	for name := range m.files {
		ours[short(name)] = true
		for _, name := range (File{Path: filepath.Join(m.dir, name)}).staged() {
			ours[name] = true
		}
	}
	return sweepStaged(m.dir, func(name string) bool { return ours[name] })
}

// sweepStaged removes what was staged in dir for one of our names and is left there.
func sweepStaged(dir string, isOurs func(name string) bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // there is nothing, or it is told when something is written
	}
	var problems []error
	for _, entry := range entries {
		if name, ok := stagedFor(entry.Name()); ok && entry.Type().IsRegular() && isOurs(name) {
			problems = append(problems, removeLeft(filepath.Join(dir, entry.Name()), removeIfThere))
		}
	}
	return errors.Join(problems...)
}

// stagedFor returns the name of the file that one of this name would be staged for.
func stagedFor(name string) (string, bool) {
	digits := filepath.Ext(name)
	if len(digits) < 2 || strings.Trim(digits[1:], "0123456789") != "" || !strings.HasPrefix(name, ".") || len(name) <= 1+len(digits) {
		return "", false
	}
	return name[1 : len(name)-len(digits)], true
}

// SweepCheckDirs removes check directories that a crash has left: those of this user that no process works on.
func SweepCheckDirs() error {
	var problems []error
	for _, base := range checkDirBases() {
		found, err := filepath.Glob(filepath.Join(globQuote(base), checkDirPattern))
		problems = append(problems, err)
		for _, path := range found {
			info, err := os.Lstat(path)
			if err != nil || !info.IsDir() {
				continue // gone, or none of ours
			}
			if owner, ok := info.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) == os.Geteuid() {
				problems = append(problems, removeLeft(path, os.RemoveAll))
			}
		}
	}
	return errors.Join(problems...)
}

func globQuote(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
