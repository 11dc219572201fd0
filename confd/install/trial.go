package install

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// A check that looks at nothing but the destination has to find the new version there. For as long as that takes
// the old one is kept beside it, so that no crash leaves a version in place that no check has agreed to.

const (
	trialSuffix = ".on-trial"     // the old version, while a new one is in place to be checked
	firstSuffix = ".on-trial-new" // the same, where there was no old one
)

func (f File) trialPath() string { return f.hidden(trialSuffix) }
func (f File) firstPath() string { return f.hidden(firstSuffix) }

// Try puts the staged version in the destination's place for a check. Commit lets it stay, Withdraw brings back
// what was there before; one of them has to follow, Withdraw after an error too.
func (s *Staged) Try() error {
	if err := s.file.keepForTrial(); err != nil {
		return fmt.Errorf("cannot keep the old version of %s while the new one is checked in its place: %w", s.file.Path, err)
	}
	if err := s.Commit(); err != nil {
		return err
	}
	s.tried = true
	return nil
}

// keepForTrial keeps what the destination holds.
func (f File) keepForTrial() error {
	old, ok, err := f.Current()
	if err != nil {
		return err
	}
	if !ok {
		return writeDurably(f.firstPath(), nil, 0o600)
	}
	mode := f.mode()
	kept := File{Path: f.trialPath(), Mode: &mode, UID: f.UID, GID: f.GID, fault: f.fault}
	staged, err := kept.Stage(old)
	if err != nil {
		return err
	}
	if err := staged.Commit(); err != nil {
		staged.Discard()
		return err
	}
	return nil
}

// endTrial forgets what the destination held before.
func (f File) endTrial() error {
	return errors.Join(removeIfThere(f.trialPath()), removeIfThere(f.firstPath()))
}

// Withdraw ends a trial that was begun and not ended, be it by a process that is no more: the destination is what
// it was before. It reports whether there was one.
func (f File) Withdraw() (bool, error) {
	old, err := readBounded(f.trialPath(), goodBytesMax)
	if errors.Is(err, fs.ErrNotExist) {
		return f.withdrawFirst()
	}
	if err != nil {
		return false, err
	}
	target, err := f.target()
	if err != nil {
		return false, err
	}
	staged := &Staged{Path: f.trialPath(), file: f, target: target, content: old}
	return true, staged.Commit()
}

// withdrawFirst is Withdraw where there was no file before.
func (f File) withdrawFirst() (bool, error) {
	if _, err := os.Lstat(f.firstPath()); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return false, err
	}
	target, err := f.target()
	if err == nil {
		err = removeIfThere(target)
	}
	if err == nil {
		err = syncDir(filepath.Dir(target))
	}
	if err != nil {
		return false, err
	}
	return true, removeIfThere(f.firstPath())
}
