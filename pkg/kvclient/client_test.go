package kvclient_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kv/kvtest"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/kvclient/etcdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open returns a client that is closed when the test ends.
func open(t testing.TB, cfg kvclient.Config) *kvclient.Client {
	t.Helper()
	client, err := kvclient.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func TestClientOfKVDIsALeaser(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	kvtest.RunLeaser(t, func(t *testing.T) kvtest.Leaser {
		client := open(t, kvclient.Config{Endpoints: []string{cluster.URL()}})
		return struct {
			kv.Store
			kv.Leaser
		}{client, client.Leaser()}
	})
}

func TestClientOfEtcdIsAStore(t *testing.T) {
	server := etcdtest.Start(t)
	kvtest.Run(t, func(t *testing.T) kv.Store {
		return open(t, kvclient.Config{Endpoints: []string{server.URL}})
	})
}
