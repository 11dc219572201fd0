package confd

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/kvd-io/kvd/confd/keys"
	"github.com/kvd-io/kvd/confd/render"
	"github.com/kvd-io/kvd/confd/report"
	"github.com/kvd-io/kvd/confd/resource"
	"github.com/kvd-io/kvd/pkg/kv"
)

// present is what the agent's goroutine lets others see of the agent. It is not changed once it is made.
type present struct {
	tasks    []task
	groups   []*group
	stores   map[string]*store
	problems []string
	own      *keys.Mirror
}

// publish lets others see what is so now.
func (a *agent) publish() {
	p := present{stores: maps.Clone(a.stores), own: a.stores[ownStore].mirror}
	for _, key := range slices.Sorted(maps.Keys(a.groups)) {
		p.groups = append(p.groups, a.groups[key].group)
		p.tasks = append(p.tasks, a.groups[key].tasks...)
	}
	for _, file := range slices.Sorted(maps.Keys(a.told)) {
		if text := a.bad[file]; text != "" {
			p.problems = append(p.problems, text)
		}
	}
	if a.trouble != "" {
		p.problems = append(p.problems, a.trouble)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.present = p
}

// control is a Control.
type control struct {
	agent *agent
	poke  chan struct{} // holds one signal
}

func (c *control) now() present {
	c.agent.mu.Lock()
	defer c.agent.mu.Unlock()
	return c.agent.present
}

// Poke implements Control.
func (c *control) Poke() {
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

// Status implements Control.
func (c *control) Status() []report.TargetStatus { return c.agent.board.all() }

// Live implements report.Agent.
func (c *control) Live() kv.Index {
	p := c.now()
	if p.own == nil {
		return 0
	}
	live := p.own.Status().Index // before the groups are asked
	for _, g := range p.groups {
		if index, reads := g.live(p.own); reads {
			live = min(live, index)
		}
	}
	return live
}

// Stores implements report.Agent.
func (c *control) Stores() (stores []report.Store) {
	p := c.now()
	for _, name := range slices.Sorted(maps.Keys(p.stores)) {
		s := p.stores[name]
		status := s.status(storeTitle(s.settings))
		if status.Published = name == ownStore && c.agent.cfg.Moments != ""; status.Published {
			status.Keys = max(0, status.Keys-s.mirror.Count(c.agent.cfg.Moments)) // those that ask for a moment are not the user's
		}
		stores = append(stores, status)
	}
	return stores
}

// Problems implements report.Agent.
func (c *control) Problems() []string { return c.now().problems }

// Stuck implements report.Agent.
func (c *control) Stuck(now time.Time) string {
	for _, g := range c.now().groups {
		if g.stuck(now) {
			return g.name()
		}
	}
	return ""
}

// name names a group by its first resource.
func (g *group) name() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.title
}

// Release implements report.Agent.
func (c *control) Release(name string) error {
	held, known := c.agent.board.release(name)
	switch {
	case !known:
		return &kv.Error{Op: "release", Key: name, Kind: kv.NotFound, Cause: fmt.Sprintf("there is no target %q; kvconfd status lists them", name)}
	case !held:
		return &kv.Error{Op: "release", Key: name, Kind: kv.CompareFailed, Cause: name + " is not held; kvconfd status shows what is"}
	}
	for _, g := range c.now().groups {
		g.poke(true, false)
	}
	return nil
}

// Explain implements report.Agent. file is the path of a file, or the name of a target.
func (c *control) Explain(ctx context.Context, file string, line int) (report.Explanation, error) {
	path := file
	if absolute, err := filepath.Abs(file); err == nil {
		path = absolute
	}
	for _, t := range c.now().tasks {
		item, is, err := t.makes(file, path)
		if err != nil {
			return report.Explanation{}, err
		}
		if is {
			return c.explain(ctx, t, item, path, line)
		}
	}
	return report.Explanation{}, &kv.Error{Op: "explain", Key: file, Kind: kv.NotFound, Cause: file + ": no resource makes this file"}
}

// makes reports whether t makes a file, and of which item.
func (t task) makes(name, path string) (item any, is bool, err error) {
	if t.ForEach == "" {
		return nil, name == t.Name || path == t.Dest, nil
	}
	view := t.mirror.View()
	items, err := t.tree(view).Items(t.ForEach)
	if err != nil {
		return nil, false, err
	}
	for _, item := range items {
		dest, err := t.DestOf(item.Key)
		if err == nil && (dest == path || name == t.Name+"/"+item.Name) {
			return item, true, nil
		}
	}
	return nil, false, nil
}

// scope is what t's template may see of view.
func (t task) scope(view keys.View) render.Scope {
	return render.Scope{Prefix: t.Prefix, Keys: t.Keys, Textual: view.Naming() == keys.Textual, Unhidden: view.Naming() == keys.Unhidden}
}

// tree is what t's template sees of view.
func (t task) tree(view keys.View) render.Tree { return render.NewTree(view, t.scope(view)) }

func (c *control) explain(ctx context.Context, t task, item any, path string, line int) (report.Explanation, error) {
	view := t.mirror.View()
	s := sample{Resource: t.Resource, name: t.Name, dest: path, tree: t.tree(view), item: item, index: view.Index()}
	if item, ok := item.(render.Item); ok {
		s.name += "/" + item.Name
	} else {
		s.dest = t.Dest
	}
	if s.template, s.err = parseTemplate(c.agent.cfg, c.agent.deps, t.Resource); s.err == nil {
		s.render(ctx)
	}
	status, known := c.status(s.name)
	if status.State == report.Held {
		s.held = status.Err
	}
	e, err := s.explain(ctx, line)
	if known {
		e.Target, e.File = status, status.Dest
	}
	if !view.Ready(t.Keys) {
		e.Note = "the keys have not been read yet"
	}
	return e, err
}

// status returns where the target of this name stands, if it is known.
func (c *control) status(name string) (report.TargetStatus, bool) {
	all := c.Status()
	i := slices.IndexFunc(all, func(s report.TargetStatus) bool { return s.Name == name })
	if i < 0 {
		return report.TargetStatus{}, false
	}
	return all[i], true
}

// parseTemplate reads and parses the template of r.
func parseTemplate(cfg Config, deps Deps, r resource.Resource) (*render.Template, error) {
	text, err := readTemplate(r.Src)
	if err != nil {
		return nil, err
	}
	return newTemplate(cfg, deps, r, text)
}

func newTemplate(cfg Config, deps Deps, r resource.Resource, text string) (*render.Template, error) {
	env := render.Env{World: deps.World, Include: render.IncludeDir(templatesDir(cfg)), Sensitive: r.Sensitive}
	if cfg.Keyring != nil {
		env.Decrypt = cfg.Keyring.Decrypt
	}
	return render.Parse(filepath.Base(r.Src), text, env)
}

// templatesDir is where templates include others from, by their paths in it.
func templatesDir(cfg Config) string { return filepath.Join(cfg.ConfDir, "templates") }
