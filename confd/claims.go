package confd

import "sync"

// claims say which group may touch what: a destination, or a command that must not run twice at a time.
// When the resources change, a destination or a command may pass from one group to another; the new one
// then waits until the old one has finished what it was doing. Safe for concurrent use.
type claims struct {
	mu      sync.Mutex // guards the fields below
	owners  map[string]*group
	waiting map[*group]bool
}

func newClaims() *claims { return &claims{owners: map[string]*group{}, waiting: map[*group]bool{}} }

// take makes names the ones that g has, and no others, and reports whether it has them all. If it has
// not, it has none that somebody else has, and is woken when it may try again.
func (c *claims) take(g *group, names []string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	wanted := make(map[string]bool, len(names))
	all := true
	for _, name := range names {
		wanted[name] = true
		if owner := c.owners[name]; owner != nil && owner != g {
			all = false
			continue
		}
		c.owners[name] = g
	}
	c.drop(g, wanted)
	delete(c.waiting, g)
	if !all {
		c.waiting[g] = true
	}
	return all
}

// release gives up everything that g has.
func (c *claims) release(g *group) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(g, nil)
	delete(c.waiting, g)
}

// drop gives up what g has besides wanted. The caller holds the lock.
func (c *claims) drop(g *group, wanted map[string]bool) {
	dropped := false
	for name, owner := range c.owners {
		if owner == g && !wanted[name] {
			delete(c.owners, name)
			dropped = true
		}
	}
	if dropped {
		for other := range c.waiting {
			other.signal()
		}
	}
}
