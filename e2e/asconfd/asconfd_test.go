package asconfd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

const (
	patience = 30 * time.Second
	manual   = "../../docs/how-to/migrate-from-confd.md"
)

// testCase is one file of testdata: lines of directives, and then the files of a host.
//
//	args ARG ...           the command line; $DIR is the host's directory, $NODE the store
//	set KEY "VALUE"        a key of the store
//	env NAME=VALUE         a variable
//	backends NAME ...      one run each, with -backend NAME and, for a store, -node; without the line: etcd; "none": neither
//	stop FILE "CONTENT"    the program is to be stopped by SIGTERM when FILE has CONTENT; otherwise it ends by itself
//	then KEY "VALUE"       a key that is set when the file of the stop line is there for the first time
//	differs ROW            kvconfd does otherwise on purpose, as the row of the manual says that begins so
//
// The file "want BACKEND" is what confd did, "kvconfd BACKEND" what kvconfd does instead.
type testCase struct {
	file     string
	archive  *txtar.Archive
	args     []string
	env      []string
	backends []string
	keys     [][2]string
	stop     [2]string
	then     [][2]string
	differs  string
}

func load(t *testing.T, file string) *testCase {
	t.Helper()
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c := &testCase{file: file, archive: archive, backends: []string{"etcd"}}
	for line := range strings.Lines(string(archive.Comment)) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "", "#":
		case "args":
			c.args = strings.Fields(rest)
		case "env":
			c.env = append(c.env, rest)
		case "backends":
			c.backends = strings.Fields(rest)
		case "set":
			c.keys = append(c.keys, pair(t, rest))
		case "then":
			c.then = append(c.then, pair(t, rest))
		case "stop":
			c.stop = pair(t, rest)
		case "differs":
			c.differs = rest
		default:
			t.Fatalf("%s: there is no directive %q", file, word)
		}
	}
	return c
}

func pair(t *testing.T, text string) [2]string {
	t.Helper()
	key, quoted, _ := strings.Cut(text, " ")
	value, err := strconv.Unquote(quoted)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return [2]string{key, value}
}

func (c *testCase) section(name string) (string, bool) {
	for _, file := range c.archive.Files {
		if file.Name == name {
			return string(file.Data), true
		}
	}
	return "", false
}

func (c *testCase) record(name, facts string) {
	for i, file := range c.archive.Files {
		if file.Name == name {
			c.archive.Files[i].Data = []byte(facts)
			return
		}
	}
	c.archive.Files = append(c.archive.Files, txtar.File{Name: name, Data: []byte(facts)})
}

func TestKvconfdDoesWhatConfdDoes(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no cases: %v", err)
	}
	kvconfd := filepath.Join(t.TempDir(), "confd")
	if err := os.Symlink(filepath.Join(parts.Build(t), "kvconfd"), kvconfd); err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			c := load(t, file)
			for _, backend := range c.backends {
				c.compare(t, kvconfd, backend)
			}
			if os.Getenv("RECORD") == "1" {
				if err := os.WriteFile(file, txtar.Format(c.archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func (c *testCase) compare(t *testing.T, kvconfd, backend string) {
	t.Helper()
	want, recorded := c.section("want " + backend)
	if confd := os.Getenv("CONFD"); confd != "" {
		facts := c.run(t, confd, backend, true)
		switch {
		case os.Getenv("RECORD") == "1":
			c.record("want "+backend, facts)
		case facts != want:
			t.Errorf("%s: confd did\n%s\nand the record says\n%s", backend, facts, want)
		}
		want, recorded = facts, true
	}
	if !recorded {
		t.Fatalf("%s: what confd does is not recorded", backend)
	}
	got := c.run(t, kvconfd, backend, backend == "etcdv3")
	if os.Getenv("RECORD") == "1" && c.differs != "" {
		c.record("kvconfd "+backend, got)
	}
	instead, differs := c.section("kvconfd " + backend)
	switch {
	case differs && c.differs == "":
		t.Errorf("%s: the difference is no row of the manual: add a line differs", backend)
	case differs && instead == want:
		t.Errorf("%s: it does not differ", backend)
	case differs && got != instead:
		t.Errorf("%s: kvconfd did\n%s\nand it is written that it does\n%s", backend, got, instead)
	case !differs && got != want:
		t.Errorf("%s: kvconfd did\n%s\nand confd\n%s", backend, got, want)
	}
}

// run makes the host of the case, runs the program there, and returns what can be seen afterwards.
func (c *testCase) run(t *testing.T, program, backend string, peer bool) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "asconfd-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{"conf", "out"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "conf", "confd.toml"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	var set func(pairs [][2]string)
	expand := strings.NewReplacer("$DIR", dir)
	args := append([]string{"-confdir", dir + "/conf"}, c.args...)
	if _, ok := c.section("conf/confd.toml"); ok || !slices.Contains(args, "-config-file") {
		args = append([]string{"-config-file", dir + "/conf/confd.toml"}, args...)
	}
	switch backend {
	case "etcd", "etcdv3":
		node := ""
		node, set = openStore(t, backend, peer)
		set(c.keys)
		expand = strings.NewReplacer("$DIR", dir, "$NODE", node)
		args = append([]string{"-backend", backend, "-node", node}, args...)
	case "none":
	default:
		args = append([]string{"-backend", backend}, args...)
	}
	for _, file := range c.archive.Files {
		if strings.HasPrefix(file.Name, "want ") || strings.HasPrefix(file.Name, "kvconfd ") {
			continue
		}
		path := filepath.Join(dir, file.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if target, ok := strings.CutPrefix(string(file.Data), "-> "); ok {
			err = os.Symlink(strings.TrimSpace(target), path)
		} else {
			err = os.WriteFile(path, []byte(expand.Replace(string(file.Data))), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for i, arg := range args {
		args[i] = expand.Replace(arg)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "KVCONFD_STATE_DIR=" + dir + "/state", "KVCONFD_SOCKET=" + dir + "/socket"}, c.env...)
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if c.stop[0] != "" {
		go c.stopWhenDone(ctx, dir, set, cmd.Process)
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if ctx.Err() != nil {
		t.Errorf("%s does not end\n%s", program, &stderr)
	}
	return facts(t, dir, cmd.ProcessState.ExitCode(), stdout.String())
}

// stopWhenDone stops a program when the file of the stop line has its content. The keys of the then
// lines are set again every second: confd can miss a change that comes while it is at work.
func (c *testCase) stopWhenDone(ctx context.Context, dir string, set func([][2]string), process *os.Process) {
	again := time.Now()
	for ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
		content, err := os.ReadFile(filepath.Join(dir, c.stop[0]))
		switch {
		case err == nil && string(content) == c.stop[1]:
			process.Signal(syscall.SIGTERM)
			return
		case err == nil && len(c.then) > 0 && time.Now().After(again):
			set(c.then)
			again = time.Now().Add(time.Second)
		}
	}
}

// What differs from run to run, and from one program to the other without anybody caring.
var (
	stagedName = regexp.MustCompile(`\.([a-z]+)\.?[0-9]{5,}`)
	teller     = regexp.MustCompile(`process [0-9]+ started [0-9]+ boot \S+\n`) // if it ran for long enough to be noted
	version    = regexp.MustCompile(`^confd \S+ \(Git SHA: \S*, Go Version: go\S+\)\n$`)
)

func facts(t *testing.T, dir string, exit int, stdout string) string {
	t.Helper()
	lines := []string{}
	err := filepath.WalkDir(dir+"/out", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		name := stagedName.ReplaceAllString(strings.TrimPrefix(path, dir+"/"), ".$1*")
		if info.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(path)
			lines = append(lines, fmt.Sprintf("%s -> %s", name, target))
			return err
		}
		content, err := os.ReadFile(path)
		text := stagedName.ReplaceAllString(strings.ReplaceAll(string(content), dir, "$DIR"), ".$1*")
		text = teller.ReplaceAllString(text, "")
		lines = append(lines, fmt.Sprintf("%s %04o %s", name, info.Mode().Perm(), strconv.Quote(text)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	if stdout != "" {
		lines = append(lines, fmt.Sprintf("stdout %q", version.ReplaceAllString(stdout, "confd VERSION")))
	}
	return strings.Join(append([]string{fmt.Sprintf("exit %d", exit)}, lines...), "\n") + "\n"
}

// openStore returns the store of a run and how to write to it. confd has a real etcd, and so has
// kvconfd for its API v3; the API v2 is kvd's.
func openStore(t *testing.T, backend string, peer bool) (node string, set func([][2]string)) {
	t.Helper()
	if !peer {
		node = daemontest.Start(t, 1).URL()
	} else {
		node = startEtcd(t)
	}
	if backend == "etcdv3" {
		return strings.TrimPrefix(node, "http://"), func(pairs [][2]string) {
			etcdctl := parts.Path(t, "etcdctl")
			for _, p := range pairs {
				cmd := exec.Command(etcdctl, "--endpoints", node, "put", "--", p[0], p[1])
				cmd.Env = append(os.Environ(), "ETCDCTL_API=3")
				if output, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("etcdctl put %s: %v: %s", p[0], err, output)
				}
			}
		}
	}
	client, err := kvclient.New(kvclient.Config{Endpoints: []string{node}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return node, func(pairs [][2]string) {
		for _, p := range pairs {
			if _, err := client.Write(t.Context(), kv.Write{Op: kv.OpSet, Key: p[0], Value: p[1]}); err != nil {
				t.Errorf("set %s: %v", p[0], err)
			}
		}
	}
}

var ports sync.Map // that this process has given away

func freeAddress(t *testing.T) string {
	t.Helper()
	for range 1000 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(10_000+rand.IntN(20_000)))
		if _, taken := ports.LoadOrStore(address, true); taken {
			continue
		}
		if listener, err := net.Listen("tcp", address); err == nil {
			listener.Close()
			return address
		}
	}
	t.Fatal("no port between 10000 and 30000 is free")
	return ""
}

func startEtcd(t *testing.T) (url string) {
	t.Helper()
	url, peer := "http://"+freeAddress(t), "http://"+freeAddress(t)
	cmd := exec.Command(parts.Path(t, "etcd"), "--enable-v2", "--data-dir", t.TempDir(), "--listen-client-urls", url, "--advertise-client-urls", url,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer,
		"--heartbeat-interval", "20", "--election-timeout", "100", "--unsafe-no-fsync")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if response, err := http.Get(url + "/health"); err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return url
			}
		}
	}
	t.Fatal("etcd does not answer")
	return ""
}

func TestEveryDifferenceIsARowOfTheManual(t *testing.T) {
	text, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		c := load(t, file)
		if c.differs == "" {
			continue
		}
		if !strings.Contains(string(text), "\n| "+c.differs) {
			t.Errorf("%s: no row of %s begins with %q", file, manual, c.differs)
		}
		if !slices.ContainsFunc(c.archive.Files, func(f txtar.File) bool { return strings.HasPrefix(f.Name, "kvconfd ") }) {
			t.Errorf("%s: it differs, but what kvconfd does is not written", file)
		}
	}
}
