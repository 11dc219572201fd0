package kvclient

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

// Version is what a server says it is.
type Version struct {
	Server  string `json:"etcdserver"`  // version of etcd whose API it serves
	Cluster string `json:"etcdcluster"` // what all members of its cluster can do
	KVD     string `json:"kvd"`         // version of kvd; "" for an etcd
}

// Member is one member of a cluster.
type Member struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"` // "" until it has started for the first time
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
}

// Version asks an endpoint for its version. Errors by Kind are those of Read.
func (c *Client) Version(ctx context.Context) (Version, error) {
	var v Version
	return v, c.get(ctx, "version", "/version", &v)
}

// Health returns nil if an endpoint says that it can serve, else an error whose Cause says what
// the last one lacks.
func (c *Client) Health(ctx context.Context) error {
	var health struct{ Health, Reason string }
	err := c.get(ctx, "health", "/health", &health)
	if err == nil && health.Health != "true" {
		return &kv.Error{Op: "health", Kind: kv.Unavailable, Cause: health.Reason}
	}
	return err
}

// Members lists the members of the cluster, as the endpoint that answers knows them.
func (c *Client) Members(ctx context.Context) ([]Member, error) {
	var list struct{ Members []Member }
	err := c.get(ctx, "members", "/v2/members", &list)
	return list.Members, err
}

// get decodes the JSON at path into v.
func (c *Client) get(ctx context.Context, op, path string, v any) error {
	err := c.exchange(ctx, etcdv2.Request{Method: http.MethodGet, Path: path}, true, func(a *answer) error { return a.decode(v) })
	if err != nil {
		return about(err, op, "")
	}
	return nil
}

// decode reads the JSON of a success into v.
func (a *answer) decode(v any) error {
	if a.status != http.StatusOK && a.status != http.StatusCreated {
		return a.err()
	}
	if err := json.Unmarshal(a.body, v); err != nil {
		return &kv.Error{Kind: kv.Unknown, Cause: a.from.Host + " answered with something other than JSON", Err: err}
	}
	return nil
}
