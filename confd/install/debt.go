package install

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A reload that has not succeeded yet is a debt, kept as a hidden file beside the destination. It
// is written before the destination changes and removed after the reload, so that no crash in
// between can leave the new file on disk and the old one in the running program.
//
// The last version that was reloaded with success can be kept in the same way, to go back to.

const (
	debtSuffix = ".reload-pending"
	goodSuffix = ".last-good"
)

func (f File) debtPath() string { return f.hidden(debtSuffix) }
func (f File) goodPath() string { return f.hidden(goodSuffix) }

func (f File) hidden(suffix string) string {
	return filepath.Join(filepath.Dir(f.Path), "."+filepath.Base(f.Path)+suffix)
}

// IsBeside reports whether path is named like one of the files that this package keeps beside
// destinations: staged, a debt, or a version to go back to.
func IsBeside(path string) bool {
	suffix := filepath.Ext(path)
	isStaged := len(suffix) > 1 && strings.Trim(suffix[1:], "0123456789") == ""
	return strings.HasPrefix(filepath.Base(path), ".") && (isStaged || suffix == debtSuffix || suffix == goodSuffix)
}

// Owe records that the destination's reader has to be told of a change.
func (f File) Owe() error {
	return writeDurably(f.debtPath(), []byte("kvconfd changed "+f.Path+" and has not yet reloaded its reader\n"), 0o600)
}

// Owes reports whether a reload is still due.
func (f File) Owes() (bool, error) {
	_, err := os.Lstat(f.debtPath())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Paid forgets the debt, and the version to go back to.
func (f File) Paid() error {
	return errors.Join(removeIfThere(f.debtPath()), removeIfThere(f.goodPath()))
}

// KeepGood copies the destination aside as the version to go back to. It does nothing while a
// reload is owed, because then the destination has not proved good, nor without a destination.
func (f File) KeepGood() error {
	if owes, err := f.Owes(); owes || err != nil {
		return err
	}
	content, err := os.ReadFile(f.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return writeDurably(f.goodPath(), content, 0o600)
}

// Good returns the version kept by KeepGood; ok is false if there is none.
func (f File) Good() (content []byte, ok bool, err error) {
	content, err = os.ReadFile(f.goodPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	return content, err == nil, err
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
