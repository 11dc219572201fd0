package service

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/raftnode"
	"github.com/kvd-io/kvd/pkg/kv"
)

// commonLog is a log without a disk that several members execute at once. odd executes its writes
// otherwise than the rest.
type commonLog struct {
	start time.Time

	mu      sync.Mutex // guards the fields below
	members []*commonMember
	index   uint64
	odd     *commonMember
	checks  int // proposed
}

// commonMember is one member's view of a commonLog.
type commonMember struct {
	*commonLog
	*Service
	id    uint64
	state *State
	told  bytes.Buffer
}

func (l *commonLog) Propose(_ context.Context, c command.Command) (command.Result, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, check := c.Body.(command.Check); check {
		l.checks++
	}
	l.index++
	var result command.Result
	for _, m := range l.members {
		batch := &command.Batch{Level: command.Level, Commands: []command.Command{c}}
		if w, write := c.Body.(kv.Write); write && m == l.odd {
			w.Value += " otherwise"
			batch.Commands[0].Body = w
		}
		result = m.state.Apply(l.index, 1, batch)[0]
		m.state.Flush()
	}
	return result, nil
}

func (l *commonLog) ProposeLeading(ctx context.Context, c command.Command) (command.Result, error) {
	return l.Propose(ctx, c)
}

func (l *commonLog) WhileLeading(_ context.Context, do func() error) error { return do() }

func (l *commonLog) AskLeader(context.Context, raftnode.Method, []byte) ([]byte, error) {
	return nil, &kv.Error{Kind: kv.NoLeader}
}

func (l *commonLog) ReadBarrier(context.Context) error { return nil }
func (l *commonLog) ProposeWithin(ctx context.Context, _ time.Duration, c command.Command) (command.Result, error) {
	return l.Propose(ctx, c)
}

func (l *commonLog) ReadBarrierWithin(context.Context, time.Duration) error { return nil }
func (l *commonLog) LeaseNow() int64                                        { return int64(time.Since(l.start)) }
func (l *commonLog) Position() (commit, term uint64)                        { return 0, 1 }
func (l *commonLog) Space() raftnode.Space                                  { return raftnode.Space{} }
func (l *commonLog) proposed() int                                          { l.mu.Lock(); defer l.mu.Unlock(); return l.checks }
func (m *commonMember) ReadBarrier(context.Context) error                   { return nil }

// openCommon starts n members, of which the last down ones tell nothing.
func openCommon(t *testing.T, n, down int) *commonLog {
	l := &commonLog{start: time.Now()}
	for id := range n {
		m := &commonMember{commonLog: l, id: uint64(id + 1), state: NewState()}
		m.Service = New(m.state, l, Config{Log: slog.New(slog.NewTextHandler(&m.told, nil))})
		l.members = append(l.members, m)
	}
	for _, m := range l.members {
		if _, err := l.Propose(t.Context(), command.Command{Body: command.Member{ID: m.id}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range l.members[:n-down] {
		m.StartChecks(m.id)
	}
	return l
}

func (l *commonLog) close() {
	for _, m := range l.members {
		m.Close()
	}
}

func (l *commonLog) write(t *testing.T, value string) {
	t.Helper()
	write(t, l.members[0].Service, set("/a", value, 0))
}

// alarmed returns the members with the alarm once all has been done that there is to do now.
func (l *commonLog) alarmed() string {
	synctest.Wait()
	var ids []uint64
	for _, m := range l.members {
		if slices.Contains(m.Alarms(), AlarmCorrupt) {
			ids = append(ids, m.id)
		}
	}
	return fmt.Sprint(ids)
}

func TestMembersTellTheirSumsWhileThereIsSomethingToTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openCommon(t, 3, 0)
		defer l.close()
		time.Sleep(3 * checkInterval)
		if got := l.proposed(); got != 3 {
			t.Errorf("%d checks, want one of each member for how it began", got)
		}
		l.write(t, "1")
		time.Sleep(10 * checkInterval)
		if got := l.proposed(); got != 6 {
			t.Errorf("%d checks after a write, want one more of each member", got)
		}
		if got := l.alarmed(); got != "[]" {
			t.Errorf("alarm on %s", got)
		}
	})
}

func TestASoleMemberChecksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openCommon(t, 1, 0)
		defer l.close()
		l.write(t, "1")
		time.Sleep(10 * checkInterval)
		if got := l.proposed(); got != 0 {
			t.Errorf("%d checks", got)
		}
	})
}

func TestTheOddOneOutRefusesReadsThatHaveToBeRight(t *testing.T) {
	for odd := range 3 {
		synctest.Test(t, func(t *testing.T) {
			l := openCommon(t, 3, 0)
			defer l.close()
			l.write(t, "1")
			time.Sleep(2 * checkInterval)
			l.odd = l.members[odd]
			l.write(t, "2")
			time.Sleep(checkInterval + 3*checkTick + checkGrace)
			if got, want := l.alarmed(), fmt.Sprint([]int{odd + 1}); got != want {
				t.Fatalf("alarm on %s, the odd one is %s", got, want)
			}
			for _, m := range l.members {
				_, err := m.Read(t.Context(), kv.Read{Key: "/a", Quorum: true})
				barrier := m.Service.ReadBarrier(t.Context())
				if m != l.odd {
					if err != nil || barrier != nil || m.told.Len() > 0 || m.Stats().Corrupt {
						t.Errorf("member %d: %v, %v, %s", m.id, err, barrier, m.told.String())
					}
					continue
				}
				if !kv.Is(err, kv.Corrupt) || !kv.Is(barrier, kv.Corrupt) || !strings.Contains(err.Error(), fmt.Sprintf("replace it: remove member %x", m.id)) {
					t.Errorf("a quorum read on it: %v, %v", err, barrier)
				}
				if _, err := m.Read(t.Context(), kv.Read{Key: "/a"}); err != nil || !m.Stats().Corrupt {
					t.Errorf("a read of what it has: %v", err)
				}
			}
			time.Sleep(5 * checkInterval)
			synctest.Wait()
			text := l.odd.told.String()
			if strings.Count(text, "\n") != 1 || !strings.Contains(text, "ours=") || !strings.Contains(text, "theirs=") || !strings.Contains(text, "alarm=CORRUPT") {
				t.Errorf("told %s", text)
			}
		})
	}
}

func TestOfTwoMembersThatDifferNeitherIsTrusted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openCommon(t, 3, 1)
		defer l.close()
		l.odd = l.members[0]
		l.write(t, "1")
		time.Sleep(2 * checkInterval)
		if got := l.alarmed(); got != "[1 2]" {
			t.Errorf("alarm on %s", got)
		}
	})
}

func TestTheAlarmEndsWithARestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openCommon(t, 3, 0)
		defer l.close()
		l.odd = l.members[1]
		l.write(t, "1")
		time.Sleep(2 * checkInterval)
		if got := l.alarmed(); got != "[2]" {
			t.Fatalf("alarm on %s", got)
		}
		var sound bytes.Buffer
		if _, err := l.members[0].state.Snapshot().WriteTo(&sound); err != nil {
			t.Fatal(err)
		}
		if err := l.odd.state.Restore(&sound); err != nil {
			t.Fatal(err)
		}
		restored := l.odd
		l.odd = nil
		time.Sleep(2 * checkTick)
		if got := l.alarmed(); got != "[]" || !strings.Contains(restored.told.String(), "as the others again") {
			t.Errorf("alarm on %s; told %s", got, restored.told.String())
		}
		l.write(t, "2")
		time.Sleep(3 * checkInterval)
		if got := l.alarmed(); got != "[]" {
			t.Errorf("alarm on %s after the next check", got)
		}
	})
}

func TestMemoryIsScrubbedEveryHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openCommon(t, 1, 0)
		defer l.close()
		for i := range 3000 {
			write(t, l.members[0].Service, set(fmt.Sprintf("/k/%d", i), "1", 0))
		}
		time.Sleep(scrubInterval + time.Minute)
		if got := l.alarmed(); got != "[]" {
			t.Errorf("alarm on %s", got)
		}
	})
}
