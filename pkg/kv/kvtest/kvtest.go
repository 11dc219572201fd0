// Package kvtest is the conformance suite of kv.Store: what every implementation promises to an
// agent that knows nothing else of it. It writes only below /kvtest and speaks no wire format.
//
//	func TestClientIsAStore(t *testing.T) {
//		kvtest.Run(t, func(t *testing.T) kv.Store { return open(t) })
//	}
package kvtest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

// patience bounds every wait of the suite; nothing that works takes as long.
const patience = 20 * time.Second

// Run runs the suite. open returns a Store, closed by t.Cleanup; all may show the same data.
func Run(t *testing.T, open func(t *testing.T) kv.Store) {
	var subtests atomic.Int64
	start := time.Now().UnixNano()
	for _, group := range []map[string]func(*testing.T, *store){reads, writes, expiries, watches} {
		for name, test := range group {
			t.Run(name, func(t *testing.T) {
				root := fmt.Sprintf("/kvtest/%x-%d", start, subtests.Add(1))
				test(t, &store{Store: open(t), t: t, root: root})
			})
		}
	}
}

// store is a Store below a directory of its own, whose calls must succeed unless a kind is named.
type store struct {
	kv.Store
	t    *testing.T
	root string
}

// key returns the absolute key of a name within the test's directory.
func (s *store) key(name string) string { return s.root + name }

func (s *store) context() context.Context {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	s.t.Cleanup(cancel)
	return ctx
}

// do makes a write whose Key is a name.
func (s *store) do(w kv.Write) kv.Result {
	s.t.Helper()
	name := w.Key
	w.Key = s.key(w.Key)
	result, err := s.Write(s.context(), w)
	if err != nil {
		s.t.Fatalf("%v %s: %v", w.Op, name, err)
	}
	return result
}

func (s *store) set(name, value string) kv.Result {
	s.t.Helper()
	return s.do(kv.Write{Op: kv.OpSet, Key: name, Value: value})
}

// get reads one key by name.
func (s *store) get(name string) kv.Result {
	s.t.Helper()
	result, err := s.Read(s.context(), kv.Read{Key: s.key(name), Quorum: true})
	if err != nil {
		s.t.Fatalf("get %s: %v", name, err)
	}
	return result
}

// refuse makes a write that must fail with kind and, unless it is "", with cause.
func (s *store) refuse(w kv.Write, kind kv.Kind, cause string) {
	s.t.Helper()
	name := w.Key
	if name != "/" {
		w.Key = s.key(name)
	}
	_, err := s.Write(s.context(), w)
	s.wantError(fmt.Sprintf("%v %s", w.Op, name), err, kind, cause)
}

// refuseRead makes a read that must fail.
func (s *store) refuseRead(name string, kind kv.Kind, cause string) {
	s.t.Helper()
	_, err := s.Read(s.context(), kv.Read{Key: s.key(name)})
	s.wantError("get "+name, err, kind, cause)
}

func (s *store) wantError(what string, err error, kind kv.Kind, cause string) {
	s.t.Helper()
	if err == nil {
		s.t.Fatalf("%s: succeeded, want the error %q", what, kind)
	}
	var e *kv.Error
	if !errors.As(err, &e) || e.Kind != kind {
		s.t.Fatalf("%s: %v, want the kind %q", what, err, kind)
	}
	if cause != "" && e.Cause != cause {
		s.t.Errorf("%s: cause %q, want %q", what, e.Cause, cause)
	}
	if e.Index == 0 {
		s.t.Errorf("%s: no index in %v", what, err)
	}
}

// wantNode compares the parts of n that a test names.
func (s *store) wantNode(what string, n *kv.Node, name, value string) {
	s.t.Helper()
	if n == nil {
		s.t.Fatalf("%s: no node, want %s", what, name)
	}
	if n.Key != s.key(name) || n.Value != value || n.Dir {
		s.t.Errorf("%s: %s=%q dir=%v, want %s=%q", what, n.Key, n.Value, n.Dir, s.key(name), value)
	}
}
