package raftnode

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// slowApply is what etcd calls slow, too.
const slowApply = 100 * time.Millisecond

// meters measure what the node does as it does it. Everything else is asked for when it is wanted.
type meters struct {
	logSync, voteSync, apply, proposal, batch, snapshot, snapshotSync prometheus.Histogram

	appends *appends
	syncs   *recent // of the log
	delays  *recent // until something that is due gets its turn on this machine

	slowApplies, failed                        atomic.Uint64
	forwards, forwardsFailed, forwardsTaken    atomic.Uint64 // batches
	moves, movesFailed                         atomic.Uint64 // of the leadership, to a faster member
	readBarriers, readRounds, readRoundsFailed atomic.Uint64
	pending                                    atomic.Int64
}

// diskBuckets are those of etcd: 1 ms to 8 s.
func diskBuckets() []float64 { return prometheus.ExponentialBuckets(0.001, 2, 14) }

// peerBuckets are those that etcd has for round trips: 0.1 ms to 3.3 s.
func peerBuckets() []float64 { return prometheus.ExponentialBuckets(0.0001, 2, 16) }

func newMeters() *meters {
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
	}
	syncs := newRecent()
	return &meters{
		syncs: syncs, delays: newRecent(),
		logSync:      remembering{histogram("kvd_log_sync_duration_seconds", "Time to append to the log and to sync it.", diskBuckets()), syncs},
		voteSync:     histogram("kvd_vote_sync_duration_seconds", "Time to write term and vote and to sync them.", diskBuckets()),
		appends:      newAppends(),
		apply:        histogram("kvd_apply_duration_seconds", "Time to execute the committed entries that were there, and to wake who waits for them.", prometheus.ExponentialBuckets(0.0001, 2, 20)),
		proposal:     histogram("kvd_proposal_duration_seconds", "Time from a write's proposal until it is durable and executed.", diskBuckets()),
		batch:        histogram("kvd_batch_commands", "Commands that share one entry of the log.", prometheus.ExponentialBuckets(1, 2, 11)),
		snapshot:     histogram("kvd_snapshot_duration_seconds", "Time to write a snapshot.", diskBuckets()),
		snapshotSync: histogram("kvd_snapshot_sync_duration_seconds", "Time to sync the files of a snapshot.", diskBuckets()),
	}
}

// counted returns ask, whose rounds are counted from now on.
func (m *meters) counted(ask func() (mark, error)) func() (mark, error) {
	return func() (mark, error) {
		m.readRounds.Add(1)
		found, err := ask()
		if err != nil {
			m.readRoundsFailed.Add(1)
		}
		return found, err
	}
}

func observeSince(h prometheus.Observer, start time.Time) time.Duration {
	took := time.Since(start)
	h.Observe(took.Seconds())
	return took
}

// Metrics returns what is measured of the node. The values are of the moment at which they are collected.
func (n *Node) Metrics() []prometheus.Collector {
	m := n.meters
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	counter := func(name, help string, value *atomic.Uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(value.Load()) })
	}
	truth := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	return []prometheus.Collector{
		m.logSync, m.voteSync, newPeerFigures(n), m.apply, m.proposal, m.batch, m.snapshot, m.snapshotSync,
		counter("kvd_slow_applies_total", "Executions of committed entries that took more than 100 ms.", &m.slowApplies),
		counter("kvd_proposals_failed_total", "Proposals that ended in an error, or without a known outcome.", &m.failed),
		counter("kvd_leader_changes_total", "How often a leader became known to this member, itself included, since its start.", &n.outlook.leaders),
		counter("kvd_leader_moves_total", "Handovers of the leadership to a member that is much faster.", &m.moves),
		counter("kvd_leader_moves_failed_total", "Attempts to hand the leadership over to a member that is much faster, which has not taken it.", &m.movesFailed),
		gauge("kvd_election_timeout_seconds", "Time without a leader until this member stands for election at the latest: given, or following what is measured.", func() float64 { return n.ElectionTimeout().Seconds() }),
		gauge("kvd_scheduling_delay_seconds", "How late what is due often gets its turn on this machine: reached in three of the last thirty seconds.", func() float64 { return m.delays.look(time.Now()).high.Seconds() }),
		counter("kvd_forwarded_batches_total", "Batches of writes that this member has asked the leader to commit, each attempt.", &m.forwards),
		counter("kvd_forwarded_batches_failed_total", "Batches of writes that the leader has not taken, or of which it is not known.", &m.forwardsFailed),
		counter("kvd_forwarded_batches_received_total", "Batches of writes that other members have asked this one to commit.", &m.forwardsTaken),
		counter("kvd_read_barriers_total", "Linearizable reads that had to find out what is committed.", &m.readBarriers),
		counter("kvd_read_rounds_total", "Rounds of asking what is committed, each shared by all reads that wait: a leader asks the voters, others the leader.", &m.readRounds),
		counter("kvd_read_rounds_failed_total", "Rounds of asking without an answer that counts.", &m.readRoundsFailed),
		counter("kvd_heartbeats_failed_total", "Heartbeats of this member as a leader that were not answered.", &m.appends.heartbeatsFailed),
		gauge("kvd_queue_commands", "Proposals that wait for a place in a batch.", func() float64 { return float64(len(n.collector.queue)) }),
		gauge("kvd_queue_bytes", "Size of the proposals that wait for a place in a batch.", func() float64 { return float64(n.collector.bytes.Load()) }),
		gauge("kvd_apply_lag_entries", "Entries of the log that are known to be committed and are not executed yet.", func() float64 { return n.applyLag() }),
		gauge("kvd_proposals_pending", "Proposals that wait for their outcome.", func() float64 { return float64(m.pending.Load()) }),
		gauge("kvd_has_leader", "1 if this member knows a leader.", func() float64 { return truth(n.Status().Leader != 0) }),
		gauge("kvd_is_leader", "1 if this member leads.", func() float64 { return truth(n.leading() != nil) }),
		gauge("kvd_term", "Term of the cluster, as far as this member knows.", func() float64 { return float64(n.Status().Term) }),
		gauge("kvd_commit_index", "Last entry of the log that is known to be committed.", func() float64 { return float64(n.Status().CommitIndex) }),
		gauge("kvd_applied_index", "Last entry of the log that was executed.", func() float64 { return float64(n.Status().AppliedIndex) }),
		gauge("kvd_snapshot_bytes", "Size of the newest snapshot.", func() float64 { return float64(n.snapshotBytes.Load()) }),
		gauge("kvd_disk_free_bytes", "Free space for the data of this member.", func() float64 { return float64(n.Space().Free) }),
		gauge("kvd_disk_reserve_bytes", "Free space below which writes that make the store grow are refused.", func() float64 { return float64(n.Space().Reserve) }),
	}
}

// applyLag returns how many committed entries wait for their execution.
func (n *Node) applyLag() float64 {
	applied := n.fsm.applied.Load() // first: what it is compared with only grows
	return float64(max(n.raft.CommitIndex(), applied) - applied)
}
