package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/pkg/etcdv2"
)

// source is a state that is written slowly: each part when it is let through.
type source struct {
	parts    []string
	let      chan struct{} // nil: all at once
	fail     error         // after the parts
	released bool
}

func (s *source) WriteTo(w io.Writer) (n int64, err error) {
	for _, part := range s.parts {
		if s.let != nil {
			<-s.let
		}
		m, err := io.WriteString(w, part)
		n += int64(m)
		if err != nil {
			return n, err
		}
	}
	return n, s.fail
}

// open returns Backups whose Take returns the next of sources, and a server of theirs.
func open(t *testing.T, schedule Schedule, sources ...*source) (*Backups, *httptest.Server, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	next := 0
	b := New(Config{
		Take: func() Taken {
			s := sources[min(next, len(sources)-1)]
			next++
			return Taken{WriterTo: s, Release: func() { s.released = true }, Index: uint64(next), RaftIndex: 7, Bytes: 1}
		},
		Spool: t.TempDir(), Schedule: schedule, Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	server := httptest.NewServer(http.HandlerFunc(b.serve))
	t.Cleanup(func() { server.Close(); b.Close() })
	return b, server, &log
}

func get(t *testing.T, url string) *http.Response {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response
}

func TestASnapshotIsSentWhileItIsWrittenAndGoesOnWhereItBroke(t *testing.T) {
	whole := strings.Repeat("0123456789", 1000)
	s := &source{parts: []string{whole[:4000], whole[4000:]}, let: make(chan struct{}, 2)}
	b, server, _ := open(t, Schedule{}, s)
	s.let <- struct{}{}
	first := get(t, server.URL)
	head := make([]byte, 3000)
	if _, err := io.ReadFull(first.Body, head); err != nil || string(head) != whole[:3000] {
		t.Fatal(err)
	}
	first.Body.Close()
	s.let <- struct{}{}
	rest := get(t, fmt.Sprintf("%s?snapshot=%s&from=3000", server.URL, first.Header.Get(etcdv2.HeaderSnapshot)))
	tail, err := io.ReadAll(rest.Body)
	if err != nil || string(tail) != whole[3000:] {
		t.Errorf("%v: the rest has %d bytes, want %d", err, len(tail), len(whole)-3000)
	}
	b.Close()
	if !s.released {
		t.Error("the state was not released")
	}
	if left, err := os.ReadDir(b.config.Spool); err != nil || len(left) > 0 {
		t.Errorf("left on the disk: %v %v", left, err)
	}
}

func TestASnapshotThatCannotBeWrittenIsCutOff(t *testing.T) {
	b, server, log := open(t, Schedule{}, &source{parts: []string{"half"}, fail: errors.New("disk on fire")})
	if response, err := http.Get(server.URL); err == nil {
		defer response.Body.Close()
		if text, err := io.ReadAll(response.Body); err == nil {
			t.Errorf("%q came as if it were whole", text)
		}
	}
	b.Close()
	if !strings.Contains(log.String(), "disk on fire") {
		t.Errorf("log: %s", log)
	}
}

func TestSnapshotsAtATimeAreBoundedAndIdleOnesGiveWay(t *testing.T) {
	slow := func() *source { return &source{parts: []string{"a", "b"}, let: make(chan struct{}, 2)} }
	sources := []*source{slow(), slow(), {parts: []string{"third"}}}
	_, server, _ := open(t, Schedule{}, sources...)
	var open []*http.Response
	for _, s := range sources[:2] {
		s.let <- struct{}{}
		open = append(open, get(t, server.URL))
	}
	refused := get(t, server.URL)
	if text, _ := io.ReadAll(refused.Body); refused.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(text), "try again later") {
		t.Errorf("a third: %d %s", refused.StatusCode, text)
	}
	for i, s := range sources[:2] {
		s.let <- struct{}{}
		if text, err := io.ReadAll(open[i].Body); err != nil || string(text) != "ab" {
			t.Errorf("%q, %v", text, err)
		}
	}
	third := get(t, server.URL)
	if text, err := io.ReadAll(third.Body); err != nil || string(text) != "third" {
		t.Errorf("%q, %v", text, err)
	}
	gone := get(t, server.URL+"?snapshot="+open[0].Header.Get(etcdv2.HeaderSnapshot))
	if text, _ := io.ReadAll(gone.Body); gone.StatusCode != http.StatusNotFound || !strings.Contains(string(text), "begin a new one") {
		t.Errorf("the first again: %d %s", gone.StatusCode, text)
	}
}

func TestWhatMakesNoSenseIsRefused(t *testing.T) {
	_, server, _ := open(t, Schedule{}, &source{parts: []string{"x"}})
	id := get(t, server.URL).Header.Get(etcdv2.HeaderSnapshot)
	for query, status := range map[string]int{
		"from=3": 400, "snapshot=" + id + "&from=-1": 400, "snapshot=" + id + "&from=x": 400, "snapshot=unknown": 404,
		"snapshot=" + id + "&from=99": 416, "snapshot=" + id: 200,
	} {
		if got := get(t, server.URL+"?"+query).StatusCode; got != status {
			t.Errorf("%s: %d, want %d", query, got, status)
		}
	}
}

func TestAMemberThatMayLackSomethingSendsOnlyWhatItHas(t *testing.T) {
	b, server, _ := open(t, Schedule{}, &source{parts: []string{"x"}})
	b.config.Current = func(context.Context) error { return errors.New("no leader") }
	response := get(t, server.URL)
	if text, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(text), "no leader; with serializable=true") {
		t.Errorf("%d %s", response.StatusCode, text)
	}
	response = get(t, server.URL+"?serializable=true")
	if text, err := io.ReadAll(response.Body); err != nil || string(text) != "x" {
		t.Errorf("%d %q, %v", response.StatusCode, text, err)
	}
}

func TestWithoutRoomNothingIsBegun(t *testing.T) {
	b, server, _ := open(t, Schedule{}, &source{})
	b.config.Free = func(string) (uint64, error) { return reserve, nil }
	response := get(t, server.URL)
	if text, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(text), "no room") {
		t.Errorf("%d %s", response.StatusCode, text)
	}
}

func TestWhatAKilledProcessHasLeftOfASnapshotIsRemovedAndNothingElse(t *testing.T) {
	directory := t.TempDir()
	for _, name := range []string{".sending-123", ".sending-", "sending-1", "wal"} {
		if err := os.WriteFile(filepath.Join(directory, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(directory, ".sending-directory"), 0o700); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	b := New(Config{Spool: directory, Log: slog.New(slog.NewTextHandler(&log, nil))})
	defer b.Close()
	if left, want := names(t, directory), []string{".sending-directory", "sending-1", "wal"}; !slices.Equal(left, want) || log.Len() > 0 {
		t.Errorf("left are %q, want %q; the log: %s", left, want, log.String())
	}
}

// names returns what is in a directory.
func names(t *testing.T, directory string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(directory)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// scheduledIn runs a schedule in a bubble of its own time until f returns.
func scheduledIn(t *testing.T, schedule Schedule, take func() Taken, f func(b *Backups, log *bytes.Buffer)) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		b := New(Config{Take: take, Schedule: schedule, Log: slog.New(slog.NewTextHandler(&log, nil)), Free: func(string) (uint64, error) { return 1 << 40, nil }})
		defer b.Close()
		f(b, &log)
	})
}

func TestAScheduleKeepsTheNewestSnapshotsAndTouchesNothingElse(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "made", "here")
	index := uint64(0)
	take := func() Taken {
		index++
		return Taken{WriterTo: bytes.NewBufferString(fmt.Sprint("state ", index)), Release: func() {}, Index: index}
	}
	scheduledIn(t, Schedule{Interval: time.Hour, Keep: 3, Directory: directory}, take, func(b *Backups, log *bytes.Buffer) {
		time.Sleep(time.Second)
		for _, other := range []string{"kvd.snap", "kvd-20000101T000000Z-1.snap.bak", "notes"} {
			if err := os.WriteFile(filepath.Join(directory, other), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Hour)
		synctest.Wait()
		want := []string{"kvd-20000101T000000Z-1.snap.bak", "kvd-20000101T030000Z-4.snap", "kvd-20000101T040000Z-5.snap", "kvd-20000101T050000Z-6.snap", "kvd.snap", "notes"}
		if got := names(t, directory); !slices.Equal(got, want) {
			t.Errorf("there are %q, want %q\n%s", got, want, log)
		}
		if text, err := os.ReadFile(filepath.Join(directory, "kvd-20000101T050000Z-6.snap")); string(text) != "state 6" {
			t.Errorf("the newest holds %q, %v", text, err)
		}
		if c := b.Counts(); c.Written != 6 || c.Failed != 0 || c.Last.UTC().Hour() != 5 || c.LastBytes != 7 {
			t.Errorf("counts %+v", c)
		}
	})
	// After a restart the newest is still new enough for a while.
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(5*time.Hour + 40*time.Minute)
		b := New(Config{Take: take, Schedule: Schedule{Interval: time.Hour, Keep: 3, Directory: directory}, Log: slog.New(slog.DiscardHandler)})
		defer b.Close()
		time.Sleep(15 * time.Minute)
		if got := b.Counts(); got.Written != 0 || got.Last.UTC().Hour() != 5 {
			t.Errorf("15 minutes after the restart: %+v", got)
		}
		time.Sleep(10 * time.Minute)
		if got := b.Counts().Written; got != 1 {
			t.Errorf("65 minutes after the last one there are %d", got)
		}
	})
}

func TestAScheduledSnapshotThatFailsIsToldAndTriedAgain(t *testing.T) {
	directory := t.TempDir()
	left := filepath.Join(directory, "kvd-19990101T000000Z-9.snap"+partSuffix)
	if err := os.WriteFile(left, []byte("of a crash"), 0o600); err != nil {
		t.Fatal(err)
	}
	var broken atomic.Bool
	broken.Store(true)
	take := func() Taken {
		s := &source{parts: []string{"state"}}
		if broken.Load() {
			s.fail = errors.New("no space left on device")
		}
		return Taken{WriterTo: s, Release: func() {}, Index: 3}
	}
	scheduledIn(t, Schedule{Interval: time.Hour, Keep: 1, Directory: directory}, take, func(b *Backups, log *bytes.Buffer) {
		time.Sleep(time.Minute)
		synctest.Wait()
		if c := b.Counts(); c.Failed != 1 || c.Written != 0 || !strings.Contains(log.String(), "no space left on device") {
			t.Errorf("%+v\n%s", c, log)
		}
		if got := names(t, directory); len(got) > 0 {
			t.Errorf("left: %q", got)
		}
		broken.Store(false)
		time.Sleep(retryMax)
		synctest.Wait()
		if got := names(t, directory); len(got) != 1 || b.Counts().Written != 1 {
			t.Errorf("there are %q\n%s", got, log)
		}
	})
}
