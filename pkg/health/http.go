package health

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"time"
)

// bodyBytesMax is how much of an answer is read before the connection is closed.
const bodyBytesMax = 4 << 10

// HTTP passes when a GET of URL is answered with a status from 200 to 299. Redirects are not
// followed: where they lead is not what was asked about.
type HTTP struct {
	URL      string // http:// or https://
	Insecure bool   // accept any certificate, as a check on a bare IP address often must
}

// Run sends one request over a connection of its own, never through a proxy.
func (c HTTP) Run(ctx context.Context) error {
	transport := &http.Transport{
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: 64 << 10,
		TLSHandshakeTimeout:    10 * time.Second,
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: c.Insecure}, // asked for by name: https+insecure
	}
	client := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL, nil)
	if err != nil {
		return fmt.Errorf("http check: %w", err)
	}
	request.Header.Set("User-Agent", "kvd-health")
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("http check: %w", err)
	}
	defer response.Body.Close()
	// Read a little, so that a small answer is not cut off in the middle of being written.
	io.CopyN(io.Discard, response.Body, bodyBytesMax)
	switch {
	case response.StatusCode >= 200 && response.StatusCode <= 299:
		return nil
	case response.StatusCode >= 300 && response.StatusCode <= 399:
		return fmt.Errorf("http check: %s answers %s; redirects are not followed, check where it leads", c.URL, response.Status)
	}
	return fmt.Errorf("http check: %s answers %s", c.URL, response.Status)
}

func (c HTTP) String() string {
	if c.Insecure {
		return "https+insecure" + c.URL[len("https"):]
	}
	return c.URL
}
