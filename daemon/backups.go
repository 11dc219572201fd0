package daemon

import (
	"log/slog"

	"github.com/kvd-io/kvd/daemon/backup"
	"github.com/kvd-io/kvd/pkg/program"
	"github.com/kvd-io/kvd/pkg/snapfile"
)

// openBackups starts what gives snapshots of this member away.
func (d *Daemon) openBackups(log *slog.Logger) *backup.Backups {
	return backup.New(backup.Config{
		Take: d.takeSnapshot, Current: d.service.ReadBarrier, Spool: d.DataDir(), Log: log, Now: d.now,
		Schedule: backup.Schedule{Interval: d.config.SnapshotInterval, Keep: int(d.config.SnapshotKeep), Directory: d.config.SnapshotDir},
	})
}

// takeSnapshot returns the state of this member as it is now, with a label that says whose it is.
func (d *Daemon) takeSnapshot() backup.Taken {
	identity := d.node.Status().Identity
	snapshot := d.service.Snapshot().Label(snapfile.Label{
		Cluster: uint64(identity.ClusterID), Member: uint64(identity.MemberID), Name: identity.Name,
		Version: program.Version(), Time: d.now().UTC(),
	})
	mark := snapshot.Mark()
	return backup.Taken{WriterTo: snapshot, Release: snapshot.Release, Index: uint64(mark.Index), RaftIndex: mark.RaftIndex, Bytes: snapshot.Size()}
}
