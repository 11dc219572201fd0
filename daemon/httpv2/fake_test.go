package httpv2

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kvd-io/kvd/daemon/route"
	"github.com/kvd-io/kvd/daemon/service"
	"github.com/kvd-io/kvd/pkg/kv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is a kv.Store that notes what it is asked and answers what it is told.
type recorder struct {
	mu     sync.Mutex
	asked  any
	result kv.Result
	err    error
	watch  *scriptedWatch
}

func (s *recorder) note(asked any) (kv.Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = asked
	return s.result, s.err
}

func (s *recorder) Read(_ context.Context, r kv.Read) (kv.Result, error)   { return s.note(r) }
func (s *recorder) Write(_ context.Context, w kv.Write) (kv.Result, error) { return s.note(w) }
func (s *recorder) Watch(_ context.Context, from kv.WatchFrom) (kv.Watch, error) {
	if _, err := s.note(from); err != nil {
		return nil, err
	}
	return s.watch, nil
}

func (s *recorder) takeAsked() any {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = nil
	return asked
}

// openGate lets everybody use a store, and change nothing of access control.
type openGate struct{ kv.Store }

func (g openGate) Open(context.Context, service.Credentials) (kv.Store, error) { return g.Store, nil }
func (g openGate) AuthEnabled() bool                                           { return false }
func (g openGate) Authenticate(context.Context, service.Credentials) (Session, error) {
	return fakeSession{&leaser{err: &kv.Error{Kind: kv.NoLeader}}}, nil
}

// fakeSession is root's, in a cluster without a leader.
type fakeSession struct{ kv.Leaser }

func (fakeSession) Administrator() bool                    { return true }
func (fakeSession) Refuse(string) error                    { return &kv.Error{Kind: kv.Denied} }
func (fakeSession) Auth() (*service.Auth, error)           { return &service.Auth{}, nil }
func (fakeSession) EnableAuth(context.Context, bool) error { return &kv.Error{Kind: kv.NoLeader} }
func (fakeSession) ChangeUser(context.Context, service.UserChange) (service.User, bool, error) {
	return service.User{}, false, &kv.Error{Kind: kv.NoLeader}
}
func (fakeSession) ChangeRole(context.Context, service.RoleChange) (service.Role, error) {
	return service.Role{}, &kv.Error{Kind: kv.NoLeader}
}

func (fakeSession) AddMember(context.Context, service.NewMember) (service.MemberView, error) {
	return service.MemberView{}, &kv.Error{Kind: kv.NoLeader}
}
func (fakeSession) Invite(context.Context, time.Duration) (string, []string, error) {
	return "", nil, &kv.Error{Kind: kv.NoLeader}
}
func (fakeSession) UpdateMember(context.Context, uint64, []string) error {
	return &kv.Error{Kind: kv.NoLeader}
}
func (fakeSession) RemoveMember(context.Context, uint64, bool) error {
	return &kv.Error{Kind: kv.NoLeader}
}
func (fakeSession) DemoteMember(context.Context, uint64, bool) error {
	return errors.New("no members")
}
func (fakeSession) PromoteMember(context.Context, uint64) error {
	return &kv.Error{Kind: kv.NoLeader}
}
func (fakeSession) TransferLeadership(context.Context, uint64) error {
	return &kv.Error{Kind: kv.NoLeader}
}

// scriptedWatch delivers what is sent to events; closing the channel is the store closing it.
type scriptedWatch struct {
	events chan kv.Event
	closed chan struct{}
	once   sync.Once
}

func newScriptedWatch() *scriptedWatch {
	return &scriptedWatch{events: make(chan kv.Event), closed: make(chan struct{})}
}

func (w *scriptedWatch) Next(ctx context.Context) (kv.Event, error) {
	select {
	case e, open := <-w.events:
		if !open {
			return kv.Event{}, &kv.Error{Kind: kv.HistoryGone}
		}
		return e, nil
	case <-ctx.Done():
		return kv.Event{}, ctx.Err()
	}
}

func (w *scriptedWatch) Index() kv.Index { return 41 }
func (w *scriptedWatch) Close()          { w.once.Do(func() { close(w.closed) }) }

type fakeCluster struct {
	members []Member
	leader  uint64
}

func (c fakeCluster) ClusterID() uint64          { return 0x00ab54a98ceb1f0a }
func (c fakeCluster) Members() []Member          { return append([]Member(nil), c.members...) }
func (c fakeCluster) LeaderID() (uint64, bool)   { return c.leader, c.leader != 0 }
func (c fakeCluster) Position() (uint64, uint64) { return 77, 3 }

func (c fakeCluster) Authority() string { return "" }

func (c fakeCluster) Overview(context.Context) (service.ClusterView, error) {
	return service.ClusterView{}, &kv.Error{Kind: kv.NoLeader}
}

type fakeStatistics struct {
	self      Self
	followers []Follower
	stats     service.Stats
}

func (s fakeStatistics) Self() Self            { return s.self }
func (s fakeStatistics) Followers() []Follower { return s.followers }
func (s fakeStatistics) Stats() service.Stats  { return s.stats }

// table returns the handler of all routes, without access control.
func table(cfg Config) http.Handler {
	if cfg.Gate == nil {
		cfg.Gate = openGate{&recorder{}}
	}
	if cfg.Statistics == nil {
		cfg.Statistics = fakeStatistics{}
	}
	return route.New(OnlyRoot(cfg.Gate), Routes(cfg)...)
}

// serve starts a real HTTP server around a handler, because status, length and HEAD are its work too.
func serve(t *testing.T, cfg Config) string {
	t.Helper()
	if cfg.Cluster == nil {
		cfg.Cluster = fakeCluster{}
	}
	server := httptest.NewServer(table(cfg))
	t.Cleanup(server.Close)
	return server.URL
}

type answer struct {
	status int
	header http.Header
	body   string
}

const formType = "application/x-www-form-urlencoded"

// ask sends "METHOD /path?query" with an optional form body.
func ask(t *testing.T, url, request, form string) answer {
	t.Helper()
	contentType := ""
	if form != "" {
		contentType = formType
	}
	return askWith(t, url, request, contentType, strings.NewReader(form))
}

func askWith(t *testing.T, url, request, contentType string, body io.Reader) answer {
	t.Helper()
	method, target, _ := strings.Cut(request, " ")
	r, err := http.NewRequestWithContext(t.Context(), method, url+target, body)
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	transport := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	client := http.Client{Timeout: 20 * time.Second, Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) { // as a stream ends
		t.Fatal(err)
	}
	return answer{status: response.StatusCode, header: response.Header, body: string(got)}
}

// untilAborted lets h answer as a server would, which takes an aborted answer for an end.
func untilAborted(h http.Handler, w http.ResponseWriter, r *http.Request) {
	defer func() {
		if p := recover(); p != nil && p != http.ErrAbortHandler {
			panic(p)
		}
	}()
	h.ServeHTTP(w, r)
}
