package confd

import (
	"context"
	"sync"

	"github.com/kvd-io/kvd/confd/keys"
)

// start puts the agent's resources to work. stop ends that and waits for it, a running command
// included; wake makes every group compare again, and a source that cannot be watched look again.
func (a *agent) start(ctx context.Context) (stop, wake func()) {
	ctx, cancel := context.WithCancel(ctx)
	m := keys.NewMirror(a.cfg.source().Polls())
	poke := make(chan struct{}, 1)
	var running sync.WaitGroup
	for _, g := range newGroups(a.resources, m, a.cfg, a.deps) {
		running.Go(func() { g.run(ctx) })
	}
	roots := a.roots()
	running.Go(func() { a.source.Run(ctx, m, roots, poke) })

	stop = func() {
		cancel()
		running.Wait()
	}
	wake = func() {
		select {
		case poke <- struct{}{}:
		default:
		}
		m.WakeAll()
	}
	return stop, wake
}
