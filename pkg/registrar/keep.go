package registrar

import (
	"context"
	"sync"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/mirror"
	"github.com/kvd-io/kvd/pkg/registry"
)

// peers sees the other instances of the services that keep their last one. It is owned by the
// Registrar's Run.
//
// That the last instance stays up is decided without a conversation, by the order of the store:
//
//	an instance that fails says so first: its record is up, and kept
//	it goes once its host sees, in the store as it was then or later, another one that is up and not kept
//
// So of any number that fail together one stays at least. Take, of those that have gone, the one whose
// record became kept last. It went because it had seen another one that was not kept, at that time or
// later; and that one has not gone, or its own record would have become kept still later. Who is kept
// is no reason for anybody to go, whatever it is called: it may be about to go itself.
type peers struct {
	registrar *Registrar
	followed  map[string]*peer // by service
}

// peer is a service whose records are followed.
type peer struct {
	mirror *mirror.Mirror
	cancel context.CancelFunc
}

// follow sees to it that the services of the gates that need it are followed, and no others.
func (p *peers) follow(ctx context.Context, group *sync.WaitGroup, gates []*gate) {
	r := p.registrar
	if r.cfg.Peers == nil {
		return
	}
	needed := map[string]*peer{}
	for _, g := range gates {
		service := g.offer.Record.Service
		if !g.offer.KeepLast || needed[service] != nil || registry.ValidateName("service name", service) != nil {
			continue
		}
		if needed[service] = p.followed[service]; needed[service] != nil {
			continue
		}
		ctx, cancel := context.WithCancel(ctx)
		m := mirror.New(mirror.Config{
			Source: r.cfg.Peers, Prefix: r.cfg.Prefix + "/" + service, Log: r.cfg.Log,
			Apply: func(kvclient.Changes) { r.poke() },
		})
		group.Go(func() { m.Run(ctx) })
		needed[service] = &peer{mirror: m, cancel: cancel}
	}
	for service, old := range p.followed {
		if needed[service] == nil {
			old.cancel()
		}
	}
	p.followed = needed
}

// mayGo reports whether an instance that is kept can be taken away, and one that is up stays.
func (p *peers) mayGo(kept registry.Record) bool {
	r := p.registrar
	service := p.followed[kept.Service]
	if service == nil {
		return false
	}
	confirmed, index, ok := r.cfg.Publisher.Confirmed(r.cfg.Prefix, kept.Service, kept.Instance)
	if !ok || confirmed.State != registry.StateUp || !confirmed.Kept {
		return false
	}
	if state := service.mirror.State(); !state.Complete || state.Index < index {
		return false
	}
	found := false
	service.mirror.Ascend(r.cfg.Prefix+"/"+kept.Service, func(node *kv.Node) bool {
		other, err := registry.Decode(node.Value)
		found = err == nil && other.Validate() == nil && other.Key(r.cfg.Prefix) == node.Key &&
			other.Instance != kept.Instance && other.State == registry.StateUp && !other.Kept
		return !found
	})
	return found
}
