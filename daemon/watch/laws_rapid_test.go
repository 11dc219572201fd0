package watch

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/store"
	"github.com/kvd-io/kvd/pkg/kv"
)

// lawTrial is a store with its hub, and clients of both: what they read at first and what they are
// told after it must be what the store holds.
type lawTrial struct {
	machine *store.Machine
	hub     *Hub
	length  int
	entry   uint64
	clock   time.Duration
	mirrors []*mirror
	pairs   []*pair
}

// mirror is a client that has read a directory once and only follows events since.
type mirror struct {
	*Watcher
	key     string
	only    []string          // of key, if not nil
	believe map[string]string // path to value, "/" for a directory
	last    kv.Index
	lost    bool
}

// pair is two watchers of the same events: one was there when they happened, the other comes later.
type pair struct {
	live *Watcher
	from kv.WatchFrom
	told []kv.Event
	lost bool
}

var lawKeys = []string{"/a", "/a/b", "/a/b/c", "/ab", "/a-b", "/a0/x", "/_h/x", "/_h/_y", "/é", "/a/b/c/d"}

func (tr *lawTrial) apply(t *rapid.T) {
	tr.clock += rapid.SampledFrom([]time.Duration{0, 0, time.Second, time.Minute}).Draw(t, "elapsed")
	tr.entry++
	batch := &command.Batch{Level: command.Level, Clock: int64(tr.clock)}
	if due := tr.machine.Due(int64(tr.clock), 3); len(due.Ended) > 0 {
		batch.Commands = append(batch.Commands, command.Command{Body: command.Expire{Leases: due.Ended}})
	}
	for range rapid.IntRange(0, 4).Draw(t, "writes") {
		seldom := func(name string) bool { return rapid.IntRange(0, 3).Draw(t, name) == 0 }
		batch.Commands = append(batch.Commands, command.Command{Body: kv.Write{
			Op:  kv.Op(rapid.SampledFrom([]kv.Op{kv.OpSet, kv.OpSet, kv.OpCreate, kv.OpCreateInOrder, kv.OpUpdate, kv.OpDelete}).Draw(t, "op")),
			Key: rapid.SampledFrom(lawKeys).Draw(t, "key"), Value: rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, "value"),
			TTL: rapid.SampledFrom([]time.Duration{0, 0, 0, time.Second, time.Hour}).Draw(t, "ttl"), Dir: seldom("dir"), Recursive: seldom("recursive"),
		}})
	}
	tr.machine.Apply(tr.entry, 1, batch)
	tr.hub.Publish(tr.machine.TakeEvents())
}

// restart is what a member's restart is to those who can resume: another machine, from a snapshot.
func (tr *lawTrial) restart(t *rapid.T) {
	var written bytes.Buffer
	snapshot := tr.machine.Snapshot()
	if _, err := snapshot.WriteTo(&written); err != nil {
		t.Fatal(err)
	}
	tr.machine = store.New(tr.length)
	if err := tr.machine.Restore(&written); err != nil {
		t.Fatal(err)
	}
	tr.hub = NewHub(tr.length)
	tr.hub.Reset(tr.machine.History())
	for _, m := range tr.mirrors {
		m.Watcher = nil
	}
	for _, p := range tr.pairs {
		p.live = nil
	}
}

// read is what a client sees that reads key with all below it, "" for a key that is not there.
func (tr *lawTrial) read(t *rapid.T, key string, only []string) (map[string]string, kv.Index) {
	seen := map[string]string{}
	result, err := tr.machine.Read(kv.Read{Key: key, Recursive: true, Only: only}, 0)
	var e *kv.Error
	if errors.As(err, &e) {
		return seen, e.Index
	} else if err != nil {
		t.Fatal(err)
	}
	var load func(n *kv.Node)
	load = func(n *kv.Node) {
		seen[n.Key] = "=" + n.Value
		if n.Dir {
			seen[n.Key] = "/"
		}
		for _, child := range n.Nodes {
			load(child)
		}
	}
	load(result.Node)
	return seen, result.Index
}

func (tr *lawTrial) addMirror(t *rapid.T) {
	m := &mirror{key: rapid.SampledFrom(append([]string{"", ""}, lawKeys...)).Draw(t, "mirrored")}
	if m.key == "" && rapid.Bool().Draw(t, "narrowed") {
		m.only = rapid.SliceOfN(rapid.SampledFrom(append([]string{"/none", "/a0"}, lawKeys...)), 1, 4).Draw(t, "only")
	}
	m.believe, m.last = tr.read(t, m.key, m.only)
	tr.mirrors = append(tr.mirrors, m)
}

// resume opens the watch of m where it stopped.
func (m *mirror) resume(t *rapid.T, hub *Hub) {
	if m.Watcher != nil || m.lost {
		return
	}
	w, err := hub.Watch(kv.WatchFrom{Key: m.key, Recursive: true, Index: m.last + 1, Only: m.only})
	switch {
	case kv.Is(err, kv.HistoryGone):
		m.lost = true
	case err != nil:
		t.Fatal(err)
	}
	m.Watcher = w
}

// follow takes what there is to be told and changes what the client believes accordingly.
func (m *mirror) follow(t *rapid.T) {
	for m.Watcher != nil && !m.lost {
		event, err := m.Next(ended)
		switch {
		case errors.Is(err, context.Canceled):
			return
		case kv.Is(err, kv.HistoryGone):
			m.lost = true
			return
		case err != nil:
			t.Fatal(err)
		case event.Node.ModifiedIndex <= m.last:
			t.Fatalf("mirror of %q is told of index %d after %d", m.key, event.Node.ModifiedIndex, m.last)
		}
		m.last = event.Node.ModifiedIndex
		m.learn(event)
	}
}

// shows reports whether a read as that of m would show path, were it there.
func (m *mirror) shows(path string) bool {
	only, err := kv.Only(m.key, m.only)
	if err != nil || only == nil {
		return !kv.HiddenBelow(path, m.key)
	}
	return kv.Among(only, path)
}

func (m *mirror) learn(event kv.Event) {
	key := event.Node.Key
	if event.Removes() {
		maps.DeleteFunc(m.believe, func(path, _ string) bool { return path == key || event.Node.Dir && kv.Below(path, key) })
		return
	}
	m.believe[key] = "=" + event.Node.Value
	if event.Node.Dir {
		m.believe[key] = "/"
	}
	for parent := kv.Parent(key); parent != "" && strings.HasPrefix(parent, m.key); parent = kv.Parent(parent) {
		m.believe[parent] = "/"
	}
}

// checkMirrors lets all mirrors catch up and compares them with the store, but for what is hidden.
func (tr *lawTrial) checkMirrors(t *rapid.T) {
	for _, m := range tr.mirrors {
		m.resume(t, tr.hub)
		m.follow(t)
		if m.lost {
			continue
		}
		now, _ := tr.read(t, m.key, m.only)
		told := maps.Clone(m.believe)
		for _, paths := range []map[string]string{now, told} {
			maps.DeleteFunc(paths, func(path, _ string) bool { return path == "" || !m.shows(path) })
		}
		if !maps.Equal(now, told) {
			t.Fatalf("who follows the events of %q since its first look believes in %q\nthe store has %q", m.key, told, now)
		}
	}
}

func (tr *lawTrial) addPair(t *rapid.T) {
	p := &pair{from: kv.WatchFrom{Key: rapid.SampledFrom(append([]string{""}, lawKeys...)).Draw(t, "watched"), Recursive: rapid.Bool().Draw(t, "recursive"), Index: tr.machine.Index() + 1}}
	var err error
	if p.live, err = tr.hub.Watch(p.from); err != nil {
		t.Fatal(err)
	}
	tr.pairs = append(tr.pairs, p)
}

func (p *pair) follow(t *rapid.T) {
	for p.live != nil && !p.lost {
		event, err := p.live.Next(ended)
		switch {
		case errors.Is(err, context.Canceled):
			return
		case err != nil:
			p.lost = true
			return
		}
		p.told = append(p.told, event)
	}
}

// checkPairs opens for each live watcher one with the same start in the history: both are told the
// same, as far as the history goes back.
func (tr *lawTrial) checkPairs(t *rapid.T) {
	for _, p := range tr.pairs {
		p.follow(t)
		if p.live == nil || p.lost {
			continue
		}
		w, err := tr.hub.Watch(p.from)
		if kv.Is(err, kv.HistoryGone) {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		past := &pair{live: w}
		past.follow(t)
		w.Close()
		if !slices.EqualFunc(past.told, p.told, func(a, b kv.Event) bool { return a.Node == b.Node && a.Action == b.Action }) {
			t.Fatalf("from %+v the live watch has told %d events, one from the history %d", p.from, len(p.told), len(past.told))
		}
	}
}

func TestWhoReadsOnceAndThenWatchesKnowsWhatTheStoreHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		length := rapid.SampledFrom([]int{3, 20, 1000}).Draw(t, "history")
		tr := &lawTrial{machine: store.New(length), hub: NewHub(length), length: length}
		tr.hub.Reset(tr.machine.History())
		t.Repeat(map[string]func(*rapid.T){
			"apply": tr.apply, "apply 2": tr.apply, "apply 3": tr.apply, "restart": tr.restart, "mirror": tr.addMirror, "": tr.checkMirrors,
		})
	})
}

func TestALiveWatchTellsTheSameAsOneFromTheHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		length := rapid.SampledFrom([]int{5, 1000}).Draw(t, "history")
		tr := &lawTrial{machine: store.New(length), hub: NewHub(length), length: length}
		tr.hub.Reset(tr.machine.History())
		t.Repeat(map[string]func(*rapid.T){
			"apply": tr.apply, "apply 2": tr.apply, "watch": tr.addPair, "restart": tr.restart, "": tr.checkPairs,
		})
	})
}
