// Package install brings bytes into a file that another program reads, and tells that program.
//
// It stages beside the destination, so that a check can look at the staged file and the change
// itself is one rename; it flushes file and directory, so that a crash leaves the old file or the
// new one; it remembers on disk that a reload is owed; and it runs local commands with a time
// limit. It knows nothing of templates or stores, and never sees their data but as file content.
//
// The order is Differs, Stage, a check, Owe, Commit, a reload, Paid. Each step may be repeated.
package install

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// File is a destination: where the bytes go and what the file must look like.
type File struct {
	Path string
	// Mode holds the permission bits; nil keeps those of the existing file, 0644 for a new one.
	Mode *fs.FileMode
	// UID and GID own the file; -1 stands for the process's own.
	UID, GID int
	// Follow writes the file that a symbolic link at Path leads to; otherwise the link is replaced. What is
	// kept beside the destination stays beside the link.
	Follow bool
}

// Differs reports whether the destination is not exactly what it should be: content, mode, owner.
func (f File) Differs(content []byte) (bool, error) {
	info, err := os.Lstat(f.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if info.IsDir() {
		return false, fmt.Errorf("%s is a directory; dest must name a file", f.Path)
	}
	if !info.Mode().IsRegular() || info.Size() != int64(len(content)) {
		return true, nil
	}
	if f.Mode != nil && bits(info.Mode()) != bits(*f.Mode) {
		return true, nil
	}
	uid, gid := f.owner()
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && (int(owner.Uid) != uid || int(owner.Gid) != gid) {
		return true, nil
	}
	current, err := os.ReadFile(f.Path)
	if err != nil {
		return false, err
	}
	return !bytes.Equal(current, content), nil
}

// bits keeps what chmod can change.
func bits(mode fs.FileMode) fs.FileMode {
	return mode & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
}

func (f File) owner() (uid, gid int) {
	uid, gid = f.UID, f.GID
	if uid < 0 {
		uid = os.Geteuid()
	}
	if gid < 0 {
		gid = os.Getegid()
	}
	return uid, gid
}

// mode returns the permission bits that the new file gets.
func (f File) mode() fs.FileMode {
	if f.Mode != nil {
		return bits(*f.Mode)
	}
	if info, err := os.Stat(f.Path); err == nil && info.Mode().IsRegular() {
		return bits(info.Mode())
	}
	return 0o644
}

// Staged is a complete new version that waits beside its destination.
type Staged struct {
	Path string // of the staged file, for the check
	file File
}

// Stage writes content to a temporary file in the destination's directory with its final mode
// and owner, flushed to disk. On error nothing is left behind.
func (f File) Stage(content []byte) (*Staged, error) {
	temporary, err := os.CreateTemp(filepath.Dir(f.Path), "."+filepath.Base(f.Path)+".")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot write %s: the directory %s does not exist; create it, or correct dest", f.Path, filepath.Dir(f.Path))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot stage %s: %w", f.Path, err)
	}
	staged := &Staged{Path: temporary.Name(), file: f}
	_, err = temporary.Write(content)
	if err == nil {
		err = f.dress(temporary)
	}
	if err == nil {
		err = temporary.Sync()
	}
	if err = errors.Join(err, temporary.Close()); err != nil {
		staged.Discard()
		return nil, fmt.Errorf("cannot stage %s: %w", f.Path, err)
	}
	return staged, nil
}

// dress gives an open file its owner and mode, in this order because chown clears setuid.
func (f File) dress(file *os.File) error {
	uid, gid := f.owner()
	if err := file.Chown(uid, gid); err != nil {
		return err
	}
	return file.Chmod(f.mode())
}

// Commit puts the staged version in the destination's place. Where the destination cannot be
// renamed over because it is itself a mount, as a file bound into a container is, the content is
// written into it; that is not atomic, and a crash in the middle is made good by the next pass.
func (s *Staged) Commit() error {
	err := os.Rename(s.Path, s.file.Path)
	if errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EXDEV) {
		err = s.overwrite()
	}
	if err != nil {
		return fmt.Errorf("cannot replace %s: %w", s.file.Path, err)
	}
	return syncDir(filepath.Dir(s.file.Path))
}

func (s *Staged) overwrite() (err error) {
	from, err := os.Open(s.Path)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(s.file.Path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if _, err := io.Copy(to, from); err != nil {
		return err
	}
	if err := errors.Join(s.file.dress(to), to.Sync()); err != nil {
		return err
	}
	s.Discard()
	return nil
}

// Discard removes the staged file, if it is still there.
func (s *Staged) Discard() { os.Remove(s.Path) }

// syncDir makes the names in a directory durable.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// staleAfter is the age at which a staged file cannot belong to a running pass any more.
const staleAfter = time.Hour

// Sweep removes staged files that a crash left beside the destination.
func (f File) Sweep() error {
	leftovers, err := filepath.Glob(globQuote(f.hidden(".")) + "[0-9]*")
	if err != nil {
		return err
	}
	var problems []error
	for _, path := range leftovers {
		info, err := os.Lstat(path)
		digits := strings.Trim(strings.TrimPrefix(path, f.hidden(".")), "0123456789") == ""
		if err == nil && digits && info.Mode().IsRegular() && time.Since(info.ModTime()) > staleAfter {
			problems = append(problems, removeIfThere(path))
		}
	}
	return errors.Join(problems...)
}

func globQuote(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
