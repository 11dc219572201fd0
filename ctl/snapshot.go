package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/program"
	"github.com/kvd-io/kvd/pkg/snapfile"
)

func snapshotCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "snapshot COMMAND",
		Short:   "save the state of a member, look into it, make a new cluster of it",
		GroupID: groupBackup,
		Long: `Save the state of a member in a file, look into such a file, make a new cluster of it.

A FILE that is - stands for stdin, or stdout. Everything but save and a diff with a member works
without a store. An etcd has no snapshots of this kind.`,
		Example: `  kvctl snapshot save /backup/store.snap
  kvctl snapshot save - | ssh backup 'cat > store.snap'
  kvctl snapshot verify /backup/store.snap
  kvctl snapshot get /backup/store.snap /config/color
  kvctl snapshot diff yesterday.snap today.snap
  kvctl snapshot diff /backup/store.snap
  kvctl snapshot restore /backup/store.snap --data-dir /var/lib/kvd --name n1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var force, serializable bool
	save := &cobra.Command{Use: "save FILE", Short: "save the state of a member", RunE: s.runUnbounded(func(ctx context.Context, c *session, args []string) error {
		file, err := onlyFile(args)
		if err != nil {
			return err
		}
		return c.saveSnapshot(ctx, file, force, serializable)
	})}
	save.Flags().BoolVar(&force, "force", false, "overwrite FILE if it is there")
	save.Flags().BoolVar(&serializable, "serializable", false, "what the member has, also if it cannot reach the others and may lack what they have")
	cmd.AddCommand(
		save,
		&cobra.Command{Use: "verify FILE", Short: "check that a file is whole, and show what it says about itself", RunE: s.runOffline(verifySnapshot)},
		&cobra.Command{Use: "ls FILE [PREFIX]", Short: "list the keys in a file, all or those that begin with PREFIX", RunE: s.runOffline(listSnapshot)},
		&cobra.Command{Use: "get FILE KEY", Short: "print the value of a key in a file, byte for byte", RunE: s.runOffline(getSnapshot)},
		&cobra.Command{Use: "diff FILE [FILE]", Short: "show what was added, removed and changed from one file to the other, or to what a member has now", RunE: s.runUnbounded(diffSnapshots)},
		&cobra.Command{
			Use: "restore FILE", Short: "make the data directory of a member of a new cluster (runs kvd restore)", DisableFlagParsing: true,
			RunE: func(cmd *cobra.Command, args []string) error { return s.restoreSnapshot(cmd, args) },
		},
	)
	return cmd
}

// fileError is a file that cannot be used, by its name, and what to do.
type fileError struct{ text, hint string }

func (e *fileError) Error() string { return e.text }

// onlyFile returns the one argument, a file.
func onlyFile(args []string) (string, error) {
	if len(args) == 0 || args[0] == "" {
		return "", &usageError{text: "file required", hint: "- is stdin, or stdout"}
	}
	return args[0], tooMany(args, 1)
}

func tooMany(args []string, n int) error {
	if len(args) <= n {
		return nil
	}
	return &usageError{text: fmt.Sprintf("unexpected argument %q", args[n])}
}

// runOffline is runUnbounded for commands that need no store.
func (s *settings) runOffline(act action) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		env := program.EnvFrom(cmd.Context())
		c := &session{settings: s, printer: newPrinter(env.Stdout, s.output), env: env}
		return s.told(env, errors.Join(act(cmd.Context(), c, args), c.flush()))
	}
}

// openSnapshot opens a file to read, stdin for -.
func (c *session) openSnapshot(name string) (io.ReadCloser, error) {
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, &fileError{text: fmt.Sprintf("cannot read %s: %v", name, reason(err)), hint: "kvctl snapshot save makes one"}
		}
		return file, nil
	}
	if terminal, ok := c.env.Stdin.(*os.File); ok && program.IsTerminal(terminal) {
		return nil, &usageError{text: "a snapshot is expected on stdin", hint: "give it through a pipe, or name a file"}
	}
	return io.NopCloser(c.env.Stdin), nil
}

// reason returns why a file operation failed, without its name.
func reason(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// scan reads a snapshot from a file to its end and checks it.
func (c *session) scan(ctx context.Context, name string, v snapfile.Visitor) (snapfile.Facts, error) {
	file, err := c.openSnapshot(name)
	if err != nil {
		return snapfile.Facts{}, err
	}
	defer file.Close()
	facts, err := snapfile.Scan(untilEnd{ctx, file}, v)
	return facts, snapshotError(name, err)
}

// untilEnd reads until ctx ends.
type untilEnd struct {
	ctx context.Context
	io.Reader
}

func (u untilEnd) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.Reader.Read(p)
}

// snapshotError says what an error of a scan means to the user.
func snapshotError(name string, err error) error {
	var path *os.PathError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, snapfile.ErrNewer):
		return &fileError{text: fmt.Sprintf("%s: %v", name, err), hint: "use the kvctl and the kvd of that version"}
	case errors.Is(err, snapfile.ErrDamaged):
		return &fileError{text: fmt.Sprintf("%s: %v", name, err), hint: "use another snapshot, or save a new one: no part of this file can be relied on"}
	case errors.As(err, &path):
		return &fileError{text: fmt.Sprintf("cannot read %s: %v", name, path.Err)}
	}
	return err
}

// factsJSON is what is said about a snapshot. It is part of the interface.
type factsJSON struct {
	File        string     `json:"file"`
	Cluster     string     `json:"cluster,omitempty"` // these five: absent in a snapshot that a member wrote for itself
	Member      string     `json:"member,omitempty"`
	Name        string     `json:"name,omitempty"`
	Version     string     `json:"version,omitempty"`
	Time        *time.Time `json:"time,omitempty"`
	Index       uint64     `json:"index"`
	RaftIndex   uint64     `json:"raftIndex"`
	RaftTerm    uint64     `json:"raftTerm"`
	Sum         string     `json:"sum"`
	Keys        int        `json:"keys"`
	Directories int        `json:"directories"`
	Leases      int        `json:"leases"`
	Bytes       int64      `json:"bytes"`
}

func factsJSONOf(file string, f snapfile.Facts) factsJSON {
	j := factsJSON{File: file, Index: f.Index, RaftIndex: f.RaftIndex, RaftTerm: f.RaftTerm, Sum: f.Sum.String(),
		Keys: f.Records, Directories: f.Dirs, Leases: f.Leases, Bytes: f.Bytes}
	if l := f.Label; f.Labelled {
		j.Cluster, j.Member = fmt.Sprintf("%x", l.Cluster), fmt.Sprintf("%x", l.Member)
		j.Name, j.Version, j.Time = l.Name, l.Version, &l.Time
	}
	return j
}

func verifySnapshot(ctx context.Context, c *session, args []string) error {
	name, err := onlyFile(args)
	if err != nil {
		return err
	}
	f, err := c.scan(ctx, name, snapfile.Visitor{})
	if err != nil {
		return err
	}
	if c.format == asJSON {
		return json.NewEncoder(c.out).Encode(factsJSONOf(name, f))
	}
	if l := f.Label; f.Labelled {
		fmt.Fprintf(c.out, "member      %s, id %x, of cluster %x\ntaken       %s by kvd %s\n", l.Name, l.Member, l.Cluster, l.Time.UTC().Format(time.RFC3339), l.Version)
	}
	fmt.Fprintf(c.out, "index       %d\nraft index  %d\nsum         %s\nholds       %d keys, %d directories, %d leases\n%s is sound\n",
		f.Index, f.RaftIndex, f.Sum, f.Records, f.Dirs, f.Leases, name)
	return nil
}

// snapshotKey is a key as ls and get show it in JSON.
type snapshotKey struct {
	Key           string  `json:"key"`
	Value         *string `json:"value,omitempty"`
	ValueBase64   []byte  `json:"value_base64,omitempty"` // in place of a value that is no UTF-8
	Bytes         int     `json:"bytes"`
	ModifiedIndex uint64  `json:"modifiedIndex"`
	CreatedIndex  uint64  `json:"createdIndex"`
}

func listSnapshot(ctx context.Context, c *session, args []string) error {
	prefix := ""
	if len(args) == 2 {
		prefix, args = args[1], args[:1]
	}
	name, err := onlyFile(args)
	if err != nil {
		return err
	}
	_, err = c.scan(ctx, name, snapfile.Visitor{Record: func(r snapfile.Record) error {
		switch {
		case !strings.HasPrefix(r.Key, prefix):
			return nil
		case c.format == asJSON:
			return json.NewEncoder(c.out).Encode(snapshotKey{Key: r.Key, Bytes: len(r.Value), ModifiedIndex: r.Modified, CreatedIndex: r.Created})
		}
		_, err := fmt.Fprintln(c.out, r.Key)
		return err
	}})
	return err
}

func getSnapshot(ctx context.Context, c *session, args []string) error {
	if len(args) < 2 {
		return &usageError{text: "file and key required"}
	}
	if err := tooMany(args, 2); err != nil {
		return err
	}
	key := kv.Clean(args[1])
	var found *snapfile.Record
	_, err := c.scan(ctx, args[0], snapfile.Visitor{Record: func(r snapfile.Record) error {
		if r.Key == key {
			found = &r
		}
		return nil
	}})
	switch {
	case err != nil:
		return err
	case found == nil:
		return &kv.Error{Op: "snapshot get", Key: key, Kind: kv.NotFound, Cause: fmt.Sprintf("there is no key %s in %s", key, args[0])}
	case c.format == asJSON:
		return json.NewEncoder(c.out).Encode(snapshotKeyOf(*found))
	}
	c.out.WriteString(found.Value) // a failing output shows in flush
	if program.IsTerminal(c.env.Stdout) {
		fmt.Fprintln(c.out)
	}
	return nil
}

func snapshotKeyOf(r snapfile.Record) snapshotKey {
	k := snapshotKey{Key: r.Key, Bytes: len(r.Value), ModifiedIndex: r.Modified, CreatedIndex: r.Created}
	if strings.ToValidUTF8(r.Value, "") == r.Value {
		k.Value = &r.Value
	} else {
		k.ValueBase64 = []byte(r.Value)
	}
	return k
}

// restoreSnapshot hands over to kvd, which knows what a data directory is.
func (s *settings) restoreSnapshot(cmd *cobra.Command, args []string) error {
	env := program.EnvFrom(cmd.Context())
	kvd, err := findKVD()
	if err != nil {
		return s.told(env, &fileError{text: "kvd is neither beside kvctl nor in the PATH: " + err.Error(), hint: "restore where kvd is installed: it makes the data directory of a member there"})
	}
	args = append([]string{"restore"}, forKVD(args, s.output == asJSON)...)
	child := exec.CommandContext(cmd.Context(), kvd, args...)
	child.Cancel = func() error { return child.Process.Signal(os.Interrupt) }
	child.WaitDelay = 10 * time.Second
	child.Stdin, child.Stdout, child.Stderr = env.Stdin, env.Stdout, env.Stderr
	var exit *exec.ExitError
	switch err := child.Run(); {
	case err == nil:
		return nil
	case cmd.Context().Err() != nil:
		return context.Canceled
	case errors.As(err, &exit):
		if exit.ExitCode() == program.ExitUsage {
			return &program.ExitError{Code: exitUsage}
		}
		return &program.ExitError{Code: exitFile}
	default:
		return s.told(env, &fileError{text: fmt.Sprintf("cannot run %s: %v", kvd, err)})
	}
}

// forKVD returns the arguments of kvctl as kvd takes them: the one thing that all commands of kvctl share
// and that means something there is the format of the output.
func forKVD(args []string, json bool) (own []string) {
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case (arg == "-o" || arg == "--output") && i+1 < len(args):
			i++
			json = args[i] == string(asJSON)
		case strings.HasPrefix(arg, "--output="):
			json = arg == "--output="+string(asJSON)
		default:
			own = append(own, arg)
		}
	}
	if json {
		own = append(own, "--json")
	}
	return own
}

// findKVD returns the kvd that was installed with this kvctl, or else the one in the PATH.
func findKVD() (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "kvd")
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return beside, nil
		}
	}
	return exec.LookPath("kvd")
}
