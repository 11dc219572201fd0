package daemon

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// waiting returns how many connections to l have not been accepted yet, 0 if that cannot be known.
func waiting(l net.Listener) int {
	socket, ok := l.(syscall.Conn)
	if !ok {
		return 0
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0
	}
	queued := 0
	raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			queued = int(info.Unacked) // which has this meaning for a socket that listens
		}
	})
	return queued
}
