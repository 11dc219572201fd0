package raftnode

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/google/renameio/v2"
)

// identityFormat is the newest form of the data directory that this code can read.
const identityFormat = 1

// ID names a member or a cluster: 64 random bits, chosen once, written in hexadecimal without
// leading zeros. It is never an address: addresses change, and a member that lost its disk must
// come back as another one, or it could vote twice in one term.
type ID uint64

// String returns the hexadecimal form that the v2 API shows.
func (id ID) String() string { return strconv.FormatUint(uint64(id), 16) }

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ID) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 16, 64)
	if err != nil || n == 0 {
		return fmt.Errorf("%q is not an id: 1 to 16 hexadecimal digits, not all 0", text)
	}
	*id = ID(n)
	return nil
}

func newID() ID {
	var b [8]byte
	for {
		rand.Read(b[:]) // never fails: it ends the process instead
		if n := binary.BigEndian.Uint64(b[:]); n != 0 {
			return ID(n)
		}
	}
}

// Identity is what a data directory says about itself.
type Identity struct {
	Format       int       `json:"format"`
	Name         string    `json:"name"`
	MemberID     ID        `json:"member_id"`
	ClusterID    ID        `json:"cluster_id"`
	ClusterToken string    `json:"cluster_token"`
	LogStore     string    `json:"log_store"`
	Created      time.Time `json:"created"`
	// Bootstrapped says that the raft state has been made. From then on, an identity without
	// raft state means lost data, not a first start.
	Bootstrapped bool `json:"bootstrapped"`
}

// record is all that the identity file holds.
type record struct {
	Identity
	// Founders is the list that the cluster was founded with, as founders.String writes it; "" for a
	// cluster that one member founded, or that this one has joined.
	Founders string `json:"founders,omitempty"`
	// Incarnation is drawn when the file is made: a member that lost its disk comes back with another.
	Incarnation ID `json:"incarnation,omitempty"`
	// Starts holds the incarnations of the founders that have told this member that they start.
	Starts map[ID]ID `json:"starts,omitempty"`
	// Joining says that the member may not have heard from the cluster that it joins: an empty log
	// means nothing yet.
	Joining bool `json:"joining,omitempty"`
	// Removed says that the cluster has removed this member.
	Removed bool `json:"removed,omitempty"`
}

// newRecord returns the record of a member that starts for the first time, as cfg says.
func newRecord(cfg Config, now time.Time) record {
	r := record{Incarnation: newID(), Identity: Identity{
		Format: identityFormat, Name: cfg.Name, MemberID: newID(), ClusterID: newID(),
		ClusterToken: cfg.ClusterToken, LogStore: cfg.LogStore, Created: now.UTC(),
	}}
	if list := newFounders(cfg.Founders); len(list) > 1 && !cfg.Join {
		self, _ := list.named(cfg.Founder)
		r.MemberID, r.ClusterID, r.Founders = self.memberID(cfg.ClusterToken), list.clusterID(cfg.ClusterToken), list.String()
	}
	return r
}

// loadRecord reads the record in dir, or makes one from cfg if there is none, or none of a member
// that has started, and compares it with cfg. That of a member that joins is left to join to make:
// fresh is true then, and nothing is written.
func loadRecord(dir string, cfg Config, now time.Time) (r record, fresh bool, err error) {
	r, err = readRecord(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r = newRecord(cfg, now)
	case err != nil:
		return record{}, false, err
	case !r.Bootstrapped && (len(cfg.Founders) > 1 || r.Founders != ""):
		// A first start that was cut short, perhaps because its settings were wrong.
		incarnation := r.Incarnation
		r.ClusterToken = cfg.ClusterToken
		if err := r.check(dir, cfg); err != nil {
			return record{}, false, err
		}
		r = newRecord(cfg, now)
		if incarnation != 0 {
			r.Incarnation = incarnation
		}
	default:
		return r, false, r.check(dir, cfg)
	}
	if cfg.Join {
		return r, true, nil
	}
	return r, false, r.write(dir)
}

// readIdentity reads the identity in dir. An error that is fs.ErrNotExist means that there is none.
func readIdentity(dir string) (Identity, error) {
	r, err := readRecord(dir)
	return r.Identity, err
}

func readRecord(dir string) (record, error) {
	data, err := os.ReadFile(filepath.Join(dir, identityFile))
	if err != nil {
		return record{}, dirError(dir, err)
	}
	return parseRecord(dir, data)
}

// parseRecord returns the record that data, found in dir, stands for.
func parseRecord(dir string, data []byte) (record, error) {
	path := filepath.Join(dir, identityFile)
	var id record
	if err := json.Unmarshal(data, &id); err != nil {
		return record{}, fmt.Errorf("%s is damaged: %w; restore it from a backup: it is the only record of who this member is", path, err)
	}
	switch {
	case id.Format > identityFormat:
		return record{}, mismatch("%s was written by a newer kvd (format %d, this one reads up to %d): start that version, or choose another --data-dir", dir, id.Format, identityFormat)
	case id.Format < 1 || id.MemberID == 0 || id.ClusterID == 0:
		return record{}, fmt.Errorf("%s is damaged: format, member_id or cluster_id is missing; restore it from a backup", path)
	}
	return id, nil
}

// MismatchError is a data directory that is sound, but not the configured member's: starting again
// does not help until a setting is changed.
type MismatchError struct{ Reason string }

func (e *MismatchError) Error() string { return e.Reason }

func mismatch(format string, args ...any) error {
	return &MismatchError{Reason: fmt.Sprintf(format, args...)}
}

// check refuses an identity that is not the configured member's.
func (id Identity) check(dir string, cfg Config) error {
	switch {
	case id.Name != cfg.Name:
		return mismatch("%s belongs to member %q (id %s), not to %q: start with --name %s, or choose another --data-dir", dir, id.Name, id.MemberID, cfg.Name, id.Name)
	case id.ClusterToken != cfg.ClusterToken:
		return mismatch("%s belongs to a cluster with the token %q (id %s), not %q: start with --initial-cluster-token %s, or choose another --data-dir",
			dir, id.ClusterToken, id.ClusterID, cfg.ClusterToken, id.ClusterToken)
	case id.LogStore != cfg.LogStore:
		return mismatch("%s keeps its log in the store %q, not %q: start with --experimental-log-store %s; a log cannot change its store", dir, id.LogStore, cfg.LogStore, id.LogStore)
	}
	return nil
}

// write replaces the identity in dir atomically and durably.
func (id Identity) write(dir string) error { return record{Identity: id}.write(dir) }

func (r record) write(dir string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the identity: %w", err)
	}
	// renameio syncs the file before the rename; the rename itself is only durable with the directory.
	err = renameio.WriteFile(filepath.Join(dir, identityFile), append(data, '\n'), 0o600, renameio.WithTempDir(dir))
	if err != nil {
		return fmt.Errorf("write the identity of this member: %w", err)
	}
	return syncDir(dir)
}

// notebook is the record of the running member, whose notes change. It is safe for concurrent use.
type notebook struct {
	dir string

	mu     sync.Mutex // guards record
	record record
}

// look returns the record as it is now. Its map is shared: read only.
func (b *notebook) look() record {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.record
}

// note changes the record durably.
func (b *notebook) note(edit func(r *record)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := b.record
	next.Starts = maps.Clone(next.Starts)
	edit(&next)
	if err := next.write(b.dir); err != nil {
		return err
	}
	b.record = next
	return nil
}
