package health

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"google.golang.org/protobuf/encoding/protowire"
)

// GRPC passes when a server that speaks the gRPC health checking protocol, grpc.health.v1, says that
// Service is SERVING.
type GRPC struct {
	Address  string // "HOST:PORT"
	Service  string // its full name; "" is the server as a whole
	Secure   bool   // TLS; otherwise HTTP/2 in the clear
	Insecure bool   // with Secure: accept any certificate
	Host     string // for the server to choose by, and the name in its certificate; "" means Address
}

// answerBytesMax bounds the answer: one small number, and what a later version may add.
const answerBytesMax = 4 << 10

const (
	grpcPath        = "/grpc.health.v1.Health/Check"
	grpcHeaderBytes = 5 // of a message: whether it is compressed, and its length

	serviceField = 1 // of the request, a string
	statusField  = 1 // of the answer, an enumeration
)

// servingStatus are the names of the answer's statuses.
var servingStatus = [...]string{"UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"}

// Run is Ask.
func (c GRPC) Run(ctx context.Context) error {
	_, err := c.Ask(ctx)
	return err
}

// Ask makes one call over a connection of its own.
func (c GRPC) Ask(ctx context.Context) (string, error) {
	seen, err := c.ask(ctx)
	if err != nil {
		return "", fmt.Errorf("grpc check: %w", err)
	}
	return seen, nil
}

func (c GRPC) ask(ctx context.Context) (string, error) {
	var protocols http.Protocols
	scheme := "http"
	if c.Secure {
		scheme = "https"
	}
	protocols.SetHTTP2(c.Secure)
	protocols.SetUnencryptedHTTP2(!c.Secure)
	transport := newTransport(c.Insecure, c.Host)
	transport.Protocols = &protocols
	defer transport.CloseIdleConnections()
	target := (&url.URL{Scheme: scheme, Host: c.Address, Path: grpcPath}).String()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(grpcMessage(c.Service)))
	if err != nil {
		return "", err
	}
	request.Host = c.Host
	request.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "User-Agent": {userAgent}}
	response, err := transport.RoundTrip(request)
	if err != nil {
		if !c.Secure && c.speaksHTTP1(ctx, err) {
			return "", fmt.Errorf("%s speaks HTTP/1.1, not gRPC", c.Address)
		}
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, answerBytesMax))
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answers %s, not as a gRPC server", c.Address, response.Status)
	}
	status := response.Trailer.Get("Grpc-Status")
	message := response.Trailer.Get("Grpc-Message")
	if status == "" { // an answer without a message has them in its header
		status, message = response.Header.Get("Grpc-Status"), response.Header.Get("Grpc-Message")
	}
	switch status {
	case "0":
	case "5":
		return "", fmt.Errorf("%s knows no service %q", c.Address, c.Service)
	case "12":
		return "", fmt.Errorf("%s does not offer grpc.health.v1", c.Address)
	default:
		return "", fmt.Errorf("%s answers with status %.20q %.100q", c.Address, status, message)
	}
	serving, err := parseGRPCAnswer(body)
	if err != nil {
		return "", fmt.Errorf("%s: %w", c.Address, err)
	}
	name := fmt.Sprintf("status %d", serving)
	if serving < uint64(len(servingStatus)) {
		name = servingStatus[serving]
	}
	if name != "SERVING" {
		return "", fmt.Errorf("%s says %s", c.Address, name)
	}
	return name, nil
}

// speaksHTTP1 reports whether the server of a call that failed answers HTTP/1: what becomes of HTTP/2
// there is one of several errors, by chance, and none that explains itself.
func (c GRPC) speaksHTTP1(ctx context.Context, err error) bool {
	if unreached := (*net.OpError)(nil); ctx.Err() != nil || errors.As(err, &unreached) && unreached.Op == "dial" {
		return false
	}
	connection, err := dialer().DialContext(ctx, "tcp", c.Address)
	if err != nil {
		return false
	}
	defer connection.Close()
	if end, ok := ctx.Deadline(); ok {
		_ = connection.SetDeadline(end) // of a connection that is open
	}
	defer context.AfterFunc(ctx, func() { connection.Close() })()
	if _, err := io.WriteString(connection, "OPTIONS * HTTP/1.1\r\nHost: "+c.Address+"\r\nConnection: close\r\n\r\n"); err != nil {
		return false
	}
	answer := make([]byte, len(http1))
	_, err = io.ReadFull(connection, answer)
	return err == nil && string(answer) == http1
}

// http1 is what an answer of HTTP/1 begins with.
const http1 = "HTTP/1."

func (c GRPC) String() string {
	scheme := "grpc"
	switch {
	case c.Secure && c.Insecure:
		scheme = "grpcs+insecure"
	case c.Secure:
		scheme = "grpcs"
	}
	text := scheme + "://" + c.Address
	if c.Service != "" {
		text += "/" + c.Service
	}
	if c.Host != "" {
		text += " host=" + c.Host
	}
	return text
}

// grpcMessage is a HealthCheckRequest as it is sent.
func grpcMessage(service string) []byte {
	message := make([]byte, grpcHeaderBytes)
	if service != "" {
		message = protowire.AppendTag(message, serviceField, protowire.BytesType)
		message = protowire.AppendString(message, service)
	}
	binary.BigEndian.PutUint32(message[1:], uint32(len(message)-grpcHeaderBytes))
	return message
}

var errNoAnswer = errors.New("the answer is no HealthCheckResponse")

// parseGRPCAnswer returns the status of a HealthCheckResponse as it is received.
func parseGRPCAnswer(body []byte) (status uint64, err error) {
	if len(body) < grpcHeaderBytes || body[0] != 0 || uint64(binary.BigEndian.Uint32(body[1:])) != uint64(len(body)-grpcHeaderBytes) {
		return 0, errNoAnswer
	}
	for rest := body[grpcHeaderBytes:]; len(rest) > 0; {
		number, kind, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return 0, errNoAnswer
		}
		rest = rest[n:]
		if number == statusField && kind == protowire.VarintType {
			status, n = protowire.ConsumeVarint(rest)
		} else {
			n = protowire.ConsumeFieldValue(number, kind, rest)
		}
		if n < 0 {
			return 0, errNoAnswer
		}
		rest = rest[n:]
	}
	return status, nil
}
