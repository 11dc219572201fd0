package keys

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// unwatchable can be read and not watched.
type unwatchable struct {
	kv.Store
	reads int
}

func (u *unwatchable) Read(context.Context, kv.Read) (kv.Result, error) {
	u.reads++
	return kv.Result{Event: kv.Event{Node: &kv.Node{Dir: true}}, Index: 1}, nil
}

func (u *unwatchable) Watch(context.Context, kv.WatchFrom) (kv.Watch, error) {
	return nil, &kv.Error{Kind: kv.HistoryGone}
}

func TestAStoreThatCannotBeWatchedIsReadAtAGentlePace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &unwatchable{}
		f := &followed{store: store, watch: true, interval: time.Hour, log: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		f.Run(ctx, NewMirror(false), []string{"/x"}, nil)
		if store.reads < 100 || store.reads > 1000 {
			t.Errorf("read %d times in ten minutes, want at most every second or so, and at least every five", store.reads)
		}
	})
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

// swapped answers each read from the next of clusters; the last one stays.
type swapped struct {
	kv.Store
	clusters []string
}

func (s *swapped) Read(_ context.Context, read kv.Read) (kv.Result, error) {
	cluster := s.clusters[0]
	if len(s.clusters) > 1 {
		s.clusters = s.clusters[1:]
	}
	if read.Key == "/absent" {
		return kv.Result{}, &kv.Error{Kind: kv.NotFound, Index: 5, Cluster: cluster}
	}
	return kv.Result{Event: kv.Event{Node: &kv.Node{Key: read.Key, Value: cluster}}, Index: 5, Cluster: cluster}, nil
}

func TestAStoreThatIsReplacedBetweenTwoKeysIsReadAgainAsAWhole(t *testing.T) {
	for _, roots := range [][]string{{"/a", "/b"}, {"/a", "/absent"}} {
		f := &followed{store: &swapped{clusters: []string{"c1", "c2"}}, interval: time.Hour, log: slog.New(slog.DiscardHandler)}
		m := NewMirror(false)
		if err := f.Load(t.Context(), m, roots); err == nil || !strings.Contains(err.Error(), "replaced by another one") {
			t.Errorf("%q read once: %v", roots, err)
		}
		if got := dump(m, "/a"); got != "not ready" {
			t.Errorf("%q read once: the mirror shows %q", roots, got)
		}
		synctest.Test(t, func(t *testing.T) { // looked at every hour, it is read again at once
			f.store = &swapped{clusters: []string{"c1", "c2"}}
			m := NewMirror(false)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			f.Run(ctx, m, roots, nil)
			if got := dump(m, "/a"); got != "/a=c2 " {
				t.Errorf("%q followed: the mirror shows %q", roots, got)
			}
		})
	}
}
