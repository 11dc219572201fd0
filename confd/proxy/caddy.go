package proxy

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"time"
)

// CaddyConfig says how to reach a running Caddy.
type CaddyConfig struct {
	Admin   string        // its admin endpoint: host:port, http://host:port, or unix//path; "": localhost:2019
	Timeout time.Duration // for one request, which for a load includes the start of the new configuration; 0: 10 s
}

// Caddy is the Applier for Caddy 2: a new version is loaded through the admin endpoint, and takes
// effect as a whole or not at all. A file that begins with a brace and is valid JSON is loaded as
// such, any other as a Caddyfile. The file has to say where the admin endpoint is, unless that is
// Caddy's default: a load moves it.
type Caddy struct {
	cfg    CaddyConfig
	base   string // of URLs
	unix   bool
	client *http.Client
}

// NewCaddy returns an applier; nothing is asked yet.
func NewCaddy(cfg CaddyConfig) *Caddy {
	cfg.Timeout = cmp.Or(cfg.Timeout, 10*time.Second)
	address := strings.TrimPrefix(cmp.Or(cfg.Admin, "localhost:2019"), "http://")
	path, unix := strings.CutPrefix(address, "unix/")
	transport := &http.Transport{DisableKeepAlives: true} // a load may end the listener
	if unix {
		address = " " // see do
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}
	}
	return &Caddy{cfg: cfg, base: strings.TrimSuffix(address, "/"), unix: unix, client: &http.Client{Transport: transport}}
}

var _ Applier = (*Caddy)(nil)

// caddyBytesMax bounds an answer.
const caddyBytesMax = 64 << 20

// Plan returns Nothing if live and next are the same bytes, else Runtime.
func (c *Caddy) Plan(_ context.Context, live, next []byte) (Plan, error) {
	if live != nil && bytes.Equal(live, next) {
		return Plan{}, nil
	}
	return Plan{Kind: Runtime, Steps: []string{"load the file through Caddy's admin endpoint"}, work: bytes.Clone(next)}, nil
}

// Apply loads the file. Caddy keeps what it runs if it cannot run the new one.
func (c *Caddy) Apply(ctx context.Context, plan Plan) error {
	content, ok := plan.work.([]byte)
	if !ok {
		return nil
	}
	_, err := c.do(ctx, http.MethodPost, "/load", content)
	return err
}

// Mark returns a mark that says nothing: Confirm sees what runs.
func (c *Caddy) Mark(context.Context) (Mark, error) { return Mark{taken: true}, nil }

// Confirm compares the configuration that runs with what next means, which Caddy is asked for if it
// is a Caddyfile. With a mark it waits for them to be the same.
func (c *Caddy) Confirm(ctx context.Context, next []byte, mark Mark) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	for poll := newPoll(); ; {
		problem := c.compare(ctx, next)
		if problem == nil || mark.IsZero() || !poll.wait(ctx) {
			return problem
		}
	}
}

// compare says how what runs differs from next.
func (c *Caddy) compare(ctx context.Context, next []byte) error {
	want, err := c.adapt(ctx, next)
	if err != nil {
		return err
	}
	running, err := c.do(ctx, http.MethodGet, "/config/", nil)
	if err != nil {
		return err
	}
	if !sameJSON(running, want) {
		return errors.New("the configuration that Caddy runs is not that of the file")
	}
	return nil
}

// isJSON reports whether content is a configuration in Caddy's own format. A Caddyfile may begin
// with a brace as well.
func isJSON(content []byte) bool {
	trimmed := bytes.TrimSpace(content)
	return len(trimmed) > 0 && trimmed[0] == '{' && json.Valid(trimmed)
}

// adapt returns the JSON form of content.
func (c *Caddy) adapt(ctx context.Context, content []byte) ([]byte, error) {
	if isJSON(content) {
		return content, nil
	}
	answer, err := c.do(ctx, http.MethodPost, "/adapt", content)
	if err != nil {
		return nil, err
	}
	var adapted struct{ Result json.RawMessage }
	if err := json.Unmarshal(answer, &adapted); err != nil || adapted.Result == nil {
		return nil, fmt.Errorf("the answer of Caddy to /adapt is not understood: %.80q", answer)
	}
	return adapted.Result, nil
}

// sameJSON compares values, whatever the order of their members. Numbers are compared as written.
func sameJSON(a, b []byte) bool {
	var values [2]any
	for i, text := range [][]byte{a, b} {
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.UseNumber()
		if decoder.Decode(&values[i]) != nil {
			return false
		}
	}
	return reflect.DeepEqual(values[0], values[1])
}

// do makes one request and returns the body of its answer, which has status 200.
func (c *Caddy) do(ctx context.Context, method, path string, content []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	// A Caddy that listens on a Unix socket wants an empty Host header, which only a blank host in
	// the URL makes.
	request.URL = &url.URL{Scheme: "http", Host: c.base, Path: path}
	request.Host = ""
	if content != nil {
		request.Header.Set("Content-Type", "text/caddyfile")
		if isJSON(content) {
			request.Header.Set("Content-Type", "application/json")
		}
	}
	response, err := c.client.Do(request)
	if err != nil {
		var op *url.Error
		if errors.As(err, &op) {
			err = op.Err
		}
		return nil, fmt.Errorf("the admin endpoint of Caddy, %s: %w", cmp.Or(c.cfg.Admin, c.base), err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, caddyBytesMax+1))
	if err == nil && len(body) > caddyBytesMax {
		err = errors.New("the answer is too long")
	}
	if err != nil {
		return nil, fmt.Errorf("the answer of Caddy to %s: %w", path, err)
	}
	if response.StatusCode != http.StatusOK {
		var refusal struct{ Error string }
		json.Unmarshal(body, &refusal)
		return nil, fmt.Errorf("Caddy refused %s with status %d: %.500s", path, response.StatusCode, cmp.Or(refusal.Error, string(body)))
	}
	return body, nil
}
