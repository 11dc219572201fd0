package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/raftnode"
	"github.com/kvd-io/kvd/daemon/store"
	"github.com/kvd-io/kvd/pkg/program"
)

// ExitDamaged is the exit code of kvd verify for a data directory that is damaged.
const ExitDamaged = 1

// Verdict is what Verify has found: a sound data directory, and the state that it leads to.
type Verdict struct {
	Member     string `json:"member"` // its name
	MemberID   string `json:"memberId"`
	ClusterID  string `json:"clusterId"`
	LogStore   string `json:"logStore"`
	FirstEntry uint64 `json:"firstEntry"` // of the log; 0 when it is empty
	LastEntry  uint64 `json:"lastEntry"`
	Snapshots  int    `json:"snapshots"`
	Snapshot   uint64 `json:"snapshot"` // entry that the newest one stands for; 0 without any
	Replayed   int    `json:"replayed"` // entries executed on top of it

	// As a running member shows them at /debug/state.
	Index     uint64 `json:"index"`
	RaftIndex uint64 `json:"raftIndex"`
	Sum       string `json:"sum"`

	Keys        int `json:"keys"`
	Directories int `json:"directories"`
	Leases      int `json:"leases"`
}

// Verify reads all of a data directory that no process uses, or of a copy of one, and changes
// nothing. It checks every checksum, executes the log on the newest snapshot up to entry last (0:
// all of it), and counts what came of it again. Errors: *raftnode.DamageError; others say why the
// directory cannot be judged.
func Verify(dir string, last uint64) (Verdict, error) {
	machine := store.New(0)
	found, err := raftnode.Inspect(dir, last, unwatched{machine})
	if err != nil {
		return Verdict{}, err
	}
	if err := machine.Audit(); err != nil {
		return Verdict{}, &raftnode.DamageError{Path: dir, Err: fmt.Errorf("the state contradicts itself: %w", err)}
	}
	mark, extent := machine.Mark(), machine.Extent()
	v := Verdict{
		Member: found.Name, MemberID: found.MemberID.String(), ClusterID: found.ClusterID.String(), LogStore: found.LogStore,
		FirstEntry: found.FirstEntry, LastEntry: found.LastEntry, Snapshots: len(found.Snapshots), Replayed: found.Replayed,
		Index: mark.Index, RaftIndex: mark.RaftIndex, Sum: mark.Sum.String(),
		Keys: extent.Keys, Directories: extent.Directories, Leases: extent.Leases,
	}
	if n := len(found.Snapshots); n > 0 {
		v.Snapshot = found.Snapshots[n-1].Index
	}
	return v, nil
}

// unwatched is a machine whose events nobody takes.
type unwatched struct{ *store.Machine }

func (u unwatched) Apply(index, term uint64, batch *command.Batch) []command.Result {
	results := u.Machine.Apply(index, term, batch)
	u.TakeEvents()
	return results
}

func newVerifyCommand() *cobra.Command {
	cfg := DefaultConfig()
	var last uint64
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "check a data directory that no kvd uses, or a copy of one",
		Long: `verify reads everything in a data directory, checks every checksum, and executes the log on the
newest snapshot. It tells the index, the raft index and the sum of the state that come of it:
members with the same raft index have the same sum, which a running one shows at /debug/state.
It changes nothing. While a kvd uses the directory, verify a copy.

Exit codes: 0 sound, 1 damaged, 2 cannot be judged, because it is in use or cannot be read.`,
		Example: `  kvd verify --data-dir /var/lib/kvd
  kvd verify --data-dir /backup/kvd --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := Verify(cfg.dataDir(), last)
			var damaged *raftnode.DamageError
			switch {
			case errors.As(err, &damaged):
				return &program.ExitError{Code: ExitDamaged, Err: fmt.Errorf("%w\ntry: restore this member from a backup, or start a new one with an empty --data-dir", err)}
			case err != nil:
				return &program.ExitError{Code: ExitStart, Err: err}
			case asJSON:
				return json.NewEncoder(cmd.OutOrStdout()).Encode(v)
			}
			v.print(cmd.OutOrStdout(), cfg.dataDir())
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&cfg.Name, "name", cfg.Name, "name of the member, from which the default of --data-dir follows")
	flags.StringVar(&cfg.DataDir, "data-dir", "", "`directory` to verify (default NAME.kvd in the working directory)")
	flags.Uint64Var(&last, "raft-index", 0, "execute the log up to this `entry` only, to compare with a member that is there (default all)")
	flags.BoolVar(&asJSON, "json", false, "print one line of JSON")
	return cmd
}

func (v Verdict) print(w io.Writer, dir string) {
	snapshot := "none"
	if v.Snapshots > 0 {
		snapshot = fmt.Sprintf("%d on disk, the newest of entry %d", v.Snapshots, v.Snapshot)
	}
	fmt.Fprintf(w, `member      %s, id %s, of cluster %s
snapshots   %s
log         entries %d to %d in store %s, %d executed
index       %d
raft index  %d
sum         %s
holds       %d keys, %d directories, %d leases
%s is sound
`, v.Member, v.MemberID, v.ClusterID, snapshot, v.FirstEntry, v.LastEntry, v.LogStore, v.Replayed, v.Index, v.RaftIndex, v.Sum, v.Keys, v.Directories, v.Leases, dir)
}
