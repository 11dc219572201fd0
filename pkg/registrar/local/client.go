package local

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/user"

	"github.com/kvd-io/kvd/pkg/override"
	"github.com/kvd-io/kvd/pkg/unixsocket"
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
type Client struct{ socket *unixsocket.Client }

// NewClient returns a client of the socket at path. It asks nobody yet.
func NewClient(path string) *Client { return &Client{unixsocket.NewClient(path)} }

// Status returns how the registrar does. Errors by Kind: Unavailable if nobody serves the socket, Denied
// if this user may not use it, Internal.
func (c *Client) Status(ctx context.Context) (r Report, err error) {
	return r, c.socket.Call(ctx, http.MethodGet, "/v1/status", nil, &r)
}

// Explain returns the instances, workloads and services that are called what, all if it is "". Errors by
// Kind: NotFound, and those of Status.
func (c *Client) Explain(ctx context.Context, what string) (found []Instance, err error) {
	return found, c.socket.Call(ctx, http.MethodGet, "/v1/explain?"+url.Values{"what": {what}}.Encode(), nil, &found)
}

// Override says what is wanted of one instance of this host; the zero Override clears it. It counts when
// this returns, and gets to the store as soon as that answers. Errors by Kind: NotFound, Invalid, and
// those of Status.
func (c *Client) Override(ctx context.Context, service, instance string, o override.Override) error {
	if o.Mode == "" {
		o.Mode = override.Ready
	}
	target := "/v1/override?" + url.Values{"service": {service}, "instance": {instance}}.Encode()
	return c.socket.Call(ctx, http.MethodPut, target, o, &o)
}

// Get writes what the server answers to a path, such as /metrics, as it is. Errors as of Status.
func (c *Client) Get(ctx context.Context, path string, to io.Writer) error {
	return c.socket.Get(ctx, path, to)
}
