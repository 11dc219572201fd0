package kvclient_test

import (
	"testing"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/kvclient/etcdtest"
)

func TestOfAHiddenKeyOfAnEtcdNothingIsBroughtThatWasRead(t *testing.T) {
	client, err := kvclient.New(kvclient.Config{Endpoints: []string{etcdtest.Start(t).URL}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	set := func(key, value string) kv.Index {
		result, err := client.Write(t.Context(), kv.Write{Op: kv.OpSet, Key: key, Value: value})
		if err != nil {
			t.Fatal(err)
		}
		return result.Node.ModifiedIndex
	}
	before := set("/d/x", "1")
	set("/d/_h", "1")
	read := set("/d/_h", "2")
	watch, err := client.Watch(t.Context(), kv.WatchFrom{Recursive: true, Index: before + 1, Only: []string{"/d/_h", "/d/x"}, Seen: []kv.Index{read, before}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(watch.Close)
	set("/d/_h", "3")
	if event, err := watch.Next(t.Context()); err != nil || event.Node.Value != "3" {
		t.Errorf("after what was read comes %+v, %v", event.Node, err)
	}
}
