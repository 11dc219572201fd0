package kvclient

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

// Snapshot is a snapshot that a member sends. It reads as far as the connection lasts: an error other
// than io.EOF is no end, and Resume may go on. What is read has checksums of its own. It is for one
// goroutine.
type Snapshot struct {
	client   *Client
	endpoint *url.URL
	id       string
	offset   int64
	body     io.ReadCloser
	end      context.CancelFunc
}

// Snapshot asks the endpoints in turn for a snapshot, until one begins to send. It holds everything that was
// acknowledged before, or, if serializable, what the member has. ctx bounds the whole of it. Errors by Kind: those of Read; NotFound and Denied come from a store that has no snapshots, or
// not for this user.
func (c *Client) Snapshot(ctx context.Context, serializable bool) (*Snapshot, error) {
	query := url.Values{}
	if serializable {
		query.Set("serializable", "true")
	}
	var failed failures
	for _, i := range c.turn() {
		s := &Snapshot{client: c, endpoint: c.endpoints[i]}
		err := s.open(ctx, query)
		if err == nil {
			return s, nil
		}
		if kv.Is(err, kv.Denied) || kv.Is(err, kv.Invalid) {
			return nil, about(err, "snapshot", "")
		}
		failed = append(failed, failure{c.endpoints[i], err})
		if cause := c.ended(ctx); cause != nil {
			return nil, about(failed.because(cause, false), "snapshot", "")
		}
		c.unpin(i)
	}
	return nil, about(failed.err(), "snapshot", "")
}

// From returns whom the snapshot comes from, as host:port.
func (s *Snapshot) From() string { return s.endpoint.Host }

// Read implements io.Reader.
func (s *Snapshot) Read(p []byte) (int, error) {
	n, err := s.body.Read(p)
	s.offset += int64(n)
	return n, err
}

// Resume asks the same member for what has not been read yet. Kind NotFound: it does not have the
// snapshot any more; others may pass.
func (s *Snapshot) Resume(ctx context.Context) error {
	s.Close()
	if err := s.open(ctx, url.Values{"snapshot": {s.id}, "from": {strconv.FormatInt(s.offset, 10)}}); err != nil {
		return about(err, "snapshot", "")
	}
	return nil
}

// Close ends the connection, if there is one. It may be called more than once.
func (s *Snapshot) Close() error {
	if s.body == nil {
		return nil
	}
	err := s.body.Close()
	s.end()
	s.body = nil
	return err
}

func (s *Snapshot) open(ctx context.Context, query url.Values) error {
	ctx, cancel := s.client.scope(ctx)
	response, _, err := s.client.send(ctx, s.endpoint, etcdv2.Request{Method: http.MethodGet, Path: etcdv2.SnapshotPath, Query: query})
	if err != nil {
		cancel()
		return err
	}
	if response.StatusCode != http.StatusOK {
		defer cancel()
		a, err := s.client.readAnswer(s.endpoint, response)
		if err != nil {
			return err
		}
		return a.err()
	}
	id := response.Header.Get(etcdv2.HeaderSnapshot)
	if id == "" || s.id != "" && id != s.id {
		cancel()
		return errors.Join(&kv.Error{Kind: kv.Unknown, Cause: s.endpoint.Host + " answered with something other than a snapshot"}, response.Body.Close())
	}
	s.id, s.body, s.end = id, response.Body, cancel
	return nil
}
