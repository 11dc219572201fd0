package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/snapfile"
)

const (
	// resumeFor is how long a member that does not answer any more is asked for the rest.
	resumeFor = 30 * time.Second
	// resumePause is the time between two of these.
	resumePause = 500 * time.Millisecond
	// beginsMax is how often a save begins anew when the member has lost its snapshot.
	beginsMax = 3
)

// errGone says that a member cannot go on with its snapshot.
var errGone = errors.New("the member does not have its snapshot any more")

// saveSnapshot writes a snapshot to a file, which is there as a whole or not at all, or to stdout.
func (c *session) saveSnapshot(ctx context.Context, name string, force, serializable bool) error {
	if name == "-" {
		facts, err := c.receive(ctx, c.env.Stdout, serializable, snapfile.Visitor{})
		if errors.Is(err, errGone) {
			return &fileError{text: "stdout: the snapshot is cut short: " + err.Error(), hint: "save to a file instead, which can begin anew"}
		}
		if err != nil {
			return err
		}
		return c.saved(c.env.Stderr, name, facts)
	}
	if err := checkTarget(name, force); err != nil {
		return err
	}
	part, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*.part") // mode 0600
	if err != nil {
		return writeError(name, err)
	}
	defer os.Remove(part.Name()) // is not there any more after a success
	defer part.Close()
	facts, err := c.fill(ctx, part, name, serializable)
	if err != nil {
		return err
	}
	if err := errors.Join(part.Sync(), part.Close()); err != nil {
		return writeError(name, err)
	}
	if err := checkTarget(name, force); err != nil { // somebody may have been faster
		return err
	}
	if err := os.Rename(part.Name(), name); err != nil {
		return writeError(name, err)
	}
	if err := syncDir(filepath.Dir(name)); err != nil {
		return writeError(name, err)
	}
	return c.saved(c.out, name, facts)
}

// checkTarget refuses to write over what is there, unless force.
func checkTarget(name string, force bool) error {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return nil
	case info.IsDir():
		return &usageError{text: name + " is a directory", hint: "name a file in it"}
	case !force:
		return &fileError{text: name + " is already there", hint: "--force overwrites it"}
	}
	return nil
}

func writeError(name string, err error) error {
	return &fileError{text: fmt.Sprintf("cannot write %s: %v", name, reason(err)), hint: "nothing was left there: make room, or name another place"}
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// fill writes a snapshot to part, from its beginning again when a member has lost its own.
func (c *session) fill(ctx context.Context, part *os.File, name string, serializable bool) (snapfile.Facts, error) {
	for begun := 1; ; begun++ {
		facts, err := c.receive(ctx, part, serializable, snapfile.Visitor{})
		var path *os.PathError
		switch {
		case errors.As(err, &path):
			return facts, writeError(name, err)
		case !errors.Is(err, errGone) || begun == beginsMax:
			return facts, err
		}
		c.env.Log.Warn("beginning anew", "reason", err)
		if err := errors.Join(part.Truncate(0), rewind(part)); err != nil {
			return facts, writeError(name, err)
		}
	}
}

func rewind(file *os.File) error {
	_, err := file.Seek(0, io.SeekStart)
	return err
}

// receive copies a snapshot from a member to w, and checks it as it comes.
func (c *session) receive(ctx context.Context, w io.Writer, serializable bool, v snapfile.Visitor) (snapfile.Facts, error) {
	stream, err := c.client.Snapshot(ctx, serializable)
	if err != nil {
		return snapfile.Facts{}, err
	}
	defer stream.Close()
	bar := newProgress(c.env.Stderr, "from "+stream.From())
	defer bar.end()
	source := &resuming{ctx: ctx, stream: stream, told: func(err error) { c.env.Log.Warn("the connection broke, going on where it did", "err", err) }}
	show := v.Record
	v.Facts = func(f snapfile.Facts) error { bar.total = f.Label.Keys; return nil }
	v.Record = func(r snapfile.Record) error {
		bar.step(source.bytes)
		if show == nil {
			return nil
		}
		return show(r)
	}
	facts, err := snapfile.Scan(io.TeeReader(source, w), v)
	if errors.Is(err, snapfile.ErrDamaged) {
		return facts, &kv.Error{Op: "snapshot", Kind: kv.Internal, Cause: stream.From() + " has sent something that is no whole snapshot", Err: err}
	}
	return facts, err
}

// resuming reads a snapshot over as many connections as it takes.
type resuming struct {
	ctx    context.Context
	stream *kvclient.Snapshot
	told   func(error)
	bytes  int64
}

// Read implements io.Reader. Errors: errGone, ctx's.
func (r *resuming) Read(p []byte) (int, error) {
	n, err := r.stream.Read(p)
	r.bytes += int64(n)
	if err == nil || err == io.EOF {
		return n, err
	}
	if r.ctx.Err() != nil {
		return n, r.ctx.Err()
	}
	r.told(err)
	return n, r.resume()
}

func (r *resuming) resume() error {
	for deadline := time.Now().Add(resumeFor); ; {
		err := r.stream.Resume(r.ctx)
		switch {
		case err == nil:
			return nil
		case r.ctx.Err() != nil:
			return r.ctx.Err()
		case kv.Is(err, kv.NotFound), time.Now().After(deadline):
			return fmt.Errorf("%w: %w", errGone, err)
		}
		select {
		case <-time.After(resumePause):
		case <-r.ctx.Done():
			return r.ctx.Err()
		}
	}
}

// saved tells what was saved.
func (c *session) saved(w io.Writer, name string, f snapfile.Facts) error {
	var err error
	if c.format == asJSON {
		err = json.NewEncoder(w).Encode(factsJSONOf(name, f))
	} else {
		_, err = fmt.Fprintf(w, "saved %s: %d keys at index %d, %d bytes, sum %s\n", name, f.Records, f.Index, f.Bytes, f.Sum)
	}
	return err
}
