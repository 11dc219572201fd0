package daemon_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon"
	"github.com/kvd-io/kvd/e2e/parts"
)

// process is a kvd of its own.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	url  string
	log  *log
	done chan struct{} // closed when the process has ended
}

// log collects what a process writes to stderr.
type log struct {
	mu    sync.Mutex
	lines []string
}

func (l *log) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// startProcess starts kvd on free ports and waits until it is ready.
func startProcess(t *testing.T, args ...string) *process {
	t.Helper()
	args = append([]string{"--listen-client-urls", "http://127.0.0.1:0", "--listen-peer-urls", "http://127.0.0.1:0"}, args...)
	p := &process{t: t, cmd: exec.Command(filepath.Join(parts.Build(t), "kvd"), args...), log: &log{}, done: make(chan struct{})}
	p.cmd.Dir = t.TempDir()
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.done
	})
	ready := make(chan string, 1)
	go func() {
		defer close(p.done)
		for scanner := bufio.NewScanner(stderr); scanner.Scan(); {
			p.log.add(scanner.Text())
			var line struct {
				Msg     string
				Clients []string
			}
			if json.Unmarshal(scanner.Bytes(), &line) == nil && line.Msg == "ready" && len(line.Clients) > 0 {
				ready <- line.Clients[0]
			}
		}
		p.cmd.Wait()
	}()
	select {
	case p.url = <-ready:
	case <-p.done:
		t.Fatalf("kvd ended before it was ready:\n%s", p.log)
	case <-time.After(30 * time.Second):
		t.Fatalf("kvd was not ready in 30 s:\n%s", p.log)
	}
	return p
}

// end waits for the process and returns its exit code, -1 if a signal ended it.
func (p *process) end() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		p.t.Fatalf("kvd has not ended in 30 s:\n%s", p.log)
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) kill() {
	p.cmd.Process.Kill()
	p.end()
}

// newClient returns a client with room for many connections, whose connections end with the test.
func newClient(t *testing.T) *http.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// put sets a key over HTTP; an error means that it was not acknowledged.
func put(client *http.Client, base, key string, form url.Values) error {
	request, err := http.NewRequest(http.MethodPut, base+"/v2/keys"+key, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("%s: %s", response.Status, body)
	}
	return nil
}

type node struct {
	Key           string
	Value         string
	TTL           int64
	Nodes         []node
	ModifiedIndex uint64
}

// get reads a key and everything below it.
func get(t *testing.T, client *http.Client, base, key string) node {
	t.Helper()
	response, err := client.Get(base + "/v2/keys" + key + "?recursive=true&quorum=true")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct{ Node node }
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s, %v", key, response.Status, err)
	}
	return answer.Node
}

func (n node) flatten(into map[string]string) {
	if n.Nodes == nil {
		into[n.Key] = n.Value
	}
	for _, child := range n.Nodes {
		child.flatten(into)
	}
}

func TestAKillInTheMiddleOfTenThousandWritesLosesNoneThatWasAcknowledged(t *testing.T) {
	t.Parallel()
	t.Run("wal", func(t *testing.T) {
		t.Parallel()
		killAmongWrites(t, "wal", 10_000, 8)
	})
	t.Run("boltdb", func(t *testing.T) {
		t.Parallel()
		killAmongWrites(t, "boltdb", 2_000, 3)
	})
}

// killAmongWrites kills a kvd twice in each round, until total writes were acknowledged.
func killAmongWrites(t *testing.T, store string, total, rounds int) {
	const writers = 16
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	dir := filepath.Join(t.TempDir(), "data")
	client := newClient(t)
	acknowledged := make([]int, writers) // writer w has written its keys 0 to acknowledged[w]-1
	var count atomic.Int64
	for round := range rounds {
		p := startProcess(t, "--data-dir", dir, "--experimental-log-store", store)
		killAt := count.Load() + int64(total/rounds/2+random.IntN(total/rounds))
		if round == rounds-1 {
			killAt = max(killAt, int64(total))
		}
		var running sync.WaitGroup
		reached := make(chan struct{})
		var once sync.Once
		for w := range writers {
			running.Go(func() {
				for {
					n := acknowledged[w]
					// A key may be there already: written before the last kill, not acknowledged.
					err := put(client, p.url, fmt.Sprintf("/k/%d/%d", w, n), url.Values{"value": {fmt.Sprintf("%d-%d", w, n)}})
					if err != nil {
						return
					}
					acknowledged[w]++
					if count.Add(1) >= killAt {
						once.Do(func() { close(reached) })
					}
				}
			})
		}
		select {
		case <-reached:
		case <-time.After(60 * time.Second):
			t.Errorf("round %d: %d writes acknowledged in 60 s, want %d:\n%s", round, count.Load(), killAt, p.log)
		}
		p.kill() // while every writer is waiting for an answer
		running.Wait()

		p = startProcess(t, "--data-dir", dir, "--experimental-log-store", store)
		held := map[string]string{}
		get(t, client, p.url, "/k").flatten(held)
		for w, n := range acknowledged {
			for i := range n {
				if key, want := fmt.Sprintf("/k/%d/%d", w, i), fmt.Sprintf("%d-%d", w, i); held[key] != want {
					t.Fatalf("round %d: %s is %q after the restart, want %q: an acknowledged write is lost", round, key, held[key], want)
				}
			}
		}
		p.kill() // also right after a start
	}
	t.Logf("%d writes acknowledged over %d kills", count.Load(), 2*rounds)
}

func TestAFailedSyncEndsTheProcessAndLosesNothing(t *testing.T) {
	t.Parallel()
	strace := parts.Path(t, "strace")
	dir := filepath.Join(t.TempDir(), "data")
	p := startProcess(t, "--data-dir", dir)
	client := newClient(t)
	for i := range 10 {
		if err := put(client, p.url, fmt.Sprintf("/k/%d", i), url.Values{"value": {"1"}}); err != nil {
			t.Fatal(err)
		}
	}
	attached, stop := injectFault(t, strace, p.cmd.Process.Pid)
	defer stop()
	if !attached {
		t.Skip("part missing: strace: it may not attach to a process here")
	}
	var acknowledged []int
	for i := 10; i < 1000; i++ {
		if err := put(client, p.url, fmt.Sprintf("/k/%d", i), url.Values{"value": {"1"}}); err != nil {
			break
		}
		acknowledged = append(acknowledged, i)
	}
	if code := p.end(); code != daemon.ExitFault {
		t.Errorf("exit code %d, want %d:\n%s", code, daemon.ExitFault, p.log)
	}
	if text := p.log.String(); !strings.Contains(text, "input/output error") || !strings.Contains(text, "check the disk") {
		t.Errorf("the log does not say what happened and what to do:\n%s", text)
	}
	stop()
	p = startProcess(t, "--data-dir", dir)
	held := map[string]string{}
	get(t, client, p.url, "/k").flatten(held)
	for i := range 10 + len(acknowledged) {
		if held[fmt.Sprintf("/k/%d", i)] != "1" {
			t.Errorf("/k/%d was acknowledged and is lost", i)
		}
	}
}

// smallDisk mounts an empty disk and returns its path.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("part missing: mount: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(disk, syscall.MNT_DETACH) })
	return disk
}

// fillDisk leaves no byte free on a disk and returns what to remove for room.
func fillDisk(t *testing.T, disk string) (ballast string) {
	t.Helper()
	ballast = filepath.Join(disk, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for chunk := make([]byte, 64<<10); ; {
		if _, err := f.Write(chunk); errors.Is(err, syscall.ENOSPC) {
			return ballast
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestAMemberWhoseDiskIsFullGoesOnAndLosesNothing(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, "120m")
	p := startProcess(t, "--data-dir", filepath.Join(disk, "data"))
	client := newClient(t)
	value := func(i int) string { return strings.Repeat(string(rune('a'+i%26)), 1<<20) }
	const kept = 3
	for i := range kept {
		if err := put(client, p.url, fmt.Sprintf("/k/%d", i), url.Values{"value": {value(i)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := put(client, p.url, "/brief", url.Values{"value": {""}, "ttl": {"3600"}}); err != nil {
		t.Fatal(err)
	}
	ballast := fillDisk(t, disk)
	// What makes nothing grow is still done until the disk is looked at: at the latest after 4 MiB.
	acknowledged := 0
	err := error(nil)
	for acknowledged < 40 && err == nil {
		if err = put(client, p.url, "/k/0", url.Values{"value": {value(acknowledged + 1)}}); err == nil {
			acknowledged++
		}
	}
	if err == nil || !strings.HasPrefix(err.Error(), noSpace+"0 MiB are free") {
		t.Errorf("after %d writes: %v", acknowledged, err)
	}
	if err := put(client, p.url, "/brief", url.Values{"refresh": {"true"}, "prevExist": {"true"}, "ttl": {"7200"}}); err != nil {
		t.Errorf("a refresh: %v", err)
	}
	if err := remove(client, p.url+"/v2/keys/k/1"); err != nil {
		t.Errorf("a removal: %v", err)
	}
	p.kill()
	p = startProcess(t, "--data-dir", filepath.Join(disk, "data"))
	awaitHealth(t, client, p.url, http.StatusServiceUnavailable)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	awaitHealth(t, client, p.url, http.StatusOK)
	held := map[string]string{}
	get(t, client, p.url, "/k").flatten(held)
	if len(held) != kept-1 || held["/k/0"] != value(acknowledged) || held["/k/2"] != value(2) {
		t.Errorf("with room again, there are %d keys, and the last of %d values is there: %v", len(held), acknowledged, held["/k/0"] == value(acknowledged))
	}
	if err := put(client, p.url, "/k/0", url.Values{"value": {"1"}}); err != nil {
		t.Error(err)
	}
}

func TestTheLogOfAStoreThatDoesNotGrowFillsNoDisk(t *testing.T) {
	t.Parallel()
	p := startProcess(t, "--data-dir", filepath.Join(smallDisk(t, "200m"), "data"))
	client := newClient(t)
	large := strings.Repeat("x", 1<<20)
	for i := range 250 {
		if err := put(client, p.url, "/k", url.Values{"value": {large}}); err != nil {
			t.Fatalf("after %d MiB: %v\n%s", i, err, p.log)
		}
	}
	awaitHealth(t, client, p.url, http.StatusOK)
}

// awaitHealth waits until the member's health has the given status, and returns the reason.
func awaitHealth(t *testing.T, client *http.Client, base string, status int) string {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		response, err := client.Get(base + "/health")
		if err != nil {
			t.Fatal(err)
		}
		var health struct{ Reason string }
		err = json.NewDecoder(response.Body).Decode(&health)
		response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if response.StatusCode == status {
			return health.Reason
		}
		if time.Now().After(deadline) {
			t.Fatalf("health is %d %s, want %d", response.StatusCode, health.Reason, status)
		}
	}
}

// remove deletes a key, or with recursive=true a directory, over HTTP.
func remove(client *http.Client, url string) error {
	request, err := http.NewRequest(http.MethodDelete, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}

const noSpace = `403 Forbidden: {"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: mvcc: database space exceeded: `

func TestADiskThatIsNearlyFullRaisesAnAlarmUntilThereIsRoom(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, "120m")
	p := startProcess(t, "--data-dir", filepath.Join(disk, "data"))
	client := newClient(t)
	if err := put(client, p.url, "/a", url.Values{"value": {"1"}}); err != nil {
		t.Fatal(err)
	}
	awaitHealth(t, client, p.url, http.StatusOK)
	ballast := fillDisk(t, disk)
	if reason := awaitHealth(t, client, p.url, http.StatusServiceUnavailable); reason != "ALARM NOSPACE" {
		t.Errorf("reason %q", reason)
	}
	if err := put(client, p.url, "/b", url.Values{"value": {"1"}}); err == nil || !strings.HasPrefix(err.Error(), noSpace+"0 MiB are free") {
		t.Errorf("a new key: %v", err)
	}
	if err := remove(client, p.url+"/v2/keys/a"); err != nil {
		t.Errorf("a removal: %v", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	awaitHealth(t, client, p.url, http.StatusOK)
	if err := put(client, p.url, "/b", url.Values{"value": {"1"}}); err != nil {
		t.Errorf("a new key with room again: %v", err)
	}
}

func TestWritersThatCrossTheQuotaStopThereAlsoAfterAKill(t *testing.T) {
	t.Parallel()
	const quota, writers = 2 << 20, 16
	dir := filepath.Join(t.TempDir(), "data")
	p := startProcess(t, "--data-dir", dir, "--quota-backend-bytes", fmt.Sprint(quota))
	client := newClient(t)
	refusals := make(chan error, writers)
	for w := range writers {
		go func() {
			for i := 0; ; i++ {
				if err := put(client, p.url, fmt.Sprintf("/k/%d/%d", w, i), url.Values{"value": {strings.Repeat("x", 200)}}); err != nil {
					refusals <- err
					return
				}
			}
		}()
	}
	for range writers {
		if err := <-refusals; !strings.HasPrefix(err.Error(), noSpace) || !strings.Contains(err.Error(), "--quota-backend-bytes") {
			t.Errorf("a writer ended with %v", err)
		}
	}
	for _, restart := range []bool{false, true} {
		if restart {
			p.kill()
			p = startProcess(t, "--data-dir", dir, "--quota-backend-bytes", fmt.Sprint(quota))
		}
		if reason := awaitHealth(t, client, p.url, http.StatusServiceUnavailable); reason != "ALARM NOSPACE" {
			t.Errorf("restarted: %v: reason %q", restart, reason)
		}
		if err := put(client, p.url, "/new", url.Values{"value": {"1"}}); err == nil || !strings.HasPrefix(err.Error(), noSpace) {
			t.Errorf("restarted: %v: a new key: %v", restart, err)
		}
		if err := put(client, p.url, "/k/0/0", url.Values{"value": {strings.Repeat("y", 200)}}); err != nil {
			t.Errorf("restarted: %v: a value of the same length: %v", restart, err)
		}
	}
	held := map[string]string{}
	get(t, client, p.url, "/k").flatten(held)
	if size := len(held) * 328; size > quota || size < quota*9/10 {
		t.Errorf("%d values of 200 bytes were taken with a quota of %d", len(held), quota)
	}
	if err := remove(client, p.url+"/v2/keys/k/0?recursive=true"); err != nil {
		t.Errorf("a removal: %v", err)
	}
	awaitHealth(t, client, p.url, http.StatusOK)
	if err := put(client, p.url, "/new", url.Values{"value": {"1"}}); err != nil {
		t.Errorf("a new key with room again: %v", err)
	}
}

func TestServingOthersWithoutAccessControlIsWarnedOf(t *testing.T) {
	t.Parallel()
	const warning = "anybody who reaches this member may read and write all keys"
	if p := startProcess(t, "--listen-client-urls", "http://0.0.0.0:0"); strings.Count(p.log.String(), warning) != 1 {
		t.Errorf("on every address:\n%s", p.log)
	}
	if p := startProcess(t, "--listen-client-urls", "http://127.0.0.1:0,http://[::1]:0"); strings.Contains(p.log.String(), warning) {
		t.Errorf("on this machine alone:\n%s", p.log)
	}
}

func TestAPeerPortThatOthersReachWithoutTLSIsWarnedOf(t *testing.T) {
	t.Parallel()
	const warning = "whoever reaches the peer port may take part in this cluster"
	if p := startProcess(t, "--listen-peer-urls", "http://0.0.0.0:0"); strings.Count(p.log.String(), warning) != 1 {
		t.Errorf("on every address:\n%s", p.log)
	}
	if p := startProcess(t); strings.Contains(p.log.String(), warning) {
		t.Errorf("on this machine alone:\n%s", p.log)
	}
}

// injectFault makes every sync of a process fail. It reports whether that was possible.
func injectFault(t *testing.T, strace string, pid int) (attached bool, stop func()) {
	t.Helper()
	cmd := exec.Command(strace, "-f", "-p", fmt.Sprint(pid), "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO", "-o", "/dev/null")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first := make(chan string, 1)
	var reader sync.WaitGroup
	reader.Go(func() {
		scanner := bufio.NewScanner(stderr)
		scanner.Scan()
		first <- scanner.Text()
		io.Copy(io.Discard, stderr)
	})
	stop = sync.OnceFunc(func() {
		cmd.Process.Signal(os.Interrupt)
		reader.Wait()
		cmd.Wait()
	})
	select {
	case line := <-first:
		return strings.Contains(line, "attached"), stop
	case <-time.After(10 * time.Second):
		return false, stop
	}
}

func TestATTLHasWhatItHadLeftAfterAKill(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	client := newClient(t)
	p := startProcess(t, "--data-dir", dir)
	if err := put(client, p.url, "/short", url.Values{"value": {"1"}, "ttl": {"3"}}); err != nil {
		t.Fatal(err)
	}
	if err := put(client, p.url, "/long", url.Values{"value": {"1"}, "ttl": {"1000"}}); err != nil {
		t.Fatal(err)
	}
	p.kill()
	restarted := time.Now()
	p = startProcess(t, "--data-dir", dir)
	if got := get(t, client, p.url, "/long").TTL; got < 990 || got > 1000 {
		t.Errorf("/long has %d s left, want about 1000", got)
	}
	for {
		response, err := client.Get(p.url + "/v2/keys/short")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode == http.StatusNotFound {
			break
		}
		if time.Since(restarted) > 20*time.Second {
			t.Fatal("/short has not expired")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if lived := time.Since(restarted); lived < 2*time.Second {
		t.Errorf("/short lived only %s after the restart, it had about 3 s left", lived)
	}
}

func TestASignalEndsKvdInOrder(t *testing.T) {
	t.Parallel()
	p := startProcess(t)
	client := newClient(t)
	response, err := client.Get(p.url + "/v2/keys/a?wait=true") // returns with the headers
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	p.cmd.Process.Signal(os.Interrupt)
	if code := p.end(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.log)
	}
}

func TestAPortInUseIsReportedWithItsHolderAndAFreeOne(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	kvd := exec.Command(filepath.Join(parts.Build(t), "kvd"), "--data-dir", filepath.Join(t.TempDir(), "data"),
		"--listen-client-urls", "http://"+listener.Addr().String(), "--listen-peer-urls", "http://127.0.0.1:0")
	output, err := kvd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != daemon.ExitStart {
		t.Errorf("it ended with %v, want exit code %d", err, daemon.ExitStart)
	}
	for _, want := range []string{listener.Addr().String(), fmt.Sprintf("%s (pid %d)", filepath.Base(os.Args[0]), os.Getpid()), "--listen-client-urls http://127.0.0.1:"} {
		if !strings.Contains(string(output), want) {
			t.Errorf("output %q, want %q in it", output, want)
		}
	}
}

func TestADirectoryOfAnotherMemberIsRefusedForGood(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	startProcess(t, "--data-dir", dir, "--name", "n1").kill()
	kvd := exec.Command(filepath.Join(parts.Build(t), "kvd"), "--data-dir", dir, "--name", "n2",
		"--listen-client-urls", "http://127.0.0.1:0", "--listen-peer-urls", "http://127.0.0.1:0")
	output, err := kvd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(output), "start with --name n1") {
		t.Errorf("it ended with %v and said:\n%s", err, output)
	}
}
