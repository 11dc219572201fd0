package daemon

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// onlyAnswers passes every segment but one that begins a connection: of the flags, SYN without ACK.
var onlyAnswers = [...]unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 13},
	{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0x12},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0x02, Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
}

// deafen has the system pass over whoever wants to connect to l, as if the packet were lost: they try again after a
// second, and are refused when l has been closed by then. Where that is not possible, nothing happens.
func deafen(l net.Listener) {
	filter := onlyAnswers
	control(l, func(fd int) {
		_ = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	})
}

// waiting returns how many connections to l have not been accepted yet, 0 if that cannot be known.
func waiting(l net.Listener) int {
	queued := 0
	control(l, func(fd int) {
		if info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			queued = int(info.Unacked) // which has this meaning for a socket that listens
		}
	})
	return queued
}

// control calls f with the descriptor of l, if it has one.
func control(l net.Listener, f func(fd int)) {
	socket, ok := l.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := socket.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { f(int(fd)) })
	}
}
