//go:build !linux

package peer

import (
	"net"
	"time"
)

// tune has the system notice soon that the other host is gone.
func tune(conn net.Conn, _ time.Duration) {
	if tcp := tcpBehind(conn); tcp != nil {
		tcp.SetKeepAliveConfig(keepAlive)
	}
}
