package store

import (
	"bytes"
	"testing"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/snapfile"
)

func TestWhoeverReadsTheFileAloneFindsWhatTheMachineHas(t *testing.T) {
	r := furnished(t)
	var file bytes.Buffer
	if _, err := r.Snapshot().Label(snapfile.Label{Cluster: 5, Name: "m"}).WriteTo(&file); err != nil {
		t.Fatal(err)
	}
	seen := map[byte]bool{}
	if err := snapfile.Read(bytes.NewReader(file.Bytes()), func(section byte, _ []byte) error {
		seen[section] = true
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, section := range []byte{snapfile.Header, snapfile.Labels, snapfile.Records, snapfile.Dirs, snapfile.Leases, snapfile.Members, snapfile.History,
		snapfile.Auth, snapfile.Origins, snapfile.Removed, snapfile.Invited, snapfile.End} {
		if !seen[section] {
			t.Errorf("the file has nothing in section %d", section&^snapfile.Critical)
		}
	}
	values := map[string]string{}
	facts, err := snapfile.Scan(bytes.NewReader(file.Bytes()), snapfile.Visitor{Record: func(rec snapfile.Record) error {
		values[rec.Key] = rec.Value
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	mark, extent := r.Mark(), r.Extent()
	if facts.Sum.String() != mark.Sum.String() || facts.Index != uint64(mark.Index) || facts.RaftIndex != mark.RaftIndex {
		t.Errorf("the file has %+v, the machine %+v", facts, mark)
	}
	if facts.Records != extent.Keys || facts.Dirs != extent.Directories || facts.Leases != extent.Leases || facts.Label.Keys != uint64(extent.Keys) {
		t.Errorf("the file has %+v, the machine %+v", facts, extent)
	}
	if values["/l/a"] != "1" {
		t.Errorf("values %q", values)
	}
	again := newReplica(t)
	if err := again.Restore(&file); err != nil || !again.Sum().Equal(r.Sum()) {
		t.Errorf("a snapshot with a label restores to %v, %v", again.Sum(), err)
	}
}

func TestANewClusterKeepsEverythingButNeverAnIndexThatWasGivenOut(t *testing.T) {
	r := furnished(t)
	sum, index := r.Sum(), r.Index()
	if events, _, _ := r.History(); len(events) == 0 {
		t.Fatal("no history")
	}
	members := []command.Member{{ID: 3, Name: "new"}}
	r.Refound(members, 1000)
	if got := r.Members(); len(got) != 1 || got[0].ID != 3 {
		t.Errorf("members %v", got)
	}
	events, dropped, now := r.History()
	if now != index+1000 || len(events) != 0 || dropped != now {
		t.Errorf("index %d after %d, %d events, dropped %d", now, index, len(events), dropped)
	}
	if !r.Sum().Equal(sum) {
		t.Error("what is stored has changed")
	}
	if err := audit(r.Machine); err != nil {
		t.Error(err)
	}
	r.apply(set("/later", ""))
	if r.Index() != now+1 {
		t.Errorf("the next index is %d after %d", r.Index(), now)
	}
	again := New(0)
	if err := again.Restore(bytes.NewReader(r.snapshot())); err != nil || !again.Sum().Equal(r.Sum()) {
		t.Error(err)
	}
	if _, err := again.Read(kv.Read{Key: "/later"}, 0); err != nil {
		t.Error(err)
	}

	r = furnished(t)
	before, _, _ := r.History()
	r.Refound(members, 0)
	if after, _, at := r.History(); len(after) != len(before) || at != index {
		t.Errorf("without a step: %d events at %d, there were %d at %d", len(after), at, len(before), index)
	}
}
