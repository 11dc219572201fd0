package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// meter is a way to a store that counts what comes back on it.
type meter struct {
	listener net.Listener
	target   string
	bytes    atomic.Int64
	group    sync.WaitGroup
}

func newMeter(target string) (*meter, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	m := &meter{listener: listener, target: target}
	m.group.Go(func() {
		for {
			caller, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				caller.Close()
				continue
			}
			m.group.Go(func() { defer server.Close(); io.Copy(server, caller) })
			m.group.Go(func() { defer caller.Close(); io.Copy(counted{caller, &m.bytes}, server) })
		}
	})
	return m, nil
}

func (m *meter) url() string { return "http://" + m.listener.Addr().String() }

// close ends the listener; the connections end with their two ends.
func (m *meter) close() { m.listener.Close() }

type counted struct {
	to io.Writer
	n  *atomic.Int64
}

func (c counted) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// runRendered measures how long a change of one of many services takes until the file is there, and
// what is read from the store meanwhile.
func runRendered(ctx context.Context, b *bench) ([]table, error) {
	if err := b.needKvconfd(ctx); err != nil {
		return nil, err
	}
	store, err := b.startKVD(ctx, "rendered")
	if err != nil {
		return nil, err
	}
	defer store.kill()
	keyOf := func(i int) string { return fmt.Sprintf("/services/s%d/server", i) }
	if err := fill(ctx, store, b.services, 16, keyOf, "127.0.0.1:1"); err != nil {
		return nil, err
	}
	way, err := newMeter(strings.TrimPrefix(store.url, "http://"))
	if err != nil {
		return nil, err
	}
	defer way.close()
	dir := filepath.Join(b.dir, "rendered-files")
	file := filepath.Join(dir, "haproxy.cfg")
	resource := fmt.Sprintf("[template]\nsrc = \"haproxy.tmpl\"\ndest = %q\nkeys = [\"/services\"]\n", file)
	template := fmt.Sprintf(proxiedTemplate, "127.0.0.1:1", "/nowhere")
	keeper, err := startKeeper(dir, b.kvconfd, map[string][2]string{"haproxy": {resource, template}}, "-watch", "-node", way.url(), "-log-level", "warn")
	if err != nil {
		return nil, err
	}
	defer keeper.kill()
	if err := untilHolds(ctx, file, fmt.Sprintf("backend s%d\n    server server 127.0.0.1:1\n", b.services-1)); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, keeper.said)
	}
	listed := way.bytes.Load()
	var after latencies
	var read int64
	used, err := keeper.cpu()
	if err != nil {
		return nil, err
	}
	for i := range b.edits {
		wait(ctx, proxiedPause)
		before, err := os.Stat(file)
		if err != nil {
			return nil, err
		}
		readBefore := way.bytes.Load()
		begun := time.Now()
		if err := put(ctx, http.DefaultClient, store.url+"/v2/keys"+keyOf(i*7%b.services), url.Values{"value": {fmt.Sprintf("127.0.0.1:%d", i+2)}}.Encode()); err != nil {
			return nil, err
		}
		looking, stop := context.WithTimeout(ctx, registeredMax)
		at := untilReplaced(looking, file, before)
		stop()
		if at.IsZero() {
			return nil, fmt.Errorf("a change has not come to the file within %v\n%s", registeredMax, keeper.said)
		}
		after = append(after, at.Sub(begun))
		wait(ctx, 20*time.Millisecond) // whatever else may be read because of it
		read += way.bytes.Load() - readBefore
	}
	usedNow, err := keeper.cpu()
	if err != nil {
		return nil, err
	}
	figures := after.figures()
	changeBytes := float64(read) / float64(b.edits)
	return []table{{
		Work: fmt.Sprintf("%d services, a change of one, until the file is there, %d times", b.services, b.edits),
		Rows: []row{{Subject: "kvconfd", Figures: []figure{
			{"p50 ms", figures[0].Value, 1}, {"p99 ms", figures[2].Value, 1}, {"CPU ms a change", millis(usedNow-used) / float64(b.edits), 1},
			{"bytes read a change", changeBytes, 0}, {"bytes of the first reading", float64(listed), 0},
		}}},
		Claims: []claim{
			{What: "p50 ms", Value: figures[0].Value, Target: 50},
			{What: "bytes read a change / bytes of the first reading", Value: changeBytes / float64(listed)},
		},
		Commands: []string{"kvconfd " + strings.Join(keeper.args[1:], " ")},
	}}, nil
}

// untilHolds waits until a file has text in it.
func untilHolds(ctx context.Context, file, text string) error {
	ctx, cancel := context.WithTimeout(ctx, startMax)
	defer cancel()
	for {
		content, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(content), text) {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s has not become what it should be", file)
		}
		wait(ctx, time.Millisecond)
	}
}

// runBurst measures what many writes in one second lead to.
func runBurst(ctx context.Context, b *bench) ([]table, error) {
	if err := b.needKvconfd(ctx); err != nil {
		return nil, err
	}
	store, err := b.startKVD(ctx, "burst")
	if err != nil {
		return nil, err
	}
	defer store.kill()
	dir := filepath.Join(b.dir, "burst-files")
	live, reloads := filepath.Join(dir, "live"), filepath.Join(dir, "reloads")
	resource := fmt.Sprintf("[template]\nsrc = \"a.tmpl\"\ndest = %q\nkeys = [\"/x\"]\nreload_cmd = \"echo x >>%s; cp {{.dest}} %s.new && mv %[3]s.new %[3]s\"\n", filepath.Join(dir, "file"), reloads, live)
	keeper, err := startKeeper(dir, b.kvconfd, map[string][2]string{"a": {resource, `{{getv "/x" "none"}}`}}, "-watch", "-node", store.url, "-log-level", "warn")
	if err != nil {
		return nil, err
	}
	defer keeper.kill()
	if err := untilHolds(ctx, live, "none"); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, keeper.said)
	}
	var lags latencies
	most, took := 0, time.Duration(0)
	for round := range b.rounds {
		wait(ctx, 2*proxiedPause)
		before := countLines(reloads)
		begun := time.Now()
		if err := spread(ctx, store, 1000, time.Second, fmt.Sprintf("round %d", round)); err != nil {
			return nil, err
		}
		last := fmt.Sprintf("last of %d", round)
		if err := put(ctx, http.DefaultClient, store.url+"/v2/keys/x", url.Values{"value": {last}}.Encode()); err != nil {
			return nil, err
		}
		written := time.Now()
		took = max(took, written.Sub(begun))
		if err := untilHolds(ctx, live, last); err != nil {
			return nil, err
		}
		lags = append(lags, time.Since(written))
		most = max(most, countLines(reloads)-before)
	}
	lag := lags.figures()[3].Value
	return []table{{
		Work: fmt.Sprintf("1,000 writes to one key in a second, %d times", b.rounds),
		Rows: []row{{Subject: "kvconfd", Figures: []figure{{"most reloads", float64(most), 0}, {"the last one is live after, most ms", lag, 0}, {"the writes took, most ms", millis(took), 0}}}},
		Claims: []claim{
			{What: "most reloads", Value: float64(most), Target: 5},
			{What: "the last one is live after, most ms", Value: lag, Target: 1000},
		},
		Commands: []string{"kvconfd " + strings.Join(keeper.args[1:], " ")},
	}}, nil
}

// spread writes a key count times, evenly over a time, or as fast as it goes if that is slower.
func spread(ctx context.Context, store *server, count int, over time.Duration, value string) error {
	const writers = 8
	begun := time.Now()
	var next atomic.Int64
	var group sync.WaitGroup
	failed := make(chan error, writers)
	client := http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: writers}}
	defer client.CloseIdleConnections()
	for range writers {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < count && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				time.Sleep(time.Until(begun.Add(over * time.Duration(i) / time.Duration(count))))
				if err := put(ctx, &client, store.url+"/v2/keys/x", url.Values{"value": {fmt.Sprintf("%s, %d", value, i)}}.Encode()); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	group.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return ctx.Err()
	}
}

func countLines(file string) int {
	content, _ := os.ReadFile(file)
	return strings.Count(string(content), "\n")
}

// runIdle looks at what it costs to follow many keys for many files that nothing happens to.
func runIdle(ctx context.Context, b *bench) ([]table, error) {
	const resources = 200
	if err := b.needKvconfd(ctx); err != nil {
		return nil, err
	}
	store, err := b.startKVD(ctx, "idle")
	if err != nil {
		return nil, err
	}
	defer store.kill()
	keys := max(b.followed, resources)
	keyOf := func(i int) string { return fmt.Sprintf("/apps/app%03d/key%06d", i%resources, i) }
	if err := fill(ctx, store, keys, 64, keyOf, strings.Repeat("v", 100)); err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, "idle-files")
	files := map[string][2]string{}
	for i := range resources {
		name := fmt.Sprintf("app%03d", i)
		files[name] = [2]string{
			fmt.Sprintf("[template]\nsrc = \"%s.tmpl\"\ndest = %q\nkeys = [\"/apps/%[1]s\"]\nreload_cmd = \"true\"\n", name, filepath.Join(dir, name+".out")),
			fmt.Sprintf("{{range gets \"/apps/%s/*\"}}{{base .Key}} {{.Value}}\n{{end}}done\n", name),
		}
	}
	begun := time.Now()
	keeper, err := startKeeper(dir, b.kvconfd, files, "-watch", "-node", store.url, "-log-level", "warn")
	if err != nil {
		return nil, err
	}
	defer keeper.kill()
	for i := range resources {
		if err := untilHolds(ctx, filepath.Join(dir, fmt.Sprintf("app%03d.out", i)), "done"); err != nil {
			return nil, fmt.Errorf("%w\n%s", err, keeper.said)
		}
	}
	took := time.Since(begun)
	settle, rest := 10*time.Second, restFor
	if b.duration < time.Second {
		settle, rest = time.Second, time.Second
	}
	wait(ctx, settle)
	before, err := keeper.cpu()
	if err != nil {
		return nil, err
	}
	begun = time.Now()
	wait(ctx, rest)
	after, err := keeper.cpu()
	if err != nil {
		return nil, err
	}
	percent := 100 * (after - before).Seconds() / time.Since(begun).Seconds()
	resident, most, err := keeper.residentBytes()
	if err != nil {
		return nil, err
	}
	return []table{{
		Work: fmt.Sprintf("%d resources, %d keys of 100 bytes, at rest for %v", resources, keys, rest),
		Rows: []row{{Subject: "kvconfd", Figures: []figure{
			{"RSS MB", float64(resident) / 1e6, 1}, {"most RSS MB", float64(most) / 1e6, 1}, {"CPU, % of a core", percent, 2}, {"all files there after s", took.Seconds(), 2},
		}}},
		Claims: []claim{
			{What: "CPU, % of a core", Value: percent, Target: 0.5},
			{What: "RSS MB", Value: float64(resident) / 1e6, Target: 200},
		},
		Commands: []string{"kvconfd " + strings.Join(keeper.args[1:], " ")},
	}}, nil
}
