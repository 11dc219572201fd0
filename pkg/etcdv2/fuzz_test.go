package etcdv2

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/kvd-io/kvd/pkg/fuzztest"
	"github.com/kvd-io/kvd/pkg/kv"
)

// FuzzWire gives a client what no server should send. What it understands it says again in the same
// words: once encoded, an event and an error decode to themselves.
func FuzzWire(f *testing.F) {
	f.Add([]byte(`{"action":"get","node":{"dir":true,"nodes":[{"key":"/a","value":"1","modifiedIndex":7,"createdIndex":7},null]}}`))
	f.Add([]byte(`{"action":"expire","node":{"key":"/a","modifiedIndex":9,"createdIndex":4},"prevNode":{"key":"/a","value":"","expiration":"2026-01-02T03:04:05.678Z","ttl":5}}`))
	f.Add([]byte(`{"errorCode":101,"message":"Compare failed","cause":"[1 != 2]","index":3}`))
	f.Add([]byte(`{"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: no leader","index":0}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var event kv.Event
		var failure *kv.Error
		fuzztest.WantBounded(t, 256*uint64(len(data))+fuzztest.Fixed, func() {
			var wire Event
			if json.Unmarshal(data, &wire) == nil {
				event = wire.Decode()
			}
			var wrong Error
			if json.Unmarshal(data, &wrong) == nil {
				failure = wrong.Decode("get", "/a")
			}
		})
		checkEvent(t, event)
		checkError(t, failure)
	})
}

func checkEvent(t *testing.T, event kv.Event) {
	if !encodable(event.Node) || !encodable(event.PrevNode) {
		return
	}
	text := AppendEvent(nil, event)
	var wire Event
	if err := json.Unmarshal(text, &wire); err != nil {
		t.Fatalf("%s is not JSON: %v", text, err)
	}
	if again := AppendEvent(nil, wire.Decode()); string(again) != string(text) {
		t.Fatalf("\n  got %s\nwhich becomes %s", text, again)
	}
}

// encodable reports whether all times in n are of the years that JSON has a form for: the others
// cannot be had from a store.
func encodable(n *kv.Node) bool {
	if n == nil {
		return true
	}
	if _, err := n.Expiration.UTC().MarshalJSON(); err != nil {
		return false
	}
	for _, child := range n.Nodes {
		if !encodable(child) {
			return false
		}
	}
	return true
}

func checkError(t *testing.T, failure *kv.Error) {
	if failure == nil {
		return
	}
	wire := EncodeError(failure)
	text := AppendError(nil, wire)
	var again Error
	if err := json.Unmarshal(text, &again); err != nil {
		t.Fatalf("%s is not JSON: %v", text, err)
	}
	if !reflect.DeepEqual(again, *wire) {
		t.Fatalf("%+v becomes %+v", *wire, again)
	}
	if kind := again.Decode("get", "/a").Kind; kind != failure.Kind {
		t.Fatalf("%s: kind %v becomes %v", text, failure.Kind, kind)
	}
	if status := wire.Status(); status < 400 || status > 599 {
		t.Fatalf("%s has status %d", text, status)
	}
}
