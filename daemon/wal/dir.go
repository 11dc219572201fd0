package wal

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Dir is the directory that holds a log: the few things that this package asks of a file system.
// Names are those of files in it. What was done to the names is durable after SyncDir, what was
// written to a file after its Sync.
type Dir interface {
	// Names lists what is there, in any order.
	Names() ([]string, error)
	// Open opens a file for reading and writing. The error is fs.ErrNotExist if there is none.
	Open(name string) (File, error)
	// Create makes an empty file, in the place of another of that name.
	Create(name string) (File, error)
	// Rename gives a file another name, in the place of another of that name.
	Rename(from, to string) error
	// Remove removes a file.
	Remove(name string) error
	// SyncDir makes the names durable.
	SyncDir() error
	// Path is how the file is called in messages.
	Path(name string) string
}

// File is one file of a Dir. ReadAt and WriteAt are as in package io: all or an error.
type File interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	// Sync makes what was written durable, and the file's length.
	Sync() error
	// Size returns the file's length in bytes.
	Size() (int64, error)
	Close() error
}

// DirAt returns the directory at path, which must exist. Files made in it can be read by their owner
// only.
func DirAt(path string) Dir { return osDir{path: path, flags: os.O_RDWR} }

// ReadOnlyDirAt returns the directory at path, in which nothing can be changed.
func ReadOnlyDirAt(path string) Dir { return osDir{path: path, flags: os.O_RDONLY} }

type osDir struct {
	path  string
	flags int // O_RDWR or O_RDONLY
}

func (d osDir) Path(name string) string { return filepath.Join(d.path, name) }

func (d osDir) Names() ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names, nil
}

func (d osDir) Open(name string) (File, error) { return d.open(name, d.flags) }

func (d osDir) Create(name string) (File, error) {
	if d.flags == os.O_RDONLY {
		return nil, errReadOnly
	}
	return d.open(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
}

func (d osDir) open(name string, flags int) (File, error) {
	f, err := os.OpenFile(d.Path(name), flags, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (d osDir) Rename(from, to string) error {
	if d.flags == os.O_RDONLY {
		return errReadOnly
	}
	return os.Rename(d.Path(from), d.Path(to))
}

func (d osDir) Remove(name string) error {
	if d.flags == os.O_RDONLY {
		return errReadOnly
	}
	return os.Remove(d.Path(name))
}

func (d osDir) SyncDir() error {
	f, err := os.Open(d.path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Sync leaves out what a reader does not need, such as the time of the last change.
func (f osFile) Sync() error {
	var syncErr error
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	err = raw.Control(func(fd uintptr) {
		for {
			if syncErr = unix.Fdatasync(int(fd)); !errors.Is(syncErr, unix.EINTR) {
				return
			}
		}
	})
	if err == nil && syncErr != nil {
		err = &os.PathError{Op: "fdatasync", Path: f.Name(), Err: syncErr}
	}
	return err
}
