package kvclient_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// oneBackend is a server at index 41, where a second backend arrives at 42.
func oneBackend() *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Etcd-Index", "41")
		switch r.URL.RawQuery {
		case "quorum=false&recursive=true&sorted=true":
			io.WriteString(w, `{"action":"get","node":{"key":"/services/web","dir":true,"nodes":[{"key":"/services/web/a","value":"10.0.0.1:80","modifiedIndex":40,"createdIndex":40}]}}`)
		case "recursive=true&wait=true&waitIndex=42":
			io.WriteString(w, `{"action":"set","node":{"key":"/services/web/b","value":"10.0.0.2:80","modifiedIndex":42,"createdIndex":42}}`)
		default:
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}
	}))
}

// What every agent does: read a directory, then follow it without a gap.
func Example() {
	server := oneBackend()
	defer server.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	client, err := kvclient.New(kvclient.Config{Endpoints: []string{server.URL}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

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
