package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"strings"
	"syscall"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/override"
)

const (
	answerBytesMax = 64 << 20 // the report of ten thousand instances is smaller
	clientTimeout  = 30 * time.Second
)

// Caller names who runs this program, as user@host, for the By of an Override.
func Caller() string {
	name := "somebody"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, _ := os.Hostname() // for people
	return name + "@" + host
}

// Client asks the server at a unix socket. It is safe for concurrent use and holds no connection.
type Client struct {
	path string
	http http.Client
}

// NewClient returns a client of the socket at path. It asks nobody yet.
func NewClient(path string) *Client {
	dialer := &net.Dialer{}
	return &Client{path: path, http: http.Client{Timeout: clientTimeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		},
	}}}
}

// Status returns how the registrar does. Errors by Kind: Unavailable if nobody serves the socket, Denied
// if this user may not use it, Internal.
func (c *Client) Status(ctx context.Context) (r Report, err error) {
	return r, c.call(ctx, http.MethodGet, "/v1/status", nil, &r)
}

// Explain returns the instances, workloads and services that are called what, all if it is "". Errors by
// Kind: NotFound, and those of Status.
func (c *Client) Explain(ctx context.Context, what string) (found []Instance, err error) {
	return found, c.call(ctx, http.MethodGet, "/v1/explain?"+url.Values{"what": {what}}.Encode(), nil, &found)
}

// Override says what is wanted of one instance of this host; the zero Override clears it. It counts when
// this returns, and gets to the store as soon as that answers. Errors by Kind: NotFound, Invalid, and
// those of Status.
func (c *Client) Override(ctx context.Context, service, instance string, o override.Override) error {
	if o.Mode == "" {
		o.Mode = override.Ready
	}
	target := "/v1/override?" + url.Values{"service": {service}, "instance": {instance}}.Encode()
	return c.call(ctx, http.MethodPut, target, o, &o)
}

// Get writes what the server answers to a path, such as /metrics, as it is. Errors as of Status.
func (c *Client) Get(ctx context.Context, path string, to io.Writer) error {
	body, err := c.exchange(ctx, http.MethodGet, path, nil)
	if err == nil {
		_, err = to.Write(body)
	}
	return err
}

// call sends a value, unless it is nil, and reads the answer into another.
func (c *Client) call(ctx context.Context, method, target string, value, into any) error {
	var sent []byte
	if value != nil {
		var err error
		if sent, err = json.Marshal(value); err != nil {
			return c.failure(kv.Invalid, "", err)
		}
	}
	body, err := c.exchange(ctx, method, target, sent)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return c.failure(kv.Internal, "the answer cannot be understood", err)
	}
	return nil
}

func (c *Client) exchange(ctx context.Context, method, target string, sent []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://localhost"+target, bytes.NewReader(sent))
	if err != nil {
		return nil, c.failure(kv.Invalid, "", err)
	}
	response, err := c.http.Do(request)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, c.failure(kv.Unavailable, "nobody serves it; does the program run, with this socket?", err)
	case errors.Is(err, fs.ErrPermission):
		return nil, c.failure(kv.Denied, "this user may not use it", err)
	case err != nil:
		return nil, c.failure(kv.Unavailable, "", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, answerBytesMax+1))
	switch {
	case err != nil:
		return nil, c.failure(kv.Unavailable, "the answer was cut short", err)
	case len(body) > answerBytesMax:
		return nil, c.failure(kv.Internal, fmt.Sprintf("the answer has more than %d bytes", answerBytesMax), nil)
	case response.StatusCode == http.StatusOK:
		return body, nil
	}
	return nil, c.refusal(response.StatusCode, body)
}

// refusal is an answer that is no success.
func (c *Client) refusal(status int, body []byte) error {
	kind := kv.Internal
	switch status {
	case http.StatusNotFound:
		kind = kv.NotFound
	case http.StatusBadRequest:
		kind = kv.Invalid
	}
	var p problem
	if err := json.Unmarshal(body, &p); err != nil || p.Error == "" {
		p.Error = fmt.Sprintf("%d %.200q", status, strings.TrimSpace(string(body)))
	}
	return c.failure(kind, p.Error, nil)
}

func (c *Client) failure(kind kv.Kind, cause string, err error) error {
	text := "socket " + c.path + ": " + cause
	var url *url.Error
	if errors.As(err, &url) {
		err = url.Err
	}
	if err != nil {
		text = strings.TrimSuffix(text, ": ") + ": " + err.Error()
	}
	return &failure{text, &kv.Error{Op: "socket " + c.path, Kind: kind, Cause: cause, Err: err}}
}

// failure is an Error of package kv without the words of its Kind, which are about a store.
type failure struct {
	text string
	err  *kv.Error
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.err }
