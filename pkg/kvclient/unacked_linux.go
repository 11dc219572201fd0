package kvclient

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// limitUnacked makes the kernel give up a connection whose data stays unacknowledged.
func limitUnacked(_, _ string, raw syscall.RawConn) error {
	var failed error
	err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unackedMax.Milliseconds()))
	})
	if err != nil {
		return err
	}
	return failed
}
