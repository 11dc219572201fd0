package store

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
)

// wallOffset puts the lease clock's zero at a round moment of unix time.
const wallOffset = int64(1_700_000_000 * time.Second)

// replica is a machine together with the end of its log.
type replica struct {
	t interface {
		Helper()
		Fatalf(string, ...any)
	}
	*Machine
	index uint64
	now   time.Duration // the lease clock of the next batch
}

func newReplica(t *testing.T) *replica { return &replica{t: t, Machine: New(0)} }

// apply sends the commands through the log's encoding as one entry.
func (r *replica) apply(bodies ...command.Body) []command.Result {
	r.t.Helper()
	commands := make([]command.Command, len(bodies))
	for i, body := range bodies {
		commands[i].Body = body
	}
	return r.applyAll(commands...)
}

// applyAll does the same with commands of users.
func (r *replica) applyAll(commands ...command.Command) []command.Result {
	r.t.Helper()
	b := command.Batch{Level: command.Level, Clock: int64(r.now), WallOffset: wallOffset, Commands: commands}
	decoded, err := command.Decode(b.Append(nil))
	if err != nil {
		r.t.Fatalf("the batch %+v cannot be read: %v", b, err)
	}
	r.index++
	return r.Apply(r.index, 7, decoded)
}

// do executes one write and renders its outcome.
func (r *replica) do(w kv.Write) string {
	r.t.Helper()
	res := r.apply(w)[0]
	if res.RaftIndex != r.index || res.RaftTerm != 7 {
		r.t.Fatalf("the result is of entry %d in term %d, want %d and 7", res.RaftIndex, res.RaftTerm, r.index)
	}
	return render(res.Result, res.Err)
}

// get reads and renders one key with what is listed in it.
func (r *replica) get(key string, recursive bool) string {
	res, err := r.Read(kv.Read{Key: key, Recursive: recursive, Sorted: true}, int64(r.now))
	return render(res, err)
}

// expire proposes, as a leader does, what is due now and returns the events, rendered.
func (r *replica) expire() []string {
	r.t.Helper()
	r.TakeEvents()
	r.apply(command.Expire{Leases: r.Due(int64(r.now), 1000).Ended})
	return r.seen()
}

// seen takes the events since the last call, rendered.
func (r *replica) seen() []string {
	events, _ := r.TakeEvents()
	list := []string{}
	for _, e := range events {
		list = append(list, renderEvent(e))
	}
	return list
}

func (r *replica) snapshot() []byte {
	r.t.Helper()
	var b bytes.Buffer
	s := r.Snapshot()
	defer s.Release()
	n, err := s.WriteTo(&b)
	if err != nil || n != int64(b.Len()) {
		r.t.Fatalf("writing a snapshot of %d bytes returned %d, %v", b.Len(), n, err)
	}
	return b.Bytes()
}

// render writes a result as "set /a=new {7,7} <- /a=old {6,6} @7", with "new" at the end if a
// node was made, or an error as "not a file (/a) @6". Indices are {created,modified}.
func render(res kv.Result, err error) string {
	if err != nil {
		var e *kv.Error
		if !asError(err, &e) {
			return "foreign error: " + err.Error()
		}
		return fmt.Sprintf("%v (%s) @%d", e.Kind, e.Cause, e.Index)
	}
	s := fmt.Sprintf("%s @%d", renderEvent(res.Event), res.Index)
	if res.Created {
		s += " new"
	}
	return s
}

func asError(err error, to **kv.Error) bool {
	e, ok := err.(*kv.Error)
	*to = e
	return ok
}

func renderEvent(e kv.Event) string {
	s := string(e.Action) + " " + renderNode(e.Node)
	if e.PrevNode != nil {
		s += " <- " + renderNode(e.PrevNode)
	}
	return s
}

// renderNode writes a file as "/a=v {2,3} ttl 5 until 12s", a directory as "/a/ {2,2} (children)".
func renderNode(n *kv.Node) string {
	if n == nil {
		return "nothing"
	}
	var b strings.Builder
	b.WriteString(n.Key)
	switch {
	case n.Dir:
		b.WriteByte('/')
	case n.Value != "":
		b.WriteString("=" + n.Value)
	}
	if n.Dir && n.Value != "" {
		b.WriteString(" DIRECTORY WITH VALUE " + n.Value)
	}
	fmt.Fprintf(&b, " {%d,%d}", n.CreatedIndex, n.ModifiedIndex)
	if n.TTL != 0 {
		fmt.Fprintf(&b, " ttl %d", n.TTL)
	}
	if !n.Expiration.IsZero() {
		fmt.Fprintf(&b, " until %v", n.Expiration.Sub(time.Unix(0, wallOffset)))
		if n.Expiration.Location() != time.UTC {
			b.WriteString(" NOT UTC")
		}
	}
	if n.Lease != 0 {
		fmt.Fprintf(&b, " lease %d", n.Lease)
	}
	if n.Nodes != nil {
		var children []string
		for _, c := range n.Nodes {
			children = append(children, renderNode(c))
		}
		b.WriteString(" (" + strings.Join(children, ", ") + ")")
	}
	return b.String()
}

func set(key, value string) kv.Write    { return kv.Write{Op: kv.OpSet, Key: key, Value: value} }
func create(key, value string) kv.Write { return kv.Write{Op: kv.OpCreate, Key: key, Value: value} }
func post(key, value string) kv.Write {
	return kv.Write{Op: kv.OpCreateInOrder, Key: key, Value: value}
}
func update(key, value string) kv.Write { return kv.Write{Op: kv.OpUpdate, Key: key, Value: value} }
func cas(key, value, prevValue string, prevIndex kv.Index) kv.Write {
	return kv.Write{Op: kv.OpCompareAndSwap, Key: key, Value: value, PrevValue: prevValue, PrevIndex: prevIndex}
}
func remove(key string) kv.Write { return kv.Write{Op: kv.OpDelete, Key: key} }
func rmr(key string) kv.Write    { return kv.Write{Op: kv.OpDelete, Key: key, Recursive: true} }
func cad(key, prevValue string, prevIndex kv.Index) kv.Write {
	return kv.Write{Op: kv.OpCompareAndDelete, Key: key, PrevValue: prevValue, PrevIndex: prevIndex}
}

func asDir(w kv.Write) kv.Write { w.Dir = true; return w }
func lasting(ttl time.Duration, w kv.Write) kv.Write {
	w.TTL = ttl
	return w
}
func attached(lease kv.LeaseID, w kv.Write) kv.Write {
	w.Lease = lease
	return w
}
func refresh(ttl time.Duration, w kv.Write) kv.Write {
	w.TTL, w.Refresh = ttl, true
	return w
}
