package raftnode

import (
	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kvd-io/kvd/daemon/peer"
)

// peerFigures collects what is known of the other members. The label peer is a member's id. Who was removed
// is not there any more.
type peerFigures struct {
	node *Node

	connected, roundTrip, sent, received, failures, lag, appendsFailed *prometheus.Desc
}

func newPeerFigures(n *Node) *peerFigures {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("kvd_peer_"+name, help, []string{"peer"}, nil)
	}
	return &peerFigures{
		node:          n,
		connected:     desc("connected", "1 while this member has a connection for calls to the other."),
		roundTrip:     desc("round_trip_duration_seconds", "Round trip to another member, measured once a second."),
		sent:          desc("sent_bytes_total", "Bytes sent to another member."),
		received:      desc("received_bytes_total", "Bytes received from another member."),
		failures:      desc("failures_total", "Attempts to connect to another member that failed, and connections that broke."),
		lag:           desc("lag_entries", "Entries of the leader's log that a follower is not known to have; there on the leader only."),
		appendsFailed: desc("appends_failed_total", "Requests to append entries that a follower has not answered."),
	}
}

// Describe implements prometheus.Collector.
func (f *peerFigures) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{f.connected, f.roundTrip, f.sent, f.received, f.failures, f.lag, f.appendsFailed} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (f *peerFigures) Collect(out chan<- prometheus.Metric) {
	stats := map[ID]peer.Stats{}
	for _, s := range f.node.network.Stats() {
		stats[ID(s.Member)] = s
	}
	for _, s := range f.node.Servers() {
		if s.ID == f.node.identity.MemberID {
			continue
		}
		if known, ok := stats[s.ID]; ok {
			f.collectLink(out, s.ID.String(), known)
		}
		f.collectAppends(out, s.ID.String())
	}
}

func (f *peerFigures) collectLink(out chan<- prometheus.Metric, id string, s peer.Stats) {
	connected := 0.0
	if !s.Connected.IsZero() {
		connected = 1
	}
	within := make(map[float64]uint64, len(s.RoundTrips.Within))
	for bound, count := range s.RoundTrips.Within {
		within[bound.Seconds()] = count
	}
	out <- prometheus.MustNewConstMetric(f.connected, prometheus.GaugeValue, connected, id)
	out <- prometheus.MustNewConstHistogram(f.roundTrip, s.RoundTrips.Count, s.RoundTrips.Sum.Seconds(), within, id)
	for desc, value := range map[*prometheus.Desc]uint64{f.sent: s.Sent, f.received: s.Received, f.failures: s.Failures} {
		out <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(value), id)
	}
}

func (f *peerFigures) collectAppends(out chan<- prometheus.Metric, id string) {
	m := f.node.meters.appends.look(raft.ServerID(id))
	if m == nil {
		return
	}
	out <- m.duration
	out <- prometheus.MustNewConstMetric(f.appendsFailed, prometheus.CounterValue, float64(m.tally.Load().failed), id)
	if matched := m.matched.Load(); f.node.leading() != nil {
		last := f.node.raft.LastIndex()
		out <- prometheus.MustNewConstMetric(f.lag, prometheus.GaugeValue, float64(max(last, matched)-matched), id)
	}
}
