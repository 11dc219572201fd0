package httpv2

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/service"
	"github.com/kvd-io/kvd/pkg/kv"
)

// leaser is a kv.Leaser that notes what it is asked and answers what it is told.
type leaser struct {
	mu    sync.Mutex
	asked string
	lease kv.Lease
	err   error
}

func (l *leaser) note(asked string, of any) (kv.Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = fmt.Sprint(asked, " ", of)
	return l.lease, l.err
}

func (l *leaser) Grant(_ context.Context, ttl time.Duration) (kv.Lease, error) {
	return l.note("grant", ttl)
}
func (l *leaser) KeepAlive(_ context.Context, id kv.LeaseID) (kv.Lease, error) {
	return l.note("keep-alive", id)
}
func (l *leaser) Lease(_ context.Context, id kv.LeaseID) (kv.Lease, error) { return l.note("get", id) }
func (l *leaser) Leases(_ context.Context, after kv.LeaseID) ([]kv.Lease, kv.Index, error) {
	lease, err := l.note("list", after)
	return []kv.Lease{lease}, lease.Index, err
}
func (l *leaser) Revoke(_ context.Context, id kv.LeaseID) (kv.Index, error) {
	lease, err := l.note("revoke", id)
	return lease.Index, err
}

type leaseGate struct {
	openGate
	leases *leaser
}

func (g leaseGate) Authenticate(context.Context, service.Credentials) (Session, error) {
	return fakeSession{g.leases}, nil
}

func TestEveryLeaseRequestIsTranslatedAndAnswered(t *testing.T) {
	const id = "00000000000000ab"
	const whole = `{"id":"00000000000000ab","ttl":60,"remaining":42,"attached":2,"keys":["/a","/b"]}` + "\n"
	leases := &leaser{lease: kv.Lease{ID: 0xab, TTL: time.Minute, Remaining: 41*time.Second + 1, Attached: 2, Keys: []string{"/a", "/b"}, Index: 9}}
	url := serve(t, Config{Gate: leaseGate{openGate{&recorder{}}, leases}})
	for _, c := range []struct {
		request, form string
		asked         string
		status        int
		body          string
	}{
		{"POST /v2/leases", "ttl=60", "grant 1m0s", 201, whole},
		{"POST /v2/leases?ttl=60", "", "grant 1m0s", 201, whole},
		{"PUT /v2/leases/" + id, "", "keep-alive " + id, 200, whole},
		{"GET /v2/leases/" + id, "", "get " + id, 200, whole},
		{"GET /v2/leases", "", "list 0000000000000000", 200, `{"leases":[` + strings.TrimSpace(whole) + "]}\n"},
		{"GET /v2/leases?after=" + id, "", "list " + id, 200, `{"leases":[` + strings.TrimSpace(whole) + "]}\n"},
		{"DELETE /v2/leases/" + id, "", "revoke " + id, 200, `{"id":"00000000000000ab"}` + "\n"},
	} {
		leases.asked = ""
		got := ask(t, url, c.request, c.form)
		if got.status != c.status || got.body != c.body || leases.asked != c.asked {
			t.Errorf("%s: asked %q, answered %d %s", c.request, leases.asked, got.status, got.body)
		}
		for name, want := range map[string]string{"X-Etcd-Index": "9", "X-Raft-Index": "77", "X-Raft-Term": "3", "Content-Type": "application/json", "X-Etcd-Cluster-Id": "ab54a98ceb1f0a"} {
			if got.header.Get(name) != want {
				t.Errorf("%s: %s is %q, want %q", c.request, name, got.header.Get(name), want)
			}
		}
	}
}

func TestALeaseRequestThatMakesNoSenseIsRefusedUnasked(t *testing.T) {
	leases := &leaser{}
	url := serve(t, Config{Gate: leaseGate{openGate{&recorder{}}, leases}, MaxRequestBytes: 100})
	for _, c := range []struct {
		request, form string
		status        int
		body          string
	}{
		{"POST /v2/leases", "", 400, `"errorCode":209,"message":"Invalid field","cause":"ttl is missing: `},
		{"POST /v2/leases", "ttl=soon", 400, `{"errorCode":202,"message":"The given TTL in POST form is not a number","cause":"invalid value for \"ttl\"","index":0}`},
		{"POST /v2/leases", "ttl=-1", 400, `"errorCode":202`},
		{"POST /v2/leases", "ttl=" + strings.Repeat("0", 200), 413, `"errorCode":210`},
		{"POST /v2/leases", "%", 400, `"errorCode":210`},
		{"GET /v2/leases?after=x", "", 400, `"errorCode":209`},
		{"GET /v2/leases/", "", 400, `{"errorCode":209,"message":"Invalid field","cause":"\"\" is no lease id: that is 16 hex digits in lower case","index":0}`},
		{"PUT /v2/leases/AB", "", 400, `"errorCode":209`},
		{"GET /v2/leases/00000000000000ab/keys", "", 400, `"errorCode":209`},
		{"PUT /v2/leases", "", 405, "Method Not Allowed"},
		{"POST /v2/leases/00000000000000ab", "", 405, "Method Not Allowed"},
		{"PUT /v2/keys/a", "value=1&lease=ab", 400, `"cause":"invalid value for \"lease\": a lease id is 16 hex digits in lower case"`},
		{"PUT /v2/keys/a", "value=1&lease=", 400, `"errorCode":209`},
		{"GET /v2/keys/a?lease=ab", "", 400, `"errorCode":209`},
	} {
		if got := ask(t, url, c.request, c.form); got.status != c.status || !strings.Contains(got.body, c.body) || leases.asked != "" {
			t.Errorf("%s %s: asked %q, answered %d %s", c.request, c.form, leases.asked, got.status, got.body)
		}
	}
}

func TestALeaseThatDoesNotExistHasACodeOfItsOwn(t *testing.T) {
	gone := &kv.Error{Kind: kv.NoLease, Cause: "00000000000000ab", Index: 7}
	url := serve(t, Config{Gate: leaseGate{openGate{&recorder{err: gone}}, &leaser{err: gone}}})
	const want = `{"errorCode":111,"message":"Lease not found","cause":"00000000000000ab","index":7}` + "\n"
	for _, request := range []string{"GET /v2/leases/00000000000000ab", "PUT /v2/leases/00000000000000ab", "DELETE /v2/leases/00000000000000ab", "PUT /v2/keys/a?lease=00000000000000ab"} {
		if got := ask(t, url, request, ""); got.status != 404 || got.body != want {
			t.Errorf("%s: %d %s", request, got.status, got.body)
		}
	}
}

func TestALeaseIsAWishOfEveryWriteButARemoval(t *testing.T) {
	store := &recorder{}
	url := serve(t, Config{Gate: openGate{store}})
	for request, want := range map[string]kv.LeaseID{
		"PUT /v2/keys/a?lease=00000000000000ab":                 0xab,
		"POST /v2/keys/a?lease=00000000000000ab":                0xab,
		"PUT /v2/keys/a?prevExist=true&lease=00000000000000ab":  0xab,
		"PUT /v2/keys/a?prevIndex=7&lease=00000000000000ab":     0xab,
		"PUT /v2/keys/a?dir=true&lease=00000000000000ab":        0xab,
		"PUT /v2/keys/a?prevExist=false&lease=00000000000000ab": 0xab,
		"DELETE /v2/keys/a?lease=00000000000000ab":              0,
		"DELETE /v2/keys/a?prevIndex=7&lease=00000000000000ab":  0,
		"PUT /v2/keys/a?value=1":                                0,
	} {
		ask(t, url, request, "")
		if asked, ok := store.takeAsked().(kv.Write); !ok || asked.Lease != want {
			t.Errorf("%s: asked %+v", request, asked)
		}
	}
}
