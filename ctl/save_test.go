package ctl_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/snapfile"
)

// furnish writes values of n bytes in all that cannot be packed.
func furnish(t *testing.T, base string, n int) {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	const each = 64 << 10
	for i := range n / each {
		value := make([]byte, each)
		for j := range value {
			value[j] = 'a' + byte(random.Uint32N(26))
		}
		response, err := http.PostForm(base+"/v2/keys/noise", url.Values{"value": {string(value)}})
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusCreated {
			t.Fatalf("value %d: %s", i, response.Status)
		}
	}
}

// cutter passes requests on to a store, and cuts off the answers to the first of them that have more than
// bytes bytes. Before it cuts, it calls before.
type cutter struct {
	store  string
	bytes  int64
	cuts   atomic.Int32 // left
	before func()
	asked  atomic.Int32
}

func (c *cutter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.asked.Add(1)
	answer, err := http.Get(c.store + r.URL.RequestURI())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer answer.Body.Close()
	for name, values := range answer.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.StatusCode)
	if c.cuts.Load() == 0 {
		io.Copy(w, answer.Body)
		return
	}
	if n, _ := io.CopyN(w, answer.Body, c.bytes); n < c.bytes {
		return
	}
	c.cuts.Add(-1)
	if c.before != nil {
		c.before()
	}
	panic(http.ErrAbortHandler)
}

func startCutter(t *testing.T, c *cutter, cuts int32) string {
	c.cuts.Store(cuts)
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	return server.URL
}

// sound reads a file and returns what it says about itself.
func sound(t *testing.T, path string) snapfile.Facts {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	facts, err := snapfile.Scan(file, snapfile.Visitor{})
	if err != nil {
		t.Fatal(err)
	}
	return facts
}

// onlyIn returns an error unless there is nothing but names in a directory.
func onlyIn(t *testing.T, directory string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(directory)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, names) {
		t.Errorf("in the directory are %q, want %q", got, names)
	}
}

func TestASaveGoesOnWhereItsConnectionBroke(t *testing.T) {
	store := daemontest.Start(t, 1).URL()
	furnish(t, store, 2<<20)
	c := &cutter{store: store, bytes: 300 << 10}
	endpoint := startCutter(t, c, 3)
	dir := t.TempDir()
	file := filepath.Join(dir, "store.snap")
	o := kvctl(t, endpoint, "snapshot", "save", file)
	if o.code != 0 || strings.Count(o.stderr, "going on where it did") != 3 {
		t.Fatalf("%+v", o)
	}
	if facts := sound(t, file); facts.Records != 32 || !strings.Contains(o.stdout, facts.Sum.String()) {
		t.Errorf("%+v, %s", facts, o.stdout)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if asked := c.asked.Load(); asked != 4 {
		t.Errorf("the member was asked %d times", asked)
	}
	onlyIn(t, dir, "store.snap")

	c.cuts.Store(2)
	if o := kvctl(t, endpoint, "snapshot", "save", "-"); o.code != 0 {
		t.Errorf("to stdout: %d %s", o.code, o.stderr)
	} else if _, err := snapfile.Scan(strings.NewReader(o.stdout), snapfile.Visitor{}); err != nil {
		t.Errorf("to stdout: %v", err)
	}
}

func TestASaveBeginsAnewWhenTheMemberWasRestartedInTheMiddle(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	furnish(t, cluster.URL(), 2<<20)
	c := &cutter{store: cluster.URL(), bytes: 300 << 10, before: cluster.Restart}
	endpoint := startCutter(t, c, 1)
	file := filepath.Join(t.TempDir(), "store.snap")
	if o := kvctl(t, endpoint, "snapshot", "save", file); o.code != 0 || !strings.Contains(o.stderr, "beginning anew") {
		t.Fatalf("%+v", o)
	}
	if facts := sound(t, file); facts.Records != 32 {
		t.Errorf("%+v", facts)
	}

	// What has gone through a pipe cannot be taken back.
	c.cuts.Store(1)
	o := call{endpoint: endpoint, args: []string{"-o", "json", "snapshot", "save", "-"}}.run(t)
	var told struct {
		Exit          int
		Message, Hint string
	}
	last := o.stderr[strings.LastIndex(strings.TrimSpace(o.stderr), "\n")+1:]
	if err := json.Unmarshal([]byte(last), &told); err != nil || o.code != 9 || told.Exit != 9 || !strings.Contains(told.Message, "cut short") || !strings.Contains(told.Hint, "to a file") {
		t.Errorf("code %d, %s, %v", o.code, o.stderr, err)
	}
}

func TestASaveThatIsInterruptedLeavesNothing(t *testing.T) {
	store := daemontest.Start(t, 1).URL()
	furnish(t, store, 1<<20)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := &cutter{store: store, bytes: 300 << 10, before: cancel}
	dir := t.TempDir()
	var stdout, stderr output
	code := call{endpoint: startCutter(t, c, 1), args: []string{"snapshot", "save", filepath.Join(dir, "store.snap")}}.start(ctx, &stdout, &stderr)
	if code != 130 || !strings.Contains(stderr.String(), "interrupted") {
		t.Errorf("code %d: %s", code, &stderr)
	}
	onlyIn(t, dir)
}

func TestASaveToAFullDiskSaysSoAndLeavesNothing(t *testing.T) {
	store := daemontest.Start(t, 1).URL()
	furnish(t, store, 2<<20)
	dir := t.TempDir()
	if err := syscall.Mount("kvctl-test", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("part missing: mount: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	file := filepath.Join(dir, "store.snap")
	o := kvctl(t, store, "snapshot", "save", file)
	if o.code != 9 || !strings.Contains(o.stderr, "cannot write "+file+": no space left on device") || !strings.Contains(o.stderr, "make room") {
		t.Errorf("%+v", o)
	}
	onlyIn(t, dir)
}

func TestEveryAlteredByteOfAFileIsFoundAndNamed(t *testing.T) {
	store := daemontest.Start(t, 1).URL()
	kvctl(t, store, "set", "/a", "1")
	dir := t.TempDir()
	file := filepath.Join(dir, "store.snap")
	if o := kvctl(t, store, "snapshot", "save", file); o.code != 0 {
		t.Fatalf("%+v", o)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, altered []byte) {
		t.Helper()
		o := call{stdin: bytes.NewReader(altered), args: []string{"snapshot", "verify", "-"}}.run(t)
		if o.code != 9 || o.stdout != "" || !strings.HasPrefix(o.stderr, "Error:  -: damaged or foreign snapshot: ") || !strings.Contains(o.stderr, "hint: ") {
			t.Fatalf("%s: %+v", what, o)
		}
	}
	for i := range whole {
		altered := bytes.Clone(whole)
		altered[i] ^= 1 << (i % 8)
		refused(fmt.Sprintf("byte %d of %d", i, len(whole)), altered)
		if i%16 == 0 {
			refused(fmt.Sprintf("cut to %d bytes", i), whole[:i])
		}
	}
	if o := (call{stdin: strings.NewReader(""), args: []string{"snapshot", "verify", "-"}}).run(t); !strings.Contains(o.stderr, "nothing came") {
		t.Errorf("of an empty pipe: %+v", o)
	}
	later := bytes.Clone(whole)
	later[len(snapfile.Magic)]++
	if o := (call{stdin: bytes.NewReader(later), args: []string{"snapshot", "verify", "-"}}).run(t); !strings.Contains(o.stderr, "written by a newer kvd") || !strings.Contains(o.stderr, "of that version") {
		t.Errorf("%+v", o)
	}
}

func TestWithAccessControlOnlyRootSaves(t *testing.T) {
	store := daemontest.Start(t, 1).URL()
	call{endpoint: store, stdin: strings.NewReader("pw\n"), args: []string{"user", "add", "root"}}.run(t)
	call{endpoint: store, stdin: strings.NewReader("pw\n"), args: []string{"user", "add", "ann"}}.run(t)
	if o := kvctl(t, store, "auth", "enable"); o.code != 0 {
		t.Fatalf("%+v", o)
	}
	file := filepath.Join(t.TempDir(), "store.snap")
	for _, who := range [][]string{nil, {"--username", "ann:pw"}} {
		if o := kvctl(t, store, append(who, "snapshot", "save", file)...); o.code != 3 {
			t.Errorf("as %q: %+v", who, o)
		}
	}
	if o := kvctl(t, store, "--username", "root:pw", "snapshot", "save", file); o.code != 0 {
		t.Errorf("as root: %+v", o)
	}
	sound(t, file)
}
