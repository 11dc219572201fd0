package raftnode

import (
	"context"
	"encoding/json"
	"time"

	"github.com/kvd-io/kvd/daemon/peer"
)

const (
	selfTimeout = time.Second // for this member to answer itself
	selfQuery   = "self"      // asks a ClusterPath for nothing but who lives there
)

// lookAtSelf asks who answers at the address that the others have of this member. A process that answers
// as this member and is not this one works on a copy of its data: two that vote under one id could elect
// two leaders of one term, so that this one must not go on. Whatever else is wrong there is only told,
// for a member need not reach itself the way that the others reach it.
func (n *Node) lookAtSelf(ctx context.Context) error {
	address, known := n.configured().addresses[n.identity.MemberID]
	if !known {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, selfTimeout)
	defer cancel()
	url := "http://" + address
	if n.tls != nil {
		url = "https://" + address
	}
	var page clusterPage
	body, err := peer.Get(ctx, url+ClusterPath+"?"+selfQuery, n.tls)
	if err == nil {
		err = json.Unmarshal(body, &page)
	}
	const remedy = "listen there, or tell the cluster where this member is with kvctl member update"
	switch {
	case err != nil:
		n.log.Warn("this member does not reach itself at the address that the others have of it", "address", url, "err", err, "try", remedy)
	case page.Cluster != n.identity.ClusterID || page.Member != n.identity.MemberID:
		n.log.Warn("another member answers at the address that the others have of this one", "address", url, "member", page.Member, "name", page.Name, "cluster", page.Cluster, "try", remedy)
	case page.Process != 0 && page.Process != ID(n.registry.origin):
		return mismatch("another process runs as this member, %s (id %s), at %s, where the others look for it: %s is a copy of its data directory, or the other has one. Two must never run: stop one of them; for one more member take an empty --data-dir and kvctl member add",
			n.identity.Name, n.identity.MemberID, url, n.dir.path)
	}
	return nil
}
