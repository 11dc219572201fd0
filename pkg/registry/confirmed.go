package registry

import "github.com/kvd-io/kvd/pkg/kv"

// Confirmed returns the record of an instance that is in the store below prefix, as JSON, just as the
// latest Set wants it, and the index of its latest write. ok is false while the store has not confirmed
// that, or a write is under way: then nobody knows what readers see.
func (p *Publisher) Confirmed(prefix, service, instance string) (r Record, index kv.Index, ok bool) {
	key := Record{Service: service, Instance: instance}.Key(prefix)
	p.mu.Lock()
	defer p.mu.Unlock()
	want, wanted := p.desired.values[key]
	e := p.entries[key]
	if !wanted || want.view.Layout != LayoutJSON || e == nil || e.busy || e.wanted != want.value || !p.inPlace(e) {
		return Record{}, 0, false
	}
	return want.of.clone(), e.known.index, true
}

// Changed returns a channel that is closed when Status, Keys or Confirmed may have another answer. Take
// it before asking.
func (p *Publisher) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.moved
}
