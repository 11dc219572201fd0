package registry

import (
	"context"
	"testing"
	"time"
)

// BenchmarkHeartbeatOfAThousand is what a renewal costs in this process, whatever the store takes.
func BenchmarkHeartbeatOfAThousand(b *testing.B) {
	store := newMemStore()
	p := NewPublisher(PublisherConfig{Store: store, Leaser: store, TTL: time.Hour})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	defer func() { cancel(); <-done }()
	p.Set(many(1000))
	if err := p.Settle(ctx); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		p.mu.Lock()
		p.tendAt = time.Now()
		before, moved := p.status.Renewals, p.moved
		p.mu.Unlock()
		p.wake <- struct{}{}
		for renewals := before; renewals == before; {
			<-moved
			p.mu.Lock()
			renewals, moved = p.status.Renewals, p.moved
			p.mu.Unlock()
		}
	}
}
