package raftnode

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/fuzztest"
)

// FuzzIdentity: an identity that is accepted names a member and a cluster, and is read again from
// what is written of it.
func FuzzIdentity(f *testing.F) {
	whole, err := json.Marshal(Identity{Format: 1, Name: "n", MemberID: 7, ClusterID: 1 << 63, ClusterToken: "t", LogStore: LogStoreWAL, Created: time.Unix(1, 0).UTC(), Bootstrapped: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte(`{"format":1,"member_id":"0","cluster_id":"g"}`))
	f.Add([]byte(`{"format":2}`))
	f.Add([]byte(`{"FORMAT":1,"member_id":"f","cluster_id":"FFFFFFFFFFFFFFFF","created":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var id record
		var err error
		fuzztest.WantBounded(t, 128*uint64(len(data))+fuzztest.Fixed, func() { id, err = parseRecord("/data", data) })
		if err != nil {
			return
		}
		if id.Format != identityFormat || id.MemberID == 0 || id.ClusterID == 0 {
			t.Fatalf("%q is the identity %+v", data, id)
		}
		text, err := json.Marshal(id)
		if err != nil {
			t.Fatalf("%+v cannot be written: %v", id, err)
		}
		again, err := parseRecord("/data", text)
		if err != nil || !again.Created.Equal(id.Created) {
			t.Fatalf("%+v becomes %+v, %v", id, again, err)
		}
		again.Created = id.Created
		if len(id.Starts) == 0 {
			id.Starts = nil // they are left out
		}
		if !reflect.DeepEqual(again, id) {
			t.Fatalf("%+v becomes %+v", id, again)
		}
	})
}
