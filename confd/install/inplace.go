package install

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// A destination that is itself a mount cannot be replaced by a rename. It is written in place, which a crash can
// cut short; so the old content is kept in a hidden file beside it for as long as that takes. The first line of that
// file has the sum of the new content, by which a finished write is told from one cut short.

// keptHeader is the first line of the kept content.
const keptHeader = "kvconfd in-place 1 next=%x sha256=%x\n"

func (f File) keptPath() string { return f.hidden(keptSuffix) }

// overwrite writes the staged content into the destination. After an error the old content is there again.
func (s *Staged) overwrite() error {
	old, err := readBounded(s.target, goodBytesMax)
	if err != nil {
		return fmt.Errorf("cannot write %s in place, which has to be because it is a mount: %w", s.target, err)
	}
	header := fmt.Sprintf(keptHeader, sha256.Sum256(s.content), sha256.Sum256(old))
	if err := writeDurably(s.file.keptPath(), append([]byte(header), old...), 0o600); err != nil {
		return fmt.Errorf("cannot keep the content of %s while it is written in place, which has to be because it is a mount: %w", s.target, err)
	}
	if failed, err := s.file.writeInto(s.target, s.content); err != nil {
		err = s.file.explain(s.target, failed, err)
		restored := s.file
		restored.fault = nil
		_, back := restored.writeInto(s.target, old)
		if back != nil {
			return errors.Join(err, fmt.Errorf("and its old content, which is in %s, cannot be put back: %w", s.file.keptPath(), back))
		}
		return errors.Join(err, removeIfThere(s.file.keptPath()))
	}
	s.Discard()
	return removeIfThere(s.file.keptPath())
}

// writeInto makes content the content of an existing file. What is there is written over before the file is cut
// to its length, so that a full disk takes away as little as possible.
func (f File) writeInto(path string, content []byte) (failed string, err error) {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return "open", err
	}
	failed, err = f.fill(file, content)
	if err == nil {
		failed, err = "truncate", file.Truncate(int64(len(content)))
	}
	if err == nil {
		failed, err = "sync", file.Sync()
	}
	if closed := file.Close(); err == nil && closed != nil {
		failed, err = "write", closed
	}
	return failed, err
}

// Heal finishes what a crash has cut short while the destination was written in place: the destination gets its
// old content back, unless the new one is complete.
func (f File) Heal() error {
	data, err := readBounded(f.keptPath(), goodBytesMax+256)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	header, old, _ := bytes.Cut(data, []byte("\n"))
	var next, sum []byte
	if _, err := fmt.Sscanf(string(header)+"\n", keptHeader, &next, &sum); err != nil || !sums(old, sum) {
		return fmt.Errorf("%s is not the content that kvconfd kept: it is not put back, remove it", f.keptPath())
	}
	target, err := f.target()
	if err != nil {
		return err
	}
	current, err := readBounded(target, goodBytesMax)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return removeIfThere(f.keptPath())
	case err != nil:
		return err
	case sums(current, next):
		return removeIfThere(f.keptPath())
	}
	if failed, err := f.writeInto(target, old); err != nil {
		return f.explain(target, failed, err)
	}
	return removeIfThere(f.keptPath())
}

// sums reports whether sum is that of content.
func sums(content, sum []byte) bool {
	want := sha256.Sum256(content)
	return bytes.Equal(want[:], sum)
}
