package kvclient_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/kvclient/etcdtest"
)

// copied is a map that is kept equal to a part of a store by a Follower.
type copied struct {
	t        testing.TB
	follower *kvclient.Follower
	values   map[string]string
	index    kv.Index
}

func follow(t testing.TB, source kvclient.Source, key string) *copied {
	f := kvclient.Follow(source, key)
	t.Cleanup(f.Close)
	return &copied{t: t, follower: f, values: map[string]string{}}
}

// step takes the next changes, which lead somewhere: no event is about what is so already.
func (c *copied) step() kvclient.Changes {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	changes, err := c.follower.Next(ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, event := range changes.Events {
		old, had := c.values[event.Node.Key]
		if had != (event.PrevNode != nil) || had && old != event.PrevNode.Value {
			c.t.Errorf("%s of %s says that %+v was before, and it was %q", event.Action, event.Node.Key, event.PrevNode, old)
		}
		if !event.Removes() {
			c.values[event.Node.Key] = event.Node.Value
			continue
		}
		if !had {
			c.t.Errorf("%s of %s, which was not there", event.Action, event.Node.Key)
		}
		delete(c.values, event.Node.Key)
	}
	c.index = changes.Index
	return changes
}

// until takes changes until the store's index is reached.
func (c *copied) until(index kv.Index) {
	c.t.Helper()
	for c.index < index {
		c.step()
	}
}

func (c *copied) want(want map[string]string) {
	c.t.Helper()
	if !maps.Equal(c.values, want) {
		c.t.Errorf("the copy is %v and should be %v", c.values, want)
	}
}

func remove(t testing.TB, client *kvclient.Client, key string) kv.Result {
	t.Helper()
	result, err := client.Write(t.Context(), kv.Write{Op: kv.OpDelete, Key: key, Recursive: true})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func TestAFollowerTellsWhatIsThereAndThenWhatChanges(t *testing.T) {
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			client := open(t, inOrder(start(t)))
			set(t, client, "/s/web/a", "1")
			set(t, client, "/s/web/b", "2")
			set(t, client, "/s/_hidden", "x")
			set(t, client, "/other", "x")
			c := follow(t, client, "/s/")
			first := c.step()
			if !first.Afresh || len(first.Events) != 2 {
				t.Errorf("first %+v", first)
			}
			set(t, client, "/s/web/c", "3")
			set(t, client, "/s/_hidden", "y")
			if second := c.step(); second.Afresh || len(second.Events) != 1 || second.Events[0].Node.Key != "/s/web/c" {
				t.Errorf("second %+v", second)
			}
			c.want(map[string]string{"/s/web/a": "1", "/s/web/b": "2", "/s/web/c": "3"})
			gone := remove(t, client, "/s/web")
			if third := c.step(); len(third.Events) != 3 || third.Events[0].Node.Key != "/s/web/a" || third.Index != gone.Index {
				t.Errorf("a directory of three keys went: %+v", third)
			}
			c.until(set(t, client, "/s/d", "4").Index)
			if _, err := client.Write(t.Context(), kv.Write{Op: kv.OpSet, Key: "/s/d", Dir: true}); err != nil {
				t.Fatal(err)
			}
			if fourth := c.step(); len(fourth.Events) != 1 || !fourth.Events[0].Removes() {
				t.Errorf("a directory took the place of a key: %+v", fourth)
			}
			remove(t, client, "/s") // takes nothing along that anybody was told of
			c.until(set(t, client, "/s", "a key now").Index)
			c.want(map[string]string{"/s": "a key now"})
		})
	}
}

func TestAFollowerOfNothingSaysSoAndWaits(t *testing.T) {
	client := open(t, inOrder(daemontest.Start(t, 1).URL()))
	c := follow(t, client, "/s")
	if first := c.step(); !first.Afresh || len(first.Events) != 0 || first.Index == 0 {
		t.Errorf("got %+v", first)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if changes, err := c.follower.Next(ctx); !kv.Is(err, kv.Timeout) {
		t.Errorf("got %+v, %v", changes, err)
	}
	c.until(set(t, client, "/s/a", "1").Index)
	c.want(map[string]string{"/s/a": "1"})
}

func TestAFollowerMakesUpForWhatHasLeftTheHistory(t *testing.T) {
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			url := start(t)
			link := newLink(t, url)
			writer := open(t, inOrder(url))
			for _, key := range []string{"same", "changed", "gone", "d/gone"} {
				set(t, writer, "/s/"+key, "before")
			}
			c := follow(t, open(t, inOrder(link.URL)), "/s")
			c.step()
			link.setDown(true)
			set(t, writer, "/s/new", "after")
			set(t, writer, "/s/changed", "between")
			set(t, writer, "/s/changed", "after")
			remove(t, writer, "/s/gone")
			remove(t, writer, "/s/d")
			var last kv.Result
			for range 1100 { // more than the history keeps
				last = set(t, writer, "/elsewhere", "x")
			}
			link.setDown(false)
			changes := c.step()
			var told []string
			for _, event := range changes.Events {
				told = append(told, fmt.Sprintf("%s %s", event.Action, event.Node.Key))
			}
			want := []string{"delete /s/d/gone", "delete /s/gone", "set /s/new", "set /s/changed"}
			if !changes.Afresh || changes.Index < last.Index || !slices.Equal(told, want) {
				t.Errorf("afresh %v at %d: %q, want %q", changes.Afresh, changes.Index, told, want)
			}
			c.until(set(t, writer, "/s/live", "1").Index)
			c.want(map[string]string{"/s/same": "before", "/s/changed": "after", "/s/new": "after", "/s/live": "1"})
		})
	}
}

func TestAFollowerOfAReplacedStoreHasTheNewOne(t *testing.T) {
	server := etcdtest.Start(t)
	client := open(t, inOrder(server.URL))
	for i := range 20 {
		set(t, client, fmt.Sprintf("/s/%d", i), "before")
	}
	c := follow(t, client, "/s")
	c.step()
	server.Stop()
	server.Wipe()
	server.Restart()
	set(t, open(t, inOrder(server.URL)), "/s/0", "new")
	for c.values["/s/0"] != "new" {
		c.step()
	}
	c.want(map[string]string{"/s/0": "new"})
}

func TestAFollowerThroughManyCutsIsEqualInTheEnd(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	link := newLink(t, url)
	writer := open(t, inOrder(url))
	c := follow(t, open(t, inOrder(link.URL)), "")
	c.step()
	want := map[string]string{}
	var last kv.Result
	for i := range 3000 {
		directory := fmt.Sprintf("/d%d", i%3)
		key := fmt.Sprintf("%s/k%d", directory, i%7)
		switch {
		case i%50 == 49:
			last = remove(t, writer, directory)
			maps.DeleteFunc(want, func(key, _ string) bool { return strings.HasPrefix(key, directory+"/") })
		default:
			last = set(t, writer, key, fmt.Sprint(i))
			want[key] = fmt.Sprint(i)
		}
		switch i % 100 {
		case 20, 40, 60:
			link.cut()
		case 80:
			if i < 1000 || i >= 2500 {
				c.step()
			}
		}
		switch i { // longer than the history
		case 1000:
			link.setDown(true)
		case 2499:
			link.setDown(false)
		}
	}
	c.until(last.Index)
	c.want(want)
}

func TestAFollowerThatIsRefusedSaysSo(t *testing.T) {
	url, _ := serve(t, says(401, `{"errorCode":110,"message":"The request requires user authentication","cause":"Insufficient credentials","index":0}`))
	f := kvclient.Follow(open(t, inOrder(url)), "/s")
	for range 2 {
		if _, err := f.Next(t.Context()); !kv.Is(err, kv.Denied) {
			t.Errorf("got %v, want the kind %q", err, kv.Denied)
		}
	}
}

func TestAFollowerSaysWhenTheStoreWasHeardLast(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	link := newLink(t, url)
	link.setDown(true)
	f := kvclient.Follow(open(t, inOrder(link.URL)), "/s")
	t.Cleanup(f.Close)
	if heard, err := f.Contact(); !heard.IsZero() || err != nil {
		t.Errorf("before anything was asked: %v, %v", heard, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, refused := f.Next(ctx)
	if heard, err := f.Contact(); !heard.IsZero() || err == nil || err.Error() != refused.Error() {
		t.Errorf("before the first answer: %v, %v, want %v", heard, err, refused)
	}
	link.setDown(false)
	if _, err := f.Next(ctx); err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	if heard, err := f.Contact(); heard.Before(before) || err != nil {
		t.Errorf("while it is watched: %v, %v", heard, err)
	}

	next := make(chan error, 1)
	go func() { _, err := f.Next(ctx); next <- err }()
	link.setDown(true)
	lost, err := f.Contact()
	for err == nil && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
		lost, err = f.Contact()
	}
	if lost.Before(before) || lost.After(time.Now()) {
		t.Errorf("lost at %v", lost)
	}
	if again, err := f.Contact(); !again.Equal(lost) || err == nil {
		t.Errorf("lost at %v, later at %v: %v", lost, again, err)
	}
	link.setDown(false)
	set(t, open(t, inOrder(url)), "/s/a", "1")
	if err := <-next; err != nil {
		t.Fatal(err)
	}
	if heard, err := f.Contact(); heard.Before(lost) || err != nil {
		t.Errorf("afterwards %v, %v", heard, err)
	}
}
