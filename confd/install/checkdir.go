package install

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Change is what is about to happen to the destinations of one group.
type Change struct {
	Staged  []*Staged // new versions
	Removed []string  // destinations that vanish: absolute paths
	Kept    []string  // destinations of the group that stay as they are
}

// CheckDir is a private directory in which a checker finds a group's files as they would be. The directories
// that it mirrors stand in it as below /. It belongs to one goroutine.
//
// It serves a check that names {{.src}} or {{.dir}}. A check that names neither looks at the files in use, and
// gains nothing from it: it is for after Staged.Commit.
type CheckDir struct {
	Path string // {{.dir}}

	lock    *os.File           // for as long as the directory is worked on; may be nil
	staged  map[string]*Staged // by destination
	removed map[string]bool
	deep    []string // mirrored with all that is below
	shallow []string // mirrored with the files directly in them
	names   []string // the topmost mirrored directories: what is renamed in texts
	entries int
	copied  int64
	buffer  bytes.Buffer // of the file that is looked into
}

// checkDirPattern is the name of check directories.
const checkDirPattern = "kvconfd-check-*"

// What a check directory can hold.
const (
	mirroredEntriesMax = 50_000
	copiedBytesMax     = 256 << 20
	textBytesMax       = 4 << 20 // what is larger is not looked into for paths
)

// NewCheckDir makes a private directory (mode 0700) that mirrors the directories of change and dirs: the
// staged files stand in the place of the old ones, removed ones are not there, and everything else is linked
// to. Where a text in these directories names one of them by its absolute path, it names the mirrored one
// instead, so that what includes the group's files finds their new versions. dirs are absolute; each is mirrored
// with all that is below it, while of the directories in change only the files directly in them are. A directory
// that does not exist is mirrored as an empty one.
//
// On error nothing is left behind. It fails if there are more than 50,000 files to mirror.
func NewCheckDir(change Change, dirs []string) (*CheckDir, error) {
	var problems []error
	for _, base := range checkDirBases() {
		c, err := newCheckDir(base, change, dirs)
		if err == nil {
			return c, nil
		}
		problems = append(problems, err)
	}
	return nil, fmt.Errorf("cannot make a private directory for the check: %w; TMPDIR names where", errors.Join(problems...))
}

// checkDirBases returns where check directories are tried to be made: in TMPDIR, else in memory, as a
// directory of a thousand files takes ten times as long on a disk, else where temporary files are.
func checkDirBases() []string {
	if os.Getenv("TMPDIR") != "" {
		return []string{os.TempDir()}
	}
	return []string{"/dev/shm", os.TempDir()}
}

// newCheckDir makes a check directory below base.
func newCheckDir(base string, change Change, dirs []string) (*CheckDir, error) {
	root, lock, err := makeHeld(base)
	if err != nil {
		return nil, err
	}
	c := &CheckDir{Path: root, lock: lock, staged: map[string]*Staged{}, removed: map[string]bool{}, deep: topmost(dirs)}
	for _, s := range change.Staged {
		c.staged[s.Dest()] = s
		c.shallow = append(c.shallow, filepath.Dir(s.Dest()))
	}
	for _, dest := range change.Removed {
		c.removed[dest] = true
		c.shallow = append(c.shallow, filepath.Dir(dest))
	}
	for _, dest := range change.Kept {
		c.shallow = append(c.shallow, filepath.Dir(dest))
	}
	slices.Sort(c.shallow)
	c.shallow = slices.Compact(c.shallow)
	c.names = slices.DeleteFunc(topmost(append(slices.Clone(c.deep), c.shallow...)), func(dir string) bool { return dir == "/" })
	if err := c.fill(); err != nil {
		return nil, errors.Join(err, c.Remove())
	}
	return c, nil
}

// makeHeld makes a directory below base, and locks it.
func makeHeld(base string) (path string, lock *os.File, err error) {
	for {
		if path, err = os.MkdirTemp(base, checkDirPattern); err != nil {
			return "", nil, err
		}
		if lock, ok := hold(path); ok {
			return path, lock, nil
		}
	}
}

// Vars returns the values of the placeholders for the check of one destination, be it staged or as it was.
func (c *CheckDir) Vars(dest string) Vars {
	return Vars{Src: filepath.Join(c.Path, dest), Dest: dest, Dir: c.Path}
}

// Remove removes the directory; what it links to stays.
func (c *CheckDir) Remove() error {
	defer c.lock.Close()
	return os.RemoveAll(c.Path)
}

// fill mirrors everything.
func (c *CheckDir) fill() error {
	for _, dir := range append(slices.Clone(c.deep), c.shallow...) {
		if err := os.MkdirAll(filepath.Join(c.Path, dir), 0o700); err != nil {
			return err
		}
	}
	for _, dir := range topmost(append(slices.Clone(c.deep), c.shallow...)) {
		if err := c.mirror(dir); err != nil {
			return err
		}
	}
	for dest, s := range c.staged {
		info, err := os.Stat(s.Path)
		if err != nil {
			return err
		}
		if err := c.write(dest, s.content, info.Mode().Perm()); err != nil {
			return err
		}
	}
	return nil
}

// mirror mirrors what is in dir.
func (c *CheckDir) mirror(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if c.entries++; c.entries > mirroredEntriesMax {
			return fmt.Errorf("there are more than %d files to mirror; name smaller directories in check_dirs", mirroredEntriesMax)
		}
		switch {
		case path == c.Path, c.removed[path], c.staged[path] != nil, IsBeside(path):
			continue
		case entry.IsDir() && c.opens(path):
			err = os.MkdirAll(filepath.Join(c.Path, path), 0o700)
			if err == nil {
				err = c.mirror(path)
			}
		default:
			err = c.place(path, entry)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// opens reports whether a directory is mirrored itself, rather than linked to: because all below a directory is,
// or because something below it is.
func (c *CheckDir) opens(dir string) bool {
	return slices.ContainsFunc(c.deep, func(deep string) bool { return isBelow(dir, deep) || isBelow(deep, dir) }) ||
		slices.ContainsFunc(c.shallow, func(shallow string) bool { return isBelow(shallow, dir) })
}

// place links to a file or directory, or copies a text in which paths are to be renamed.
func (c *CheckDir) place(path string, entry fs.DirEntry) error {
	isFile := entry.Type().IsRegular()
	if entry.Type()&fs.ModeSymlink != 0 {
		info, err := os.Stat(path)
		isFile = err == nil && info.Mode().IsRegular()
	}
	if isFile {
		if content, mode, err := c.read(path); err == nil && c.mentions(content) {
			return c.write(path, content, mode)
		}
	}
	return os.Symlink(path, filepath.Join(c.Path, path))
}

// read returns the content of a file that is small enough to be looked into, until the next call.
func (c *CheckDir) read(path string) ([]byte, fs.FileMode, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || info.Size() > textBytesMax {
		return nil, 0, errors.Join(err, errors.New("too large"))
	}
	c.buffer.Reset()
	_, err = c.buffer.ReadFrom(io.LimitReader(file, textBytesMax))
	return c.buffer.Bytes(), info.Mode().Perm(), err
}

// write writes a text with its paths renamed.
func (c *CheckDir) write(path string, content []byte, mode fs.FileMode) error {
	if c.mentions(content) {
		content = c.rename(content)
	}
	if c.copied += int64(len(content)); c.copied > copiedBytesMax {
		return fmt.Errorf("there are more than %d bytes to copy; name smaller directories in check_dirs", copiedBytesMax)
	}
	return os.WriteFile(filepath.Join(c.Path, path), content, mode|0o400)
}

// mentions reports whether content is a text that may name a mirrored directory.
func (c *CheckDir) mentions(content []byte) bool {
	return slices.ContainsFunc(c.names, func(name string) bool { return bytes.Contains(content, []byte(name)) }) &&
		bytes.IndexByte(content, 0) < 0
}

// rename returns content with each path of a mirrored directory, and below one, replaced by the mirrored path.
func (c *CheckDir) rename(content []byte) []byte {
	var renamed bytes.Buffer
	for at := 0; at < len(content); {
		if content[at] == '/' && (at == 0 || !isInPath(content[at-1])) && c.isNamed(content[at:]) {
			renamed.WriteString(c.Path)
		}
		next := bytes.IndexByte(content[at+1:], '/')
		if next < 0 {
			next = len(content) - at - 1
		}
		renamed.Write(content[at : at+1+next])
		at += 1 + next
	}
	return renamed.Bytes()
}

// isNamed reports whether text begins with the path of a mirrored directory.
func (c *CheckDir) isNamed(text []byte) bool {
	return slices.ContainsFunc(c.names, func(name string) bool {
		rest, found := bytes.CutPrefix(text, []byte(name))
		return found && (len(rest) == 0 || rest[0] == '/' || !isInPath(rest[0]))
	})
}

// isInPath reports whether a character before a slash, or after a name, belongs to a longer path.
func isInPath(char byte) bool {
	return char >= 0x80 || char == '/' || char == '}' || strings.IndexByte("._-~+%", char) >= 0 ||
		'a' <= char && char <= 'z' || 'A' <= char && char <= 'Z' || '0' <= char && char <= '9'
}

// topmost returns clean paths in order, without those that are below another.
func topmost(dirs []string) []string {
	sorted := slices.Clone(dirs)
	slices.Sort(sorted)
	return slices.DeleteFunc(slices.Compact(sorted), func(dir string) bool {
		return slices.ContainsFunc(dirs, func(other string) bool { return dir != other && isBelow(dir, other) })
	})
}

// isBelow reports whether path is dir or below it.
func isBelow(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}
