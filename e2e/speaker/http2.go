package speaker

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// speaks is a connection. send returns once the headers of the answer are here, lasting lets the rest take any
// time, and Close ends what is under way.
type speaks interface {
	send(r request) (*http.Response, error)
	lasting()
	Close() error
}

// NewHTTP2 is New for a dialogue over HTTP/2, of which the server may close each connection by itself: over TLS
// for a url that begins with https, and else with prior knowledge.
func NewHTTP2(url, home string, config *tls.Config) (*Speaker, error) {
	scheme, address, _ := strings.Cut(url, "://")
	s := &Speaker{address: address, home: home, plain: map[string]speaks{}, pending: map[string]*Pending{}}
	s.dial = func(request) (speaks, error) {
		t := &http.Transport{Protocols: new(http.Protocols), TLSClientConfig: config.Clone(), DisableCompression: true}
		t.Protocols.SetHTTP2(scheme == "https")
		t.Protocols.SetUnencryptedHTTP2(scheme == "http")
		ctx, cancel := context.WithCancel(context.Background())
		return &multiplexed{scheme: scheme, address: address, transport: t, ctx: ctx, cancel: cancel}, nil
	}
	return s, s.begin()
}

// multiplexed is a connection of HTTP/2, made when it is needed.
type multiplexed struct {
	scheme, address string
	transport       *http.Transport
	ctx             context.Context
	cancel          context.CancelFunc // of all that was sent
}

func (m *multiplexed) send(r request) (*http.Response, error) {
	headers := time.AfterFunc(answerMax, m.cancel)
	defer headers.Stop()
	var body io.Reader = http.NoBody
	if r.body != "" || r.chunked {
		body = strings.NewReader(r.body)
	}
	if r.chunked {
		body = struct{ io.Reader }{body} // of a length that is not known
	}
	asked, err := http.NewRequestWithContext(m.ctx, r.method, m.scheme+"://"+m.address, body)
	if err != nil {
		return nil, err
	}
	asked.URL = &url.URL{Scheme: m.scheme, Host: m.address, Opaque: r.target}
	asked.Header["User-Agent"] = nil
	for _, line := range r.header {
		name, value, _ := strings.Cut(line, ":")
		if value = strings.TrimSpace(value); strings.EqualFold(name, "Host") {
			asked.Host = value
		} else {
			asked.Header.Add(name, value)
		}
	}
	return m.transport.RoundTrip(asked)
}

func (m *multiplexed) lasting() {}

// Close ends the connection and all requests on it.
func (m *multiplexed) Close() error {
	m.cancel()
	m.transport.CloseIdleConnections()
	return nil
}

// dialer returns how connections to address are made over HTTP/1.1.
func dialer(address string) func(r request) (speaks, error) {
	return func(r request) (speaks, error) { return dial(address, r) }
}
