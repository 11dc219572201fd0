package raftnode

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// Founding says which member a data directory is made for, of a cluster that begins with a state.
type Founding struct {
	Name         string
	ClusterToken string
	LogStore     string
	Cluster      ID
	Member       ID
	Voters       []Voter // all members, this one among them; the same for each
	Index, Term  uint64  // the log entry that the state stands for; the same for each
}

// Voter is a member with its vote.
type Voter struct {
	ID      ID
	Address string // host:port of its first peer URL
}

// NewID returns a random id.
func NewID() ID { return newID() }

// DerivedID returns an id that follows from texts: whoever has the same gets the same. It is never 0.
func DerivedID(texts ...string) ID {
	h := sha256.New()
	for _, text := range texts {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(text))))
		h.Write([]byte(text))
	}
	return ID(max(binary.BigEndian.Uint64(h.Sum(nil)), 1))
}

// InstallOffline makes a data directory, which must be absent or empty, in which state is the snapshot
// that the member begins with. Until the last step, which is durable, kvd does not start from it. It
// does not release state. Errors: *MismatchError for a directory that holds something.
func InstallOffline(dir string, f Founding, state Snapshot, now time.Time) (err error) {
	if entries, err := os.ReadDir(dir); err == nil {
		for _, e := range entries {
			if name := e.Name(); name != lockFile && name != "lost+found" {
				return mismatch("%s is not empty: it holds %q; give --data-dir a new or empty directory", dir, name)
			}
		}
	}
	if err := checkOwner(dir); err != nil {
		return err
	}
	held, err := openDataDir(dir, f.Name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, held.Close()) }()
	if err := f.build(filepath.Join(held.path, raftDir), state); err != nil {
		return fmt.Errorf("%w; %s is of no use now: remove it", err, held.path)
	}
	return f.identity(now).write(held.path)
}

// checkOwner refuses to make files in a directory that its owner, who runs kvd, could not read then.
func checkOwner(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return nil
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) != os.Geteuid() {
		return mismatch("%s belongs to uid %d, not to uid %d: do this as the user that runs kvd, such as sudo -u kvd", dir, stat.Uid, os.Geteuid())
	}
	return nil
}

func (f Founding) identity(now time.Time) Identity {
	return Identity{
		Format: identityFormat, Name: f.Name, MemberID: f.Member, ClusterID: f.Cluster,
		ClusterToken: f.ClusterToken, LogStore: f.LogStore, Created: now.UTC(), Bootstrapped: true,
	}
}

// build makes raft's files below dir: an empty log behind one snapshot, which is state.
func (f Founding) build(dir string, state Snapshot) error {
	if err := makeDirs(dir); err != nil {
		return err
	}
	if err := f.buildStores(dir); err != nil {
		return err
	}
	snapshots, err := newSnapshotStore(dir, newRaftLog(slog.New(slog.DiscardHandler)), newMeters())
	if err != nil {
		return err
	}
	var voters raft.Configuration
	for _, v := range f.Voters {
		voters.Servers = append(voters.Servers, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(v.ID.String()), Address: raft.ServerAddress(v.Address)})
	}
	_, anywhere := raft.NewInmemTransport("") // spells addresses for a form of snapshots that nobody reads any more
	sink, err := snapshots.Create(raft.SnapshotVersionMax, f.Index, f.Term, voters, 1, anywhere)
	if err != nil {
		return err
	}
	if err := (fsmSnapshot{state}).Persist(sink); err != nil {
		return fmt.Errorf("write the state: %w", err)
	}
	return nil
}

// keyCurrentTerm is where raft keeps its term.
const keyCurrentTerm = "CurrentTerm"

// buildStores makes an empty log, and notes the term: raft must not begin with one before it.
func (f Founding) buildStores(dir string) error {
	stop := &failStop{deadline: time.Minute}
	stable, err := openStable(f.LogStore, dir, true, stop, nil)
	if err != nil {
		return fmt.Errorf("term and vote: %w", err)
	}
	if err := errors.Join(stable.SetUint64([]byte(keyCurrentTerm), f.Term), stable.Close()); err != nil {
		return fmt.Errorf("term and vote: %w", err)
	}
	logs, err := openLogStore(f.LogStore, dir, true, stop)
	if err != nil {
		return fmt.Errorf("log store %s: %w", f.LogStore, err)
	}
	return errors.Join(logs.Close(), stop.Err())
}

// Names of what ReplaceOffline leaves in a data directory.
const (
	replacementDir = "raft.new"
	keptSuffix     = ".before-"
)

// ReplaceOffline makes the member whose data is in dir one that begins with state, as InstallOffline does,
// and keeps what was there. It returns the suffix under which: dir holds raft.SUFFIX and
// member.json.SUFFIX then. A crash leaves the one or the other, or a directory that kvd does not start from until
// FinishReplacement. No process may use dir. It does not release state.
func ReplaceOffline(dir string, f Founding, state Snapshot, now time.Time) (kept string, err error) {
	if err := checkOwner(dir); err != nil {
		return "", err
	}
	held, err := openDataDir(dir, f.Name)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, held.Close()) }()
	at := func(name string) string { return filepath.Join(held.path, name) }
	kept = keptSuffix[1:] + now.UTC().Format("20060102T150405Z")
	if _, err := os.Stat(at(raftDir + "." + kept)); !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s is there already", at(raftDir+"."+kept))
	}
	if err := os.RemoveAll(at(replacementDir)); err != nil {
		return "", err
	}
	if err := f.build(at(replacementDir), state); err != nil {
		return "", errors.Join(err, os.RemoveAll(at(replacementDir)))
	}
	old, err := os.ReadFile(at(identityFile))
	if err != nil {
		return "", err
	}
	if err := writeDurably(at(identityFile+"."+kept), old); err != nil {
		return "", err
	}
	// The identity first: with the old state under it the member finds nobody of its new cluster.
	if err := f.identity(now).write(held.path); err != nil {
		return "", err
	}
	if err := os.Rename(at(raftDir), at(raftDir+"."+kept)); err != nil {
		return "", err
	}
	if err := os.Rename(at(replacementDir), at(raftDir)); err != nil {
		return "", err
	}
	return kept, syncDir(held.path)
}

// FinishReplacement does the last step of a ReplaceOffline in dir that a crash has cut short right before
// it, and reports whether there was one. No process may use dir.
func FinishReplacement(dir string) (bool, error) {
	from, to := filepath.Join(dir, replacementDir), filepath.Join(dir, raftDir)
	if _, err := os.Stat(to); !errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if _, err := os.Stat(from); err != nil {
		return false, nil
	}
	if err := os.Rename(from, to); err != nil {
		return false, err
	}
	return true, syncDir(dir)
}

func writeDurably(path string, data []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	return errors.Join(err, file.Sync(), file.Close())
}
