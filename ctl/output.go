package ctl

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/printable"
)

// format is how answers and errors are printed. It is a pflag.Value.
type format string

const (
	simple   format = "simple"   // the value alone
	extended format = "extended" // the value below a block of what else is known
	asJSON   format = "json"     // one line
)

func (f *format) String() string { return string(*f) }

// Type names the flag's argument in the help.
func (f *format) Type() string { return "format" }

// Set refuses formats that do not exist, before anything is done.
func (f *format) Set(text string) error {
	switch format(text) {
	case simple, extended, asJSON:
		*f = format(text)
		return nil
	}
	return fmt.Errorf("use simple, extended or json")
}

// printer prints answers as etcdctl does.
type printer struct {
	out    *bufio.Writer
	format format
}

func newPrinter(w io.Writer, f format) *printer { return &printer{bufio.NewWriter(w), f} }

// flush passes on what was printed.
func (p *printer) flush() error {
	if err := p.out.Flush(); err != nil {
		return &usageError{text: fmt.Sprintf("cannot write the output: %v", err)}
	}
	return nil
}

// event prints an answer or a change; index is the store's at that time. Of directories, which
// have no value, simple shows nothing.
func (p *printer) event(e kv.Event, index kv.Index) {
	switch p.format {
	case simple:
		if !e.Node.Dir {
			p.value(e)
		}
	case extended:
		p.block(e, index)
	case asJSON:
		p.json(e)
	}
}

func (p *printer) value(e kv.Event) {
	if e.Action == kv.ActionDelete && e.PrevNode != nil {
		fmt.Fprintln(p.out, "PrevNode.Value:", e.PrevNode.Value)
		return
	}
	fmt.Fprintln(p.out, e.Node.Value)
}

func (p *printer) block(e kv.Event, index kv.Index) {
	fmt.Fprintln(p.out, "Key:", e.Node.Key)
	fmt.Fprintln(p.out, "Created-Index:", e.Node.CreatedIndex)
	fmt.Fprintln(p.out, "Modified-Index:", e.Node.ModifiedIndex)
	if e.PrevNode != nil {
		fmt.Fprintln(p.out, "PrevNode.Value:", e.PrevNode.Value)
	}
	fmt.Fprintln(p.out, "TTL:", e.Node.TTL)
	fmt.Fprintln(p.out, "Index:", index)
	if e.Action != kv.ActionDelete {
		fmt.Fprintln(p.out)
		fmt.Fprintln(p.out, e.Node.Value)
	}
}

func (p *printer) json(e kv.Event) {
	// Encoding strings, numbers and times cannot fail; a failing output shows in flush.
	_ = json.NewEncoder(p.out).Encode(eventJSON{e.Action, nodeJSONOf(e.Node), nodeJSONOf(e.PrevNode)})
}

// said prints text for a person, or the JSON of what it says.
func (p *printer) said(text string, means any) {
	if p.format == asJSON {
		_ = json.NewEncoder(p.out).Encode(means) // structs of strings; a failing output shows in flush
		return
	}
	fmt.Fprintln(p.out, printable.Text(text))
}

// names prints a list, one name a line.
func (p *printer) names(names []string, means any) {
	if len(names) > 0 || p.format == asJSON {
		p.said(strings.Join(names, "\n"), means)
	}
}

// changed prints what has been done to a user or role.
func (p *printer) changed(what, name, text, done string) {
	p.said(text, map[string]string{what: name, "done": done})
}

// eventJSON and nodeJSON are the JSON of etcdctl v2, which is not that of the API: absent things
// are null or empty instead of missing.
type eventJSON struct {
	Action   kv.Action `json:"action"`
	Node     *nodeJSON `json:"node"`
	PrevNode *nodeJSON `json:"prevNode"`
}

type nodeJSON struct {
	Key           string      `json:"key"`
	Dir           bool        `json:"dir,omitempty"`
	Value         string      `json:"value"`
	Nodes         []*nodeJSON `json:"nodes"`
	CreatedIndex  kv.Index    `json:"createdIndex"`
	ModifiedIndex kv.Index    `json:"modifiedIndex"`
	Expiration    *time.Time  `json:"expiration,omitempty"`
	TTL           int64       `json:"ttl,omitempty"`
	Lease         string      `json:"lease,omitempty"` // kvd's own
}

func nodeJSONOf(n *kv.Node) *nodeJSON {
	if n == nil {
		return nil
	}
	j := &nodeJSON{Key: n.Key, Dir: n.Dir, Value: n.Value, CreatedIndex: n.CreatedIndex, ModifiedIndex: n.ModifiedIndex, TTL: n.TTL}
	if !n.Expiration.IsZero() {
		j.Expiration = &n.Expiration
	}
	if n.Lease != 0 {
		j.Lease = n.Lease.String()
	}
	for _, child := range n.Nodes {
		j.Nodes = append(j.Nodes, nodeJSONOf(child))
	}
	return j
}
