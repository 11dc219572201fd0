package files

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kvd-io/kvd/pkg/fuzztest"
	"github.com/kvd-io/kvd/pkg/workload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const limit = 20 * time.Second

// directory is one that a source follows.
type directory struct {
	t      *testing.T
	path   string
	source *Source
	out    chan workload.Snapshot
}

func follow(t *testing.T, path string) *directory {
	t.Helper()
	source, err := New(Config{Dir: path})
	if err != nil {
		t.Fatal(err)
	}
	d := &directory{t: t, path: path, source: source, out: make(chan workload.Snapshot)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- source.Run(ctx, d.out) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *directory) write(name, text string) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(d.path, name), []byte(text), 0o644); err != nil {
		d.t.Fatal(err)
	}
}

// until waits for a snapshot that says what is wanted: "NAME label=value ..." for each file, and "!"
// behind the name of one that has problems.
func (d *directory) until(want ...string) workload.Snapshot {
	d.t.Helper()
	var got []string
	for deadline := time.After(limit); ; {
		select {
		case snapshot := <-d.out:
			got = nil
			for _, w := range snapshot.Workloads {
				line := w.Name
				if len(w.Problems) > 0 {
					line += "!"
				}
				for _, label := range slices.Sorted(maps.Keys(w.Labels)) {
					line += fmt.Sprintf(" %s=%s", strings.TrimPrefix(label, "kvd."), w.Labels[label])
				}
				got = append(got, line)
			}
			if slices.Equal(got, want) {
				return snapshot
			}
		case <-deadline:
			d.t.Fatalf("got %q, want %q", got, want)
		}
	}
}

func TestFilesAreFollowedAsTheyComeChangeAndGo(t *testing.T) {
	d := follow(t, filepath.Join(t.TempDir(), "services.d"))
	d.until()
	if err := os.Mkdir(d.path, 0o755); err != nil {
		t.Fatal(err)
	}
	d.write("web.yaml", "web:\n  port: 80\n")
	d.write("notes.txt", "not: meant\n")
	d.write(".hidden.yaml", "not:\n  port: 1\n")
	snapshot := d.until("web web.port=80")
	if w := snapshot.Workloads[0]; w.State != workload.Running || !w.Trusted || !w.HostNetwork || w.ID != filepath.Join(d.path, "web.yaml") {
		t.Errorf("unexpected %+v", w)
	}
	d.write("db.yml", "db: {port: 5432, tags: [a, 'b,c'], meta: {zone: eu}}\n")
	d.until(`db db.meta.zone=eu db.port=5432 db.tags=a,b\,c`, "web web.port=80")
	d.write("web.yaml", "web:\n  port: 81\n")
	d.until(`db db.meta.zone=eu db.port=5432 db.tags=a,b\,c`, "web web.port=81")
	if err := os.Remove(filepath.Join(d.path, "db.yml")); err != nil {
		t.Fatal(err)
	}
	d.until("web web.port=81")
	if err := os.RemoveAll(d.path); err != nil {
		t.Fatal(err)
	}
	d.until()
	if status := d.source.Status(); !status.Connected || status.Err != nil {
		t.Errorf("a directory that is not there: %+v", status)
	}
}

func TestABadFileKeepsWhatItLastSaidAndIsNamed(t *testing.T) {
	d := follow(t, t.TempDir())
	d.until()
	d.write("web.yaml", "web:\n  port: 80\n")
	d.until("web web.port=80")
	d.write("web.yaml", "web:\n  port: [\n")
	snapshot := d.until("web! web.port=80")
	if problem := snapshot.Workloads[0].Problems[0]; !strings.Contains(problem, "web.yaml") || !strings.Contains(problem, "line") || !strings.Contains(problem, "still counts") {
		t.Errorf("told is %q", problem)
	}
	d.write("new.yaml", "- a list")
	d.until("new!", "web! web.port=80")
	d.write("web.yaml", "web:\n  port: 82\n")
	d.until("new!", "web web.port=82")
}

func TestWhatIsNoFileIsNamedAndKeepsNobodyWaiting(t *testing.T) {
	path := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(path, "pipe.yaml"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(path, "directory.yaml"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(path, "link.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "big.yaml"), make([]byte, fileBytesMax+1), 0o644); err != nil {
		t.Fatal(err)
	}
	follow(t, path).until("big!", "directory!", "link!", "pipe!")
}

func TestAFileThatEverybodyMayWriteIsNotTrusted(t *testing.T) {
	path := t.TempDir()
	file := filepath.Join(path, "web.yaml")
	if err := os.WriteFile(file, []byte("web: {port: 80}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o666); err != nil {
		t.Fatal(err)
	}
	d := follow(t, path)
	if d.until("web! web.port=80").Workloads[0].Trusted {
		t.Error("it is trusted")
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if !d.until("web web.port=80").Workloads[0].Trusted {
		t.Error("it is not trusted although only its owner may write to it")
	}
}

func TestFilesOfADirectoryThatEverybodyMayWriteToAreNotTrusted(t *testing.T) {
	path := t.TempDir()
	if err := os.WriteFile(filepath.Join(path, "web.yaml"), []byte("web: {port: 80}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	d := follow(t, path)
	if d.until("web! web.port=80").Workloads[0].Trusted {
		t.Error("it is trusted")
	}
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if !d.until("web web.port=80").Workloads[0].Trusted {
		t.Error("it is not trusted although only its owner may add files")
	}
}

func TestADirectoryIsNamedByAnAbsolutePath(t *testing.T) {
	if _, err := New(Config{Dir: "services.d"}); err == nil {
		t.Error("a relative path was accepted")
	}
}

func TestMistakesInFilesNameTheLine(t *testing.T) {
	for text, want := range map[string]string{
		"web":                             "line 1: services by name",
		"web: 80":                         `line 1: the options of "web"`,
		"web:\n  port: {a: b}":            "line 2: one value",
		"web:\n  tags: [[a]]":             "line 2: a list holds words",
		"web:\n  meta: x":                 "line 2: the entries of meta",
		"web:\n  port: 80\n  port: 81":    `line 3: "port" is there twice`,
		"a: &x {port: 1}\nb: *x":          "line 2: the options of",
		"? [a]\n: b":                      "line 1: a name is expected",
		"a: {port: 1}\n---\nb: {port: 2}": "second document",
		"\tweb: x":                        "cannot start any token",
		"a.b: {c: 1}\na: {b.c: 2}":        "is there twice",
		"web: {x: " + strings.Repeat("y", valueBytesMax+1) + "}": "more than 4096 bytes",
	} {
		if labels, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want %q", text, labels, err, want)
		}
	}
	for _, text := range []string{"", "# nothing\n", "---\n", "~"} {
		if labels, err := Parse([]byte(text)); err != nil || len(labels) > 0 {
			t.Errorf("%q: %v, %v", text, labels, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"web:\n  port: 80\n", "a: {tags: [x, 'y,z'], meta: {k: v}}", "ignore: true", "a: &x {b: c}\nd: *x", "- 1", "---\n---\n", "\xff"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 64<<10 {
			return
		}
		fuzztest.WantBounded(t, 2048*uint64(len(text))+fuzztest.Fixed, func() {
			labels, err := Parse(text)
			if err != nil && labels != nil {
				t.Error("labels beside an error")
			}
			for label, value := range labels {
				if !strings.HasPrefix(label, "kvd.") || len(value) > valueBytesMax {
					t.Errorf("label %q=%q", label, value)
				}
			}
		})
	})
}
