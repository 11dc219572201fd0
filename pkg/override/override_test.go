package override

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/fuzztest"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait; nothing that works takes as long.
const patience = 20 * time.Second

// gated is a store whose link can be cut.
type gated struct {
	*kvclient.Client
	cut atomic.Bool
}

func (g *gated) Read(ctx context.Context, r kv.Read) (kv.Result, error) {
	if g.cut.Load() {
		return kv.Result{}, &kv.Error{Kind: kv.Unavailable}
	}
	return g.Client.Read(ctx, r)
}

func open(t *testing.T) *gated {
	t.Helper()
	client, err := kvclient.New(kvclient.Config{Endpoints: []string{daemontest.Start(t, 1).URL()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return &gated{Client: client}
}

// start runs a source until the test ends or stop is called.
func start(t *testing.T, store Store, dir string) (s *Source, stop func()) {
	t.Helper()
	s, err := NewSource(SourceConfig{Store: store, StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return s, stop
}

// await waits until holds does.
func await(t *testing.T, s *Source, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		changed := s.Changed()
		if holds() {
			return
		}
		select {
		case <-changed:
		case <-time.After(10 * time.Millisecond): // not all that is waited for is a change of an answer
		case <-deadline:
			t.Fatalf("never: %s; %+v", what, s.Status())
		}
	}
}

// stored returns what the store has at the key of an instance.
func stored(t *testing.T, store Store, service, instance string) (Override, error) {
	t.Helper()
	result, err := store.Read(t.Context(), kv.Read{Key: Key("/services", service, instance), Quorum: true})
	if kv.Is(err, kv.NotFound) {
		return Override{}, nil
	}
	if err != nil {
		return Override{}, err
	}
	return Decode(result.Node.Value)
}

func mode(s *Source, instance string) Mode { return s.Get("web", instance).Mode }

func TestWhatIsWrittenIsKnownAndWhatIsClearedIsForgotten(t *testing.T) {
	store := open(t)
	s, _ := start(t, store, "")
	want := Override{Mode: Drain, Weight: 3, Reason: "kernel", By: "ann", At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	if err := Write(t.Context(), store, "/services", "web", "a", want); err != nil {
		t.Fatal(err)
	}
	await(t, s, "known", func() bool { return s.Get("web", "a") == want })
	if got, err := stored(t, store, "web", "a"); err != nil || got != want {
		t.Errorf("read %+v, %v", got, err)
	}
	if err := Write(t.Context(), store, "/services", "web", "a", Override{Mode: Ready}); err != nil {
		t.Fatal(err)
	}
	await(t, s, "forgotten", func() bool { return s.Get("web", "a").IsZero() })
	if err := Clear(t.Context(), store, "/services", "web", "a"); err != nil {
		t.Errorf("clearing what is clear: %v", err)
	}
	for _, names := range [][2]string{{"", "a"}, {"web", "../x"}, {"web", "a/b"}, {"_web", "a"}} {
		if err := Write(t.Context(), store, "/services", names[0], names[1], want); !kv.Is(err, kv.Invalid) {
			t.Errorf("%q: %v", names, err)
		}
	}
	if err := Write(t.Context(), store, "/services", "web", "a", Override{Mode: "sleep"}); !kv.Is(err, kv.Invalid) {
		t.Errorf("an unknown mode: %v", err)
	}
}

func TestABadOverrideIsReportedAndHidesNoOther(t *testing.T) {
	store := open(t)
	s, _ := start(t, store, "")
	for key, value := range map[string]string{
		"web/bad": "{", "web/odd": `{"mode":"sleep"}`, "web/heavy": `{"weight":-1}`, "web/deep/er": `{"mode":"drain"}`,
		"web/text": `{"mode":"drain","reason":"\u001b[2J"}`, "web/large": `{"mode":"drain","x":"` + strings.Repeat("x", valueBytesMax) + `"}`,
		"web/good": `{"mode":"maintenance","later":true}`,
	} {
		if _, err := store.Write(t.Context(), kv.Write{Op: kv.OpSet, Key: "/services-override/" + key, Value: value}); err != nil {
			t.Fatal(err)
		}
	}
	await(t, s, "six problems", func() bool { return len(s.Status().Problems) == 6 })
	await(t, s, "the good one", func() bool { return mode(s, "good") == Maintenance })
	for _, instance := range []string{"bad", "odd", "heavy", "text", "large"} {
		if o := s.Get("web", instance); o != (Override{}) {
			t.Errorf("%s: %+v", instance, o)
		}
	}
}

func TestWhatIsSetHereCountsAtOnceAndGetsToTheStoreWhenItAnswers(t *testing.T) {
	store, dir := open(t), filepath.Join(t.TempDir(), "not", "there", "yet")
	store.cut.Store(true)
	s, stop := start(t, store, dir)
	if err := s.Set("web", "a", Override{Mode: Drain}); err != nil {
		t.Fatal(err)
	}
	if mode(s, "a") != Drain || s.Status().Pending != 1 {
		t.Fatalf("%+v", s.Status())
	}
	stop()

	s, stop = start(t, store, dir) // another run remembers it
	if mode(s, "a") != Drain || s.Status().Pending != 1 {
		t.Fatalf("after a restart: %+v", s.Status())
	}
	store.cut.Store(false)
	await(t, s, "written", func() bool { return s.Status().Pending == 0 && s.Status().IsRead })
	if o, err := stored(t, store, "web", "a"); err != nil || o.Mode != Drain || o.At.IsZero() {
		t.Errorf("in the store: %+v, %v", o, err)
	}
	await(t, s, "known from the store", func() bool { return s.unsettled() == 0 && mode(s, "a") == Drain })
	stop()

	store.cut.Store(true)
	s, _ = start(t, store, dir) // what the store said counts until it says otherwise
	if mode(s, "a") != Drain || s.Status().IsRead {
		t.Fatalf("after another restart: %+v", s.Status())
	}
	if err := s.Set("web", "a", Override{Mode: Ready}); err != nil {
		t.Fatal(err)
	}
	if mode(s, "a") != Ready {
		t.Errorf("%+v", s.Get("web", "a"))
	}
	store.cut.Store(false)
	await(t, s, "cleared", func() bool { return s.unsettled() == 0 })
	if o, err := stored(t, store, "web", "a"); err != nil || !o.IsZero() {
		t.Errorf("in the store: %+v, %v", o, err)
	}
}

// unsettled is how many wishes of this host the store does not have, or is not known to have.
func (s *Source) unsettled() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.wishes)
}

func TestTheLastOfTwoWishesWins(t *testing.T) {
	store := open(t)
	now := time.Now().Truncate(time.Second)
	for _, c := range []struct {
		there time.Duration // when the one in the store was wanted, after the one here
		want  Mode
	}{{-time.Hour, Drain}, {time.Hour, Maintenance}} {
		if err := Clear(t.Context(), store, "/services", "web", "a"); err != nil {
			t.Fatal(err)
		}
		s, stop := start(t, store, "")
		await(t, s, "read", func() bool { return s.Status().IsRead })
		store.cut.Store(true)
		if err := s.Set("web", "a", Override{Mode: Drain, At: now}); err != nil {
			t.Fatal(err)
		}
		if err := Write(t.Context(), store, "/services", "web", "a", Override{Mode: Maintenance, At: now.Add(c.there)}); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Write(t.Context(), kv.Write{Op: kv.OpSet, Key: "/elsewhere", Value: "x"}); err != nil { // the store goes on
			t.Fatal(err)
		}
		store.cut.Store(false)
		await(t, s, "settled", func() bool { return s.unsettled() == 0 })
		if mode(s, "a") != c.want {
			t.Errorf("%v later: %s", c.there, mode(s, "a"))
		}
		stop()
	}

	// Whoever sees a wish and wants something else gets it, whatever the clock of the other one says.
	s, _ := start(t, store, "")
	await(t, s, "known", func() bool { return mode(s, "a") == Maintenance })
	if err := s.Set("web", "a", Override{Mode: Drain}); err != nil {
		t.Fatal(err)
	}
	await(t, s, "settled", func() bool { return s.unsettled() == 0 })
	if mode(s, "a") != Drain {
		t.Errorf("a wish of the future has won: %+v", s.Get("web", "a"))
	}
}

func TestClearingWhatIsNotThereSettles(t *testing.T) {
	store := open(t)
	s, _ := start(t, store, "")
	await(t, s, "read", func() bool { return s.Status().IsRead })
	if err := s.Set("web", "a", Override{Mode: Ready}); err != nil {
		t.Fatal(err)
	}
	await(t, s, "settled", func() bool { return s.unsettled() == 0 })
	if err := Write(t.Context(), store, "/services", "web", "a", Override{Mode: Drain}); err != nil {
		t.Fatal(err)
	}
	await(t, s, "drain", func() bool { return mode(s, "a") == Drain })
}

func TestAFileThatCannotBeUsedIsToldAndLeftAlone(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON": "{", "an odd mode": `{"pending":[{"service":"web","instance":"a","override":{"mode":"sleep"}}]}`,
		"a path": `{"overrides":[{"service":"web","instance":"../a","override":{"mode":"drain"}}]}`,
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, fileName)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := NewSource(SourceConfig{StateDir: dir}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		if data, _ := os.ReadFile(path); string(data) != text {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

// FuzzDecode reads values of keys. What is read is valid and reads back the same.
func FuzzDecode(f *testing.F) {
	f.Add(`{"mode":"drain","weight":3,"reason":"x","by":"y","at":"2026-01-02T03:04:05Z"}`)
	f.Add(`{"mode":"sleep"}`)
	f.Add(`{"at":"9999-12-31T23:59:59-23:59"}`)
	f.Fuzz(func(t *testing.T, text string) {
		var o Override
		var err error
		fuzztest.WantBounded(t, 64*uint64(len(text))+fuzztest.Fixed, func() { o, err = Decode(text) })
		if err != nil {
			return
		}
		if err := o.Validate(); err != nil {
			t.Fatal(err)
		}
		again, err := Decode(o.encode())
		if err != nil || again.encode() != o.encode() {
			t.Fatalf("%q: %+v, then %+v, %v", text, o, again, err)
		}
	})
}

// FuzzMemory reads files. What is read is bounded and valid.
func FuzzMemory(f *testing.F) {
	f.Add([]byte(`{"overrides":[{"service":"web","instance":"a","override":{"mode":"drain"}}],"pending":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var m memory
		var err error
		fuzztest.WantBounded(t, 256*uint64(len(data))+fuzztest.Fixed, func() { m, err = parseMemory(data) })
		for _, r := range append(m.Overrides, m.Pending...) {
			if err != nil || r.Override.Validate() != nil || ValidateNames(r.Service, r.Instance) != nil {
				t.Fatalf("%+v, %v", r, err)
			}
		}
	})
}
