package keys

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/pkg/fuzztest"
	"github.com/kvd-io/kvd/pkg/kv"
)

var noon = time.Date(2030, 1, 2, 12, 0, 0, 0, time.UTC)

// viewOf returns a view of pairs below /a and /b.
func viewOf(pairs map[string]string) View {
	m := NewMirror(Segments)
	m.Replace([]string{"/a", "/b", "/c/_h"}, Origin{"c1", 7}, pairs)
	return m.View()
}

func text(v View) string {
	all := ""
	v.Ascend("", func(key, value string) bool {
		all += fmt.Sprintf("%q=%q ", key, value)
		return true
	})
	return all
}

func written(t testing.TB, v View) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := WriteSnapshot(&out, v, "etcd", noon); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestASnapshotIsReadAsItWasWritten(t *testing.T) {
	for name, pairs := range map[string]map[string]string{
		"nothing": {},
		"text":    {"/a": "", "/b/x": "line\nline\x00 \"<é世>\"", "/c/_h/y": "{}", "/a/[1]": "[]"},
		"bytes":   {"/a/x": "\xff\x00\xfe", "/b/\xff": "text", "/b/y": strings.Repeat("long", 100_000)},
	} {
		view := viewOf(pairs)
		s, err := ReadSnapshot(bytes.NewReader(written(t, view)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if text(s.View) != text(view) || s.View.Index() != 7 || s.View.Cluster() != "c1" || s.Store != "etcd" || !s.Time.Equal(noon) || !s.View.Stale().Equal(noon) {
			t.Errorf("%s: read %+v with %s", name, s, text(s.View))
		}
		if !s.View.Ready([]string{"/a/x", "/c/_h"}) || s.View.Ready([]string{"/c"}) {
			t.Errorf("%s: the view is ready for other keys than before", name)
		}
	}
}

func TestASnapshotThatIsNotWholeOrOursIsRefused(t *testing.T) {
	whole := string(written(t, viewOf(map[string]string{"/a/x": "1", "/a/y": "2"})))
	lines := strings.SplitAfter(whole, "\n")
	for want, content := range map[string]string{
		"does not say so":                    "hello\n",
		"no snapshot":                        `{"keys":[]}` + "\n",
		`of the form "kvconfd keys 2"`:       strings.Replace(whole, "keys 1", "keys 2", 1),
		"cut short":                          "",
		"it was cut short":                   strings.Join(lines[:3], ""),
		"damaged: it was cut short":          whole[:len(whole)-20],
		"not what was written":               strings.Replace(whole, `"2"]`, `"3"]`, 1),
		"what it holds is not what was":      lines[0] + lines[1] + lines[3],
		"out of order":                       lines[0] + lines[2] + lines[1] + lines[3],
		"not one of those":                   strings.Replace(whole, `"/a/x"`, `"/0/x"`, 1),
		"a key is none":                      strings.Replace(whole, `"/a/x"`, `"/a//x"`, 1),
		"no key with a value":                strings.Replace(whole, `["/a/x","1"]`, `["/a/x"]`, 1),
		"is damaged: a line is no key":       strings.Replace(whole, `["/a/x","1"]`, `["%","1","base64"]`, 1),
		"follows after its end":              whole + "x\n",
		"first line is not as it was":        strings.Replace(whole, `"roots":["/a","/b"`, `"roots":["/b","/a"`, 1),
		"damaged: what it holds is not what": strings.Replace(whole, `"index":7`, `"index":8`, 1),
	} {
		if s, err := ReadSnapshot(strings.NewReader(content)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: read %s, %v", want, text(s.View), err)
		}
	}
}

// FuzzSnapshot reads a file: whatever is in it, it is refused or it is what a mirror can hold, and then it is
// written again as it was read.
func FuzzSnapshot(f *testing.F) {
	whole := written(f, viewOf(map[string]string{"/a/x": "1", "/b/\xff": "\xfe"}))
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte(`{"format":"kvconfd keys 1","time":"2030-01-02T12:00:00Z","roots":[""]}` + "\n" + `{"keys":0,"sha256":""}` + "\n"))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		var s Snapshot
		var err error
		fuzztest.WantBounded(t, 128*uint64(len(content))+fuzztest.Fixed, func() { s, err = ReadSnapshot(bytes.NewReader(content)) })
		if err != nil {
			return
		}
		s.View.Ascend("", func(key, _ string) bool {
			if kv.Clean(key) != key || !s.View.Ready([]string{key}) {
				t.Fatalf("it has the key %q", key)
			}
			return true
		})
		var out bytes.Buffer
		if err := WriteSnapshot(&out, s.View, s.Store, s.Time); err != nil {
			t.Fatal(err)
		}
		again, err := ReadSnapshot(&out)
		if err != nil || text(again.View) != text(s.View) || again.Store != s.Store {
			t.Fatalf("written again it is %s, %v", text(again.View), err)
		}
	})
}

// deaf is a store that answers when it is told to.
type deaf struct {
	kv.Store
	answer chan kv.Result
}

func (d *deaf) Read(ctx context.Context, _ kv.Read) (kv.Result, error) {
	select {
	case result := <-d.answer:
		return result, nil
	case <-ctx.Done():
		return kv.Result{}, &kv.Error{Kind: kv.Timeout, Err: ctx.Err()}
	}
}

func (d *deaf) Watch(ctx context.Context, from kv.WatchFrom) (kv.Watch, error) {
	return &quietWatch{index: from.Index}, nil
}

// quietWatch is a watch to which nothing happens.
type quietWatch struct{ index kv.Index }

func (w *quietWatch) Index() kv.Index { return w.index }
func (w *quietWatch) Close()          {}
func (w *quietWatch) Next(ctx context.Context) (kv.Event, error) {
	<-ctx.Done()
	return kv.Event{}, &kv.Error{Kind: kv.Timeout, Err: ctx.Err()}
}

func answerOf(cluster string, index kv.Index, pairs ...string) kv.Result {
	top := &kv.Node{Dir: true}
	for i := 0; i < len(pairs); i += 2 {
		top.Nodes = append(top.Nodes, &kv.Node{Key: pairs[i], Value: pairs[i+1], ModifiedIndex: index})
	}
	return kv.Result{Event: kv.Event{Action: kv.ActionGet, Node: top}, Index: index, Cluster: cluster}
}

func TestAStartWithoutItsStoreUsesWhatAnEarlierRunHasLeft(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		run := func() (store *deaf, m *Mirror, stop func()) {
			store = &deaf{answer: make(chan kv.Result)}
			m = NewMirror(Segments)
			source, err := Open(Config{Backend: BackendEtcd, Watch: true, Interval: time.Hour, StateDir: dir}, Deps{Store: store})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				source.Run(ctx, m, []string{"/a", "/b"}, nil)
			}()
			return store, m, func() { cancel(); <-ended; source.Close() }
		}
		first, m, stop := run()
		time.Sleep(2 * patience)
		if m.View().Ready([]string{"/a"}) {
			t.Error("keys are there that nobody has ever read")
		}
		first.answer <- answerOf("c1", 9, "/a/x", "1", "/b/y", "2")
		synctest.Wait()
		if got := text(m.View()); !m.View().Stale().IsZero() || got != `"/a/x"="1" "/b/y"="2" ` {
			t.Errorf("the first run has read %s", got)
		}
		kept := time.Now()
		stop()

		second, m, stop := run()
		defer stop()
		reader := m.Subscribe([]string{"/a"})
		if got := woken(reader); got != "all" {
			t.Errorf("at the start the reader learns %q", got)
		}
		time.Sleep(patience - time.Millisecond)
		if m.View().Ready([]string{"/a"}) {
			t.Error("what the first run has left is used before the store had its time")
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		view := m.View()
		if text(view) != `"/a/x"="1" "/b/y"="2" ` || !view.Stale().Equal(kept) || !m.Status().Stale.Equal(kept) || !view.Ready([]string{"/a", "/b"}) {
			t.Errorf("without the store the second run has %s, stale since %v", text(view), view.Stale())
		}
		if got := woken(reader); got != "all" {
			t.Errorf("of what the first run has left the reader learns %q", got)
		}
		second.answer <- answerOf("c1", 12, "/a/x", "1", "/a/z", "3")
		synctest.Wait()
		if got := text(m.View()); !m.View().Stale().IsZero() || got != `"/a/x"="1" "/a/z"="3" ` {
			t.Errorf("with the store the second run has %s", got)
		}
		if got := woken(reader); got != "woken /a/z" {
			t.Errorf("of what the store says the reader learns %q", got)
		}
	})
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("%v is left, %v", entries, err)
	}
	if info, err := entries[0].Info(); err != nil || info.Mode() != 0o600 {
		t.Errorf("it has the mode %v, %v", info.Mode(), err)
	}
}

func TestStoresHaveFilesOfTheirOwnAndSettingsOfOneShareIt(t *testing.T) {
	path := func(change func(*Config)) string {
		cfg := Config{Backend: BackendEtcd, StateDir: "/s"}
		cfg.Client.Endpoints = []string{"a:1", "b:1"}
		change(&cfg)
		return newKeeper(cfg, nil, nil).path
	}
	same := path(func(*Config) {})
	for what, change := range map[string]func(*Config){
		"order":    func(c *Config) { c.Client.Endpoints = []string{"b:1", "a:1"} },
		"name":     func(c *Config) { c.Backend = BackendKvd },
		"password": func(c *Config) { c.Client.Password = "secret" },
	} {
		if got := path(change); got != same {
			t.Errorf("another %s has the file %s, not %s", what, got, same)
		}
	}
	for what, change := range map[string]func(*Config){
		"store":  func(c *Config) { c.Client.Endpoints = []string{"c:1"} },
		"user":   func(c *Config) { c.Client.Username = "u" },
		"record": func(c *Config) { c.SRV = "record" },
	} {
		if got := path(change); got == same {
			t.Errorf("another %s has the same file", what)
		}
	}
}

func TestASnapshotThatCannotBeUsedIsToldOnceAndNotTrusted(t *testing.T) {
	dir := t.TempDir()
	for what, content := range map[string]string{"damaged": "{", "another store": string(written(t, viewOf(nil)))} {
		var log bytes.Buffer
		m := NewMirror(Segments)
		k := newKeeper(Config{Backend: BackendEtcd, StateDir: dir}, m, slog.New(slog.NewTextHandler(&log, nil)))
		if err := os.WriteFile(k.path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			k.run(ctx)
		})
		if !m.silent() || strings.Count(log.String(), "cannot use "+k.path) != 1 {
			t.Errorf("%s: %s, log %s", what, text(m.View()), log.String())
		}
	}
}

func TestASaveThatFailsLeavesTheFileBefore(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keys.json")
	if err := saveSnapshot(path, viewOf(map[string]string{"/a": "1"}), "s", noon); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".keys.json.123"), []byte("left by a crash"), 0o600); err != nil {
		t.Fatal(err)
	}
	sweepSnapshots(path)
	if err := saveSnapshot(filepath.Join(dir, "none", "keys.json"), View{}, "s", noon); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory that is not there: %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("%v is left, %v", entries, err)
	}
	if s, err := LoadSnapshot(path); err != nil || text(s.View) != `"/a"="1" ` {
		t.Errorf("%s, %v", text(s.View), err)
	}
}
