package kvclient

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// A link that dies without a word cannot be made on loopback without a firewall, so this looks
// at what the kernel was told to do about one.
func TestConnectionsNoticeADeadLinkWithinTenSeconds(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	transport, err := newTransport(Config{})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := transport.DialContext(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	option := func(level, name int) (value int) {
		if err := raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), level, name) }); err != nil {
			t.Fatal(err)
		}
		return value
	}
	if option(unix.SOL_SOCKET, unix.SO_KEEPALIVE) == 0 {
		t.Error("no keepalive")
	}
	idle, interval, count := option(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE), option(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL), option(unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
	if seconds := idle + interval*count; idle < 5 || seconds > 10 {
		t.Errorf("probes begin after %d s and give up after %d s, want 5 to 10", idle, seconds)
	}
	if milliseconds := option(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); milliseconds < 5000 || milliseconds > 10_000 {
		t.Errorf("unacknowledged data is given up after %d ms, want 5 to 10 s", milliseconds)
	}
}
