package wal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
)

// disk is a directory in memory that notes everything that is done to it. What it would be after a
// crash at any moment can be had from the notes.
type disk struct {
	mu    sync.Mutex // guards the fields below
	names map[string]*inode
	trace []operation
	fail  func(operation) error // an error instead of the operation; may be nil
}

// inode is a file whatever its name.
type inode struct{ content []byte }

// operation is one call, as it was done.
type operation struct {
	what     string // "write", "sync", "lost", "create", "rename", "remove", "syncdir", "note"
	inode    *inode
	off      int64
	data     []byte
	name, to string
	note     any // of the test
}

func newDisk() *disk { return &disk{names: map[string]*inode{}} }

// do notes an operation and carries it out.
func (d *disk) do(op operation, effect func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		if err := d.fail(op); err != nil {
			if op.what == "sync" {
				d.trace = append(d.trace, operation{what: "lost", inode: op.inode})
			}
			return err
		}
	}
	if effect != nil {
		if err := effect(); err != nil {
			return err
		}
	}
	d.trace = append(d.trace, op)
	return nil
}

// note puts something of the test between the operations.
func (d *disk) note(what any) { d.do(operation{what: "note", note: what}, nil) }

// operations returns what was done so far.
func (d *disk) operations() []operation {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.trace)
}

func (d *disk) Path(name string) string { return "/disk/" + name }

func (d *disk) Names() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	for name := range d.names {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

func (d *disk) Open(name string) (File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, ok := d.names[name]
	if !ok {
		return nil, fmt.Errorf("open %s: %w", name, fs.ErrNotExist)
	}
	return &diskFile{disk: d, inode: n}, nil
}

func (d *disk) Create(name string) (File, error) {
	n := &inode{}
	err := d.do(operation{what: "create", inode: n, name: name}, func() error { d.names[name] = n; return nil })
	return &diskFile{disk: d, inode: n}, err
}

func (d *disk) Rename(from, to string) error {
	d.mu.Lock()
	n, ok := d.names[from]
	d.mu.Unlock()
	if !ok {
		return fmt.Errorf("rename %s: %w", from, fs.ErrNotExist)
	}
	return d.do(operation{what: "rename", inode: n, name: from, to: to}, func() error {
		delete(d.names, from)
		d.names[to] = n
		return nil
	})
}

func (d *disk) Remove(name string) error {
	return d.do(operation{what: "remove", name: name}, func() error {
		if _, ok := d.names[name]; !ok {
			return fmt.Errorf("remove %s: %w", name, fs.ErrNotExist)
		}
		delete(d.names, name)
		return nil
	})
}

func (d *disk) SyncDir() error { return d.do(operation{what: "syncdir"}, nil) }

type diskFile struct {
	disk   *disk
	inode  *inode
	closed bool
}

var errFileClosed = errors.New("file already closed")

func (f *diskFile) ReadAt(p []byte, off int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.closed {
		return 0, errFileClosed
	}
	if off >= int64(len(f.inode.content)) {
		return 0, io.EOF
	}
	n := copy(p, f.inode.content[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *diskFile) WriteAt(p []byte, off int64) (int, error) {
	if f.closed {
		return 0, errFileClosed
	}
	data := slices.Clone(p)
	err := f.disk.do(operation{what: "write", inode: f.inode, off: off, data: data}, func() error {
		f.inode.content = overwrite(f.inode.content, data, off)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func overwrite(content, data []byte, off int64) []byte {
	if missing := off + int64(len(data)) - int64(len(content)); missing > 0 {
		content = append(content, make([]byte, missing)...)
	}
	copy(content[off:], data)
	return content
}

func (f *diskFile) Sync() error {
	if f.closed {
		return errFileClosed
	}
	return f.disk.do(operation{what: "sync", inode: f.inode}, nil)
}

func (f *diskFile) Size() (int64, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	return int64(len(f.inode.content)), nil
}

func (f *diskFile) Close() error {
	if f.closed {
		return errFileClosed
	}
	f.closed = true
	return nil
}

// wreck follows a trace and knows at each place what is safely on the disk, and what may be.
type wreck struct {
	content map[*inode][]byte      // synced
	writes  map[*inode][]operation // since, in order
	names   map[string]*inode      // synced
	changes []operation            // of names, since
}

func newWreck(from *disk) *wreck {
	w := &wreck{content: map[*inode][]byte{}, writes: map[*inode][]operation{}, names: map[string]*inode{}}
	if from != nil {
		for name, n := range from.names {
			w.names[name], w.content[n] = n, slices.Clone(n.content)
		}
	}
	return w
}

// follow takes the next operation of the trace.
func (w *wreck) follow(op operation) {
	switch op.what {
	case "write":
		w.writes[op.inode] = append(w.writes[op.inode], op)
	case "sync":
		for _, write := range w.writes[op.inode] {
			w.content[op.inode] = overwrite(w.content[op.inode], write.data, write.off)
		}
		delete(w.writes, op.inode)
	case "lost": // a sync has failed: the kernel still shows the writes and will never carry them out
		delete(w.writes, op.inode)
	case "create", "rename", "remove":
		w.changes = append(w.changes, op)
	case "syncdir":
		for _, change := range w.changes {
			apply(w.names, change)
		}
		w.changes = nil
	}
}

func apply(names map[string]*inode, change operation) {
	switch change.what {
	case "create":
		names[change.name] = change.inode
	case "rename":
		if names[change.name] == change.inode {
			delete(names, change.name)
		}
		names[change.to] = change.inode
	case "remove":
		delete(names, change.name)
	}
}

// What becomes of that which was not synced.
const (
	loseAll = iota
	keepAll
	loseSome // each block by chance, and each change of a name
	crashKinds
)

// crash returns a disk as it may be after the machine has stopped here. All that is on it is durable.
func (w *wreck) crash(kind int, random *rand.Rand) *disk {
	names := make(map[string]*inode, len(w.names))
	for name, n := range w.names {
		names[name] = n
	}
	for _, change := range w.changes {
		if kind == keepAll || kind == loseSome && random.IntN(2) == 0 {
			apply(names, change)
		}
	}
	d := newDisk()
	for name, n := range names {
		content := slices.Clone(w.content[n])
		for _, write := range w.writes[n] {
			switch {
			case kind == keepAll:
				content = overwrite(content, write.data, write.off)
			case kind == loseSome:
				content = overwriteSome(content, write, random)
			}
		}
		d.names[name] = &inode{content}
	}
	return d
}

// overwriteSome writes some blocks of a write: a random part of them, or those up to a place, or those
// from a place on.
func overwriteSome(content []byte, write operation, random *rand.Rand) []byte {
	const block = 512
	end := write.off + int64(len(write.data))
	blocks := int((end+block-1)/block - write.off/block)
	edge, manner := random.IntN(blocks+1), random.IntN(3)
	for i := range blocks {
		from := max((write.off/block+int64(i))*block, write.off)
		to := min((write.off/block+int64(i)+1)*block, end)
		if manner == 0 && random.IntN(2) == 0 || manner == 1 && i >= edge || manner == 2 && i < edge {
			continue
		}
		content = overwrite(content, write.data[from-write.off:to-write.off], from)
	}
	return content
}

// killed returns the disk as a killed process leaves it, when the machine goes on: everything is
// there, but what was not synced is still not safe. The second is what would be left if the machine
// stopped as well, and follows the trace of the first.
func (w *wreck) killed() (*disk, *wreck) {
	d, after := newDisk(), newWreck(nil)
	twins := map[*inode]*inode{} // a disk of its own needs files of its own
	twin := func(n *inode) *inode {
		if twins[n] == nil {
			t := &inode{slices.Clone(w.content[n])}
			twins[n], after.content[t] = t, slices.Clone(t.content)
			for _, write := range w.writes[n] {
				t.content = overwrite(t.content, write.data, write.off)
				write.inode = t
				after.writes[t] = append(after.writes[t], write)
			}
		}
		return twins[n]
	}
	for name, n := range w.names {
		d.names[name], after.names[name] = twin(n), twin(n)
	}
	for _, change := range w.changes {
		if change.inode != nil {
			change.inode = twin(change.inode)
		}
		apply(d.names, change)
		after.changes = append(after.changes, change)
	}
	return d, after
}
