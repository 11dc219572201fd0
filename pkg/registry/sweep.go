package registry

import (
	"context"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

// sweep makes an entry to be removed of each record that an earlier run has left and that is
// neither desired nor spared, if a sweep is still to be made. Its error says that the store does
// not answer; the sweep is then still to be made.
func (p *Publisher) sweep(ctx context.Context) error {
	spare := p.sweeping
	if spare == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeoutMax)
	defer cancel()
	result, err := p.cfg.Store.Read(ctx, kv.Read{Key: p.cfg.Views[0].Prefix, Recursive: true, Quorum: true})
	if err != nil && isOutage(err) {
		return err
	}
	p.sweeping = nil
	if kv.Is(err, kv.NotFound) {
		return nil
	}
	if err != nil {
		p.cfg.Log.Warn("cannot look for what an earlier run has left; it expires by itself", "reason", err)
		return nil
	}
	now := time.Now()
	for _, service := range result.Node.Nodes {
		for _, node := range service.Nodes {
			view := p.cfg.Views[0]
			address, port := view.endpoint(node.Value)
			spared := spare[node.Key].Address == address && spare[node.Key].Port == port && address != ""
			if !sameProgram(view.ownerOf(node), p.cfg.Owner) || p.entries[node.Key] != nil || spared {
				continue
			}
			p.entries[node.Key] = &entry{key: node.Key, view: view, written: node.Value, index: node.ModifiedIndex, held: true, due: now}
		}
	}
	return nil
}
