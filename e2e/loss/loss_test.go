// Package loss tries to make a built kvd lose what it has acknowledged.
package loss

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// member is a kvd process that can be killed and started again on the same data and ports.
type member struct {
	t       *testing.T
	args    []string
	url     string
	data    string // data directory
	log     string
	process *exec.Cmd
}

// newMember prepares a kvd with fresh data and starts it. wrapper comes before the command line.
func newMember(t *testing.T, wrapper ...string) *member {
	t.Helper()
	m := prepareMember(t)
	m.args = append(wrapper, m.args...)
	m.start()
	return m
}

// prepareMember does not start it.
func prepareMember(t *testing.T, args ...string) *member {
	t.Helper()
	folder := t.TempDir()
	client, peer := "http://"+freeAddress(t), "http://"+freeAddress(t)
	m := &member{t: t, url: client, log: filepath.Join(folder, "log"), data: filepath.Join(folder, "data")}
	m.args = append([]string{filepath.Join(parts.Build(t), "kvd"), "--data-dir", m.data,
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer}, args...)
	t.Cleanup(m.kill)
	return m
}

// launch starts the process and does not wait until it is healthy.
func (m *member) launch() {
	m.t.Helper()
	log, err := os.OpenFile(m.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		m.t.Fatal(err)
	}
	defer log.Close()
	m.process = exec.Command(m.args[0], m.args[1:]...)
	m.process.Stdout, m.process.Stderr = log, log
	m.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := m.process.Start(); err != nil {
		m.t.Fatal(err)
	}
}

func (m *member) start() {
	m.t.Helper()
	m.launch()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		response, err := http.Get(m.url + "/health")
		if err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(m.log)
			m.t.Fatalf("kvd is not healthy within 30 s: %v\n%s", err, text)
		}
	}
}

// kill is kill -9 of the process and of a wrapper.
func (m *member) kill() {
	if m.process != nil {
		syscall.Kill(-m.process.Process.Pid, syscall.SIGKILL)
		m.process.Wait()
		m.process = nil
	}
}

// stop is SIGTERM to the process and to a wrapper, and SIGKILL when that takes too long.
func (m *member) stop() {
	m.t.Helper()
	syscall.Kill(-m.process.Process.Pid, syscall.SIGTERM) // strace itself would not listen
	group := m.process.Process.Pid
	late := time.AfterFunc(30*time.Second, func() { syscall.Kill(-group, syscall.SIGKILL) })
	m.process.Wait()
	if !late.Stop() {
		m.t.Fatal("kvd did not end within 30 s of SIGTERM")
	}
	m.process = nil
}

func (m *member) client() *kvclient.Client {
	m.t.Helper()
	client, err := kvclient.New(kvclient.Config{Endpoints: []string{m.url}})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { client.Close() })
	return client
}

// freeAddress returns an address that is free and stays so while a member is down: its port is below
// those that the system gives to whoever asks for any.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 1000 {
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000)))
		if err == nil {
			defer listener.Close()
			return listener.Addr().String()
		}
	}
	t.Fatal("no port is free")
	return ""
}

const (
	writers         = 16
	writesPerWriter = 625 // 10,000 together
	kills           = 4
)

// acknowledged is what writers were told.
type acknowledged struct {
	mu      sync.Mutex // guards the fields below
	indices map[kv.Index]string
	highest kv.Index
	double  []string // keys that were given an index already given to another
}

func (a *acknowledged) note(key string, index kv.Index) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if other, taken := a.indices[index]; taken {
		a.double = append(a.double, fmt.Sprintf("%s and %s both have index %d", key, other, index))
	}
	a.indices[index] = key
	a.highest = max(a.highest, index)
}

func (a *acknowledged) highestIndex() kv.Index {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.highest
}

func TestKillingTheDaemonInTheMiddleOfTenThousandWritesLosesNoneThatWasAcknowledged(t *testing.T) {
	m := newMember(t)
	client := m.client()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()

	told := &acknowledged{indices: map[kv.Index]string{}}
	var count, retries atomic.Int64
	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for i := range writesPerWriter {
				key := fmt.Sprintf("/loss/%02d/%04d", w, i)
				for {
					result, err := client.Write(ctx, kv.Write{Op: kv.OpSet, Key: key, Value: strconv.Itoa(w*writesPerWriter + i)})
					if err == nil {
						told.note(key, result.Index)
						count.Add(1)
						break
					}
					// Whether it happened or not: the same value is written again until there is an answer.
					if !kv.Temporary(err) {
						t.Errorf("write %s: %v", key, err)
						return
					}
					retries.Add(1)
					if !pause(ctx, 5*time.Millisecond) {
						return
					}
				}
			}
		})
	}
	for k := range kills {
		for count.Load() < int64((k+1)*writers*writesPerWriter/(kills+1)) && ctx.Err() == nil && !t.Failed() {
			time.Sleep(time.Millisecond)
		}
		promised := told.highestIndex()
		m.kill()
		m.start()
		result, err := client.Read(ctx, kv.Read{Key: "/loss", Quorum: true})
		if err != nil {
			t.Fatalf("after kill %d: %v", k+1, err)
		}
		if result.Index < promised {
			t.Fatalf("after kill %d the store is at index %d, but had acknowledged %d", k+1, result.Index, promised)
		}
	}
	writing.Wait()
	if err := ctx.Err(); err != nil {
		t.Fatalf("%d writes after all this time: %v", count.Load(), err)
	}
	m.kill()
	m.start()

	found := 0
	for w := range writers {
		result, err := client.Read(ctx, kv.Read{Key: fmt.Sprintf("/loss/%02d", w), Sorted: true, Quorum: true})
		if err != nil {
			t.Fatal(err)
		}
		for i, node := range result.Node.Nodes {
			if want := strconv.Itoa(w*writesPerWriter + i); node.Value != want || !strings.HasSuffix(node.Key, fmt.Sprintf("/%04d", i)) {
				t.Errorf("%s is %q, want number %d of writer %d to be %q", node.Key, node.Value, i, w, want)
			}
			found++
		}
	}
	if found != writers*writesPerWriter {
		t.Errorf("%d of %d acknowledged writes are there", found, writers*writesPerWriter)
	}
	if len(told.double) > 0 {
		t.Errorf("%q", told.double)
	}
	t.Logf("%d writes, %d repeated because of %d kills, last index %d", found, retries.Load(), kills+1, told.highest)
}

// pause waits for d and reports whether ctx is still going on.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// A killed process loses nothing that it has written, synced or not: the kernel still has it. That
// an acknowledged write would also survive the machine can only be seen from the system calls.
func TestAnAnswerFollowsTheSyncOfTheLog(t *testing.T) {
	strace := parts.Path(t, "strace")
	trace := filepath.Join(t.TempDir(), "trace")
	m := newMember(t, strace, "-f", "-qq", "-s", "4096", "-o", trace, "-e", "trace=write,pwrite64,writev,fsync,fdatasync,sendto,sendmsg")
	client := m.client()
	for i := range 5 {
		value := fmt.Sprintf("durable-%d", i)
		if _, err := client.Write(t.Context(), kv.Write{Op: kv.OpSet, Key: "/k" + strconv.Itoa(i), Value: value}); err != nil {
			t.Fatal(err)
		}
	}
	m.stop()
	text, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if problem := outOfOrder(strings.Split(string(text), "\n"), fmt.Sprintf("durable-%d", i)); problem != "" {
			t.Error(problem)
		}
	}
}

// outOfOrder finds in a trace the write of value to the log. A sync must begin after it, and end
// before an answer that reports success is written to a connection; else it says what is wrong.
func outOfOrder(trace []string, value string) string {
	const beforeLog, beforeSync, syncing, synced = 0, 1, 2, 3
	state, syncer := beforeLog, ""
	for _, line := range trace {
		thread, call, _ := strings.Cut(strings.TrimSpace(line), " ")
		call = strings.TrimSpace(call)
		isAnswer := strings.Contains(call, "HTTP/1.1 2")
		isSync := strings.HasPrefix(call, "fsync(") || strings.HasPrefix(call, "fdatasync(")
		switch {
		case isAnswer && state == synced:
			return ""
		case isAnswer && state != beforeLog:
			return fmt.Sprintf("%s was acknowledged before its sync had ended: %s", value, line)
		case isAnswer:
		case strings.Contains(call, value) && state == beforeLog:
			state = beforeSync
		case isSync && state == beforeSync && strings.HasSuffix(call, "<unfinished ...>"):
			state, syncer = syncing, thread
		case isSync && state == beforeSync:
			state = synced
		case state == syncing && thread == syncer && strings.Contains(call, "sync resumed>"):
			state = synced
		}
	}
	return fmt.Sprintf("%s is never acknowledged in the trace, or its write to the log is not seen:\n%s", value, strings.Join(trace[max(0, len(trace)-40):], "\n"))
}

func TestAnAnswerBeforeItsSyncIsCaught(t *testing.T) {
	const (
		log     = `10 write(7, "...v1...", 64) = 64`
		sync    = `10 fdatasync(7) = 0`
		begun   = `10 fdatasync(7 <unfinished ...>`
		resumed = `10 <... fdatasync resumed>) = 0`
		other   = `11 <... fdatasync resumed>) = 0`
		answer  = `12 write(9, "HTTP/1.1 201 Created\r\n"..., 300) = 300`
	)
	for _, c := range []struct {
		name  string
		trace []string
		good  bool
	}{
		{"written, synced, answered", []string{log, sync, answer}, true},
		{"the same with a sync that takes a while", []string{answer, log, begun, resumed, answer}, true},
		{"never synced", []string{log, answer}, false},
		{"synced too early", []string{sync, log, answer}, false},
		{"answered during the sync", []string{log, begun, answer, resumed}, false},
		{"another sync ends", []string{log, begun, other, answer}, false},
		{"never written", []string{sync, answer}, false},
		{"never answered", []string{log, sync}, false},
	} {
		if problem := outOfOrder(c.trace, "v1"); (problem == "") != c.good {
			t.Errorf("%s: %q", c.name, problem)
		}
	}
}
