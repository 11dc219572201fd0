// Package etcdv2 holds the wire forms of etcd's v2 API that server and client share: the JSON of
// events and errors, the codes, and the parameters of a request. It knows their bytes and their
// meaning in the words of pkg/kv; it opens no connection and decides nothing.
package etcdv2

import (
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

// Node is the JSON form of kv.Node. The order of the fields is the order on the wire.
type Node struct {
	Key           string     `json:"key,omitempty"`
	Value         *string    `json:"value,omitempty"`
	Dir           bool       `json:"dir,omitempty"`
	Expiration    *time.Time `json:"expiration,omitempty"`
	TTL           int64      `json:"ttl,omitempty"`
	Nodes         []*Node    `json:"nodes,omitempty"`
	ModifiedIndex kv.Index   `json:"modifiedIndex,omitempty"`
	CreatedIndex  kv.Index   `json:"createdIndex,omitempty"`
	Lease         string     `json:"lease,omitempty"` // kvd's own, of nodes that are attached to one
}

// Event is the JSON form of kv.Event.
type Event struct {
	Action   kv.Action `json:"action"`
	Node     *Node     `json:"node,omitempty"`
	PrevNode *Node     `json:"prevNode,omitempty"`
}

// Decode returns the event that wire stands for.
func (wire Event) Decode() kv.Event {
	return kv.Event{Action: wire.Action, Node: wire.Node.decode(), PrevNode: wire.PrevNode.decode()}
}

func (wire *Node) decode() *kv.Node {
	if wire == nil {
		return nil
	}
	n := &kv.Node{Key: wire.Key, Dir: wire.Dir, TTL: wire.TTL, ModifiedIndex: wire.ModifiedIndex, CreatedIndex: wire.CreatedIndex}
	n.Lease, _ = kv.ParseLeaseID(wire.Lease) // what is no id is none
	if wire.Value != nil {
		n.Value = *wire.Value
	}
	if wire.Expiration != nil {
		n.Expiration = *wire.Expiration
	}
	for _, child := range wire.Nodes {
		if child != nil {
			n.Nodes = append(n.Nodes, child.decode())
		}
	}
	return n
}
