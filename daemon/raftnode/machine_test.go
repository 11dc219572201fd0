package raftnode

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
)

// ledger is a Machine that writes down what it is given.
type ledger struct {
	mu    sync.Mutex
	state ledgerState
	// batches holds the number of commands of each batch, in this process only.
	batches []int
	onApply func(batch *command.Batch) // called before a batch is applied
}

type ledgerState struct {
	Keys       []string
	Clock      int64
	WallOffset int64
	Index      uint64              // of the last entry
	Sequences  map[uint64][]uint64 // executed, by origin
}

func (l *ledger) Apply(index, term uint64, batch *command.Batch) []command.Result {
	if l.onApply != nil {
		l.onApply(batch)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state.Clock, l.state.WallOffset = max(l.state.Clock, batch.Clock), batch.WallOffset
	l.state.Index = index
	l.batches = append(l.batches, len(batch.Commands))
	results := make([]command.Result, len(batch.Commands))
	for i, c := range batch.Commands {
		if l.state.Sequences == nil {
			l.state.Sequences = map[uint64][]uint64{}
		}
		l.state.Sequences[c.Origin] = append(l.state.Sequences[c.Origin], c.Sequence)
		if w, ok := c.Body.(kv.Write); ok {
			if w.Key == "/refused" {
				results[i].Err = &kv.Error{Kind: kv.Exists, Key: w.Key}
				continue
			}
			l.state.Keys = append(l.state.Keys, w.Key)
			results[i].Index = uint64(len(l.state.Keys))
		}
	}
	return results
}

func (l *ledger) Flush() {}

func (l *ledger) Snapshot() Snapshot {
	l.mu.Lock()
	defer l.mu.Unlock()
	data, err := json.Marshal(l.state)
	if err != nil {
		panic(err)
	}
	return ledgerSnapshot(data)
}

func (l *ledger) Restore(r io.Reader) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return json.NewDecoder(r).Decode(&l.state)
}

func (l *ledger) LeaseClock() (clock, wallOffset int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state.Clock, l.state.WallOffset
}

func (l *ledger) Executed(origin, sequence uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.state.Sequences[origin], sequence)
}

func (l *ledger) Members() []command.Member { return nil }
func (l *ledger) Removed(uint64) bool       { return false }

func (l *ledger) keys() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.state.Keys...)
}

type ledgerSnapshot []byte

func (s ledgerSnapshot) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(s)
	return int64(n), err
}
func (s ledgerSnapshot) Release() {}

func TestMain(m *testing.M) {
	runHelper()
	goleak.VerifyTestMain(m)
}

func testConfig(dir string) Config {
	return Config{Name: "n1", DataDir: dir, ClusterToken: "test"}
}

func peers(t testing.TB) []net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return []net.Listener{l}
}

// open starts a node that is closed at the end of the test, unless the test does.
func open(t testing.TB, cfg Config) (*Node, *ledger) {
	t.Helper()
	machine := &ledger{}
	node := openWith(t, cfg, machine)
	return node, machine
}

func openWith(t testing.TB, cfg Config, machine Machine) *Node {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	node, err := Open(ctx, cfg, Deps{Peers: peers(t), Fatal: func(err error) { panic(err) }}, machine)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := node.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return node
}

func openError(t testing.TB, cfg Config) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	node, err := Open(ctx, cfg, Deps{Peers: peers(t), Fatal: func(err error) { panic(err) }}, &ledger{})
	if err == nil {
		node.Close()
		t.Fatal("the node opened")
	}
	return err
}

func write(key string) command.Command {
	return command.Command{Body: kv.Write{Op: kv.OpSet, Key: key}}
}

func propose(t testing.TB, n *Node, key string) command.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	result, err := n.Propose(ctx, write(key))
	if err != nil {
		t.Fatalf("propose %s: %v", key, err)
	}
	return result
}

func numbered(i int) string { return fmt.Sprintf("/k%d", i) }
