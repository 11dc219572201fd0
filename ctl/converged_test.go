package ctl_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/agentstatus"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// renders stands for a kvconfd on a host: it answers each moment with what is in host, at the moment's index,
// until t ends.
func renders(t *testing.T, url string, host agentstatus.Host) {
	t.Helper()
	client, err := kvclient.New(kvclient.Config{Endpoints: []string{url}})
	if err != nil {
		t.Fatal(err)
	}
	names := agentstatus.NamesOf("")
	publish := func(ctx context.Context) {
		if _, err := client.Write(ctx, kv.Write{Op: kv.OpSet, Key: names.Host(host.Host), Value: host.Value()}); err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	}
	publish(t.Context())
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	follower := kvclient.Follow(client, names.Sync())
	if _, err := follower.Next(ctx); err != nil {
		t.Fatal(err)
	}
	running.Go(func() {
		for {
			changes, err := follower.Next(ctx)
			if err != nil {
				return
			}
			host.Index = changes.Index
			publish(ctx)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		follower.Close()
		client.Close()
	})
}

var failing = agentstatus.Target{Name: "haproxy", State: "failed", Step: "check", Err: "unknown keyword", Keys: []string{"/services"}}

func TestConvergedSaysThatThereIsNoKvconfd(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	for _, words := range [][]string{{"converged"}, {"converged", "--wait"}} {
		if got := kvctl(t, url, words...); got.code != 6 || !strings.Contains(got.stderr, "no kvconfd publishes its status") {
			t.Errorf("%q: %+v", words, got)
		}
	}
	got := kvctl(t, url, "set", "/x", "1", "--wait-live")
	if got.code != 6 || got.stdout != "1\n" || !strings.Contains(got.stderr, "follows /x") {
		t.Errorf("%+v", got)
	}
}

func TestConvergedNamesTheHostThatIsBehindAndWhy(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	renders(t, url, agentstatus.Host{Host: "edge1", Targets: 2, Converged: 2, Keys: []string{"/services", "/motd"}})
	if got := kvctl(t, url, "converged", "--wait"); got.code != 0 || !strings.Contains(got.stdout, "1 of 1 host runs index ") {
		t.Errorf("%+v", got)
	}
	renders(t, url, agentstatus.Host{Host: "edge3", Targets: 1, Keys: []string{"/services"}, Behind: []agentstatus.Target{failing}})
	got := kvctl(t, url, "converged")
	if got.code != 7 || !strings.Contains(got.stdout, "1 of 2 hosts run index ") || !strings.Contains(got.stdout, "; edge3: haproxy failed at check: unknown keyword") {
		t.Errorf("%+v", got)
	}
	if got := kvctl(t, url, "converged", "--wait", "--timeout", "1500ms"); got.code != 7 || !strings.Contains(got.stdout, "edge3: haproxy failed") {
		t.Errorf("%+v", got)
	}
	if got := kvctl(t, url, "converged", "--host", "edge1"); got.code != 0 {
		t.Errorf("%+v", got)
	}
	if got := kvctl(t, url, "converged", "--host", "edge9"); got.code != 7 || !strings.Contains(got.stdout, "edge9: is not there") {
		t.Errorf("%+v", got)
	}
	var answer struct {
		Converged bool
		Index     uint64
		Hosts     []struct {
			Host      string
			Converged bool
			Behind    []agentstatus.Target
		}
	}
	got = kvctl(t, url, "-o", "json", "converged")
	if err := json.Unmarshal([]byte(got.stdout), &answer); err != nil || got.code != 7 {
		t.Fatalf("%v: %+v", err, got)
	}
	if answer.Converged || answer.Index == 0 || len(answer.Hosts) != 2 || answer.Hosts[1].Host != "edge3" || len(answer.Hosts[1].Behind) != 1 {
		t.Errorf("%+v", answer)
	}
}

func TestAWriteIsLiveWhenEveryHostThatFollowsItsKeySaysSo(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	renders(t, url, agentstatus.Host{Host: "edge1", Targets: 2, Converged: 1, Keys: []string{"/services", "/motd"}, Behind: []agentstatus.Target{failing}})
	renders(t, url, agentstatus.Host{Host: "edge2", Targets: 1, Converged: 1, Keys: []string{"/motd"}})
	for _, words := range [][]string{{"set", "/motd", "hello", "--wait-live"}, {"update", "/motd", "x", "--wait-live=5s"}, {"rm", "/motd", "--wait-live"}} {
		if got := kvctl(t, url, words...); got.code != 0 || !strings.HasPrefix(got.stderr, "live on 2 hosts after ") {
			t.Errorf("%q: %+v", words, got)
		}
	}
	got := kvctl(t, url, "mk", "/services/web", "1", "--wait-live=300ms")
	if got.code != 7 || got.stdout != "1\n" || !strings.Contains(got.stderr, "edge1: haproxy failed at check: unknown keyword") || strings.Contains(got.stderr, "edge2") {
		t.Errorf("%+v", got)
	}
	got = kvctl(t, url, "-o", "json", "set", "/motd", "again", "--wait-live")
	if lines := strings.Split(strings.TrimSpace(got.stdout), "\n"); got.code != 0 || len(lines) != 2 || !strings.Contains(lines[1], `"live":true`) {
		t.Errorf("%+v", got)
	}
}

func TestAHostThatSpeaksOfAStoreThatWasReplacedIsNotConverged(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	renders(t, url, agentstatus.Host{Host: "edge1", Cluster: "0123456789abcdef", Targets: 1, Converged: 1, Keys: []string{"/x"}})
	if got := kvctl(t, url, "converged"); got.code != 7 || !strings.Contains(got.stdout, "the store was replaced") {
		t.Errorf("%+v", got)
	}
	if got := kvctl(t, url, "set", "/x", "1", "--wait-live=200ms"); got.code != 7 || !strings.Contains(got.stderr, "the store was replaced") {
		t.Errorf("%+v", got)
	}
}

func TestAWaitThatIsOverSaysWhatTheHostAsAWholeLacks(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	host := agentstatus.Host{Host: "edge1", Index: 1, Targets: 1, Converged: 1, Keys: []string{"/x"}, Problems: []string{"the store refuses /x"}}
	if got := kvctl(t, url, "set", agentstatus.NamesOf("").Host("edge1"), host.Value()); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	if got := kvctl(t, url, "set", "/x", "1", "--wait-live=200ms"); got.code != 7 || !strings.Contains(got.stderr, "edge1: the store refuses /x") {
		t.Errorf("%+v", got)
	}
}

func TestAHostThatVanishesWhileItIsWaitedForIsNamed(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	client, err := kvclient.New(kvclient.Config{Endpoints: []string{url}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	names := agentstatus.NamesOf("")
	gone := agentstatus.Host{Host: "edge4", Targets: 1, Converged: 1, Index: 1, Keys: []string{"/services"}}
	if _, err := client.Write(t.Context(), kv.Write{Op: kv.OpSet, Key: names.Host("edge4"), Value: gone.Value(), TTL: time.Second}); err != nil {
		t.Fatal(err)
	}
	if got := kvctl(t, url, "converged", "--wait", "--timeout=4s"); got.code != 7 || !strings.Contains(got.stdout, "edge4: has vanished") {
		t.Errorf("%+v", got)
	}
}

func TestAWaitForHostsCanBeInterrupted(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	renders(t, url, agentstatus.Host{Host: "edge3", Targets: 1, Keys: []string{"/services"}, Behind: []agentstatus.Target{failing}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stdout, stderr output
	ended := make(chan int, 1)
	go func() {
		ended <- call{endpoint: url, args: []string{"converged", "--wait", "--timeout", "1h"}}.start(ctx, &stdout, &stderr)
	}()
	go func() {
		ended <- call{endpoint: url, args: []string{"set", "/services/x", "1", "--wait-live=1h"}}.start(ctx, &stdout, &stderr)
	}()
	stdout.waitFor(t, "1\n")
	cancel()
	for range 2 {
		select {
		case code := <-ended:
			if code != 130 {
				t.Errorf("exit code %d", code)
			}
		case <-time.After(patience):
			t.Fatal("kvctl does not end")
		}
	}
}

func TestWhoMayNotAskHostsIsToldWhatToGrant(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	renders(t, url, agentstatus.Host{Host: "edge1", Targets: 1, Converged: 1, Keys: []string{"/services"}})
	for _, words := range []string{
		"user add root:secret", "role add reader", "role grant --path /_agents --read reader", "role grant --path /_agents/* --read reader",
		"role add writer", "role grant --path /services/* --readwrite writer",
		"user add rita:r", "user grant --roles reader rita", "user add will:w", "user grant --roles writer will", "auth enable",
		"-u root:secret role revoke --path /* --readwrite guest",
	} {
		if got := kvctl(t, url, strings.Fields(words)...); got.code != 0 {
			t.Fatalf("%s: %+v", words, got)
		}
	}
	if got := kvctl(t, url, "-u", "rita:r", "converged"); got.code != 0 || !strings.Contains(got.stderr, "may not write below /_agents-sync") || !strings.Contains(got.stdout, "1 of 1 host runs what") {
		t.Errorf("%+v", got)
	}
	if got := kvctl(t, url, "-u", "will:w", "converged"); got.code != 3 || !strings.Contains(got.stderr, "needs to read /_agents") {
		t.Errorf("%+v", got)
	}
	if got := kvctl(t, url, "-u", "will:w", "set", "/services/x", "1", "--wait-live"); got.code != 3 || got.stdout != "1\n" || !strings.Contains(got.stderr, "it was written, but it is not known whether it is live") {
		t.Errorf("%+v", got)
	}
}
