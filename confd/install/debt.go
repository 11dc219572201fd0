package install

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A reload that has not succeeded yet is a debt, kept as a hidden file beside the destination. It
// is written before the destination changes and removed after the reload, so that no crash in
// between can leave the new file on disk and the old one in the running program.
//
// The last version that was confirmed to run can be kept in the same way, to go back to and to compare with.

const (
	debtSuffix = ".reload-pending"
	goodSuffix = ".last-good"
	keptSuffix = ".in-place" // the old content while a mount is written in place
	madeSuffix = ".manifest" // the files that a resource with for_each has made
)

func (f File) debtPath() string { return f.hidden(debtSuffix) }
func (f File) goodPath() string { return f.hidden(goodSuffix) }

func (f File) hidden(suffix string) string {
	return filepath.Join(filepath.Dir(f.Path), "."+short(filepath.Base(f.Path))+suffix)
}

// short returns name, or for a very long one its beginning and its sum, so that what is kept beside it can have
// a name too.
func short(name string) string {
	const longest, beginning = 230, 180
	if len(name) <= longest {
		return name
	}
	return fmt.Sprintf("%s~%x", name[:beginning], sha256.Sum256([]byte(name)))[:longest]
}

// IsBeside reports whether path is named like one of the files that this package keeps beside
// destinations: staged, a debt, a version to go back to, an old content, or a manifest.
func IsBeside(path string) bool {
	suffix := filepath.Ext(path)
	isStaged := len(suffix) > 1 && strings.Trim(suffix[1:], "0123456789") == ""
	return strings.HasPrefix(filepath.Base(path), ".") && (isStaged || slices.Contains([]string{debtSuffix, goodSuffix, keptSuffix, madeSuffix}, suffix))
}

const debtText = "kvconfd changed %s and has not yet reloaded its reader\n"

// Owe records that the destination's reader has to be told of a change. A command that is paying an earlier debt, as
// one that a killed kvconfd has left behind, stays noted.
func (f File) Owe() error {
	return writeDurably(f.debtPath(), []byte(fmt.Sprintf(debtText, f.Path)+f.Teller().line()), 0o600)
}

// OweInPassing is Owe without waiting for the disk: the record outlives this process, but not the machine. It
// will do where the reader is a program of the same machine that is told at once, as it ends with the machine
// and then reads the file.
func (f File) OweInPassing() error {
	return os.WriteFile(f.debtPath(), []byte("kvconfd is telling the reader of "+f.Path+" of a change\n"+f.Teller().line()), 0o600)
}

// Owes reports whether a reload is still due.
func (f File) Owes() (bool, error) {
	_, err := os.Lstat(f.debtPath())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Paid forgets the debt.
func (f File) Paid() error { return removeIfThere(f.debtPath()) }

// Good is a version of a destination that was confirmed to run.
type Good struct {
	Content []byte
	Index   uint64 // of the store it was made from, 0 if that is not known
	Keys    int    // that it was made from, -1 if that is not known
}

// goodBytesMax bounds a kept version, and a destination that is read to be kept.
const goodBytesMax = 64 << 20

// goodHeader is the first line of a kept version; the content follows.
const goodHeader = "kvconfd last-good 1 index=%d keys=%d sha256=%x\n"

// KeepGood keeps g as the version to go back to, readable by kvconfd alone. It replaces the one kept before,
// whole or not at all.
func (f File) KeepGood(g Good) error {
	header := fmt.Sprintf(goodHeader, g.Index, g.Keys, sha256.Sum256(g.Content))
	return writeDurably(f.goodPath(), append([]byte(header), g.Content...), 0o600)
}

// Good returns the version kept by KeepGood; ok is false if there is none. What is not as KeepGood wrote it
// is an error and never returned.
func (f File) Good() (g Good, ok bool, err error) {
	data, err := readBounded(f.goodPath(), goodBytesMax+256)
	if errors.Is(err, fs.ErrNotExist) {
		return Good{}, false, nil
	}
	if err != nil {
		return Good{}, false, err
	}
	g, err = parseGood(data)
	if err != nil {
		return Good{}, false, fmt.Errorf("%s is not a version that kvconfd kept: %w; it is not used, remove it", f.goodPath(), err)
	}
	return g, true, nil
}

// parseGood reads what KeepGood wrote.
func parseGood(data []byte) (Good, error) {
	header, content, found := bytes.Cut(data, []byte("\n"))
	if !found {
		return Good{}, errors.New("its first line is missing")
	}
	g := Good{Content: content}
	var sum []byte
	if _, err := fmt.Sscanf(string(header)+"\n", goodHeader, &g.Index, &g.Keys, &sum); err != nil {
		return Good{}, fmt.Errorf("its first line is %.100q", header)
	}
	if !sums(content, sum) {
		return Good{}, errors.New("its content was changed or cut off")
	}
	return g, nil
}

// ForgetGood removes the version to go back to.
func (f File) ForgetGood() error { return removeIfThere(f.goodPath()) }

// Current returns what the destination holds; ok is false if there is none.
func (f File) Current() (content []byte, ok bool, err error) {
	content, err = readBounded(f.Path, goodBytesMax)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	return content, err == nil, err
}

// readBounded reads a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return data, err
}

func writeDurably(path string, content []byte, mode fs.FileMode) error {
	side := File{Path: path, Mode: &mode, UID: -1, GID: -1}
	staged, err := side.Stage(content)
	if err != nil {
		return err
	}
	if err := staged.Commit(); err != nil {
		staged.Discard()
		return err
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
