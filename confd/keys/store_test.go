package keys

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// unwatchable can be read and not watched: why is the reason. Without one, its watches bring nothing.
type unwatchable struct {
	kv.Store
	why   error
	reads int
}

func (u *unwatchable) Read(context.Context, kv.Read) (kv.Result, error) {
	u.reads++
	return kv.Result{Event: kv.Event{Node: &kv.Node{Dir: true}}, Index: 1}, nil
}

func (u *unwatchable) Watch(context.Context, kv.WatchFrom) (kv.Watch, error) {
	return idle{}, u.why
}

// idle is a watch that brings nothing.
type idle struct{ kv.Watch }

func (idle) Next(ctx context.Context) (kv.Event, error) {
	<-ctx.Done()
	return kv.Event{}, ctx.Err()
}
func (idle) Close() {}

// readsInTenMinutes counts how often all roots are read.
func readsInTenMinutes(t *testing.T, why error, roots ...string) (reads int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		store := &unwatchable{why: why}
		f := &followed{store: store, watch: true, interval: time.Hour, log: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		f.Run(ctx, NewMirror(Segments), roots, nil)
		reads = store.reads
	})
	return reads
}

func TestAStoreThatCannotBeWatchedIsReadAtAGentlePace(t *testing.T) {
	for _, kind := range []kv.Kind{kv.HistoryGone, kv.Unavailable, kv.NoLeader} {
		if reads := readsInTenMinutes(t, &kv.Error{Kind: kind}, "/x"); reads < 100 || reads > 1000 {
			t.Errorf("%v: read %d times in ten minutes, want at most every second or so, and at least every five", kind, reads)
		}
	}
}

func TestMoreHiddenDirectoriesThanCanBeAskedForCostNoMoreReads(t *testing.T) {
	if reads := readsInTenMinutes(t, nil, hidden(rootsMax+3)...); reads != 1 {
		t.Errorf("everything was read %d times in ten minutes", reads)
	}
}

func TestEndpointsComeFromTheSettingsOrFromDNSAndGetTheirScheme(t *testing.T) {
	lookup := func(record string) ([]string, error) { return []string{record + ":1", "[::1]:2"}, nil }
	for _, c := range []struct {
		cfg  Config
		want []string
	}{
		{Config{}, []string{}},
		{Config{Client: kvclient.Config{Endpoints: []string{"a:1", "https://b:2"}}}, []string{"a:1", "https://b:2"}},
		{Config{Scheme: "http", Client: kvclient.Config{Endpoints: []string{"a:1", "https://b:2"}}}, []string{"http://a:1", "https://b:2"}},
		{Config{SRV: "record", Scheme: "https", Client: kvclient.Config{Endpoints: []string{"unused"}}}, []string{"https://record:1", "https://[::1]:2"}},
	} {
		if got, err := endpoints(c.cfg, Deps{Lookup: lookup}); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%+v: got %q, %v; want %q", c.cfg, got, err, c.want)
		}
	}
}
