package registry_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/registry"
)

// thousand starts a publisher of 1,000 records at a real store.
func thousand(b *testing.B) (*registry.Publisher, []registry.Record) {
	client, err := kvclient.New(kvclient.Config{Endpoints: []string{daemontest.Start(b, 1).URL()}})
	if err != nil {
		b.Fatal(err)
	}
	p := registry.NewPublisher(registry.PublisherConfig{Store: client, Leaser: client.Leaser()})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	b.Cleanup(func() { cancel(); <-done; client.Close() })
	var records []registry.Record
	for i := range 1000 {
		records = append(records, registry.Record{Service: fmt.Sprint("s", i%50), Instance: fmt.Sprint("i", i), Address: "10.0.0.1", Port: 1024 + i,
			Protocol: "tcp", State: registry.StateUp, Tags: []string{"blue", "north"}, Meta: map[string]string{"version": "1.2.3"}})
	}
	p.Set(records)
	if err := p.Settle(ctx); err != nil {
		b.Fatal(err)
	}
	return p, records
}

// BenchmarkOneOfAThousandChanges is the way of one change to the store, with all that is desired Set
// anew as agents do.
func BenchmarkOneOfAThousandChanges(b *testing.B) {
	p, records := thousand(b)
	for b.Loop() {
		records[0].Port = 1024 + records[0].Port%60000
		p.Set(records)
		if err := p.Settle(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSetOfAThousandThatAreThere is what it costs to say again what is so.
func BenchmarkSetOfAThousandThatAreThere(b *testing.B) {
	p, records := thousand(b)
	b.ReportAllocs()
	for b.Loop() {
		p.Set(records)
	}
}
