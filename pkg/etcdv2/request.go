package etcdv2

import (
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

// KeysPath is where the key space begins.
const KeysPath = "/v2/keys"

// HeaderIndex and its companions are the headers of a reply of the keys API.
const (
	HeaderClusterID = "X-Etcd-Cluster-Id"
	HeaderIndex     = "X-Etcd-Index"
	HeaderRaftIndex = "X-Raft-Index"
	HeaderRaftTerm  = "X-Raft-Term"
)

// HeaderWatch with the value WatchStream asks a server for all events of a watch instead of the
// first. A server that says the same in its answer sends them and loses none; one that does not
// know the header, as etcd, answers as if it were absent.
const (
	HeaderWatch = "Kvd-Watch"
	WatchStream = "stream"
)

// HeaderOnly, in the answer to a read or watch that is narrowed by parameters ParamOnly, says to how many keys
// it is. A server that does not know them, as etcd, answers as if they were absent and without it.
const (
	HeaderOnly = "Kvd-Only"
	ParamOnly  = "only"
)

// Request is an HTTP request without its host: Query goes into the URL, Form, when it is not nil,
// into a body of type application/x-www-form-urlencoded, or else JSON into one of application/json.
type Request struct {
	Method string
	Path   string      // escaped
	Header http.Header // nil for none
	Query  url.Values
	Form   url.Values
	JSON   []byte
}

// EscapeKey returns the escaped URL path of a key.
func EscapeKey(key string) string {
	segments := strings.Split(kv.Clean(key), "/")
	for i, segment := range segments {
		segments[i] = url.PathEscape(segment)
	}
	return KeysPath + strings.Join(segments, "/")
}

// ReadRequest returns the request for r.
func ReadRequest(r kv.Read) Request {
	query := url.Values{}
	for name, on := range map[string]bool{"quorum": r.Quorum, "recursive": r.Recursive, "sorted": r.Sorted} {
		query.Set(name, strconv.FormatBool(on))
	}
	setOnly(query, r.Only)
	return Request{Method: http.MethodGet, Path: EscapeKey(r.Key), Query: query}
}

// WatchRequest returns the request for all changes, which a server that does not stream answers with
// the first.
func WatchRequest(from kv.WatchFrom) Request {
	query := url.Values{"wait": {"true"}}
	query.Set("recursive", strconv.FormatBool(from.Recursive))
	query.Set("waitIndex", strconv.FormatUint(from.Index, 10))
	setOnly(query, from.Only)
	return Request{Method: http.MethodGet, Path: EscapeKey(from.Key), Header: http.Header{HeaderWatch: {WatchStream}}, Query: query}
}

// WriteRequest returns the request for w, or what Check says against it: a comparison without a
// condition, for one, would be a write without any.
func WriteRequest(w kv.Write) (Request, error) {
	if err := w.Check(); err != nil {
		return Request{}, err
	}
	r := Request{Method: http.MethodPut, Path: EscapeKey(w.Key), Query: url.Values{}}
	switch w.Op {
	case kv.OpSet:
	case kv.OpCreate:
		r.Query.Set("prevExist", "false")
	case kv.OpUpdate:
		r.Query.Set("prevExist", "true")
	case kv.OpCreateInOrder:
		r.Method = http.MethodPost
	case kv.OpCompareAndSwap:
		setCompare(r.Query, w)
	case kv.OpDelete:
		r.Method = http.MethodDelete
		setTrue(r.Query, "dir", w.Dir)
		setTrue(r.Query, "recursive", w.Recursive)
		return r, nil
	case kv.OpCompareAndDelete:
		r.Method = http.MethodDelete
		setCompare(r.Query, w)
		return r, nil
	}
	setTrue(r.Query, "dir", w.Dir)
	setTrue(r.Query, "noValueOnSuccess", w.NoValue)
	r.Form = url.Values{}
	if w.Refresh {
		r.Form.Set("refresh", "true")
	} else if !w.Dir {
		r.Form.Set("value", w.Value)
	}
	if w.TTL != 0 {
		r.Form.Set("ttl", strconv.FormatInt(TTLSeconds(w.TTL), 10))
	}
	if w.Lease != 0 {
		r.Form.Set("lease", w.Lease.String())
	}
	return r, nil
}

func setCompare(query url.Values, w kv.Write) {
	if w.PrevValue != "" {
		query.Set("prevValue", w.PrevValue)
	}
	if w.PrevIndex != 0 {
		query.Set("prevIndex", strconv.FormatUint(w.PrevIndex, 10))
	}
}

func setOnly(query url.Values, keys []string) {
	for _, key := range keys {
		query.Add(ParamOnly, key)
	}
}

func setTrue(query url.Values, name string, on bool) {
	if on {
		query.Set(name, "true")
	}
}

// TTLSeconds returns ttl in the whole seconds of the wire, rounded up; kv.TTLDue is 0.
func TTLSeconds(ttl time.Duration) int64 {
	if ttl <= 0 {
		return 0
	}
	return int64((ttl-1)/time.Second) + 1
}

// TTLFromSeconds returns the TTL that the wire's seconds mean: 0 is kv.TTLDue, and what a
// time.Duration cannot hold (292 years) becomes the longest that it can.
func TTLFromSeconds(seconds uint64) time.Duration {
	if seconds == 0 {
		return kv.TTLDue
	}
	if seconds > math.MaxInt64/uint64(time.Second) {
		return math.MaxInt64
	}
	return time.Duration(seconds) * time.Second
}
