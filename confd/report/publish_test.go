package report

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/agentstatus"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/kvclient/etcdtest"
)

// publication is a report whose status is kept in a real store.
type publication struct {
	*testing.T
	*Report
	loop    *loop
	client  *kvclient.Client
	names   agentstatus.Names
	moments chan struct{}
	stop    func() // properly
	log     *logged
}

// logged collects what is logged.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}
func (l *logged) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.text.String() }

func publish(t *testing.T, config kvclient.Config) *publication {
	t.Helper()
	client, err := kvclient.New(config)
	if err != nil {
		t.Fatal(err)
	}
	p := &publication{T: t, loop: &loop{live: 7, stores: heard(7)}, client: client, names: agentstatus.NamesOf(""), moments: make(chan struct{}, 1), log: &logged{}}
	p.Report = New(Config{Host: "edge1", Log: slog.New(slog.NewTextHandler(p.log, nil))})
	p.Attach(p.loop)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { p.Publish(ctx, PublisherConfig{Store: client, Leaser: client.Leaser(), Moments: p.moments}) })
	p.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(func() {
		p.stop()
		client.Close()
	})
	return p
}

// host returns the record of the host; ok: there is one.
func (p *publication) host() (h agentstatus.Host, node *kv.Node, ok bool) {
	result, err := p.client.Read(context.Background(), kv.Read{Key: p.names.Host("edge1"), Quorum: true})
	if err != nil {
		return h, nil, false
	}
	if h, err = agentstatus.Parse(result.Node.Value); err != nil {
		p.Fatal(err)
	}
	return h, result.Node, true
}

func (p *publication) until(what string, holds func() bool) {
	p.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.Fatalf("not within %v: %s\n%s", patience, what, p.log)
		}
	}
}

var converged = TargetStatus{Name: "web", Dest: "/etc/web.conf", State: Converged, Index: 7, Hash: "abc", Keys: []string{"/web"}}

func stores(t *testing.T) map[string]string {
	return map[string]string{"kvd": daemontest.Start(t, 1).URL(), "etcd": etcdtest.Start(t).URL}
}

func TestStatusIsPublishedUnderATTLAndRemovedAtTheEnd(t *testing.T) {
	for name, url := range stores(t) {
		t.Run(name, func(t *testing.T) {
			p := publish(t, kvclient.Config{Endpoints: []string{url}})
			p.Target(converged)
			p.until("the host is there and converged", func() bool { h, _, ok := p.host(); return ok && h.Converged == 1 && h.IsConverged(7) })
			if _, node, _ := p.host(); node.TTL == 0 && node.Lease == 0 {
				t.Error("the record would stay for ever")
			}
			failed := converged
			failed.State, failed.Step, failed.Err = Failed, StepCheck, "unknown keyword"
			p.Target(failed)
			p.until("the failure is there", func() bool {
				h, _, _ := p.host()
				return len(h.Behind) == 1 && h.Behind[0].Text() == "web failed at check: unknown keyword" && !h.Has("/web/x", 7)
			})
			p.until("also at the target", func() bool {
				result, err := p.client.Read(t.Context(), kv.Read{Key: p.names.Target("edge1", "web")})
				return err == nil && strings.Contains(result.Node.Value, `"step":"check"`)
			})
			p.Gone("web")
			p.until("the target is gone", func() bool {
				_, err := p.client.Read(t.Context(), kv.Read{Key: p.names.Target("edge1", "web")})
				return kv.Is(err, kv.NotFound)
			})
			p.stop()
			if _, _, ok := p.host(); ok {
				t.Error("the record outlives an agent that has ended properly")
			}
		})
	}
}

func TestAMomentIsAnsweredWithTheIndexAndOtherwiseAChangeOfTheIndexAloneIsNotWritten(t *testing.T) {
	p := publish(t, kvclient.Config{Endpoints: []string{daemontest.Start(t, 1).URL()}})
	p.Target(converged)
	p.until("the host is there", func() bool { h, _, ok := p.host(); return ok && h.Converged == 1 })
	_, before, _ := p.host()
	p.loop.change(func() { p.loop.live, p.loop.stores = 9, heard(9) })
	next := converged
	next.Index = 9
	p.Target(next)
	p.Target(TargetStatus{Name: "other", State: Converged, Index: 9}) // which is written, after the index was seen
	p.until("the other target is there", func() bool { h, _, _ := p.host(); return h.Targets == 2 })
	p.loop.change(func() { p.loop.live, p.loop.stores = 12, heard(12) })
	p.Target(next)
	p.moments <- struct{}{}
	p.until("the moment is answered", func() bool { h, _, _ := p.host(); return h.Index == 12 })
	_, after, _ := p.host()
	if after.ModifiedIndex == before.ModifiedIndex {
		t.Error("nothing was written")
	}
	if h, _, _ := p.host(); !h.IsConverged(12) || h.Cluster != "" {
		t.Errorf("%+v", h)
	}
}

func TestALeaseThatWasLostIsReplacedAndEverythingPublishedAgain(t *testing.T) {
	p := publish(t, kvclient.Config{Endpoints: []string{daemontest.Start(t, 1).URL()}})
	p.Target(converged)
	p.until("the host is there", func() bool { _, _, ok := p.host(); return ok })
	_, node, _ := p.host()
	if _, err := p.client.Leaser().Revoke(t.Context(), node.Lease); err != nil {
		t.Fatal(err)
	}
	p.until("the host is back", func() bool { _, now, ok := p.host(); return ok && now.Lease != node.Lease })
}

func TestManyTargetsArePublishedAtABoundedRateAndAllInTheEnd(t *testing.T) {
	p := publish(t, kvclient.Config{Endpoints: []string{daemontest.Start(t, 1).URL()}})
	for i := range 2 * writesPerSecond {
		s := converged
		s.Name = fmt.Sprint("web", i)
		p.Target(s)
	}
	p.until("all are there", func() bool {
		result, err := p.client.Read(t.Context(), kv.Read{Key: kv.Parent(p.names.Target("edge1", "x")), Recursive: true})
		return err == nil && len(result.Node.Nodes) == 2*writesPerSecond
	})
}

func TestAStoreThatRefusesIsWarnedOfOnce(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	client, err := kvclient.New(kvclient.Config{Endpoints: []string{url}, Username: "root", Password: "secret", RequestTimeout: time.Minute}) // hashes of passwords take long on a busy machine
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, err := range []error{client.AddUser(t.Context(), "root", "secret"), client.AddUser(t.Context(), "ann", "ann"), client.SetAuth(t.Context(), true),
		client.RemoveRole(t.Context(), "guest")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	p := publish(t, kvclient.Config{Endpoints: []string{url}, Username: "ann", Password: "ann", RequestTimeout: time.Minute})
	p.Target(converged)
	p.until("it is told", func() bool { return strings.Contains(p.log.String(), "refuses to have status published") })
	p.moments <- struct{}{}
	p.Target(TargetStatus{Name: "other", State: Held})
	p.until("it was tried again", func() bool { return len(p.moments) == 0 })
	p.stop()
	if n := strings.Count(p.log.String(), "refuses"); n != 1 {
		t.Errorf("told %d times:\n%s", n, p.log)
	}
}

func TestTwoAgentsOfOneNameFindEachOtherAndSaySo(t *testing.T) {
	for name, url := range stores(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var both []*publication
			for range 2 {
				p := publish(t, kvclient.Config{Endpoints: []string{url}})
				p.Target(converged)
				p.until("it has published", func() bool { h, _, ok := p.host(); return ok && h.Converged == 1 })
				both = append(both, p)
			}
			for _, p := range both {
				p.until("it knows of the other", func() bool {
					problems := p.Status().Problems
					return len(problems) == 1 && strings.Contains(problems[0].String(), "--host")
				})
				if ill := p.Status().ailments(); len(ill) > 0 {
					t.Errorf("what runs is said to be wrong: %v", ill)
				}
			}
			both[0].until("the store is told", func() bool {
				h, _, ok := both[0].host()
				return ok && len(h.Problems) == 1 && !h.IsConverged(7)
			})
			for _, p := range both {
				if n := strings.Count(p.log.String(), "--host"); n != 1 {
					t.Errorf("told %d times:\n%s", n, p.log)
				}
			}
		})
	}
}

func TestTheRecordOfAnAgentThatIsGoneIsNotTakenForAnother(t *testing.T) {
	client, err := kvclient.New(kvclient.Config{Endpoints: []string{daemontest.Start(t, 1).URL()}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	p := &publisher{PublisherConfig: PublisherConfig{Store: client}, report: New(Config{Host: "edge1"}), names: agentstatus.NamesOf(""), self: "me", sent: map[string]sentence{}, tied: true}
	p.report.Attach(&loop{live: 7, stores: heard(7)})
	key := p.names.Host("edge1")
	write := func(instance string) {
		if err := p.put(t.Context(), key, agentstatus.Host{Host: "edge1", Instance: instance}.Value()); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		instance string // of the record in the store
		written  bool   // this one has written since it began
		rival    bool
	}{{"before", false, false}, {"me", true, false}, {"other", true, true}} {
		write(step.instance)
		if step.written {
			p.sent[key] = sentence{}
		}
		p.look(t.Context())
		if rival := len(p.report.Status().Problems) > 0; rival != step.rival {
			t.Errorf("%+v: another agent was seen: %v", step, rival)
		}
	}
	if _, written := p.sent[key]; written {
		t.Error("its own record is not written again, so the other one would not learn of it")
	}
}

func TestAFailureThatDiffersInProcessAndTimeAloneIsNotWrittenAgainAndIsShownAsItIs(t *testing.T) {
	r, told := New(Config{Host: "edge1"}), &loop{live: 7, stores: heard(7)}
	r.Attach(told)
	p := &publisher{report: r, names: agentstatus.NamesOf(""), sent: map[string]sentence{}}
	means := func(step, text string) string {
		r.Target(TargetStatus{Name: "web", State: Failed, Step: step, Err: text})
		told.problems = []string{"besides: " + text}
		if shown := r.Status(); shown.Targets[0].Err != text || shown.Problems[0].Err != text || shown.Problems[0].Step != step {
			t.Errorf("%s: %s is shown as %+v", step, text, shown.Problems)
		}
		_, wanted, _ := p.wanted()
		return wanted[p.names.Target("edge1", "web")].means + wanted[p.names.Host("edge1")].means
	}
	first := means(StepCheck, "[ALERT]    (4711) : config : x.conf:10: no")
	if means(StepCheck, "[ALERT]    (4712) : config : x.conf:10: no") != first {
		t.Error("another process is taken for news")
	}
	if means(StepCheck, "[ALERT]    (4713) : config : x.conf:11: no") == first {
		t.Error("another line is not")
	}
	second := means(StepReload, "exit status 1: pid 7")
	if means(StepConfirm, "exit status 1: pid 8") == second {
		t.Error("another step is not")
	}
}
