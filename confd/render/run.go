package render

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync/atomic"
	"text/template"
)

// run is one render at work. It belongs to one goroutine.
type run struct {
	t       *Template
	tree    Tree
	reads   *Reads
	records records // of this run, to be kept for the next
	decoded decodedJSONs
	skipped []string
	output  limitedBuffer

	lenient bool // functions make the best of missing keys and bad texts, for Explain
	context context.Context
	stopped atomic.Bool // context has ended
	made    int         // bytes that functions have made
	depth   int         // of templates that call each other
	stack   []string    // names of the templates being included
	bound   map[string]*template.Template
}

func newRun(t *Template, tree Tree) *run {
	r := &run{t: t, tree: tree, reads: newReads(tree.scope), bound: map[string]*template.Template{}}
	r.output.run = r
	t.mu.Lock()
	defer t.mu.Unlock()
	r.records = t.records.next()
	r.decoded = t.decoded.next()
	r.output.Grow(t.lastBytes + t.lastBytes/16)
	return r
}

// keep hands what the run has learned to the runs after it.
func (t *Template) keep(r *run) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !r.lenient {
		t.records, t.decoded, t.lastBytes = r.records, r.decoded, r.output.Len()
	}
}

// begin starts the run's clock; the function that it returns stops it.
func (r *run) begin(ctx context.Context) (end func()) {
	limit := r.t.env.Limits.Time
	late := limitError(fmt.Sprintf("the template is not done after %v", limit))
	ctx, cancel := context.WithTimeoutCause(ctx, limit, late)
	r.context = ctx
	stop := context.AfterFunc(ctx, func() { r.stopped.Store(true) })
	return func() { stop(); cancel() }
}

// execute writes what parsed makes of data to w.
func (r *run) execute(parsed *template.Template, data any, w io.Writer) (err error) {
	bound, err := parsed.Clone()
	if err != nil {
		return err
	}
	defer func() { // text/template hands on what it takes for a fault of its own
		if fault := recover(); fault != nil {
			err = fmt.Errorf("template %s: %v", parsed.Name(), fault)
		}
	}()
	err = bound.Funcs(r.functions()).Execute(w, data)
	if limit := limitError(""); errors.As(err, &limit) && !strings.Contains(err.Error(), "template: ") {
		return fmt.Errorf("template: %s: %w", parsed.Name(), err) // text/template does not say where it was writing
	}
	return err
}

// live returns an error once the run is to stop.
func (r *run) live() error {
	if !r.stopped.Load() {
		return nil
	}
	return context.Cause(r.context)
}

// spend notes that a function is about to make a value of about bytes, and refuses what is too much.
func (r *run) spend(bytes int) error {
	limits := r.t.env.Limits
	if bytes < 0 || bytes > limits.ValueBytes {
		return limitError(fmt.Sprintf("the result would be larger than %d MiB", limits.ValueBytes>>20))
	}
	if r.made += bytes; r.made > limits.MadeBytes {
		return limitError(fmt.Sprintf("the template has made more than %d MiB of texts and lists", limits.MadeBytes>>20))
	}
	return r.live()
}

// text passes on what a function has made.
func (r *run) text(s string) (string, error) {
	if err := r.spend(len(s)); err != nil {
		return "", err
	}
	return s, nil
}

// enter and leave are called where a template begins and ends that calls others.
func (r *run) enter() (bool, error) {
	if r.depth++; r.depth > r.t.env.Limits.Depth {
		return false, limitError(fmt.Sprintf("templates call each other more than %d deep", r.t.env.Limits.Depth))
	}
	return false, r.live()
}

func (r *run) leave() bool { r.depth--; return false }

// limitedBuffer refuses to grow beyond the limit of its run, and to be written after its end.
type limitedBuffer struct {
	bytes.Buffer
	run *run
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if err := b.run.live(); err != nil {
		return 0, err
	}
	if limit := b.run.t.env.Limits.OutputBytes; b.Len()+len(p) > limit {
		return 0, limitError(fmt.Sprintf("the output is larger than %d MiB", limit>>20))
	}
	return b.Buffer.Write(p)
}

// How large and how deep a value of lists and maps may be. It counts what would be printed: a list
// that holds another one twice counts it twice.
const (
	partsMax  = 4 << 20
	levelsMax = 100
)

var errLarge = errors.New("the value has too many parts")

// size returns about how many bytes it takes to print the values.
func size(values ...any) (bytes int, err error) {
	m := measure{}
	for _, value := range values {
		m.value(value, 0)
	}
	if m.large {
		return 0, limitError(errLarge.Error())
	}
	return m.bytes, nil
}

type measure struct {
	parts, bytes int
	large        bool
}

func (m *measure) value(value any, level int) {
	if m.parts++; m.parts > partsMax || level > levelsMax {
		m.large = true
	}
	if m.large {
		return
	}
	m.bytes += 16
	switch value := value.(type) {
	case string:
		m.bytes += len(value)
	case []any:
		for _, part := range value {
			m.value(part, level+1)
		}
	case map[string]any:
		for key, part := range value {
			m.bytes += len(key)
			m.value(part, level+1)
		}
	case []string:
		m.texts(value)
	case Texts:
		m.texts(value)
	case KVPair:
		m.bytes += len(value.Key) + len(value.Value)
	case KVPairs:
		m.pairs(value)
	case []KVPair:
		m.pairs(value)
	case Group:
		m.value(value.Items, level+1)
	case []Group:
		for _, group := range value {
			m.value(group.Items, level+1)
		}
	case Service:
		m.service(value)
	case []Service:
		for _, service := range value {
			m.service(service)
		}
	case Server:
		m.servers([]Server{value})
	case []Server:
		m.servers(value)
	default:
		if v := reflect.ValueOf(value); v.Kind() == reflect.Slice || v.Kind() == reflect.Map {
			m.bytes += 16 * v.Len()
		}
	}
}

func (m *measure) texts(texts []string) {
	for _, text := range texts {
		m.bytes += 16 + len(text)
	}
}

func (m *measure) pairs(pairs []KVPair) {
	for _, pair := range pairs {
		m.bytes += 32 + len(pair.Key) + len(pair.Value)
	}
}

func (m *measure) service(s Service) {
	m.servers(s.Servers)
	m.servers(s.TCP)
	m.servers(s.TCPByIP)
}

func (m *measure) servers(servers []Server) {
	for _, server := range servers {
		m.bytes += 256 + len(server.Address) + len(server.Instance)
		for key, value := range server.Meta {
			m.bytes += len(key) + len(value)
		}
		for _, tag := range server.Tags {
			m.bytes += len(tag)
		}
	}
}
