package install

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Manifest remembers which files of one directory a resource with for_each has made, so that those whose key
// is gone can be removed, and no others ever. It is a hidden file in that directory, written whole and flushed.
// It belongs to one goroutine.
type Manifest struct {
	dir, name, prefix, suffix string

	files map[string][]string // by name: the sums of what was written last, the newest at the end
}

// manifestDocument is the form of a manifest on disk.
type manifestDocument struct {
	Format int                 `json:"format"`
	Files  map[string][]string `json:"files"`
}

const (
	manifestFormat   = 1
	manifestBytesMax = 64 << 20
	// sumsMax is how many versions of a file are remembered: the last ones that were to be written, and the
	// one that was.
	sumsMax = 16
)

// OpenManifest reads the manifest of the resource called name (resource.Resource.Name) for the files in dir
// whose names begin with prefix and end with suffix. One that is not there is empty. One that is damaged, or
// that somebody else could have written, is an error: nothing is removed on its word.
func OpenManifest(dir, name, prefix, suffix string) (*Manifest, error) {
	m := &Manifest{dir: dir, name: manifestName(name), prefix: prefix, suffix: suffix}
	m.files = map[string][]string{}
	data, err := m.read()
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err == nil {
		m.files, err = parseManifest(data, m.isOwn)
	}
	if err != nil {
		return nil, fmt.Errorf("manifest %s cannot be used: %w; nothing is removed on its word: remove it, and files that are no longer wanted by hand", m.path(), err)
	}
	return m, nil
}

func (m *Manifest) path() string { return m.File().hidden(madeSuffix) }

// File returns a File whose debt stands for all files of the manifest, also for those that are gone. It is not
// itself a destination.
func (m *Manifest) File() File { return bookAt(m.dir, m.name) }

// Book returns the File of the manifest that OpenManifest opens, which need not be there.
func Book(dir, name string) File { return bookAt(dir, manifestName(name)) }

func bookAt(dir, name string) File { return File{Path: filepath.Join(dir, name), UID: -1, GID: -1} }

func manifestName(resource string) string { return strings.ReplaceAll(resource, "/", "~") }

// read returns what is on disk if nobody else can have written it.
func (m *Manifest) read() ([]byte, error) {
	info, err := os.Lstat(m.path())
	if err != nil {
		return nil, err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o022 != 0 || ok && int(owner.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("it is not a file that user %d alone can write", os.Geteuid())
	}
	return readBounded(m.path(), manifestBytesMax)
}

// parseManifest reads a manifest. isOwn says which names it may hold.
func parseManifest(data []byte, isOwn func(name string) bool) (map[string][]string, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	var document manifestDocument
	if err := decoder.Decode(&document); err != nil {
		return nil, fmt.Errorf("it is damaged: %w", err)
	}
	if document.Format != manifestFormat {
		return nil, fmt.Errorf("its format is %d, and %d is known", document.Format, manifestFormat)
	}
	for name, sums := range document.Files {
		if !isOwn(name) || len(sums) == 0 || len(sums) > sumsMax || slices.ContainsFunc(sums, isNoSum) {
			return nil, fmt.Errorf("its entry %.100q is not one that was written", name)
		}
	}
	if document.Files == nil {
		document.Files = map[string][]string{}
	}
	return document.Files, nil
}

func isNoSum(text string) bool {
	sum, err := hex.DecodeString(text)
	return err != nil || len(sum) != sha256.Size
}

// isOwn reports whether name is one that the resource gives to its files.
func (m *Manifest) isOwn(name string) bool {
	return name != "" && !strings.HasPrefix(name, ".") && !strings.ContainsAny(name, "/\x00") &&
		len(name) >= len(m.prefix)+len(m.suffix) && strings.HasPrefix(name, m.prefix) && strings.HasSuffix(name, m.suffix)
}

// Note records that the files with these paths are about to be written with these contents. It returns once
// that is on disk, and writes nothing if it is known already. A path that is not one of the resource's files is
// an error, and nothing is recorded.
func (m *Manifest) Note(contents map[string][]byte) error {
	changed := map[string][]string{}
	for path, content := range contents {
		name := filepath.Base(path)
		if filepath.Dir(path) != m.dir || !m.isOwn(name) {
			return fmt.Errorf("%s is not a file that this resource may write", path)
		}
		sum := sumOf(content)
		if known := m.files[name]; len(known) == 0 || known[len(known)-1] != sum {
			kept := slices.DeleteFunc(slices.Clone(known), func(s string) bool { return s == sum })
			changed[name] = trimmed(path, append(kept, sum))
		}
	}
	if len(changed) == 0 {
		return nil
	}
	for name, sums := range m.files {
		if _, ok := changed[name]; !ok {
			changed[name] = sums
		}
	}
	return m.save(changed)
}

// trimmed returns sums without the oldest if they are too many, but with that of what is at path now: whatever
// was noted since may never have been written.
func trimmed(path string, sums []string) []string {
	if len(sums) <= sumsMax {
		return sums
	}
	oldest := 0
	if content, err := readBounded(path, goodBytesMax); err == nil && sumOf(content) == sums[0] {
		oldest = 1
	}
	return slices.Delete(sums, oldest, oldest+1)
}

func sumOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// save makes files the manifest, on disk and here.
func (m *Manifest) save(files map[string][]string) error {
	data, err := json.Marshal(manifestDocument{Format: manifestFormat, Files: files})
	if err != nil {
		return err
	}
	if err := writeDurably(m.path(), data, 0o600); err != nil {
		return err
	}
	m.files = files
	return nil
}

// Gone returns the paths of the files made that are not among current, in order.
func (m *Manifest) Gone(current []string) []string {
	wanted := map[string]bool{}
	for _, path := range current {
		wanted[path] = true
	}
	var gone []string
	for name := range m.files {
		if path := filepath.Join(m.dir, name); !wanted[path] {
			gone = append(gone, path)
		}
	}
	slices.Sort(gone)
	return gone
}

// Remove removes files, which Gone has returned, with what is kept beside them, and then forgets them. A file
// that is not there is no error. One that cannot be removed, or that Check says is not to be, does not stop the others,
// and is not forgotten.
func (m *Manifest) Remove(paths []string) error {
	left := map[string][]string{}
	for name, sums := range m.files {
		left[name] = sums
	}
	var problems []error
	for _, path := range paths {
		err := m.remove(path)
		if err == nil {
			delete(left, filepath.Base(path))
		}
		problems = append(problems, err)
	}
	if len(left) < len(m.files) {
		problems = append(problems, syncDir(m.dir), m.save(left))
	}
	return errors.Join(problems...)
}

// Check reports why a file, which Gone has returned, is not to be removed: it is not as it was written, because somebody
// has changed or replaced it, or that cannot be seen. A file that is not there is no error.
func (m *Manifest) Check(path string) error {
	sums, made := m.files[filepath.Base(path)]
	if !made || filepath.Dir(path) != m.dir {
		return fmt.Errorf("%s is not a file that this resource has made", path)
	}
	edited := fmt.Errorf("%s is no longer wanted, but somebody has changed it: it is left as it is; remove it by hand", path)
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return edited
	}
	content, err := readBounded(path, max(info.Size(), 1))
	if err != nil {
		return fmt.Errorf("cannot see whether %s may be removed: %w", path, err)
	}
	if !slices.Contains(sums, sumOf(content)) {
		return edited
	}
	return nil
}

// remove removes one file.
func (m *Manifest) remove(path string) error {
	if err := m.Check(path); err != nil {
		return err
	}
	if err := removeIfThere(path); err != nil {
		return fmt.Errorf("cannot remove %s, whose key is gone: %w", path, err)
	}
	return File{Path: path}.removeKept()
}

// removeKept removes what is kept beside a destination.
func (f File) removeKept() error {
	return errors.Join(f.Paid(), f.ForgetGood(), removeIfThere(f.keptPath()))
}
