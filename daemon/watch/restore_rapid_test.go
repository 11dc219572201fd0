package watch

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/store"
	"github.com/kvd-io/kvd/pkg/kv"
)

// followTrial is a leader whose hub forgets nothing, and a follower with the same log that now and
// then gets a snapshot in place of some entries, while watchers read.
type followTrial struct {
	leader, follower       *store.Machine
	leaderHub, followerHub *Hub
	entry, behind          uint64
	backlog                []*command.Batch // that the follower has yet to apply
	watchers               []*followed
}

// followed is a watcher of the follower and what it has to see: what one of the leader sees.
type followed struct {
	*Watcher
	truth *Watcher
	lost  bool
}

const followHistory = 8

func (tr *followTrial) write(t *rapid.T) {
	batch := &command.Batch{Level: command.Level}
	for range rapid.IntRange(1, 3).Draw(t, "writes") {
		batch.Commands = append(batch.Commands, command.Command{Body: kv.Write{
			Op:  rapid.SampledFrom([]kv.Op{kv.OpSet, kv.OpSet, kv.OpDelete}).Draw(t, "op"),
			Key: rapid.SampledFrom(lawKeys).Draw(t, "key"), Recursive: true, Dir: rapid.IntRange(0, 3).Draw(t, "dir") == 0,
		}})
	}
	tr.entry++
	tr.leader.Apply(tr.entry, 1, batch)
	tr.leaderHub.Publish(tr.leader.TakeEvents())
	tr.backlog = append(tr.backlog, batch)
}

func (tr *followTrial) catchUp(t *rapid.T) {
	for range rapid.IntRange(0, len(tr.backlog)).Draw(t, "entries") {
		tr.behind++
		tr.follower.Apply(tr.behind, 1, tr.backlog[0])
		tr.backlog = tr.backlog[1:]
		tr.followerHub.Publish(tr.follower.TakeEvents())
	}
}

func (tr *followTrial) install(t *rapid.T) {
	var written bytes.Buffer
	if _, err := tr.leader.Snapshot().WriteTo(&written); err != nil {
		t.Fatal(err)
	}
	if err := tr.follower.Restore(&written); err != nil {
		t.Fatal(err)
	}
	before := tr.followerHub.index
	var wanted []kv.Index // by watcher: the first index that it has not seen yet, as far as the follower knows
	for _, w := range tr.watchers {
		wanted = append(wanted, w.next)
		if w.next == 0 {
			wanted[len(wanted)-1] = max(w.from, before+1)
		}
	}
	tr.followerHub.Reset(tr.follower.History())
	tr.behind, tr.backlog = tr.entry, nil
	_, dropped, _ := tr.follower.History()
	for i, w := range tr.watchers {
		if gone := w.next != 0 && w.next <= dropped; gone != (wanted[i] <= dropped) {
			t.Fatalf("a watcher of %q that wants what comes from %d on is lost: %v; the history begins after %d", w.key, wanted[i], gone, dropped)
		}
	}
}

func (tr *followTrial) watch(t *rapid.T) {
	from := kv.WatchFrom{Key: rapid.SampledFrom(append([]string{""}, lawKeys...)).Draw(t, "watched"), Recursive: rapid.Bool().Draw(t, "recursive")}
	from.Index = kv.Index(max(1, int(tr.follower.Index())+rapid.IntRange(-followHistory, 6).Draw(t, "from")))
	w, err := tr.followerHub.Watch(from)
	if kv.Is(err, kv.HistoryGone) {
		return
	}
	truth, err2 := tr.leaderHub.Watch(from)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	tr.watchers = append(tr.watchers, &followed{Watcher: w, truth: truth})
}

// read lets some watchers read what the follower has for them.
func (tr *followTrial) read(t *rapid.T) {
	for _, w := range tr.watchers {
		if !w.lost && rapid.Bool().Draw(t, "reads") {
			tr.readOne(t, w)
		}
	}
}

func (tr *followTrial) readOne(t *rapid.T, w *followed) {
	for {
		got, err := w.Next(ended)
		switch {
		case errors.Is(err, context.Canceled):
			return
		case kv.Is(err, kv.HistoryGone):
			w.lost = true // rightly so: see install
			return
		}
		want, wantErr := w.truth.Next(ended)
		if err != nil || wantErr != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("a watcher of %q got %v, %v\nwant %v, %v", w.key, got.Node, err, want.Node, wantErr)
		}
	}
}

func TestAWatchOnAFollowerOutlivesASnapshotOrIsToldThatItCannot(t *testing.T) {
	survived, lost := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		tr := &followTrial{leader: store.New(followHistory), follower: store.New(followHistory), leaderHub: NewHub(1 << 20), followerHub: NewHub(followHistory)}
		tr.leaderHub.Reset(tr.leader.History())
		tr.followerHub.Reset(tr.follower.History())
		t.Repeat(map[string]func(*rapid.T){
			"write": tr.write, "write 2": tr.write, "catch up": tr.catchUp, "install": tr.install, "watch": tr.watch, "read": tr.read,
		})
		tr.install(t)
		for _, w := range tr.watchers {
			if !w.lost {
				tr.readOne(t, w)
			}
			if w.lost {
				lost++
				continue
			}
			survived++
			if more, err := w.truth.Next(ended); err == nil {
				t.Fatalf("a watcher of %q never got %v", w.key, more.Node)
			}
		}
	})
	if survived == 0 || lost == 0 {
		t.Errorf("%d watches survived, %d were lost: this test has to see both", survived, lost)
	}
}
