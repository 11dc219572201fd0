package httpv2

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

// arrive hands a request of a client to a handler and returns what the store is asked.
func arrive(t *rapid.T, request etcdv2.Request) any {
	store := &recorder{watch: newScriptedWatch()}
	close(store.watch.events)
	r := httptest.NewRequest(request.Method, request.Path+"?"+request.Query.Encode(), strings.NewReader(request.Form.Encode()))
	maps.Copy(r.Header, request.Header)
	if request.Form != nil {
		r.Header.Set("Content-Type", formType)
	}
	answer := httptest.NewRecorder()
	untilAborted(table(Config{Gate: openGate{store}, Cluster: fakeCluster{}}), answer, r)
	if answer.Code != http.StatusOK {
		t.Fatalf("%+v: %d %s", request, answer.Code, answer.Body)
	}
	return store.takeAsked()
}

func TestWhatAClientAsksForIsWhatTheStoreIsAsked(t *testing.T) {
	text := rapid.StringOf(rapid.SampledFrom([]rune("a/&=+%;# é\x00\n\u2028")))
	ttl := rapid.Custom(func(t *rapid.T) time.Duration {
		seconds := rapid.Int64Range(-1, 5000).Draw(t, "seconds")
		return max(kv.TTLDue, time.Duration(seconds)*time.Second)
	})
	rapid.Check(t, func(t *rapid.T) {
		key := kv.Clean(text.Draw(t, "key"))
		bit := func(name string) bool { return rapid.Bool().Draw(t, name) }

		read := kv.Read{Key: key, Recursive: bit("recursive"), Sorted: bit("sorted"), Quorum: bit("quorum")}
		if got := arrive(t, etcdv2.ReadRequest(read)); !reflect.DeepEqual(got, read) {
			t.Fatalf("%+v arrives as %+v", read, got)
		}
		from := kv.WatchFrom{Key: key, Recursive: bit("recursive"), Index: rapid.Uint64().Draw(t, "index")}
		if got := arrive(t, etcdv2.WatchRequest(from)); !reflect.DeepEqual(got, from) {
			t.Fatalf("%+v arrives as %+v", from, got)
		}

		// Only the fields that mean something to the operation.
		write := kv.Write{Op: kv.Op(rapid.Uint8Range(1, 7).Draw(t, "op")), Key: key}
		switch write.Op {
		case kv.OpDelete:
			write.Dir, write.Recursive = bit("dir"), bit("recursive")
		case kv.OpCompareAndDelete, kv.OpCompareAndSwap:
			write.PrevIndex, write.PrevValue = rapid.Uint64Min(1).Draw(t, "prevIndex"), text.Draw(t, "prevValue")
		case kv.OpSet, kv.OpCreate, kv.OpCreateInOrder:
			write.Dir = bit("dir")
		}
		if write.Op != kv.OpDelete && write.Op != kv.OpCompareAndDelete {
			write.TTL, write.NoValue = ttl.Draw(t, "ttl"), bit("noValue")
			if !write.Dir {
				write.Value = text.Draw(t, "value")
			}
		}
		if refreshable := write.Op == kv.OpSet || write.Op == kv.OpUpdate || write.Op == kv.OpCompareAndSwap; refreshable && write.TTL != 0 && bit("refresh") {
			write.Refresh, write.Value = true, ""
		}
		request, err := etcdv2.WriteRequest(write)
		if err != nil {
			t.Fatal(err)
		}
		if got := arrive(t, request); !reflect.DeepEqual(got, write) {
			t.Fatalf("%+v arrives as %+v", write, got)
		}
	})
}
