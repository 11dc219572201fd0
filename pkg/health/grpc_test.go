package health

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
)

// serveGRPC starts a gRPC server and returns its address.
func serveGRPC(t *testing.T, register func(*grpc.Server), options ...grpc.ServerOption) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(options...)
	register(server)
	ended := make(chan struct{})
	go func() { defer close(ended); server.Serve(listener) }()
	t.Cleanup(func() { server.Stop(); <-ended })
	return listener.Addr().String()
}

func askGRPC(t *testing.T, form, address string) (string, error) {
	t.Helper()
	check, err := Parse(form, address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return check.(Talker).Ask(ctx)
}

func TestGRPCAsksTheHealthServiceOfARealServer(t *testing.T) {
	health := grpchealth.NewServer()
	health.SetServingStatus("shop.Basket", healthpb.HealthCheckResponse_SERVING)
	health.SetServingStatus("shop.Till", healthpb.HealthCheckResponse_NOT_SERVING)
	address := serveGRPC(t, func(s *grpc.Server) { healthpb.RegisterHealthServer(s, health) })
	for form, want := range map[string]string{
		"grpc": "", "grpc:/shop.Basket": "", "grpc:/shop.Basket host=shop.example": "",
		"grpc:/shop.Till":  "says NOT_SERVING",
		"grpc:/shop.Other": `knows no service "shop.Other"`,
		"grpcs":            "first record does not look like a TLS handshake",
	} {
		seen, err := askGRPC(t, form, address)
		if want == "" && (err != nil || seen != "SERVING") || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %q, %v", form, seen, err)
		}
	}
	health.Shutdown()
	if _, err := askGRPC(t, "grpc", address); err == nil || !strings.Contains(err.Error(), "NOT_SERVING") {
		t.Errorf("a server that shuts down: %v", err)
	}
}

func TestGRPCOverTLSVerifiesUnlessToldNotTo(t *testing.T) {
	lender := httptest.NewTLSServer(nil) // of its certificate, for example.com
	certificate := lender.TLS.Certificates[0]
	lender.Close()
	address := serveGRPC(t, func(s *grpc.Server) { healthpb.RegisterHealthServer(s, grpchealth.NewServer()) },
		grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{certificate}})))
	if _, err := askGRPC(t, "grpcs", address); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown certificate gave %v", err)
	}
	if seen, err := askGRPC(t, "grpcs+insecure", address); err != nil || seen != "SERVING" {
		t.Errorf("%q, %v", seen, err)
	}
}

func TestGRPCExplainsAServerOfAnotherKind(t *testing.T) {
	address := serveGRPC(t, func(*grpc.Server) {})
	if _, err := askGRPC(t, "grpc", address); err == nil || !strings.Contains(err.Error(), "does not offer grpc.health.v1") {
		t.Errorf("without a health service: %v", err)
	}
	plain := httptest.NewServer(nil)
	defer plain.Close()
	for range 20 { // whatever comes first, the answer or the end of the connection
		if _, err := askGRPC(t, "grpc", plain.Listener.Addr().String()); err == nil || !strings.HasSuffix(err.Error(), "speaks HTTP/1.1, not gRPC") {
			t.Fatalf("a server that knows no HTTP/2: %v", err)
		}
	}
}

// FuzzGRPCAnswer reads answers. What the library for protocol buffers reads as a status is read alike.
func FuzzGRPCAnswer(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 2, 8, 1})
	f.Add([]byte{0, 0, 0, 0, 0})
	f.Add([]byte{0, 255, 255, 255, 255, 8, 1})
	f.Fuzz(func(t *testing.T, body []byte) {
		status, err := parseGRPCAnswer(body)
		if len(body) < grpcHeaderBytes || body[0] != 0 || binary.BigEndian.Uint32(body[1:]) != uint32(len(body)-grpcHeaderBytes) {
			if err == nil {
				t.Fatalf("%x was read", body)
			}
			return
		}
		var want healthpb.HealthCheckResponse
		wantErr := proto.Unmarshal(body[grpcHeaderBytes:], &want)
		if wantErr == nil && (err != nil || int32(status) != int32(want.GetStatus())) {
			t.Fatalf("%x: status %d, %v; want %d", body, status, err, want.GetStatus())
		}
	})
}
