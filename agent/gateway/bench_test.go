package gateway

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// BenchmarkRequests is what the gateway costs: the same requests to a member, through the gateway, and answered
// from memory.
func BenchmarkRequests(b *testing.B) {
	member := daemontest.Start(b, 1).URL()
	for name, base := range map[string]string{"directly": member, "through": startBench(b, member, 0), "from memory": startBench(b, member, 1<<20)} {
		client := &http.Client{}
		send := func(method, target, form string) {
			request, err := http.NewRequest(method, target, strings.NewReader(form))
			if err != nil {
				b.Fatal(err)
			}
			request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			response, err := client.Do(request)
			if err != nil {
				b.Fatal(err)
			}
			io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}
		send("PUT", base+"/v2/keys/a", "value=1")
		b.Run("read "+name, func(b *testing.B) {
			for b.Loop() {
				send("GET", base+"/v2/keys/a", "")
			}
		})
		if name != "from memory" {
			b.Run("write "+name, func(b *testing.B) {
				for b.Loop() {
					send("PUT", base+"/v2/keys/a", "value=1")
				}
			})
		}
		client.CloseIdleConnections()
	}
}

func startBench(b *testing.B, member string, cache int64) string {
	s, err := New(Config{Listen: []string{"127.0.0.1:0"}, Allow: []string{"127.0.0.0/8=rw:/"}, Store: kvclient.Config{Endpoints: []string{member}}, CacheBytes: cache})
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); s.Run(b.Context()) }()
	b.Cleanup(func() { <-done })
	for len(s.Stats().Listening) == 0 {
	}
	for deadline := time.Now().Add(patience); len(s.Stats().Listening) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatal("the gateway does not listen")
		}
	}
	return "http://" + s.Stats().Listening[0]
}
