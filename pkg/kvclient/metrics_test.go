package kvclient

import (
	"testing"
	"time"
)

const metricsPage = `# HELP kvd_x Time.
# TYPE kvd_x histogram
kvd_x_bucket{le="0.001"} 90
kvd_x_bucket{le="0.002"} 98
kvd_x_bucket{le="0.004"} 99
kvd_x_bucket{le="+Inf"} 100
kvd_x_sum 0.5
kvd_x_count 100
kvd_xy_count 7
`

func TestAHistogramIsReadFromAPage(t *testing.T) {
	d := parseHistogram(metricsPage, "kvd_x")
	if d.Count != 100 || len(d.Buckets) != 3 {
		t.Fatalf("%+v", d)
	}
	for q, want := range map[float64]time.Duration{0: time.Millisecond, 0.5: time.Millisecond, 0.95: 2 * time.Millisecond, 0.99: 4 * time.Millisecond, 1: 4 * time.Millisecond} {
		if got := d.Quantile(q); got != want {
			t.Errorf("quantile %v: %v, want %v", q, got, want)
		}
	}
	if none := parseHistogram(metricsPage, "kvd_z"); none.Quantile(0.99) != 0 {
		t.Errorf("%+v", none)
	}
}

func FuzzHistogram(f *testing.F) {
	f.Add(metricsPage)
	f.Add("kvd_x_bucket{le=\"NaN\"} 1\nkvd_x_count -1")
	f.Fuzz(func(t *testing.T, page string) {
		d := parseHistogram(page, "kvd_x")
		for i, b := range d.Buckets {
			if b.Limit < 0 || i > 0 && b.Limit < d.Buckets[i-1].Limit {
				t.Errorf("%+v", d)
			}
		}
		d.Quantile(0.99)
	})
}
