package report

import (
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }

// scrapesMax is how many may read the metrics at a time; the next is answered 503.
const scrapesMax = 4

// metrics are the figures of a Report. No label ever holds a key: items of for_each count under their
// resource.
type metrics struct {
	registry  *prometheus.Registry
	steps     *prometheus.CounterVec
	durations *prometheus.HistogramVec
	live      prometheus.Histogram
	holds     prometheus.Counter
	failures  *prometheus.CounterVec
	published *prometheus.CounterVec
}

func newMetrics(r *Report) *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	m.steps = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kvconfd_steps_total", Help: "Steps done for files, by step and whether they succeeded."}, []string{"step", "result"})
	m.durations = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "kvconfd_step_duration_seconds", Help: "Time that steps took.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 2, 17)}, []string{"step"})
	m.live = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "kvconfd_change_to_live_duration_seconds", Help: "Time from the arrival of a change until what runs is known to have it.",
		Buckets: prometheus.ExponentialBuckets(0.001, 2, 16)})
	m.holds = prometheus.NewCounter(prometheus.CounterOpts{Name: "kvconfd_holds_total", Help: "How often a guard began to hold a file as it is."})
	m.failures = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kvconfd_failures_total", Help: "How often a file began to fail, by step."}, []string{"step"})
	m.published = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kvconfd_status_writes_total", Help: "Writes of published status, by whether they succeeded."}, []string{"result"})
	for _, step := range Steps() {
		m.durations.WithLabelValues(step)
		for _, result := range []string{"ok", "failed"} {
			m.steps.WithLabelValues(step, result)
		}
	}
	for _, result := range []string{"ok", "failed"} {
		m.published.WithLabelValues(result)
	}
	m.registry.MustRegister(m.steps, m.durations, m.live, m.holds, m.failures, m.published,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), levels{r})
	return m
}

// step counts a step.
func (m *metrics) step(step string, took time.Duration, err error) {
	result := "ok"
	if err != nil {
		result = "failed"
	}
	m.steps.WithLabelValues(step, result).Inc()
	m.durations.WithLabelValues(step).Observe(took.Seconds())
}

// count counts what a target came to.
func (m *metrics) count(before, now TargetStatus) {
	switch {
	case now.State.runs() && now.LiveAfter > 0 && !(before.State.runs() && before.LiveAfter == now.LiveAfter && before.Index == now.Index):
		m.live.Observe(now.LiveAfter.Seconds())
	case now.State == Held && before.State != Held:
		m.holds.Inc()
	case now.State == Failed && before.State != Failed:
		m.failures.WithLabelValues(now.Step).Inc()
	}
}

// handler serves the metrics.
func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: scrapesMax})
}

// levels are the figures that are true at the moment of the scrape.
type levels struct{ report *Report }

// The levels.
var (
	levelBuildInfo = prometheus.NewDesc("kvconfd_build_info", "1, with the version of kvconfd and of Go as labels.", []string{"version", "go_version"}, nil)
	levelTargets   = prometheus.NewDesc("kvconfd_targets", "Files, by where they stand.", []string{"state"}, nil)
	levelResource  = prometheus.NewDesc("kvconfd_resource_converged", "1 while what runs is what the keys say, for all files of a resource.", []string{"resource"}, nil)
	levelHealthy   = prometheus.NewDesc("kvconfd_healthy", "1 while the health check succeeds.", nil, nil)
	levelPending   = prometheus.NewDesc("kvconfd_reloads_pending", "Files that have changed and whose reader is not known to have the new version.", nil, nil)
	levelLive      = prometheus.NewDesc("kvconfd_live_index", "Index of the store up to which everything was brought to every file.", nil, nil)
	levelUp        = prometheus.NewDesc("kvconfd_store_up", "1 while the store is heard.", []string{"store"}, nil)
	levelIndex     = prometheus.NewDesc("kvconfd_store_index", "Index of the store that is known.", []string{"store"}, nil)
	levelKeys      = prometheus.NewDesc("kvconfd_store_keys", "Keys that are held of the store.", []string{"store"}, nil)
	levelBytes     = prometheus.NewDesc("kvconfd_store_read_bytes_total", "Bytes read from the store.", []string{"store"}, nil)
	levelStaleness = prometheus.NewDesc("kvconfd_store_staleness_seconds", "Time since the store was heard.", []string{"store"}, nil)
	levelProblems  = prometheus.NewDesc("kvconfd_problems", "What keeps what runs from being what the store says.", nil, nil)
)

// Describe implements prometheus.Collector.
func (levels) Describe(to chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{levelBuildInfo, levelTargets, levelResource, levelHealthy, levelPending, levelLive, levelUp, levelIndex, levelKeys, levelBytes, levelStaleness, levelProblems} {
		to <- desc
	}
}

// Collect implements prometheus.Collector.
func (l levels) Collect(to chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	s := l.report.Status()
	gauge(levelBuildInfo, 1, s.Version, runtime.Version())
	states, resources := map[State]int{}, map[string]bool{}
	pending := 0
	for _, t := range s.Targets {
		states[t.State]++
		resource := t.Resource
		if resource == "" {
			resource = t.Name
		}
		before, seen := resources[resource]
		resources[resource] = t.State.runs() && (before || !seen)
		if t.State == Written || t.State == Reloaded || t.State == Failed && (t.Step == StepReload || t.Step == StepConfirm || t.Step == StepApply) {
			pending++
		}
	}
	for _, state := range States() {
		gauge(levelTargets, float64(states[state]), string(state))
	}
	for resource, converged := range resources {
		gauge(levelResource, bit(converged), resource)
	}
	gauge(levelHealthy, bit(len(s.ailments()) == 0))
	gauge(levelProblems, float64(len(s.Problems)))
	gauge(levelPending, float64(pending))
	gauge(levelLive, float64(s.Index))
	seen := map[string]bool{}
	for _, store := range s.Stores {
		if seen[store.Name] {
			continue // one series for each name
		}
		seen[store.Name] = true
		gauge(levelUp, bit(store.isHeard()), store.Name)
		gauge(levelIndex, float64(store.Index), store.Name)
		gauge(levelKeys, float64(store.Keys), store.Name)
		to <- prometheus.MustNewConstMetric(levelBytes, prometheus.CounterValue, float64(store.BytesRead), store.Name)
		gauge(levelStaleness, staleness(store, s.Time), store.Name)
	}
}

// staleness is for how many seconds nothing was heard, counted from the start if nothing ever was.
func staleness(store Store, now time.Time) float64 {
	since := store.Heard
	if since.IsZero() {
		since = store.Stale
	}
	if since.IsZero() || store.isHeard() {
		return 0
	}
	return max(0, now.Sub(since).Seconds())
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
