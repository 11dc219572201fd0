package certs

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// onlyOurs fails when others than the owner may use path. mode is what it should have.
func onlyOurs(path, mode string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("others than its owner can use %s (mode %04o): chmod %s %[1]s, or use another directory", path, info.Mode().Perm(), mode)
	}
	return nil
}

// keep writes the files of a new certificate, the key first. It leaves neither when one of them is
// there already.
func (ca *CA) keep(name string, cert *x509.Certificate, keyPEM []byte) error {
	crt, key := ca.path(name+crtEnding), ca.path(name+keyEnding)
	for _, path := range []string{crt, key} {
		if _, err := os.Lstat(path); err == nil {
			return taken(path)
		}
	}
	if err := create(key, keyPEM); err != nil {
		return err
	}
	if err := create(crt, certPEM(cert)); err != nil {
		return errors.Join(err, os.Remove(key))
	}
	return nil
}

func taken(path string) error {
	return fmt.Errorf("%s is there already and is not overwritten: renew it, remove it, or use another name or --out", path)
}

// create writes a file that is not there yet. It comes into place whole and on disk.
func create(path string, data []byte) error {
	temporary, err := write(path, data)
	if err != nil {
		return err
	}
	defer os.Remove(temporary)
	if err := os.Link(temporary, path); errors.Is(err, fs.ErrExist) { // unlike a rename, it takes nobody's place
		return taken(path)
	} else if err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// replace writes a file, in the place of the one before if there is one.
func replace(path string, data []byte) error {
	temporary, err := write(path, data)
	if err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return syncDir(filepath.Dir(path))
}

// write returns a new file beside path, for its owner alone, with data on disk.
func write(path string, data []byte) (temporary string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return "", err
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(data); err != nil {
		return "", err
	}
	return f.Name(), f.Sync()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
