package ctl

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// refusing is a store that nobody serves, and counts how often it was asked.
type refusing struct{ asked int }

func (r *refusing) Read(context.Context, kv.Read) (kv.Result, error) {
	r.asked++
	return kv.Result{}, &kv.Error{Kind: kv.Unavailable}
}

func (r *refusing) Watch(context.Context, kv.WatchFrom) (kv.Watch, error) {
	return nil, &kv.Error{Kind: kv.Unavailable}
}

func TestAStoreThatIsAwayIsNotAskedWithoutPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		store := &refusing{}
		_, err := nextChanges(ctx, kvclient.Follow(store, "/services"))
		if !kv.Is(err, kv.Unavailable) || ctx.Err() == nil {
			t.Errorf("ended with %v, %v", err, ctx.Err())
		}
		if store.asked > 1000 {
			t.Errorf("asked %d times in a minute", store.asked)
		}
	})
}
