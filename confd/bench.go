package confd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/kvd-io/kvd/confd/keys"
	"github.com/kvd-io/kvd/confd/render"
	"github.com/kvd-io/kvd/confd/resource"
	"github.com/kvd-io/kvd/pkg/kv"
)

// readMax bounds how long the commands that render without an agent wait for a store.
const readMax = 10 * time.Second

// bench renders resources without an agent and without changing anything. It is for one goroutine.
type bench struct {
	cfg       Config
	log       *slog.Logger
	world     render.World
	resources []resource.Resource
	broken    []error // resource files that cannot be used
	views     map[string]keys.View
	given     *keys.View      // what --from or --keys gives in place of every source
	agent     *syscall.Stat_t // of the socket of the kvconfd that runs; nil: there is none
}

// sample is one file as it would be made now.
type sample struct {
	resource.Resource
	name    string // of the target
	dest    string
	content []byte
	skipped []string
	reads   *render.Reads
	keys    int // found
	index   kv.Index
	err     error  // why there is no content
	held    string // why a guard keeps the file as it is; "": none does, as far as is known

	template *render.Template // nil if it cannot be used
	tree     render.Tree
	item     any
}

// newBench reads the configuration directory.
func newBench(cfg Config, log *slog.Logger) (*bench, error) {
	b := &bench{cfg: cfg, log: log, views: map[string]keys.View{}}
	loaded, err := cfg.resources()
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration directory: %w", err)
	}
	for _, l := range loaded {
		if l.Err != nil {
			b.broken = append(b.broken, l.Err)
			continue
		}
		b.resources = append(b.resources, l.Resource)
	}
	return b, nil
}

// source says where the keys of a resource come from.
func (b *bench) source(r resource.Resource) keys.Config {
	if r.Backend == nil {
		return b.cfg.source()
	}
	return b.cfg.sourceOf(*r.Backend)
}

// read reads what resources need from their sources, each source once.
func (b *bench) read(ctx context.Context, resources []resource.Resource) error {
	if b.given != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, readMax)
	defer cancel()
	wanted, configs := map[string][]string{}, map[string]keys.Config{}
	for _, r := range resources {
		config := b.source(r)
		name := storeTitle(config)
		configs[name] = config
		for _, key := range r.Keys {
			wanted[name] = append(wanted[name], config.Key(key))
		}
	}
	for name, config := range configs {
		source, err := keys.Open(config, keys.Deps{Log: b.log})
		if err != nil {
			return err
		}
		mirror := keys.NewMirror(config.Naming())
		err = source.Load(ctx, mirror, keys.Roots(wanted[name]))
		source.Close()
		if err != nil {
			return fmt.Errorf("cannot read the keys: %w", err)
		}
		b.views[name] = mirror.View()
	}
	return nil
}

// view returns what the template of r may see.
func (b *bench) view(r resource.Resource) (keys.View, render.Tree) {
	view, config := keys.View{}, b.source(r)
	if b.given != nil {
		view = *b.given
	} else {
		view = b.views[storeTitle(config)]
	}
	seen := make([]string, len(r.Keys))
	for i, key := range r.Keys {
		seen[i] = config.Key(key)
	}
	return view, render.NewTree(view, render.Scope{Prefix: r.Prefix, Keys: resource.Minimal(seen), Textual: view.Naming() == keys.Textual, Unhidden: view.Naming() == keys.Unhidden})
}

// samples renders all files of r.
func (b *bench) samples(ctx context.Context, r resource.Resource) []sample {
	view, tree := b.view(r)
	first := sample{Resource: r, name: r.Name, dest: r.Dest, tree: tree, keys: tree.Len(), index: view.Index()}
	if first.template, first.err = b.parse(r); first.err != nil {
		return []sample{first}
	}
	if r.ForEach == "" {
		first.render(ctx)
		return []sample{first}
	}
	items, err := tree.Items(r.ForEach)
	if err != nil {
		first.err = err
		return []sample{first}
	}
	var made []sample
	for _, item := range items {
		one := first
		one.item, one.name = item, r.Name+"/"+item.Name
		if one.dest, one.err = r.DestOf(item.Key); one.err == nil {
			one.render(ctx)
		}
		made = append(made, one)
	}
	return made
}

// parse reads the template of r.
func (b *bench) parse(r resource.Resource) (*render.Template, error) {
	return parseTemplate(b.cfg, Deps{World: b.world}, r)
}

func (s *sample) render(ctx context.Context) {
	out, err := s.template.Render(ctx, s.tree, s.item)
	s.content, s.skipped, s.reads, s.err = out.Content, out.Skipped, out.Reads, err
}

// all renders all files of all resources, or those of one that is called name: by its name, or by that of
// one of its files.
func (b *bench) all(ctx context.Context, name string) ([]sample, error) {
	wanted := b.resources
	if name != "" {
		wanted = slices.DeleteFunc(slices.Clone(wanted), func(r resource.Resource) bool {
			return r.Name != name && !strings.HasPrefix(name, r.Name+"/")
		})
		if len(wanted) == 0 {
			return nil, b.unknown(name)
		}
	}
	if err := b.read(ctx, wanted); err != nil {
		return nil, err
	}
	var made []sample
	for _, r := range wanted {
		for _, s := range b.samples(ctx, r) {
			if name == "" || name == r.Name || name == s.name {
				made = append(made, s)
			}
		}
	}
	if len(made) == 0 && name != "" && !slices.ContainsFunc(wanted, func(r resource.Resource) bool { return r.Name == name }) {
		return nil, b.unknown(name)
	}
	return made, nil
}

// unknown says which names there are.
func (b *bench) unknown(name string) error {
	var names []string
	for _, r := range b.resources {
		names = append(names, r.Name)
	}
	text := "there are none"
	if len(names) > 0 {
		text = "there are " + strings.Join(names, ", ")
	}
	return &kv.Error{Op: "find", Kind: kv.NotFound, Cause: fmt.Sprintf("no resource in %s is called %q; %s", filepath.Join(b.cfg.ConfDir, "conf.d"), name, text)}
}

// useKeys has the bench render from a YAML or JSON file instead of from where keys come from.
func (b *bench) useKeys(ctx context.Context, path string) error {
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("--keys: %w", err)
	}
	source, err := keys.Open(keys.Config{Backend: keys.BackendFile, Files: []string{path}, Filter: "*", Interval: time.Hour}, keys.Deps{Log: b.log})
	if err != nil {
		return fmt.Errorf("--keys: %w", err)
	}
	defer source.Close()
	mirror := keys.NewMirror(keys.Segments)
	if err := source.Load(ctx, mirror, []string{""}); err != nil {
		return fmt.Errorf("--keys: %w", err)
	}
	view := mirror.View()
	b.given = &view
	return nil
}

// useSnapshot has the bench render from a snapshot: a file, or "-" for what in holds.
func (b *bench) useSnapshot(path string, in io.Reader) error {
	var snapshot keys.Snapshot
	var err error
	if path == "-" {
		snapshot, err = keys.ReadSnapshot(in)
	} else {
		snapshot, err = keys.LoadSnapshot(path)
	}
	if err != nil {
		return fmt.Errorf("--from: %w", err)
	}
	b.given = &snapshot.View
	return nil
}

// current returns what the file of s holds now; ok: it is there.
func (s *sample) current() (content []byte, ok bool, err error) {
	content, err = os.ReadFile(s.dest)
	if errors.Is(err, os.ErrNotExist) {
		return nil, false, nil
	}
	return content, err == nil, err
}
