package raftnode

import (
	"github.com/hashicorp/raft"
)

// configuration is who belongs to the cluster, by one configuration of raft's. It is not changed.
type configuration struct {
	servers   []raft.Server // as raft has shown them
	addresses map[ID]string // of all of them
	others    []ID          // who votes beside this member
	votes     bool          // this member votes
}

// configured returns raft's latest configuration, committed or not. It does not block.
func (n *Node) configured() *configuration {
	servers := n.raft.GetConfiguration().Configuration().Servers
	known := n.known.Load()
	if known != nil && same(known.servers, servers) {
		return known
	}
	c := &configuration{servers: servers, addresses: make(map[ID]string, len(servers))}
	for _, s := range servers {
		var id ID
		if id.UnmarshalText([]byte(s.ID)) != nil {
			continue
		}
		c.addresses[id] = string(s.Address)
		switch {
		case s.Suffrage != raft.Voter:
		case id == n.identity.MemberID:
			c.votes = true
		default:
			c.others = append(c.others, id)
		}
	}
	n.known.Store(c)
	return c
}

// same reports whether a and b are one slice. Raft shows a configuration that has changed in a new slice,
// which cannot lie where the one that is still held here lies.
func same(a, b []raft.Server) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// alone reports whether this member is the only voter.
func (c *configuration) alone() bool { return c.votes && len(c.others) == 0 }
