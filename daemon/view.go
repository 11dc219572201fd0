package daemon

import (
	"context"
	"time"

	"github.com/kvd-io/kvd/daemon/admin"
	"github.com/kvd-io/kvd/daemon/httpv2"
	"github.com/kvd-io/kvd/daemon/service"
	"github.com/kvd-io/kvd/pkg/kv"
)

// memberView shows the daemon to its API rooms, in their words.
type memberView struct {
	d       *Daemon
	cluster uint64 // its id, which never changes
}

func (v memberView) ClusterID() uint64 { return v.cluster }

func (v memberView) LeaderID() (uint64, bool) {
	leader := v.d.node.Status().Leader
	return uint64(leader), leader != 0
}

func (v memberView) HasLeader() bool { return v.d.node.Status().Leader != 0 }

func (v memberView) Position() (index, term uint64) { return v.d.service.Position() }

func (v memberView) ReadBarrier(ctx context.Context) error { return v.d.service.ReadBarrier(ctx) }

func (v memberView) Alarms() []string { return v.d.service.Alarms() }

func (v memberView) Mark() admin.Mark {
	mark := v.d.service.Mark()
	return admin.Mark{Index: mark.Index, RaftIndex: mark.RaftIndex, Sum: mark.Sum.String()}
}

func (v memberView) Self() httpv2.Self {
	status := v.d.node.Status()
	self := httpv2.Self{
		ID: uint64(status.MemberID), Name: status.Name, Started: v.d.started.UTC(),
		Leads: status.Leader != 0 && status.Leader == status.MemberID, Leader: uint64(status.Leader), Since: status.Since.UTC(),
	}
	if !status.Since.IsZero() {
		self.Leading = v.d.now().Sub(status.Since)
	}
	sent, received := v.d.node.Appends()
	self.Sent, self.Received = httpv2.Flow(sent), httpv2.Flow(received)
	return self
}

func (v memberView) Followers() []httpv2.Follower {
	known := v.d.node.Followers()
	followers := make([]httpv2.Follower, len(known))
	for i, f := range known {
		followers[i] = httpv2.Follower{ID: uint64(f.ID), Succeeded: f.Succeeded, Failed: f.Failed, Latency: httpv2.Latency{
			Current: f.Latency.Current, Average: f.Latency.Average, StandardDeviation: f.Latency.StandardDeviation,
			Minimum: f.Latency.Minimum, Maximum: f.Latency.Maximum,
		}}
	}
	return followers
}

func (v memberView) Stats() service.Stats { return v.d.service.Stats() }

func (v memberView) Members() []httpv2.Member {
	known := v.d.service.Members()
	members := make([]httpv2.Member, len(known))
	for i, m := range known {
		members[i] = httpv2.Member{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs}
	}
	return members
}

func (v memberView) Overview(ctx context.Context) (service.ClusterView, error) {
	return v.d.service.Overview(ctx)
}

func (v memberView) Authority() string { return v.d.config.authority() }

// gate shows the service to the v2 API as what lets clients in.
type gate struct{ *service.Service }

// Open implements httpv2.Gate.
func (g gate) Open(ctx context.Context, c service.Credentials) (kv.Store, error) {
	session, err := g.Service.Open(ctx, c)
	if err != nil {
		return nil, err // not session: a nil *Session would make a kv.Store that is not nil
	}
	return session, nil
}

// Authenticate implements httpv2.Gate.
func (g gate) Authenticate(ctx context.Context, c service.Credentials) (httpv2.Session, error) {
	session, err := g.Service.Authenticate(ctx, c)
	if err != nil {
		return nil, err
	}
	return session, nil
}

// requestTimeout leaves a request time for a slow disk and for one election, as etcd does.
func requestTimeout(election time.Duration) time.Duration { return 5*time.Second + 2*election }
