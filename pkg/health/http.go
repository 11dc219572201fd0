package health

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	bodyBytesMax = 4 << 10 // how much of an answer is read before the connection is closed
	bodyShownMax = 100     // how much of an answer's first line an error shows
	userAgent    = "kvd-health"
)

// HTTP passes when URL is answered with one of the statuses that are expected. Redirects are not
// followed: where they lead is not what was asked about.
type HTTP struct {
	URL       string // http:// or https://
	Insecure  bool   // accept any certificate, as a check on a bare IP address often must
	Method    string // http.MethodGet, which "" means, http.MethodHead or http.MethodOptions
	Host      string // for the server to choose by, and the name in its certificate; "" means URL's
	StatusMin int    // the lowest status that passes; 0 means 200
	StatusMax int    // the highest; 0 means 299
}

// Run is Ask.
func (c HTTP) Run(ctx context.Context) error {
	_, err := c.Ask(ctx)
	return err
}

// Ask sends one request over a connection of its own, never through a proxy.
func (c HTTP) Ask(ctx context.Context) (string, error) {
	transport := newTransport(c.Insecure, c.Host)
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, cmp.Or(c.Method, http.MethodGet), c.URL, nil)
	if err != nil {
		return "", fmt.Errorf("http check: %w", err)
	}
	request.Header.Set("User-Agent", userAgent)
	request.Host = c.Host
	response, err := transport.RoundTrip(request)
	if err != nil {
		return "", fmt.Errorf("http check: %w", err)
	}
	defer response.Body.Close()
	// Read a little, so that a small answer is not cut off in the middle of being written.
	body, _ := io.ReadAll(io.LimitReader(response.Body, bodyBytesMax))
	low, high := c.statuses()
	switch {
	case response.StatusCode >= low && response.StatusCode <= high:
		return response.Status, nil
	case response.StatusCode >= 300 && response.StatusCode <= 399:
		return "", fmt.Errorf("http check: %s answers %s; redirects are not followed, check where it leads", c.URL, response.Status)
	}
	if line := firstLine(string(body), bodyShownMax); line != "" {
		return "", fmt.Errorf("http check: %s answers %s: %q", c.URL, response.Status, line)
	}
	return "", fmt.Errorf("http check: %s answers %s", c.URL, response.Status)
}

func (c HTTP) statuses() (low, high int) { return cmp.Or(c.StatusMin, 200), cmp.Or(c.StatusMax, 299) }

func (c HTTP) String() string {
	text := c.URL
	if c.Insecure {
		text = "https+insecure" + c.URL[len("https"):]
	}
	if c.Method != "" && c.Method != http.MethodGet {
		text += " method=" + c.Method
	}
	if c.Host != "" {
		text += " host=" + c.Host
	}
	if low, high := c.statuses(); low != 200 || high != 299 {
		text += " status=" + strconv.Itoa(low) + "-" + strconv.Itoa(high)
	}
	return text
}

// newTransport returns a transport for one request. Name is what the certificate has to say, instead
// of the address; "" is the address.
func newTransport(insecure bool, name string) *http.Transport {
	if host, _, err := net.SplitHostPort(name); err == nil {
		name = host
	}
	return &http.Transport{
		DialContext:            dialer().DialContext,
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
		TLSHandshakeTimeout:    10 * time.Second,
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: insecure, ServerName: name}, // asked for by name: https+insecure
	}
}

// firstLine returns what is before the first line break, without what surrounds it.
func firstLine(text string, bytesMax int) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	line = strings.TrimSpace(line)
	return strings.ToValidUTF8(line[:min(len(line), bytesMax)], "")
}
