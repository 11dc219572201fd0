package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/raftnode"
	"github.com/kvd-io/kvd/daemon/store"
	"github.com/kvd-io/kvd/pkg/program"
)

// Recovered is what Recover has done.
type Recovered struct {
	Founded
	Before   string   `json:"clusterBefore"` // id
	Others   []string `json:"others"`        // names of the members that are no members any more
	Executed uint64   `json:"executed"`      // last entry of the log, which is executed now whether it was committed or not
	Note     string   `json:"note"`          // file that says how to undo it
}

// Recover makes the member whose data is in dir, which no process may use, the only member of a new
// cluster. It keeps what was there beside it and writes a note that says how to go back. With unless
// alone it does nothing to a member that is the only one already, and returns nil.
func Recover(dir string, indexStep uint64, unlessAlone bool, now time.Time) (*Recovered, error) {
	if _, err := raftnode.FinishReplacement(dir); err != nil {
		return nil, err
	}
	machine := store.New(0)
	found, err := raftnode.Inspect(dir, 0, unwatched{machine})
	if err != nil {
		return nil, err
	}
	if err := machine.Audit(); err != nil {
		return nil, &raftnode.DamageError{Path: dir, Err: fmt.Errorf("the state contradicts itself: %w", err)}
	}
	self := command.Member{ID: uint64(found.MemberID), Name: found.Name, PeerURLs: []string{defaultPeerURL}, Voter: true}
	others := []string{}
	for _, m := range machine.Members() {
		if m.ID == self.ID {
			self = m
			self.Voter = true
		} else {
			others = append(others, m.Name)
		}
	}
	slices.Sort(others)
	if unlessAlone && len(others) == 0 {
		return nil, nil
	}
	at := defaultPeerURL
	if len(self.PeerURLs) > 0 {
		at = self.PeerURLs[0]
	}
	_, term := machine.Applied()
	founding := raftnode.Founding{
		Name: found.Name, ClusterToken: found.ClusterToken, LogStore: found.LogStore, Cluster: raftnode.NewID(), Member: found.MemberID,
		Voters: []raftnode.Voter{{ID: found.MemberID, Address: address(at)}}, Index: max(found.End, 1), Term: max(term, 1),
	}
	machine.Refound([]command.Member{self}, indexStep)
	state := machine.Snapshot()
	defer state.Release()
	kept, err := raftnode.ReplaceOffline(dir, founding, state, now)
	if err != nil {
		return nil, err
	}
	r := &Recovered{Founded: founded(founding, dir, machine), Before: found.ClusterID.String(), Others: others, Executed: found.End}
	return r, r.writeNote(kept)
}

// writeNote says in the data directory what was done and how to undo it.
func (r *Recovered) writeNote(kept string) error {
	dir, err := filepath.Abs(r.DataDir)
	if err != nil {
		return err
	}
	r.Note = filepath.Join(dir, "recovery."+kept+".txt")
	var text strings.Builder
	r.print(&text)
	fmt.Fprintf(&text, `
To undo this, while no kvd uses the directory and before anything new is written:
  cd %s && rm -r raft && mv raft.%s raft && mv member.json.%[2]s member.json
Once it is not needed any more:
  cd %[1]s && rm -r raft.%[2]s member.json.%[2]s %[3]s
`, dir, kept, filepath.Base(r.Note))
	return os.WriteFile(r.Note, []byte(text.String()), 0o600)
}

func (r *Recovered) print(w io.Writer) {
	r.Founded.print(w)
	others := "alone"
	if len(r.Others) > 0 {
		others = "with " + strings.Join(r.Others, ", ")
	}
	fmt.Fprintf(w, `before      member of cluster %s, %s
lost        what the others had acknowledged and had not sent to this member yet
returned    what is in its log up to entry %d is executed, acknowledged or not
never       start the others with the data they have: empty their directories and add them anew
undo        %s says how
`, r.Before, others, r.Executed, r.Note)
}

func newRecoverCommand() *cobra.Command {
	cfg := DefaultConfig()
	step := uint64(indexStep)
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "make one survivor of a cluster that lost its quorum the only member of a new cluster",
		Long: `recover is for a cluster most of whose members are gone for good. It makes the member whose data
is in the directory the only member of a new cluster, with all keys, leases, users and roles that
it has; then start it and add members to it. Stop what is left of the old cluster first, and
recover the survivor with the highest raft index: kvd verify shows it.

What the others had acknowledged and had not sent to this member is lost. Its whole log is
executed, also entries that were not committed: a write that was answered with an error, or not at
all, may be there afterwards. The cluster has a new id, so that old members that come back are
refused; the index moves on by --index-step, so that watchers read anew.

What was there is kept in the directory, and a note beside it says how to go back.

Exit codes: 0 recovered, 1 damaged, 2 not possible, because the directory is in use or cannot be read.`,
		Example: `  kvd recover --data-dir /var/lib/kvd`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := Recover(cfg.dataDir(), step, false, time.Now())
			var damaged *raftnode.DamageError
			switch {
			case errors.As(err, &damaged):
				return &program.ExitError{Code: ExitDamaged, Err: fmt.Errorf("%w\ntry: another survivor, or kvd restore with the last snapshot", err)}
			case err != nil:
				return &program.ExitError{Code: ExitStart, Err: err}
			case asJSON:
				return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
			}
			r.print(cmd.OutOrStdout())
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&cfg.Name, "name", cfg.Name, "name of the member, from which the default of --data-dir follows")
	flags.StringVar(&cfg.DataDir, "data-dir", "", "`directory` of the survivor (default NAME.kvd in the working directory)")
	flags.Uint64Var(&step, "index-step", step, "by how much the index moves on; 0 keeps index and history")
	flags.BoolVar(&asJSON, "json", false, "print one line of JSON")
	return cmd
}

// forceNewCluster recovers the data directory before a start, if it is of a member that has others.
func forceNewCluster(dir string, log *slog.Logger, now time.Time) error {
	r, err := Recover(dir, indexStep, true, now)
	var mismatch *raftnode.MismatchError
	switch {
	case errors.As(err, &mismatch):
		return fmt.Errorf("--force-new-cluster is for a member that has data and has lost the others: %w; leave --force-new-cluster out for a new member", err)
	case err != nil:
		return fmt.Errorf("--force-new-cluster: %w", err)
	case r == nil:
		log.Warn("--force-new-cluster does nothing: this is the only member already; leave it out from now on")
		return nil
	}
	log.Warn("this member is the only one of a new cluster now", "cluster", r.ClusterID, "before", r.Before, "others", r.Others, "undo", r.Note,
		"try", "leave --force-new-cluster out from now on, and add members with empty data directories")
	return nil
}
