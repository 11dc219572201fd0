// Package install brings bytes into a file that another program reads, and tells that program.
//
// It stages beside the destination, so that a check can look at the staged file and the change
// itself is one rename; it flushes file and directory, so that a crash leaves the old file or the
// new one; it remembers on disk that a reload is owed; and it runs local commands with a time
// limit. It knows nothing of templates or stores, and never sees their data but as file content.
//
// The order is Differs, Stage, a check, Owe, Commit, a reload, Paid; a check that looks at nothing but the destination
// comes between Commit and the reload. Each step may be repeated.
package install

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// File is a destination: where the bytes go and what the file must look like. Its methods may be used by one
// goroutine at a time for each Path.
type File struct {
	Path string
	// Mode holds the permission bits; nil keeps those of the existing file, 0644 for a new one.
	Mode *fs.FileMode
	// UID and GID own the file; -1 stands for the process's own.
	UID, GID int
	// Follow writes the file that a symbolic link at Path leads to; otherwise the link is replaced. What is
	// kept beside the destination stays beside the link.
	Follow bool

	fault func(call string) error // lets a test fail a call: "create", "write", "chown", "chmod", "sync", "rename", "flush"
}

// try reports the fault that a test wants, or does call.
func (f File) try(name string, call func() error) error {
	if f.fault != nil {
		if err := f.fault(name); err != nil {
			return err
		}
	}
	return call()
}

// Differs reports whether the destination is not exactly what it should be: content, mode, owner. What is there
// but cannot be replaced, a directory, a device or a pipe, is an error.
func (f File) Differs(content []byte) (bool, error) {
	path, err := f.target()
	if err != nil {
		return false, err
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err == nil {
		err = f.refuse(info)
	}
	if err != nil {
		return false, err
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
	current, err := readBounded(path, info.Size())
	if err != nil {
		return false, err
	}
	return !bytes.Equal(current, content), nil
}

// Place returns the directory in which the destination is replaced: with Follow that of what the links lead to. An
// error says why nothing can be written there whatever it is: a directory, a device or a pipe, or links in a circle.
func (f File) Place() (dir string, err error) {
	path, err := f.target()
	if err != nil {
		return filepath.Dir(f.Path), err
	}
	if info, err := os.Lstat(path); err == nil {
		return filepath.Dir(path), f.refuse(info)
	}
	return filepath.Dir(path), nil
}

// Attributes says how mode and owner of the destination differ from what they should be: "mode 0600 -> 0644",
// "owner 0:0 -> 33:33". Of what is not there, or will be replaced whatever it is, it says nothing.
func (f File) Attributes() (differing []string, err error) {
	path, err := f.target()
	if err != nil {
		return nil, err
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, nil
	}
	if f.Mode != nil && bits(info.Mode()) != bits(*f.Mode) {
		differing = append(differing, fmt.Sprintf("mode %s -> %s", octal(info.Mode()), octal(*f.Mode)))
	}
	uid, gid := f.owner()
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && (int(owner.Uid) != uid || int(owner.Gid) != gid) {
		differing = append(differing, fmt.Sprintf("owner %d:%d -> %d:%d", owner.Uid, owner.Gid, uid, gid))
	}
	return differing, nil
}

// octal spells a mode as chmod takes it.
func octal(mode fs.FileMode) string {
	special := 0
	for bit, value := range map[fs.FileMode]int{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if mode&bit != 0 {
			special += value
		}
	}
	return fmt.Sprintf("%04o", special+int(mode.Perm()))
}

// refuse reports why what is at the destination must not be replaced. info is not that of a followed link.
func (f File) refuse(info fs.FileInfo) error {
	if info.Mode()&fs.ModeSymlink != 0 {
		behind, err := os.Stat(f.Path)
		if err != nil || behind.Mode().IsRegular() || behind.IsDir() {
			return nil // replaced by a file
		}
		info = behind
	}
	switch {
	case info.IsDir():
		return fmt.Errorf("%s is a directory; dest must name a file", f.Path)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is a device, pipe or socket (%v); dest must name a file", f.Path, info.Mode().Type())
	}
	return nil
}

// linksMax is how many symbolic links are followed, as the kernel does.
const linksMax = 40

// target returns the path that is written: Path, or with Follow what the links there lead to, be it there or not.
func (f File) target() (string, error) {
	path := f.Path
	for range linksMax {
		info, err := os.Lstat(path)
		if !f.Follow || err != nil || info.Mode()&fs.ModeSymlink == 0 {
			return path, nil
		}
		next, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		if !filepath.IsAbs(next) {
			next = filepath.Join(filepath.Dir(path), next)
		}
		path = next
	}
	return "", fmt.Errorf("%s is a symbolic link that leads to more than %d others; correct it, or use symlink = \"replace\"", f.Path, linksMax)
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

	file    File
	target  string // that will be replaced
	content []byte
	lock    *os.File // says that somebody works on it; may be nil
}

// Dest returns the destination that s waits for.
func (s *Staged) Dest() string { return s.file.Path }

// Stage writes content to a temporary file in the destination's directory with its final mode
// and owner, flushed to disk. On error nothing is left behind. content must not be changed before Commit.
func (f File) Stage(content []byte) (*Staged, error) {
	target, err := f.target()
	if err != nil {
		return nil, err
	}
	temporary, lock, err := f.create(target)
	if err != nil {
		return nil, f.explain(filepath.Dir(target), "create", err)
	}
	staged := &Staged{Path: temporary.Name(), file: f, target: target, content: content, lock: lock}
	failed, err := f.fill(temporary, content)
	if closed := temporary.Close(); err == nil && closed != nil {
		failed, err = "write", closed
	}
	if err != nil {
		staged.Discard()
		return nil, f.explain(filepath.Dir(target), failed, err)
	}
	return staged, nil
}

// create makes an empty file beside target, and locks it. The lock is on a descriptor of its own, as what is open
// for writing cannot be run by a check.
func (f File) create(target string) (file, lock *os.File, err error) {
	for {
		err = f.try("create", func() (err error) {
			file, err = os.CreateTemp(filepath.Dir(target), "."+short(filepath.Base(target))+".")
			return err
		})
		if err != nil {
			return nil, nil, err
		}
		if lock, ok := hold(file.Name()); ok {
			return file, lock, nil
		}
		file.Close()
	}
}

// fill makes an open, empty file the new version, on disk. The owner comes before the mode because chown
// clears setuid. It returns the call that failed.
func (f File) fill(file *os.File, content []byte) (failed string, err error) {
	uid, gid := f.owner()
	for _, step := range []struct {
		name string
		call func() error
	}{
		{"write", func() error { _, err := file.Write(content); return err }},
		{"chown", func() error { return file.Chown(uid, gid) }},
		{"chmod", func() error { return file.Chmod(f.mode()) }},
		{"sync", file.Sync},
	} {
		if err := f.try(step.name, step.call); err != nil {
			return step.name, err
		}
	}
	return "", nil
}

// Commit puts the staged version in the destination's place. Where the destination cannot be
// renamed over because it is itself a mount, as a file bound into a container is, the content is
// written into it, while the old content is kept beside; a crash in the middle is made good by Sweep.
//
// After an error the destination is as it was, but for one: that the directory could not be flushed says that
// the new version is in place, and may be gone after a crash of the machine.
func (s *Staged) Commit() error {
	err := s.file.try("rename", func() error { return os.Rename(s.Path, s.target) })
	if errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EXDEV) {
		return s.overwrite()
	}
	if err != nil {
		return s.file.explain(filepath.Dir(s.target), "rename", err)
	}
	s.lock.Close()
	err = s.file.try("flush", func() error { return syncDir(filepath.Dir(s.target)) })
	if err != nil {
		return s.file.explain(filepath.Dir(s.target), "flush", err)
	}
	return nil
}

// IsWaiting reports whether the staged version is still beside its destination: after a Commit that failed,
// that it is not in the destination's place.
func (s *Staged) IsWaiting() bool {
	_, err := os.Lstat(s.Path)
	return err == nil
}

// Discard removes the staged file, if it is still there.
func (s *Staged) Discard() {
	os.Remove(s.Path)
	s.lock.Close()
}

// syncDir makes the names in a directory durable.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// explain says what could not be done with the destination, why, and what to try. place is the directory that was
// written to, or the file that was written in place.
func (f File) explain(place, call string, err error) error {
	return fmt.Errorf("cannot write %s: %s%w", f.Path, f.hint(place, call, err), unnamed(err))
}

// unnamed takes the name of the staged file off an error: it is another at each try.
func unnamed(err error) error {
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		return fmt.Errorf("%s: %w", path.Op, path.Err)
	case errors.As(err, &link):
		return fmt.Errorf("%s: %w", link.Op, link.Err)
	}
	return err
}

// hint is the part of an error's sentence that helps.
func (f File) hint(dir, call string, err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("the directory %s does not exist; create it, or correct dest: ", dir)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Sprintf("there is no room left where %s is; the file stays as it was until there is: ", dir)
	case errors.Is(err, syscall.EROFS):
		return fmt.Sprintf("%s is on a read-only file system; mount it writable (a systemd unit: ReadWritePaths=%s), or choose another dest: ", dir, dir)
	case errors.Is(err, syscall.ENAMETOOLONG):
		return "its name is longer than the file system allows; choose a shorter dest: "
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Sprintf("%s is not a directory; correct dest: ", dir)
	case errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ENOTEMPTY), errors.Is(err, fs.ErrExist):
		return "it is a directory; dest must name a file: "
	case !errors.Is(err, fs.ErrPermission):
		return ""
	case call == "create":
		return fmt.Sprintf("user %d may not create files in %s, which is how a file is replaced in one step; let it, or run as root: ", os.Geteuid(), dir)
	case call == "chown":
		uid, gid := f.owner()
		return fmt.Sprintf("user %d may not give it to %d:%d; run as root, or leave owner, group, uid and gid out: ", os.Geteuid(), uid, gid)
	case call == "rename":
		return "the existing file must not be replaced: it is immutable (see lsattr), or belongs to another user in a sticky directory: "
	}
	return ""
}
