package health

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

// BenchmarkCheck is one passing check of a server in the same process, which does its part of the work.
func BenchmarkCheck(b *testing.B) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			connection.Close()
		}
	}()
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	for name, check := range map[string]Check{
		"tcp": TCP{Address: listener.Addr().String()}, "http": HTTP{URL: server.URL}, "exec": Exec{Args: []string{"true"}},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := check.Run(context.Background()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
