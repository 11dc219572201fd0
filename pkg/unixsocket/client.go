package unixsocket

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
	"strings"
	"syscall"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

const (
	answerBytesMax = 64 << 20 // the report of ten thousand instances is smaller
	clientTimeout  = 30 * time.Second
)

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

// Problem is the body of an answer that refuses.
type Problem struct {
	Error string `json:"error"`
}

// Get writes what the server answers to a path, such as /metrics, as it is. Errors by Kind: Unavailable if
// nobody serves the socket, Denied if this user may not use it, NotFound, Invalid and CompareFailed as the server says,
// Internal.
func (c *Client) Get(ctx context.Context, path string, to io.Writer) error {
	body, err := c.exchange(ctx, http.MethodGet, path, nil)
	if err == nil {
		_, err = to.Write(body)
	}
	return err
}

// Call sends a value as JSON, unless it is nil, and reads the answer into another, unless that is nil.
// Errors as of Get.
func (c *Client) Call(ctx context.Context, method, target string, value, into any) error {
	var sent []byte
	if value != nil {
		var err error
		if sent, err = json.Marshal(value); err != nil {
			return c.failure(kv.Invalid, "", err)
		}
	}
	body, err := c.exchange(ctx, method, target, sent)
	if err != nil || into == nil {
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
	case http.StatusConflict:
		kind = kv.CompareFailed
	}
	var p Problem
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
