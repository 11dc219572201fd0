package raftnode

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
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

// loadIdentity reads the identity in dir, or makes a new one from cfg if there is none, and
// compares it with cfg.
func loadIdentity(dir string, cfg Config, now time.Time) (Identity, error) {
	id, err := readIdentity(dir)
	if errors.Is(err, fs.ErrNotExist) {
		id := Identity{
			Format: identityFormat, Name: cfg.Name, MemberID: newID(), ClusterID: newID(),
			ClusterToken: cfg.ClusterToken, LogStore: cfg.LogStore, Created: now.UTC(),
		}
		return id, id.write(dir)
	}
	if err != nil {
		return Identity{}, err
	}
	return id, id.check(dir, cfg)
}

// readIdentity reads the identity in dir. An error that is fs.ErrNotExist means that there is none.
func readIdentity(dir string) (Identity, error) {
	data, err := os.ReadFile(filepath.Join(dir, identityFile))
	if err != nil {
		return Identity{}, dirError(dir, err)
	}
	return parseIdentity(dir, data)
}

// parseIdentity returns the identity that data, found in dir, stands for.
func parseIdentity(dir string, data []byte) (Identity, error) {
	path := filepath.Join(dir, identityFile)
	var id Identity
	if err := json.Unmarshal(data, &id); err != nil {
		return Identity{}, fmt.Errorf("%s is damaged: %w; restore it from a backup: it is the only record of who this member is", path, err)
	}
	switch {
	case id.Format > identityFormat:
		return Identity{}, mismatch("%s was written by a newer kvd (format %d, this one reads up to %d): start that version, or choose another --data-dir", dir, id.Format, identityFormat)
	case id.Format < 1 || id.MemberID == 0 || id.ClusterID == 0:
		return Identity{}, fmt.Errorf("%s is damaged: format, member_id or cluster_id is missing; restore it from a backup", path)
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
func (id Identity) write(dir string) error {
	data, err := json.MarshalIndent(id, "", "  ")
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
