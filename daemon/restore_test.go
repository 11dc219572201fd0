package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/raftnode"
	"github.com/kvd-io/kvd/daemon/service"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/program"
	"github.com/kvd-io/kvd/pkg/snapfile"
)

// fill starts a member in dir, writes to it, and returns what it answers to /v2/snapshot.
func fill(t *testing.T, dir string) (snapshot []byte) {
	t.Helper()
	d := startIn(t, dir, "default")
	defer d.Close()
	base := d.ClientURLs()[0]
	for i := range 20 {
		must(t, base, "PUT", fmt.Sprintf("/v2/keys/a/%d", i), "", fmt.Sprintf("value=%d&ttl=1000", i))
	}
	must(t, base, "PUT", "/v2/keys/plain", "", "value=x")
	status, text := ask(t, base, "GET", "/v2/snapshot", "", "")
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, text)
	}
	return []byte(text)
}

func startIn(t *testing.T, dir, name string, change ...func(*Config)) *Daemon {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Name, cfg.DataDir = name, dir
	cfg.ListenClientURLs, cfg.ListenPeerURLs = []string{"http://127.0.0.1:0"}, []string{"http://127.0.0.1:0"}
	for _, f := range change {
		f(&cfg)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	d, err := Open(ctx, cfg, Deps{Fatal: func(err error) { panic(err) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func restoration(dir string) Restoration {
	r := Restoration{Config: DefaultConfig(), IndexStep: indexStep}
	r.DataDir = dir
	return r
}

func TestARestoredMemberGoesOnWithEverythingUnderANewClusterID(t *testing.T) {
	t.Parallel()
	old := filepath.Join(t.TempDir(), "old")
	snapshot := fill(t, old)
	before, err := Verify(old, 0)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "new")
	made, err := Restore(restoration(dir), bytes.NewReader(snapshot), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if made.Index != before.Index+indexStep || made.Keys != before.Keys || made.Leases != 20 || made.ClusterID == before.ClusterID || made.MemberID == before.MemberID {
		t.Errorf("made %+v of %+v", made, before)
	}
	if v, err := Verify(dir, 0); err != nil || v.Sum != made.Sum || v.ClusterID != made.ClusterID {
		t.Errorf("%+v, %v", v, err)
	}
	d := startIn(t, dir, "default")
	base := d.ClientURLs()[0]
	var answer struct {
		Node struct {
			Value string
			TTL   int64
		}
	}
	_, text := ask(t, base, "GET", "/v2/keys/a/7", "", "")
	if err := json.Unmarshal([]byte(text), &answer); err != nil || answer.Node.Value != "7" || answer.Node.TTL < 900 || answer.Node.TTL > 1000 {
		t.Errorf("%s, %v", text, err)
	}
	// Whoever waits for what the old cluster did after the snapshot is told that it has to read anew.
	if status, text := ask(t, base, "GET", fmt.Sprintf("/v2/keys/a?wait=true&waitIndex=%d", before.Index+5), "", ""); status != http.StatusBadRequest || !strings.Contains(text, `"errorCode":401`) {
		t.Errorf("%d %s", status, text)
	}
	must(t, base, "PUT", "/v2/keys/after", "", "value=1")
	if got := d.service.Index(); uint64(got) != made.Index+1 {
		t.Errorf("index %d after %d", got, made.Index)
	}
	if members := d.service.Members(); len(members) != 1 || members[0].ID != uint64(d.node.Status().MemberID) {
		t.Errorf("members %+v", members)
	}
	d.Close()
	startIn(t, dir, "default").Close() // and again
}

func TestMembersRestoredFromOneFileAreOneClusterAndEqual(t *testing.T) {
	t.Parallel()
	snapshot := fill(t, filepath.Join(t.TempDir(), "old"))
	restore := func(name, token string) Founded {
		r := restoration(filepath.Join(t.TempDir(), name))
		r.Name, r.InitialClusterToken = name, token
		r.InitialCluster = "n1=http://127.0.0.1:1,n3=http://127.0.0.1:3,n2=http://127.0.0.1:2"
		made, err := Restore(r, bytes.NewReader(snapshot), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if v, err := Verify(made.DataDir, 0); err != nil || v.Sum != made.Sum {
			t.Errorf("%+v, %v", v, err)
		}
		return made
	}
	first := restore("n1", "again")
	ids := map[string]bool{first.MemberID: true}
	for _, name := range []string{"n2", "n3"} {
		made := restore(name, "again")
		ids[made.MemberID] = true
		if made.ClusterID != first.ClusterID || made.Sum != first.Sum || made.Index != first.Index || made.RaftIndex != first.RaftIndex || made.Members != 3 {
			t.Errorf("%+v and %+v", made, first)
		}
	}
	if len(ids) != 3 {
		t.Errorf("ids %v", ids)
	}
	if other := restore("n1", "another"); other.ClusterID == first.ClusterID || other.MemberID == first.MemberID {
		t.Error("another token makes the same cluster")
	}
}

func TestWhatCannotBeRestoredIsRefusedAndNothingIsMade(t *testing.T) {
	t.Parallel()
	snapshot := fill(t, filepath.Join(t.TempDir(), "old"))
	newer := bytes.Clone(snapshot)
	newer[len(snapfile.Magic)]++
	for name, c := range map[string]struct {
		file   []byte
		change func(*Restoration)
		want   string
		made   bool
	}{
		"cut":                  {file: snapshot[:len(snapshot)/2], want: "it ends"},
		"altered":              {file: append(bytes.Clone(snapshot[:99]), append([]byte{snapshot[99] ^ 1}, snapshot[100:]...)...), want: "damaged"},
		"newer":                {file: newer, want: "written by a newer kvd"},
		"foreign":              {file: []byte("PK\x03\x04 and so on and on"), want: "does not begin as a snapshot"},
		"empty":                {want: "nothing came"},
		"not among them":       {change: func(r *Restoration) { r.InitialCluster = "n1=http://a:1,n2=http://b:1" }, want: "does not name this member"},
		"the token of default": {change: func(r *Restoration) { r.InitialCluster = "default=http://a:1,n2=http://b:1" }, want: "token that no other has had"},
		"no url":               {change: func(r *Restoration) { r.InitialCluster = "default=a:1" }, want: "http"},
		"other urls": {change: func(r *Restoration) {
			r.InitialCluster = "default=http://a:1"
			r.InitialAdvertisePeerURLs = []string{"http://b:1"}
		}, want: "is not what --initial-cluster says"},
		"another user's directory": {change: func(r *Restoration) { os.Mkdir(r.DataDir, 0o777); os.Chown(r.DataDir, 12345, 12345) }, want: "sudo -u kvd", made: true},
		"a directory with something": {change: func(r *Restoration) {
			os.Mkdir(r.DataDir, 0o700)
			os.WriteFile(filepath.Join(r.DataDir, "x"), nil, 0o600)
		}, want: `it holds "x"`, made: true},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "another user's directory" && os.Geteuid() != 0 {
				t.Skip("part missing: the rights of root")
			}
			r := restoration(filepath.Join(t.TempDir(), "new"))
			file := c.file
			if c.change != nil {
				c.change(&r)
				file = snapshot
			}
			_, err := Restore(r, bytes.NewReader(file), time.Now())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if _, err := os.Stat(r.DataDir); !c.made && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is there", r.DataDir)
			}
		})
	}
}

// withOthers makes the member whose data is in dir one of three, as far as its table of members goes.
func withOthers(t *testing.T, dir string) {
	t.Helper()
	d := startIn(t, dir, "default")
	defer d.Close()
	for i, name := range []string{"n2", "n3"} {
		if err := d.service.Publish(t.Context(), command.Member{ID: uint64(i + 100), Name: name, Voter: true, PeerURLs: []string{"http://127.0.0.1:1"}}); err != nil {
			t.Fatal(err)
		}
	}
}

// It is not parallel: a shell that is just being started holds the locks of all data directories for a moment.
func TestARestoreWithoutAFileSaysWhatIsMissing(t *testing.T) {
	nothing := func(string) (string, bool) { return "", false }
	for args, want := range map[string]string{"restore": "FILE is missing: the snapshot to restore, or - for stdin", "restore a b": `unexpected argument "b"`} {
		var complaint bytes.Buffer
		code := program.Run(t.Context(), Program(), strings.Fields(args), nothing, &program.Env{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: &complaint})
		if code != program.ExitUsage || !strings.Contains(complaint.String(), want) {
			t.Errorf("kvd %s: %d, %s", args, code, &complaint)
		}
	}
}

func TestASurvivorIsRecoveredOnceAndTheWayBackIsThere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	fill(t, dir)
	withOthers(t, dir)
	before, err := Verify(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Recover(dir, indexStep, false, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if r.Before != before.ClusterID || r.ClusterID == before.ClusterID || r.MemberID != before.MemberID || r.Sum != before.Sum || fmt.Sprint(r.Others) != "[n2 n3]" || r.Index != before.Index+indexStep {
		t.Errorf("recovered %+v from %+v", r, before)
	}
	d := startIn(t, dir, "default")
	if members := d.service.Members(); len(members) != 1 {
		t.Errorf("members %+v", members)
	}
	result, err := d.service.Read(t.Context(), kv.Read{Key: "/plain", Quorum: true})
	if err != nil || result.Node.Value != "x" {
		t.Errorf("%v, %v", result, err)
	}
	if _, err := Recover(dir, indexStep, false, time.Now()); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("while it runs: %v", err)
	}
	d.Close()

	note, err := os.ReadFile(r.Note)
	if err != nil {
		t.Fatal(err)
	}
	_, undo, found := strings.Cut(string(note), "anything new is written:\n  ")
	if !found {
		t.Fatalf("the note says %s", note)
	}
	undo, _, _ = strings.Cut(undo, "\n")
	runShell(t, undo)
	if again, err := Verify(dir, 0); err != nil || again != before {
		t.Errorf("after the undo %+v, %v; before %+v", again, err, before)
	}
}

func TestARecoveryThatACrashHasCutShortIsDoneByTheNext(t *testing.T) {
	t.Parallel()
	origin := filepath.Join(t.TempDir(), "origin")
	fill(t, origin)
	withOthers(t, origin)
	for step, crash := range []func(dir string){
		func(dir string) { // before anything is moved
			os.Rename(filepath.Join(dir, "raft"), filepath.Join(dir, "raft.new"))
			os.RemoveAll(filepath.Join(dir, "raft"))
			os.CopyFS(filepath.Join(dir, "raft"), os.DirFS(filepath.Join(origin, "raft")))
		},
		func(dir string) { // between the two moves
			os.Rename(filepath.Join(dir, "raft"), filepath.Join(dir, "raft.new"))
		},
	} {
		dir := filepath.Join(t.TempDir(), "data")
		if err := os.CopyFS(dir, os.DirFS(origin)); err != nil {
			t.Fatal(err)
		}
		if _, err := Recover(dir, 0, false, time.Now()); err != nil {
			t.Fatal(err)
		}
		crash(dir)
		r, err := Recover(dir, 0, false, time.Now().Add(time.Hour))
		if err != nil || r.Keys != 21 {
			t.Fatalf("step %d: %+v, %v", step, r, err)
		}
		d := startIn(t, dir, "default")
		if len(d.service.Members()) != 1 {
			t.Errorf("step %d: members %+v", step, d.service.Members())
		}
		d.Close()
	}
}

func TestForceNewClusterRecoversAMemberWithOthersAndLeavesOneThatIsAlone(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	fill(t, dir)
	withOthers(t, dir)
	force := func(c *Config) { c.ForceNewCluster = true }
	d := startIn(t, dir, "default", force)
	id, index := d.node.Status().ClusterID, d.service.Index()
	if len(d.service.Members()) != 1 || index < indexStep {
		t.Errorf("members %+v at index %d", d.service.Members(), index)
	}
	d.Close()
	d = startIn(t, dir, "default", force)
	if again := d.node.Status().ClusterID; again != id || d.service.Index() != index {
		t.Errorf("another start makes cluster %v of %v, index %d of %d", again, id, d.service.Index(), index)
	}
	d.Close()

	cfg := DefaultConfig()
	cfg.DataDir, cfg.ForceNewCluster = filepath.Join(t.TempDir(), "none"), true
	if _, err := Open(t.Context(), cfg, Deps{}); err == nil || !strings.Contains(err.Error(), "there is no directory "+cfg.DataDir) || !strings.Contains(err.Error(), "leave --force-new-cluster out for a new member") {
		t.Errorf("without data: %v", err)
	}
}

func TestARestoreThatWasCutShortIsNoMember(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	founding := raftnode.Founding{Name: "default", ClusterToken: "kvd-cluster", LogStore: raftnode.LogStoreWAL, Cluster: 1, Member: 2, Index: 1, Term: 1}
	full := &brokenState{service.NewState().Snapshot()}
	if err := raftnode.InstallOffline(dir, founding, full, time.Now()); err == nil || !strings.Contains(err.Error(), "no space") || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("got %v", err)
	}
	cfg := DefaultConfig()
	cfg.DataDir, cfg.ListenClientURLs, cfg.ListenPeerURLs = dir, []string{"http://127.0.0.1:0"}, []string{"http://127.0.0.1:0"}
	if _, err := Open(t.Context(), cfg, Deps{}); err == nil {
		t.Error("kvd starts from half of a restore")
	}
}

// brokenState is a state for which there is no room.
type brokenState struct{ raftnode.Snapshot }

func (b *brokenState) WriteTo(io.Writer) (int64, error) {
	return 0, errors.New("no space left on device")
}

func runShell(t *testing.T, command string) {
	t.Helper()
	if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
}
