package kvclient_test

import (
	"context"
	"fmt"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// What every agent does: read a directory, then follow it without a gap. Follow does the same and
// goes on where this one would have to begin again.
func Example() {
	url, stop := exampleStore()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	client, err := kvclient.New(kvclient.Config{Endpoints: []string{url}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	client.Write(ctx, kv.Write{Op: kv.OpSet, Key: "/services/web/a", Value: "10.0.0.1:80"})

	result, err := client.Read(ctx, kv.Read{Key: "/services/web", Recursive: true, Sorted: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, node := range result.Node.Nodes {
		fmt.Println("there is", node.Key, node.Value)
	}

	watch, err := client.Watch(ctx, kv.WatchFrom{Key: "/services/web", Recursive: true, Index: result.Index + 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer watch.Close()
	client.Write(ctx, kv.Write{Op: kv.OpSet, Key: "/services/web/b", Value: "10.0.0.2:80"})

	event, err := watch.Next(ctx)
	if kv.Is(err, kv.HistoryGone) {
		return // read again and watch from there
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(event.Action, event.Node.Key, event.Node.Value)
	// Output:
	// there is /services/web/a 10.0.0.1:80
	// set /services/web/b 10.0.0.2:80
}

// A map that is always equal to a part of the store, whatever happens to the connection.
func ExampleFollow() {
	url, stop := exampleStore()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client, err := kvclient.New(kvclient.Config{Endpoints: []string{url}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	client.Write(ctx, kv.Write{Op: kv.OpSet, Key: "/services/web/a", Value: "10.0.0.1:80"})

	follower := kvclient.Follow(client, "/services/web")
	defer follower.Close()
	backends := map[string]string{}
	for len(backends) < 2 {
		changes, err := follower.Next(ctx)
		if err != nil { // with kv.Temporary(err): after a while again
			fmt.Println(err)
			return
		}
		for _, event := range changes.Events {
			if event.Removes() {
				delete(backends, event.Node.Key)
			} else {
				backends[event.Node.Key] = event.Node.Value
			}
		}
		fmt.Println(backends)
		client.Write(ctx, kv.Write{Op: kv.OpSet, Key: "/services/web/b", Value: "10.0.0.2:80"})
	}
	// Output:
	// map[/services/web/a:10.0.0.1:80]
	// map[/services/web/a:10.0.0.1:80 /services/web/b:10.0.0.2:80]
}

// Only one of several becomes the leader, for as long as it says so in time.
func ExampleClient_Write() {
	url, stop := exampleStore()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client, err := kvclient.New(kvclient.Config{Endpoints: []string{url}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	for _, name := range []string{"ann", "bob"} {
		_, err := client.Write(ctx, kv.Write{Op: kv.OpCreate, Key: "/leader", Value: name, TTL: 30 * time.Second})
		switch {
		case err == nil:
			fmt.Println(name, "leads")
		case kv.Is(err, kv.Exists):
			fmt.Println(name, "follows")
		case kv.Is(err, kv.Unknown), kv.Is(err, kv.Timeout):
			// It may have happened. Only a read can tell.
		default:
			fmt.Println(err) // it has surely not happened
		}
	}
	_, err = client.Write(ctx, kv.Write{Op: kv.OpCompareAndSwap, Key: "/leader", Value: "ann", PrevValue: "ann", Refresh: true, TTL: 30 * time.Second})
	fmt.Println("ann goes on:", err == nil)
	_, err = client.Write(ctx, kv.Write{Op: kv.OpCompareAndDelete, Key: "/leader", PrevValue: "bob"})
	fmt.Println("bob resigns:", kv.KindOf(err))
	// Output:
	// ann leads
	// bob follows
	// ann goes on: true
	// bob resigns: compare failed
}
