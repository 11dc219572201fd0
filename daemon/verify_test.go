package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/raftnode"
	"github.com/kvd-io/kvd/daemon/service"
	"github.com/kvd-io/kvd/pkg/fuzztest"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/program"
)

// lived returns a data directory with a snapshot and a log that goes on after it, closed in order,
// and the highest log index at which the store was written.
func lived(t testing.TB, logStore string) (dir string, last uint64) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "data")
	peers, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	node, err := raftnode.Open(ctx, raftnode.Config{Name: "default", ClusterToken: "kvd-cluster", DataDir: dir, LogStore: logStore, SnapshotLogBytes: 2 << 10}, raftnode.Deps{Peers: []net.Listener{peers}}, service.NewState())
	if err != nil {
		t.Fatal(err)
	}
	write := func(w kv.Write) {
		result, err := node.Propose(ctx, command.Command{Body: w})
		if err != nil || result.Err != nil {
			t.Fatal(err, result.Err)
		}
		last = result.RaftIndex
	}
	for i := range 40 {
		write(kv.Write{Op: kv.OpSet, Key: fmt.Sprintf("/a/%d", i%25), Value: strings.Repeat("v", i), TTL: time.Duration(i) * time.Minute})
	}
	for len(files(t, dir, "meta.json")) == 0 {
		if ctx.Err() != nil {
			t.Fatal("no snapshot within a minute")
		}
		time.Sleep(time.Millisecond)
	}
	for i := range 5 {
		write(kv.Write{Op: kv.OpSet, Key: fmt.Sprintf("/b/%d", i), Value: "after the snapshot"})
	}
	write(kv.Write{Op: kv.OpDelete, Key: "/a/3"})
	if err := node.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, last
}

// files returns the contents of the files below dir, or of those with that name, without the zeros
// at their ends.
func files(t testing.TB, dir string, names ...string) map[string]content {
	t.Helper()
	found := map[string]content{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || len(names) > 0 && !slices.Contains(names, entry.Name()) {
			return err
		}
		text, err := os.ReadFile(path)
		found[path] = content{strings.TrimRight(string(text), "\x00"), int64(len(text))}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return found
}

type content struct {
	text string
	size int64
}

// verify runs the command as its program does.
func verify(t testing.TB, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, complaint bytes.Buffer
	env := &program.Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &complaint}
	nothing := func(string) (string, bool) { return "", false }
	code = program.Run(context.Background(), Program(), append([]string{"verify"}, args...), nothing, env)
	return code, out.String(), complaint.String()
}

func TestVerifyTellsTheStateOfADirectoryAndChangesNothingInIt(t *testing.T) {
	t.Parallel()
	for _, logStore := range []string{raftnode.LogStoreWAL, raftnode.LogStoreBoltDB} {
		t.Run(logStore, func(t *testing.T) {
			t.Parallel()
			dir, last := lived(t, logStore)
			before := files(t, dir)
			code, out, complaint := verify(t, "--data-dir", dir)
			if code != 0 || !strings.HasSuffix(out, dir+" is sound\n") {
				t.Fatalf("exit code %d: %s%s", code, out, complaint)
			}
			code, out, complaint = verify(t, "--data-dir", dir, "--json")
			var got Verdict
			if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 {
				t.Fatalf("exit code %d, %v: %s%s", code, err, out, complaint)
			}
			if got.Keys != 29 || got.Directories != 3 || got.Leases == 0 || got.Index != 1+46 || got.RaftIndex < last || got.LogStore != logStore || got.Snapshot == 0 || got.Replayed == 0 {
				t.Errorf("found %+v", got)
			}
			if after := files(t, dir); !maps.Equal(after, before) {
				t.Error("the directory is another one now")
			}
			cfg := DefaultConfig()
			cfg.DataDir, cfg.LogStore = dir, logStore
			cfg.ListenClientURLs, cfg.ListenPeerURLs = []string{"http://127.0.0.1:0"}, []string{"http://127.0.0.1:0"}
			d, err := Open(t.Context(), cfg, Deps{})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if code, _, complaint := verify(t, "--data-dir", dir); code != ExitStart || !strings.Contains(complaint, "in use") {
				t.Errorf("while a member runs: exit code %d, %s", code, complaint)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			index, sum := got.Index, d.service.Mark().Sum.String() // it has told of itself in between
			_, out, complaint = verify(t, "--data-dir", dir, "--json")
			if err := json.Unmarshal([]byte(out), &got); err != nil || got.Index != index || got.Sum != sum {
				t.Errorf("a member that had started there was at %d, %s, verify says %+v, %v, %s", index, sum, got, err, complaint)
			}
		})
	}
}

func TestVerifyGoesUpToTheEntryThatItIsAskedFor(t *testing.T) {
	t.Parallel()
	dir, last := lived(t, raftnode.LogStoreWAL)
	all, err := Verify(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		last, index uint64
		problem     string
	}{
		{last, all.Index, ""}, {last - 1, all.Index - 1, ""}, {last - 6, all.Index - 6, ""}, {1, 1, ""}, {all.LastEntry, all.Index, ""},
		{all.LastEntry + 1, 0, "there is no entry"},
	} {
		switch got, err := Verify(dir, c.last); {
		case c.problem == "" && (err != nil || got.Index != c.index || got.RaftIndex > c.last):
			t.Errorf("up to entry %d: %+v, %v, want index %d", c.last, got, err, c.index)
		case c.problem != "" && (err == nil || !strings.Contains(err.Error(), c.problem)):
			t.Errorf("up to entry %d: %+v, %v", c.last, got, err)
		}
	}
}

func TestVerifySaysWhatIsDamagedAndWhatCannotBeJudged(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	for name, c := range map[string]struct {
		spoil func(dir string)
		code  int
		says  string
	}{
		"a file of a snapshot is longer": {func(dir string) { spoil(t, dir, "state.bin", func(b []byte) []byte { return append(b, 0) }) }, ExitDamaged, "state.bin is damaged: its checksum is"},
		"the place of a snapshot":        {func(dir string) { spoil(t, dir, "meta.json", replace(`"Index":`, `"Index":1`)) }, ExitDamaged, "damaged"},
		"a snapshot is gone":             {func(dir string) { os.RemoveAll(filepath.Join(dir, "raft/snapshots")) }, ExitDamaged, "snapshots is damaged"},
		"half of the identity":           {func(dir string) { spoil(t, dir, "member.json", func(b []byte) []byte { return b[:20] }) }, ExitDamaged, "member.json is damaged"},
		"an entry of the log": {func(dir string) {
			spoil(t, dir, "0000000001.segment", replace("after the snapshot", "after the snapshoT"))
		}, ExitDamaged, "0000000001.segment is damaged: at byte"},
		"the end of the log": {func(dir string) {
			spoil(t, dir, "0000000001.segment", func(b []byte) []byte {
				used := (len(bytes.TrimRight(b, "\x00")) + 511) / 512 * 512
				clear(b[used-1024:]) // the mark of a clean stop, and the append before it
				return b
			})
		}, ExitDamaged, "when it was closed"},
		"a short vote":               {func(dir string) { spoil(t, dir, "stable", func(b []byte) []byte { return b[:4000] }) }, ExitDamaged, "stable is damaged: at byte 4096"},
		"half of the log":            {func(dir string) { spoil(t, dir, "0000000001.segment", func(b []byte) []byte { return b[:4096] }) }, ExitDamaged, "it is cut short"},
		"no log":                     {func(dir string) { os.RemoveAll(filepath.Join(dir, "raft/wal")) }, ExitDamaged, "wal is damaged"},
		"no identity":                {func(dir string) { os.Remove(filepath.Join(dir, "member.json")) }, ExitStart, "is not a data directory"},
		"a newer version":            {func(dir string) { spoil(t, dir, "member.json", replace(`"format": 1`, `"format": 9`)) }, ExitStart, "newer kvd"},
		"nothing there":              {func(dir string) { os.RemoveAll(dir) }, ExitStart, "there is no directory /"},
		"a first start that was cut": {func(dir string) { spoil(t, dir, "member.json", replace("true", "false")) }, ExitStart, "holds nothing yet"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, _ := lived(t, raftnode.LogStoreWAL)
			c.spoil(dir)
			code, out, complaint := verify(t, "--data-dir", dir)
			if code != c.code || !strings.Contains(complaint, c.says) || out != "" {
				t.Errorf("exit code %d, want %d and %q: %s%s", code, c.code, c.says, out, complaint)
			}
		})
	}
	if code, _, complaint := verify(t, "--data-dir", empty); code != ExitStart || !strings.Contains(complaint, "not a data directory") {
		t.Errorf("an empty directory: exit code %d, %s", code, complaint)
	}
}

// spoil changes the files with that name.
func spoil(t testing.TB, dir, name string, change func([]byte) []byte) {
	t.Helper()
	paths := files(t, dir, name)
	if len(paths) == 0 {
		t.Fatalf("no file %s in %s", name, dir)
	}
	for path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := change(bytes.Clone(text))
		if bytes.Equal(changed, text) {
			t.Fatalf("%s is as it was", name)
		}
		if err := os.WriteFile(path, changed, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func replace(before, after string) func([]byte) []byte {
	return func(b []byte) []byte { return bytes.Replace(b, []byte(before), []byte(after), 1) }
}

// FuzzDataDirectory damages one file of a data directory. Either that is noticed, or it does not
// matter: the state is what it was. Nothing panics, and no length in a file is believed.
func FuzzDataDirectory(f *testing.F) {
	var dirs [2]string
	var sound [2]Verdict
	var pristine [2]map[string]content
	for i, logStore := range []string{raftnode.LogStoreWAL, raftnode.LogStoreBoltDB} {
		dirs[i], _ = lived(f, logStore)
		var err error
		if sound[i], err = Verify(dirs[i], 0); err != nil {
			f.Fatal(err)
		}
		pristine[i] = files(f, dirs[i])
		maps.DeleteFunc(pristine[i], func(path string, _ content) bool { return filepath.Base(path) == "kvd.lock" })
	}
	f.Add(false, byte(0), uint32(0), []byte("x"), false)
	f.Add(false, byte(3), uint32(700), []byte{0xff}, false)
	f.Add(true, byte(2), uint32(40), []byte{}, true)
	f.Add(true, byte(2), uint32(4096+8), []byte{0xff, 0xff}, false)
	f.Fuzz(func(t *testing.T, bolt bool, which byte, offset uint32, patch []byte, cut bool) {
		at := 0
		if bolt {
			at = 1
		}
		paths := slices.Sorted(maps.Keys(pristine[at]))
		path := paths[int(which)%len(paths)]
		whole := pristine[at][path]
		place := int64(offset) % int64(len(whole.text)+1)
		damageFile(t, path, place, patch, cut)
		defer mendFile(t, path, whole)

		var got Verdict
		var err error
		fuzztest.WantBounded(t, 128<<20, func() { got, err = Verify(dirs[at], 0) })
		want := sound[at]
		if err == nil && (got.Sum != want.Sum || got.Index != want.Index || got.RaftIndex != want.RaftIndex || got.Keys != want.Keys || got.Leases != want.Leases) {
			t.Fatalf("%s changed at %d to %q (cut: %v): not noticed, and the state is %+v instead of %+v", filepath.Base(path), place, patch, cut, got, want)
		}
		if err != nil && err.Error() == "" {
			t.Fatal("an error without words")
		}
	})
}

func damageFile(t testing.TB, path string, place int64, patch []byte, cut bool) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if cut {
		err = f.Truncate(place)
	}
	if _, err2 := f.WriteAt(patch, place); errors.Join(err, err2) != nil {
		t.Fatal(err, err2)
	}
}

func mendFile(t testing.TB, path string, whole content) {
	if err := errors.Join(os.WriteFile(path, []byte(whole.text), 0o600), os.Truncate(path, whole.size)); err != nil {
		t.Fatal(err)
	}
}
