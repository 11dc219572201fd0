package store

import (
	"bytes"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
)

// FuzzApply executes whatever Decode lets pass: what another member forwards goes into the log as it is,
// and an entry that cannot be executed would stop all members for good.
func FuzzApply(f *testing.F) {
	ends := []command.LeaseEnd{{Lease: 7, Deadline: 1e9}, {Lease: 1 << 63}, {Lease: implicitLease | 3, Deadline: 5}}
	seed := func(bodies ...command.Body) {
		b := command.Batch{Level: command.Level, Clock: 5, WallOffset: 7}
		for i, body := range bodies {
			b.Commands = append(b.Commands, command.Command{Origin: 9, Sequence: uint64(1 + i*i*1000), Body: body})
		}
		f.Add(b.Append(nil))
	}
	seed(kv.Write{Op: kv.OpSet, Key: "/d", Dir: true}, kv.Write{Op: kv.OpSet, Key: "/d/k", TTL: 1}, kv.Write{Op: kv.OpUpdate, Key: "/d", TTL: 2},
		kv.Write{Op: kv.OpCreateInOrder, Key: "/d"}, kv.Write{Op: kv.OpCompareAndSwap, Key: "/d/k", Value: "w", PrevIndex: 3, Refresh: true}, kv.Write{Op: kv.OpDelete, Key: "/d", Recursive: true})
	seed(command.LeaseGrant{ID: 7, TTL: time.Minute}, kv.Write{Op: kv.OpSet, Key: "/l/a", Lease: 7}, kv.Write{Op: kv.OpSet, Key: "/l", Dir: true, Lease: 7},
		command.LeaseCheckpoint{Leases: ends}, command.Expire{Leases: ends}, command.LeaseRevoke{ID: 7})
	seed(command.Member{ID: 1, Name: "m", PeerURLs: []string{"http://p"}, Part: command.MemberSelf}, command.MemberRemove{ID: 1}, command.Invitation{Hash: [32]byte{7}, TTL: time.Minute},
		command.Check{Member: 1, Index: 1, Sum: [16]byte{1}}, command.Tick{})
	seed(command.AuthUser{Op: command.AuthCreate, Name: "root", Hash: "$2a$10$"}, command.AuthEnable{Enabled: true}, command.AuthRole{Op: command.AuthCreate, Name: "r",
		Rights: command.Rights{Read: []kv.KeyRange{{From: "/a", To: "/b"}}}}, command.AuthUser{Op: command.AuthUpdate, Name: "root", Grant: []string{"r"}})
	f.Fuzz(func(t *testing.T, entry []byte) {
		m := New(10)
		for index := uint64(1); index <= 2; index++ {
			batch, err := command.Decode(entry)
			if err != nil {
				return
			}
			batch.Clock += int64(index - 1)
			if results := m.Apply(index, 1, batch); len(results) != len(batch.Commands) {
				t.Fatalf("%d results for %d commands", len(results), len(batch.Commands))
			}
		}
		if err := m.Scrub(func() error { return nil }); err != nil {
			t.Fatal(err)
		}
		if why, corrupt := m.Corrupt(0); corrupt && why.Member == 0 {
			t.Fatalf("the sum that is kept is %v, that of what is there is %v", why.Ours, why.Theirs)
		}
		snapshot := m.Snapshot()
		defer snapshot.Release()
		var file bytes.Buffer
		if _, err := snapshot.WriteTo(&file); err != nil {
			t.Fatal(err)
		}
		again := New(10)
		if err := again.Restore(&file); err != nil {
			t.Fatalf("its snapshot cannot be restored: %v", err)
		}
		if again.Mark().Sum != m.Mark().Sum {
			t.Fatalf("restored it has the sum %v, before %v", again.Mark().Sum, m.Mark().Sum)
		}
	})
}
