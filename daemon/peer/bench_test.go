package peer

import (
	"net"
	"testing"
)

// BenchmarkCall is one call after the other over loopback; BenchmarkCallAtOnce is the same where the
// other side answers without a goroutine of its own; BenchmarkCallParallel is 64 callers over
// the one connection; BenchmarkSocket is the floor of the first: the same bytes with one write and
// one read on each side.
func BenchmarkCall(b *testing.B) {
	town := newTown()
	a, _ := town.join(b, 1, quiet), town.join(b, 2, quiet)
	request, ctx := make([]byte, 256), within(b)
	if _, err := a.Call(ctx, 2, methodEcho, request); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Call(ctx, 2, methodEcho, request); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCallAtOnce(b *testing.B) {
	town := newTown()
	a, _ := town.join(b, 1, quiet), town.join(b, 2, quiet)
	request, ctx := make([]byte, 256), within(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Call(ctx, 2, methodMirror, request); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCallParallel(b *testing.B) {
	town := newTown()
	a, _ := town.join(b, 1, quiet), town.join(b, 2, quiet)
	ctx := b.Context()
	if _, err := a.Call(ctx, 2, methodEcho, nil); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		request := make([]byte, 256)
		for pb.Next() {
			if _, err := a.Call(ctx, 2, methodEcho, request); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkSocket(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	echoed := make(chan struct{})
	go func() {
		defer close(echoed)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		for buffer := make([]byte, 512); ; {
			n, err := conn.Read(buffer)
			if err != nil {
				return
			}
			conn.Write(buffer[:n])
		}
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	buffer := make([]byte, 270)
	for b.Loop() {
		conn.Write(buffer)
		if _, err := conn.Read(buffer); err != nil {
			b.Fatal(err)
		}
	}
	conn.Close()
	<-echoed
}

func quiet(c *setup) { c.Log = nil }
