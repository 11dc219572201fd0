//go:build !linux

package peer

import "net"

// tune has the system notice soon that the other host is gone.
func tune(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetKeepAliveConfig(keepAlive)
	}
}
