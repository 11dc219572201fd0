package kvclient

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

func TestOnlyWhatWasNotReadIsBrought(t *testing.T) {
	from := kv.WatchFrom{Only: []string{"/a", "/b", "/c/_h"}, Seen: []kv.Index{10, 20, 5}}
	for _, c := range []struct {
		action kv.Action
		key    string
		index  kv.Index
		want   string
	}{
		{kv.ActionSet, "/a/x", 10, ""},
		{kv.ActionSet, "/a/x", 11, "set /a/x"},
		{kv.ActionSet, "/b", 20, ""},
		{kv.ActionSet, "/b", 21, "set /b"},
		{kv.ActionDelete, "/b/x", 15, ""},
		{kv.ActionSet, "/c/_h/x", 6, "set /c/_h/x"},
		{kv.ActionDelete, "", 15, "delete /a, delete /c/_h"},
		{kv.ActionExpire, "/c", 5, ""},
		{kv.ActionExpire, "/c", 6, "expire /c/_h"},
		{kv.ActionDelete, "", 30, "delete /a, delete /b, delete /c/_h"},
	} {
		var got []string
		for _, event := range unseen(kv.Event{Action: c.action, Node: &kv.Node{Key: c.key, Dir: true, ModifiedIndex: c.index}}, from) {
			if event.Node.ModifiedIndex != c.index {
				t.Errorf("%s at %d becomes one at %d", c.key, c.index, event.Node.ModifiedIndex)
			}
			got = append(got, fmt.Sprintf("%s %s", event.Action, event.Node.Key))
		}
		if text := strings.Join(got, ", "); text != c.want {
			t.Errorf("%s %s at %d brings %q, want %q", c.action, c.key, c.index, text, c.want)
		}
	}
}

func TestARemovalThatComesLateAsksForAFreshRead(t *testing.T) {
	s := &several{keys: []string{"", "/d/_h"}, latest: []kv.Index{0, 17}}
	removal := func(by int, key string, index kv.Index) brought {
		return brought{by: by, event: kv.Event{Action: kv.ActionDelete, Node: &kv.Node{Key: key, Dir: true, ModifiedIndex: index}}}
	}
	for _, c := range []struct {
		brought
		late bool
	}{{removal(0, "/d", 15), true}, {removal(0, "/d", 18), false}, {removal(0, "/e", 15), false}, {removal(1, "/d/_h", 18), false}} {
		if late := s.late(c.brought); late != c.late {
			t.Errorf("%+v is late: %v", c.event.Node, late)
		}
	}
	if own := s.own(removal(1, "/d", 20)); own.Node.Key != "/d/_h" || own.Node.ModifiedIndex != 20 {
		t.Errorf("to the watch of the hidden key the removal is %+v", own.Node)
	}
}

// moving is a store without the extension, whose index grows with each answer; a whole is asked for in vain.
func moving(t *testing.T, cluster func(request int64) string) (*Client, *atomic.Int64) {
	t.Helper()
	var requests atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := requests.Add(1)
		w.Header().Set(etcdv2.HeaderIndex, fmt.Sprint(10*n))
		w.Header().Set(etcdv2.HeaderClusterID, cluster(n))
		key := strings.TrimPrefix(r.URL.Path, etcdv2.KeysPath)
		if key == "/absent" {
			w.WriteHeader(http.StatusNotFound)
			json.NewEncoder(w).Encode(map[string]any{"errorCode": 100, "message": "Key not found", "cause": key, "index": 10 * n})
			return
		}
		fmt.Fprintf(w, `{"action":"get","node":{"key":%q,"value":"v","modifiedIndex":3,"createdIndex":3}}`, key)
	}))
	t.Cleanup(server.Close)
	c, err := New(Config{Endpoints: []string{server.URL}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, &requests
}

func TestAStoreThatCannotReadSeveralKeysIsAskedForEach(t *testing.T) {
	c, requests := moving(t, func(int64) string { return "c1" })
	for round := range 2 {
		result, err := c.Read(context.Background(), kv.Read{Recursive: true, Only: []string{"/b", "/a", "/absent"}})
		if err != nil {
			t.Fatal(err)
		}
		var keys []string
		for _, node := range result.Node.Nodes {
			keys = append(keys, node.Key)
		}
		// The first request of all is for the directory, and shows that it has to be done otherwise.
		base := kv.Index(10 + 30*round)
		if want := []kv.Index{base + 30, base + 20, base + 10}; !slices.Equal(result.Seen, want) || result.Index != base+10 || !slices.Equal(keys, []string{"/a", "/b"}) {
			t.Errorf("round %d: %q seen at %d, index %d, want %d", round, keys, result.Seen, result.Index, want)
		}
	}
	if n := requests.Load(); n != 7 {
		t.Errorf("%d requests, want 7", n)
	}
}

func TestAStoreThatIsReplacedBetweenTwoKeysIsNotReadHalf(t *testing.T) {
	c, _ := moving(t, func(n int64) string { return fmt.Sprint("c", n/3) })
	if _, err := c.Read(context.Background(), kv.Read{Recursive: true, Only: []string{"/a", "/b"}}); !kv.Is(err, kv.Unavailable) || !strings.Contains(err.Error(), "replaced") {
		t.Errorf("it is read with %v", err)
	}
}
