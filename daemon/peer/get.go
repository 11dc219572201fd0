package peer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
)

// Get returns what a peer port answers to GET url, for members whose id is not known yet. t is nil
// exactly if url begins with http. At most 1 MiB is read, and ctx bounds the time. Errors: a *Refusal
// for any answer but 200, ctx's, those of the network; all name the address.
func Get(ctx context.Context, url string, t *TLS) ([]byte, error) {
	return request(ctx, http.MethodGet, url, nil, t)
}

// Post is Get with a body, which is JSON.
func Post(ctx context.Context, url string, body []byte, t *TLS) ([]byte, error) {
	return request(ctx, http.MethodPost, url, body, t)
}

func request(ctx context.Context, method, text string, body []byte, t *TLS) ([]byte, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, err
	}
	if err := checkScheme(u, t); err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, method, "http"+text[len(u.Scheme):], bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	// The transport is for this request alone. To it the connection is plain: connect adds TLS.
	transport := &http.Transport{
		DisableKeepAlives: true, MaxResponseHeaderBytes: headerBytesMax,
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return connect(ctx, patience{helloTimeout, helloTimeout}, nil, address, t)
		},
	}
	answer, err := transport.RoundTrip(r)
	if err != nil {
		return nil, explain(noEOF(err), u.Host, t)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, explain(readRefusal(answer, u.Host), u.Host, t)
	}
	content, err := io.ReadAll(io.LimitReader(answer.Body, bodyBytesMax+1))
	if err != nil {
		return nil, explain(noEOF(err), u.Host, t)
	}
	if len(content) > bodyBytesMax {
		return nil, fmt.Errorf("%s: %w: an answer has at most %d bytes", u.Host, ErrTooLarge, bodyBytesMax)
	}
	return content, nil
}

func checkScheme(u *url.URL, t *TLS) error {
	switch {
	case u.Scheme == "http" && t != nil:
		return fmt.Errorf("%s is a plain http URL, and this member is set up for https: give all peer URLs the same scheme", u.Redacted())
	case u.Scheme == "https" && t == nil:
		return fmt.Errorf("%s is an https URL, and this member is set up for http: give it --peer-cert-file and --peer-key-file", u.Redacted())
	case u.Scheme != "http" && u.Scheme != "https" || u.Port() == "":
		return fmt.Errorf("%s is not a URL of a peer port: http://HOST:PORT or https://HOST:PORT", u.Redacted())
	}
	return nil
}
