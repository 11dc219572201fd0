package daemon

import (
	"log/slog"
	"net/http"
	"runtime"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"

	"github.com/kvd-io/kvd/daemon/service"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/program"
)

// Whose names the metrics have beside kvd's own.
const (
	metricsEtcd = "etcd"
	metricsOff  = "off"
)

// scrapesMax is how many may read the metrics at a time; the next is answered 503.
const scrapesMax = 4

// etcdNames are the metrics of etcd that dashboards and alerts read and that have a true value here,
// with kvd's name for it, and what etcd calls the label peer there. Each has the type, the labels and the
// buckets that it has in etcd.
var etcdNames = []struct{ etcd, kvd, peer string }{
	{"etcd_server_has_leader", "kvd_has_leader", ""},
	{"etcd_server_is_leader", "kvd_is_leader", ""},
	{"etcd_server_leader_changes_seen_total", "kvd_leader_changes_total", ""},
	{"etcd_server_proposals_committed_total", "kvd_commit_index", ""},
	{"etcd_server_proposals_applied_total", "kvd_applied_index", ""},
	{"etcd_server_proposals_pending", "kvd_proposals_pending", ""},
	{"etcd_server_proposals_failed_total", "kvd_proposals_failed_total", ""},
	{"etcd_server_slow_apply_total", "kvd_slow_applies_total", ""},
	{"etcd_server_quota_backend_bytes", "kvd_store_quota_bytes", ""},
	{"etcd_mvcc_db_total_size_in_bytes", "kvd_store_bytes", ""},
	{"etcd_mvcc_db_total_size_in_use_in_bytes", "kvd_store_bytes", ""},
	{"etcd_disk_wal_fsync_duration_seconds", "kvd_log_sync_duration_seconds", ""},
	{"etcd_snap_fsync_duration_seconds", "kvd_snapshot_sync_duration_seconds", ""},
	{"etcd_debugging_snap_save_total_duration_seconds", "kvd_snapshot_duration_seconds", ""},
	{"etcd_debugging_store_reads_total", "kvd_store_reads_total", ""},
	{"etcd_debugging_store_reads_failed_total", "kvd_store_reads_failed_total", ""},
	{"etcd_debugging_store_writes_total", "kvd_store_writes_total", ""},
	{"etcd_debugging_store_writes_failed_total", "kvd_store_writes_failed_total", ""},
	{"etcd_debugging_store_expires_total", "kvd_store_expires_total", ""},
	{"etcd_debugging_store_watchers", "kvd_watchers", ""},
	{"etcd_debugging_store_watch_requests_total", "kvd_watch_requests_total", ""},
	{"etcd_server_heartbeat_send_failures_total", "kvd_heartbeats_failed_total", ""},
	{"etcd_server_read_indexes_failed_total", "kvd_read_rounds_failed_total", ""},
	{"etcd_network_peer_round_trip_time_seconds", "kvd_peer_round_trip_duration_seconds", "To"},
	{"etcd_network_peer_sent_bytes_total", "kvd_peer_sent_bytes_total", "To"},
	{"etcd_network_peer_received_bytes_total", "kvd_peer_received_bytes_total", "From"},
	{"etcd_network_peer_sent_failures_total", "kvd_peer_failures_total", "To"},
}

// aliased gathers metrics and shows some of them under a second name.
type aliased struct{ prometheus.Gatherer }

// Gather implements prometheus.Gatherer.
func (a aliased) Gather() ([]*dto.MetricFamily, error) {
	families, err := a.Gatherer.Gather()
	named := map[string]*dto.MetricFamily{}
	for _, family := range families {
		named[family.GetName()] = family
	}
	for _, alias := range etcdNames {
		if family, ok := named[alias.kvd]; ok {
			families = append(families, &dto.MetricFamily{Name: &alias.etcd, Help: family.Help, Type: family.Type, Metric: relabelled(family.Metric, alias.peer)})
		}
	}
	return families, err
}

// relabelled returns metrics whose only label, peer, has another name; metrics itself if that is "".
func relabelled(metrics []*dto.Metric, peer string) []*dto.Metric {
	if peer == "" {
		return metrics
	}
	renamed := make([]*dto.Metric, len(metrics))
	for i, m := range metrics {
		renamed[i] = &dto.Metric{Label: []*dto.LabelPair{{Name: &peer, Value: m.Label[0].Value}}, Gauge: m.Gauge, Counter: m.Counter, Histogram: m.Histogram}
	}
	return renamed
}

// metricsPage returns the handler of the metrics.
func (d *Daemon) metricsPage(log *slog.Logger) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kvd_build_info", Help: "1, with the version of kvd and of Go as labels.",
		ConstLabels: prometheus.Labels{"version": program.Version(), "goversion": runtime.Version()},
	}, func() float64 { return 1 }))
	registry.MustRegister(d.node.Metrics()...)
	registry.MustRegister(newFigures(d))
	var gatherer prometheus.Gatherer = registry
	if d.config.MetricsCompat == metricsEtcd {
		gatherer = aliased{registry}
	}
	return promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{
		MaxRequestsInFlight: scrapesMax, ErrorHandling: promhttp.ContinueOnError,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	})
}

// figures collects what the service and the server count, all of it once for each scrape.
type figures struct {
	daemon *Daemon

	reads, readsFailed, writes, writesFailed, expires                           *prometheus.Desc
	keys, directories, leases, events, index                                    *prometheus.Desc
	bytes, quota, refused, noSpace, corrupt                                     *prometheus.Desc
	watchers, watchRequests, watchEvents, watchLost                             *prometheus.Desc
	requests, clientRequests, inFlight, connections, connectionsRefused, uptime *prometheus.Desc
	handshakesFailed, certificateEnd                                            *prometheus.Desc
	snapshots, snapshotsFailed, snapshotTime, snapshotBytes                     *prometheus.Desc
}

func newFigures(d *Daemon) *figures {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("kvd_"+name, help, labels, nil)
	}
	return &figures{
		daemon:       d,
		reads:        desc("store_reads_total", "Reads that this member was asked for: get, or getRecursive.", "action"),
		readsFailed:  desc("store_reads_failed_total", "Reads that failed, counted in kvd_store_reads_total as well.", "action"),
		writes:       desc("store_writes_total", "Writes executed here since the start, on every member.", "action"),
		writesFailed: desc("store_writes_failed_total", "Writes that failed for what they found in the store, counted in kvd_store_writes_total as well.", "action"),
		expires:      desc("store_expires_total", "Keys and directories that went because their time was over."),
		keys:         desc("store_keys", "Keys."),
		directories:  desc("store_directories", "Directories, with the root."),
		leases:       desc("leases", "Leases: one for each TTL, and those that clients have asked for."),
		events:       desc("store_history_events", "Events that a watch can look back on."),
		index:        desc("store_index", "Index of the last change."),
		bytes:        desc("store_bytes", "Size of keys, values and what it takes to keep them."),
		quota:        desc("store_quota_bytes", "Size up to which the store may grow."),
		refused:      desc("store_refused_total", "Writes that were refused because there was no room."),
		noSpace:      desc("store_no_space", "1 while writes that make the store grow are refused."),
		corrupt:      desc("store_corrupt", "1 while linearizable reads are refused, because the data of this member is not that of the others."),

		watchers:      desc("watchers", "Watches that are open."),
		watchRequests: desc("watch_requests_total", "Watches that were opened."),
		watchEvents:   desc("watch_events_total", "Events delivered, each as often as a watch got it."),
		watchLost:     desc("watch_lost_total", "Watches that ended because their reader was so slow that what it had yet to read was gone."),

		requests:           desc("http_requests_total", "Requests answered, by class of method (read, write, other) and status.", "class", "code"),
		clientRequests:     desc("http_client_requests_total", "Requests by the address that they come from, up to 64 of them; those of all others as other.", "client"),
		inFlight:           desc("http_requests_in_flight", "Requests that are being answered, open watches among them."),
		connections:        desc("http_connections", "Connections of clients."),
		connectionsRefused: desc("http_connections_refused_total", "Connections refused because of a limit."),
		snapshots:          desc("scheduled_snapshots_total", "Snapshots written by --snapshot-interval."),
		snapshotsFailed:    desc("scheduled_snapshots_failed_total", "Scheduled snapshots that could not be written."),
		snapshotTime:       desc("scheduled_snapshot_timestamp_seconds", "Time of the newest scheduled snapshot, in Unix time; 0 if there is none."),
		snapshotBytes:      desc("scheduled_snapshot_bytes", "Size of the newest scheduled snapshot."),
		handshakesFailed:   desc("tls_handshakes_failed_total", "TLS handshakes with clients that failed."),
		certificateEnd:     desc("tls_certificate_end_timestamp_seconds", "When the certificate that clients are shown ends, in seconds since 1970; 0 without TLS."),
		uptime:             desc("uptime_seconds", "Time since this member was started."),
	}
}

// Describe implements prometheus.Collector.
func (f *figures) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(f, out) }

// Collect implements prometheus.Collector.
func (f *figures) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value)
	}
	counter := func(d *prometheus.Desc, value uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
	}
	stats := f.daemon.service.Stats()
	tally := func(total, failed *prometheus.Desc, t service.Tally, action string) {
		counter(total, t.Done+t.Failed, action)
		counter(failed, t.Failed, action)
	}
	tally(f.reads, f.readsFailed, stats.Gets, "get")
	tally(f.reads, f.readsFailed, stats.RecursiveGets, "getRecursive")
	stats.Writes[kv.OpCreate].Done += stats.Writes[kv.OpCreateInOrder].Done
	stats.Writes[kv.OpCreate].Failed += stats.Writes[kv.OpCreateInOrder].Failed
	for op, action := range map[kv.Op]kv.Action{
		kv.OpSet: kv.ActionSet, kv.OpCreate: kv.ActionCreate, kv.OpUpdate: kv.ActionUpdate, kv.OpCompareAndSwap: kv.ActionCompareAndSwap,
		kv.OpDelete: kv.ActionDelete, kv.OpCompareAndDelete: kv.ActionCompareAndDelete,
	} {
		tally(f.writes, f.writesFailed, stats.Writes[op], string(action))
	}
	counter(f.expires, stats.Expired)
	gauge(f.keys, float64(stats.Keys))
	gauge(f.directories, float64(stats.Directories))
	gauge(f.leases, float64(stats.Leases))
	gauge(f.events, float64(stats.Events))
	gauge(f.index, float64(stats.Index))
	gauge(f.bytes, float64(stats.Bytes))
	gauge(f.quota, float64(stats.Quota))
	counter(f.refused, stats.Refused)
	flag := func(d *prometheus.Desc, raised bool) {
		value := 0.0
		if raised {
			value = 1
		}
		gauge(d, value)
	}
	flag(f.noSpace, stats.Alarmed)
	flag(f.corrupt, stats.Corrupt)
	gauge(f.watchers, float64(stats.Watches.Watchers))
	counter(f.watchRequests, stats.Watches.Registered)
	counter(f.watchEvents, stats.Watches.Delivered)
	counter(f.watchLost, stats.Watches.Lost)
	f.collectTraffic(counter, gauge)
	snapshots := f.daemon.backups.Counts()
	counter(f.snapshots, snapshots.Written)
	counter(f.snapshotsFailed, snapshots.Failed)
	gauge(f.snapshotTime, float64(snapshots.Last.Unix()))
	gauge(f.snapshotBytes, float64(snapshots.LastBytes))
	gauge(f.uptime, f.daemon.now().Sub(f.daemon.started).Seconds())
}

func (f *figures) collectTraffic(counter func(*prometheus.Desc, uint64, ...string), gauge func(*prometheus.Desc, float64)) {
	traffic := &f.daemon.traffic
	for class := range classes {
		for status := range statusMax {
			// 200 is there from the start, so that a rate has something to begin with.
			if n := traffic.answered[class][status].Load(); n > 0 || status == http.StatusOK {
				counter(f.requests, n, class.String(), strconv.Itoa(status))
			}
		}
	}
	known, other := f.daemon.door.clients.counts()
	for address, requests := range known {
		counter(f.clientRequests, requests, address.String())
	}
	counter(f.clientRequests, other, "other")
	gauge(f.inFlight, float64(traffic.inFlight.Load()))
	inside, refused := f.daemon.door.count()
	gauge(f.connections, float64(inside))
	counter(f.connectionsRefused, refused)
	counter(f.handshakesFailed, f.daemon.door.handshakesFailed.Load())
	end := 0.0
	if secure := f.daemon.secure; secure != nil {
		end = float64(secure.Leaf().NotAfter.Unix())
	}
	gauge(f.certificateEnd, end)
}
