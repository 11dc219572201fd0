package kvclient

import (
	"context"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

// Durations are how long something took, each time: a histogram.
type Durations struct {
	Count uint64
	// Buckets hold how many took at most Limit, by ascending Limit; what took longer is in Count alone.
	Buckets []Bucket
}

// Bucket is a step of a histogram.
type Bucket struct {
	Limit time.Duration
	Count uint64 // of all up to Limit
}

// Quantile returns a limit below which a share q of all was, from 0 to 1; 0 if there was nothing. It is as
// exact as the buckets; the highest limit also stands for what was above it.
func (d Durations) Quantile(q float64) time.Duration {
	if d.Count == 0 || len(d.Buckets) == 0 {
		return 0
	}
	want := uint64(math.Ceil(q * float64(d.Count)))
	for _, b := range d.Buckets {
		if b.Count >= want {
			return b.Limit
		}
	}
	return d.Buckets[len(d.Buckets)-1].Limit
}

// Histogram returns a histogram of seconds without labels from the metrics of an endpoint. Errors by Kind:
// NotFound if it is not there, and those of Read.
func (c *Client) Histogram(ctx context.Context, name string) (d Durations, err error) {
	err = c.exchange(ctx, etcdv2.Request{Method: http.MethodGet, Path: "/metrics"}, true, func(a *answer) error {
		if a.status != http.StatusOK {
			return a.err()
		}
		d = parseHistogram(string(a.body), name)
		if len(d.Buckets) == 0 {
			return &kv.Error{Kind: kv.NotFound, Cause: name + " is not measured"}
		}
		return nil
	})
	if err != nil {
		return Durations{}, about(err, "metrics", "")
	}
	return d, nil
}

// parseHistogram reads a histogram from a page in Prometheus' text format. What is no line of it is
// passed over.
func parseHistogram(page, name string) (d Durations) {
	for line := range strings.Lines(page) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), name)
		if !ok {
			continue
		}
		if count, ok := strings.CutPrefix(rest, "_count "); ok {
			d.Count, _ = strconv.ParseUint(count, 10, 64)
			continue
		}
		rest, ok = strings.CutPrefix(rest, `_bucket{le="`)
		limit, count, ok2 := strings.Cut(rest, `"} `)
		if !ok || !ok2 {
			continue
		}
		seconds, err := strconv.ParseFloat(limit, 64)
		n, err2 := strconv.ParseUint(count, 10, 64)
		if err != nil || err2 != nil || !(seconds >= 0 && seconds < 1e6) { // +Inf is the count
			continue
		}
		d.Buckets = append(d.Buckets, Bucket{time.Duration(seconds * float64(time.Second)), n})
	}
	slices.SortFunc(d.Buckets, func(a, b Bucket) int { return int(a.Limit - b.Limit) })
	return d
}
