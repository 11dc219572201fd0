package peer

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// tune has the system notice soon that the other host is gone, or takes nothing.
func tune(conn net.Conn, unacked time.Duration) {
	tcp := tcpBehind(conn)
	if tcp == nil {
		return
	}
	tcp.SetKeepAliveConfig(keepAlive)
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacked.Milliseconds()))
	})
}
