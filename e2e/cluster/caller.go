package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// ErrNotSent is wrapped by an error of a request that has surely not reached the member.
var ErrNotSent = errors.New("not sent")

// answerMax bounds the answer of a member.
const answerMax = 256 << 20

// Caller asks members as plainly as curl does: one request, one attempt, nothing interpreted that the
// answer does not say. It is safe for concurrent use.
type Caller struct{ http http.Client }

// NewCaller returns a Caller that keeps up to connections idle connections to each member.
func NewCaller(connections int) *Caller {
	dialer := net.Dialer{Timeout: time.Second}
	return &Caller{http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: connections,
		DisableCompression:  true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
			}
			return conn, nil
		},
	}}}
}

// Close ends the idle connections.
func (c *Caller) Close() { c.http.CloseIdleConnections() }

// Node is a key in an answer of the v2 API.
type Node struct {
	Key           string `json:"key"`
	Value         string `json:"value"`
	Dir           bool   `json:"dir"`
	ModifiedIndex uint64 `json:"modifiedIndex"`
	CreatedIndex  uint64 `json:"createdIndex"`
	Nodes         []Node `json:"nodes"`
}

// Reply is an answer of the v2 API to a request for keys.
type Reply struct {
	Status   int    `json:"-"`
	At       uint64 `json:"-"` // X-Etcd-Index
	Term     uint64 `json:"-"` // X-Raft-Term
	Action   string `json:"action"`
	Node     *Node  `json:"node"`
	PrevNode *Node  `json:"prevNode"`

	// Of an error:
	Code    int    `json:"errorCode"`
	Message string `json:"message"`
	Cause   string `json:"cause"`
	Index   uint64 `json:"index"`
}

// Keys sends a request for a key, with form as its query (GET, DELETE) or body (PUT, POST). An error
// means that there was no whole answer; one of the API is a Reply.
func (c *Caller) Keys(ctx context.Context, method, member, key string, form url.Values) (Reply, error) {
	target := member + "/v2/keys" + key
	var body io.Reader
	if method == http.MethodPut || method == http.MethodPost {
		body = strings.NewReader(form.Encode())
	} else {
		target += "?" + form.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return Reply{}, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return Reply{}, err
	}
	defer response.Body.Close()
	reply := Reply{Status: response.StatusCode}
	reply.At, _ = strconv.ParseUint(response.Header.Get("X-Etcd-Index"), 10, 64)
	reply.Term, _ = strconv.ParseUint(response.Header.Get("X-Raft-Term"), 10, 64)
	text, err := io.ReadAll(io.LimitReader(response.Body, answerMax))
	if err != nil {
		return Reply{}, err
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return reply, nil // a long poll that has seen nothing
	}
	if err := json.Unmarshal(text, &reply); err != nil && reply.Status == http.StatusOK {
		return Reply{}, fmt.Errorf("%s %s: %w: %.200q", method, target, err, text)
	}
	return reply, nil
}

// JSON sends in, unless it is nil, and decodes an answer of a status below 300 into out, unless that
// is nil. Any other status is an error.
func (c *Caller) JSON(ctx context.Context, method, target string, in, out any) error {
	var body io.Reader
	if in != nil {
		encoded, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return err
	}
	if in != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, answerMax))
	if err != nil {
		return err
	}
	if response.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("%s %s: %s: %.300s", method, target, response.Status, text)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(text, out)
}

// Answers returns nil if a GET of target is answered with 200.
func (c *Caller) Answers(ctx context.Context, target string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	io.Copy(io.Discard, io.LimitReader(response.Body, answerMax))
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", target, response.Status)
	}
	return nil
}

// Stream watches with form as its query and gives each event, or the error that the member answers
// with, to each, until the stream ends. A stream that ends in order is no error; one that never began is.
func (c *Caller) Stream(ctx context.Context, member, key string, form url.Values, each func(Reply)) error {
	target := member + "/v2/keys" + key + "?" + form.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	decoder := json.NewDecoder(response.Body)
	for {
		reply := Reply{Status: response.StatusCode}
		switch err := decoder.Decode(&reply); {
		case errors.Is(err, io.EOF) && response.StatusCode != http.StatusOK:
			return fmt.Errorf("watch %s: %s", target, response.Status)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		each(reply)
	}
}
