package confd

import (
	"context"
	"sync"
)

// start puts the agent's resources to work. stop ends that and waits for it, a running command
// included; wake makes every group compare again, and a source that cannot be watched look again.
func (a *agent) start(ctx context.Context) (stop, wake func()) {
	ctx, cancel := context.WithCancel(ctx)
	m := newMirror(a.cfg.polls())
	poke := make(chan struct{}, 1)
	var running sync.WaitGroup
	for _, g := range newGroups(a.resources, m, a.cfg, a.deps) {
		running.Go(func() { g.run(ctx) })
	}
	roots := topRoots(a.resources)
	running.Go(func() { a.source.run(ctx, m, roots, poke) })

	stop = func() {
		cancel()
		running.Wait()
	}
	wake = func() {
		select {
		case poke <- struct{}{}:
		default:
		}
		m.wakeAll()
	}
	return stop, wake
}
