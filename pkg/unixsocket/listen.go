// Package unixsocket is HTTP between programs of one host over a unix socket: a listener that takes the
// place of what a dead process has left, a server that bounds what a peer may take, and a client that says
// why nobody answers.
//
// Who may open the socket may ask everything: its file's mode decides. It knows no paths of any API.
package unixsocket

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	socketMode    = 0o660
	directoryMode = 0o755
	pathBytesMax  = 107 // of a unix socket on Linux, without the byte that ends it

	lockSuffix = ".lock"
	newSuffix  = ".new"

	// leaving is what a process that was killed has for its end, before it is said that it serves.
	leaving      = time.Second
	leavingRetry = 10 * time.Millisecond
)

// inUse is the error of a path that another process serves.
type inUse string

func (text inUse) Error() string { return string(text) }

// socket is a listener on a unix socket that it removes when it is closed.
type socket struct {
	net.Listener
	path string
	lock *os.File
}

// Listen listens on a unix socket at path, that who has its group may use. Its directory is made when it is
// missing. What a process that has died left there is replaced; a socket on which somebody listens, and
// anything that is no socket, is not. Closing the listener removes the socket. An error says that the path
// cannot be had: nothing was changed there. It blocks for a second if somebody listens: who was killed a
// moment ago may not have ended yet.
func Listen(path string) (net.Listener, error) {
	if most := pathBytesMax - len(newSuffix); len(path) > most {
		return nil, fmt.Errorf("socket %s: its path has %d bytes, at most %d are possible", path, len(path), most)
	}
	if err := os.MkdirAll(filepath.Dir(path), directoryMode); err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	for end := time.Now().Add(leaving); ; time.Sleep(leavingRetry) {
		taken, err := take(path)
		if err == nil {
			return taken, nil
		}
		if served := inUse(""); !errors.As(err, &served) || time.Now().After(end) {
			return nil, fmt.Errorf("socket %s: %w", path, err)
		}
	}
}

// take listens with the lock, if both can be had now.
func take(path string) (*socket, error) {
	lock, err := acquire(path + lockSuffix)
	if err != nil {
		return nil, err
	}
	listener, err := replace(path)
	if err != nil {
		lock.Close()
		return nil, err
	}
	return &socket{listener, path, lock}, nil
}

// acquire locks a file for the life of this process. The file stays: who removed it could take away
// what another one has locked.
func acquire(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		return nil, inUse("another process serves it; give this one another path")
	}
	return file, nil
}

// replace puts a new socket in the place of an old one at once. It is called with the lock.
func replace(path string) (net.Listener, error) {
	info, err := os.Lstat(path)
	switch {
	case err == nil && info.Mode().Type() != os.ModeSocket:
		return nil, errors.New("there is something that is no socket; remove it, or choose another path")
	case err == nil:
		if connection, err := net.Dial("unix", path); err == nil {
			connection.Close()
			return nil, inUse("another program listens there; choose another path")
		}
	case !errors.Is(err, os.ErrNotExist):
		return nil, err
	}
	fresh := path + newSuffix
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	err = os.Chmod(fresh, socketMode)
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		listener.Close()
		os.Remove(fresh)
		return nil, err
	}
	return listener, nil
}

// Close removes the socket and lets another process have it.
func (s *socket) Close() error {
	err := s.Listener.Close()
	if removed := os.Remove(s.path); err == nil && !errors.Is(removed, os.ErrNotExist) {
		err = removed
	}
	s.lock.Close()
	return err
}
