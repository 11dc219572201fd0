package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/raftnode"
	"github.com/kvd-io/kvd/daemon/store"
	"github.com/kvd-io/kvd/pkg/program"
	"github.com/kvd-io/kvd/pkg/snapfile"
)

// indexStep is by how much the index moves on when a cluster begins with the state of another: more
// changes than that cluster can have made since the state was saved.
const indexStep = 1_000_000_000

// Restoration says which data directory Restore makes. Its settings mean what those of Config with the
// same names do.
type Restoration struct {
	Config
	IndexStep uint64
}

// Founded is what Restore and Recover have made.
type Founded struct {
	Member      string `json:"member"` // its name
	MemberID    string `json:"memberId"`
	ClusterID   string `json:"clusterId"`
	Members     int    `json:"members"`
	DataDir     string `json:"dataDir"`
	Index       uint64 `json:"index"`
	RaftIndex   uint64 `json:"raftIndex"`
	Sum         string `json:"sum"`
	Keys        int    `json:"keys"`
	Directories int    `json:"directories"`
	Leases      int    `json:"leases"`
}

// Restore makes the data directory of one member of a new cluster, which begins with the state in
// a snapshot. Members that are restored from the same snapshot with the same settings, but for their own
// names and directories, are one cluster, and equal. Errors: *ConfigError, *raftnode.MismatchError for the
// directory, ones that wrap snapfile.ErrDamaged, and others.
func Restore(r Restoration, snapshot io.Reader, now time.Time) (Founded, error) {
	members, err := r.members()
	if err != nil {
		return Founded{}, err
	}
	machine := store.New(0)
	if err := machine.Restore(snapshot); err != nil {
		return Founded{}, err
	}
	if err := machine.Audit(); err != nil {
		return Founded{}, snapfile.Damaged("the state contradicts itself: %v", err)
	}
	index, term := machine.Applied()
	founding := raftnode.Founding{
		Name: r.Name, ClusterToken: r.InitialClusterToken, LogStore: r.LogStore, Cluster: raftnode.NewID(),
		Index: max(index, 1), Term: max(term, 1),
	}
	table := make([]command.Member, len(members))
	for i, m := range members {
		id := raftnode.NewID()
		if len(members) > 1 { // the others have to come to the same
			id = raftnode.DerivedID(append([]string{"restored member", r.InitialClusterToken, machine.Sum().String(), fmt.Sprint(index), m.Name}, m.PeerURLs...)...)
		}
		if m.Name == r.Name {
			founding.Member = id
		}
		table[i] = command.Member{ID: uint64(id), Name: m.Name, PeerURLs: m.PeerURLs, Voter: true}
		founding.Voters = append(founding.Voters, raftnode.Voter{ID: id, Address: address(m.PeerURLs[0])})
	}
	if len(members) > 1 {
		ids := []string{"restored cluster", r.InitialClusterToken}
		for _, v := range founding.Voters {
			ids = append(ids, v.ID.String())
		}
		founding.Cluster = raftnode.DerivedID(ids...)
	}
	machine.Refound(table, r.IndexStep)
	state := machine.Snapshot()
	defer state.Release()
	if err := raftnode.InstallOffline(r.dataDir(), founding, state, now); err != nil {
		return Founded{}, err
	}
	return founded(founding, r.dataDir(), machine), nil
}

func founded(f raftnode.Founding, dir string, machine *store.Machine) Founded {
	mark, extent := machine.Mark(), machine.Extent()
	return Founded{
		Member: f.Name, MemberID: f.Member.String(), ClusterID: f.Cluster.String(), Members: len(f.Voters), DataDir: dir,
		Index: uint64(mark.Index), RaftIndex: f.Index, Sum: mark.Sum.String(),
		Keys: extent.Keys, Directories: extent.Directories, Leases: extent.Leases,
	}
}

// members returns the members of the new cluster by name.
func (r *Restoration) members() ([]raftnode.Founder, error) {
	alone := r.Config
	alone.InitialCluster = ""
	if err := alone.Validate(); err != nil {
		return nil, err
	}
	own := slices.Sorted(slices.Values(r.InitialAdvertisePeerURLs))
	if r.InitialCluster == "" {
		if len(own) == 0 {
			own = []string{defaultPeerURL}
		}
		return []raftnode.Founder{{Name: r.Name, PeerURLs: own}}, nil
	}
	list, err := raftnode.ParseFounders(r.InitialCluster)
	if err != nil {
		return nil, configErrorf("initial-cluster", "%v", err)
	}
	var self *raftnode.Founder
	for i, m := range list {
		if err := checkURLs("initial-cluster", m.PeerURLs, false); err != nil {
			return nil, err
		}
		if m.Name == r.Name {
			self = &list[i]
		}
	}
	switch {
	case self == nil:
		return nil, configErrorf("initial-cluster", "it does not name this member, %q: %s", r.Name, r.InitialCluster)
	case len(own) > 0 && !slices.Equal(own, self.PeerURLs):
		return nil, configErrorf("initial-advertise-peer-urls", "%s is not what --initial-cluster says of %s: %s", strings.Join(own, ","), r.Name, strings.Join(self.PeerURLs, ","))
	case len(list) > 1 && r.InitialClusterToken == DefaultConfig().InitialClusterToken:
		return nil, configErrorf("initial-cluster-token", "give the new cluster a token that no other has had, the same for all of its members, such as restored-%s: it keeps members of before out",
			time.Now().UTC().Format("20060102-1504"))
	}
	return list, nil
}

func newRestoreCommand() *cobra.Command {
	r := Restoration{Config: DefaultConfig(), IndexStep: indexStep}
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "make the data directory of a member of a new cluster from a snapshot",
		Long: `restore makes a data directory for one member of a new cluster, which begins with the state in the
snapshot FILE, or on stdin for -. For a cluster of several, run it for each of them with the same
FILE, --initial-cluster and --initial-cluster-token, then start them all with the same settings.

The cluster has a new id, so that members and watchers of before cannot mistake it for the old one.
Leases have what they had left when the snapshot was taken. The index moves on by --index-step: no
index that the old cluster gave out after the snapshot comes again, and watches that begin with one are told
to read anew (error 401).

Exit codes: 0 made, 1 a setting or the directory cannot be used, 2 the snapshot cannot be used or
the directory cannot be written.`,
		Example: `  kvd restore store.snap --data-dir /var/lib/kvd
  kvd restore store.snap --name n1 --data-dir /var/lib/kvd --initial-cluster-token restored-1 \
    --initial-cluster n1=http://10.0.0.1:2380,n2=http://10.0.0.2:2380,n3=http://10.0.0.3:2380`,
		Args: oneSnapshot,
		RunE: func(cmd *cobra.Command, args []string) error {
			file := cmd.InOrStdin()
			if args[0] != "-" {
				opened, err := os.Open(args[0])
				if err != nil {
					return &program.ExitError{Code: ExitStart, Err: err}
				}
				defer opened.Close()
				file = opened
			}
			made, err := Restore(r, file, time.Now())
			switch {
			case errors.Is(err, snapfile.ErrNewer):
				return &program.ExitError{Code: ExitStart, Err: fmt.Errorf("%s: %w\ntry: restore it with the kvd of that version", args[0], err)}
			case errors.Is(err, snapfile.ErrDamaged):
				return &program.ExitError{Code: ExitStart, Err: fmt.Errorf("%s: %w\ntry: another snapshot; nothing was made", args[0], err)}
			case err != nil:
				return startError(cmd.Context(), err)
			case asJSON:
				return json.NewEncoder(cmd.OutOrStdout()).Encode(made)
			}
			made.print(cmd.OutOrStdout())
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&r.Name, "name", r.Name, "name of the member")
	flags.StringVar(&r.DataDir, "data-dir", "", "`directory` to make (default NAME.kvd in the working directory)")
	flags.StringVar(&r.InitialCluster, "initial-cluster", "", "all members of the new cluster, `name=url,...` (default this one alone)")
	flags.StringVar(&r.InitialClusterToken, "initial-cluster-token", r.InitialClusterToken, "tells the new cluster from all others")
	flags.StringSliceVar(&r.InitialAdvertisePeerURLs, "initial-advertise-peer-urls", nil, "peer `urls` of this member (default: those in --initial-cluster)")
	flags.StringVar(&r.LogStore, "experimental-log-store", r.LogStore, "how the log is kept on disk: see kvd")
	flags.Uint64Var(&r.IndexStep, "index-step", r.IndexStep, "by how much the index moves on; 0 keeps index and history")
	flags.BoolVar(&asJSON, "json", false, "print one line of JSON")
	return cmd
}

// oneSnapshot takes one argument, a file.
func oneSnapshot(_ *cobra.Command, args []string) error {
	switch {
	case len(args) == 0 || args[0] == "":
		return errors.New("FILE is missing: the snapshot to restore, or - for stdin, as in: kvd restore store.snap --data-dir /var/lib/kvd")
	case len(args) > 1:
		return fmt.Errorf("unexpected argument %q: one snapshot is restored", args[1])
	}
	return nil
}

func (f Founded) print(w io.Writer) {
	fmt.Fprintf(w, `member      %s, id %s, of the new cluster %s with %d members
index       %d
raft index  %d
sum         %s
holds       %d keys, %d directories, %d leases
%s is ready
`, f.Member, f.MemberID, f.ClusterID, f.Members, f.Index, f.RaftIndex, f.Sum, f.Keys, f.Directories, f.Leases, f.DataDir)
}
