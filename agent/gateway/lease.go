package gateway

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

// A lease is as good as the keys that go with it: who keeps it alive or ends it does so to all of them. So it may
// be used by who may write all of them, and looked at by who may read all of them. One without keys is known to
// nobody but who was granted it.

const leaseBytesMax = 4 << 20 // of the description of a lease that is looked at

// serveLeases answers about all leases, or about the one that rest names.
func (s *Server) serveLeases(w http.ResponseWriter, r *http.Request, who caller, rest string) {
	r.Body = http.MaxBytesReader(w, r.Body, largeBytes)
	values, err := s.values(w, r)
	if err != nil {
		s.failForm(w, err)
		return
	}
	request := etcdv2.Request{Method: r.Method, Path: etcdv2.LeasesPath}
	if rest == "" {
		if !allowed(w, r, http.MethodGet, http.MethodPost) {
			return
		}
		if r.Method == http.MethodGet && !who.rules.mayRead("", true) || r.Method == http.MethodPost && !who.rules.mayWriteAnything() {
			s.refuse(w, http.StatusForbidden, etcdv2.CodeUnauthorized, fmt.Sprintf("the rules of this gateway do not let %s %s (--gateway-allow)", who, map[string]string{http.MethodGet: "see all leases", http.MethodPost: "write anything, so that a lease has no use"}[r.Method]))
			return
		}
		request.Query, request.Form = first(values, "after"), nil
		if r.Method == http.MethodPost {
			request.Query, request.Form = nil, first(values, "ttl")
		}
		s.passLease(w, r, who, request)
		return
	}
	if !allowed(w, r, http.MethodGet, http.MethodPut, http.MethodDelete) {
		return
	}
	id, err := kv.ParseLeaseID(rest)
	if err != nil {
		s.fail(w, http.StatusBadRequest, etcdv2.EncodeError(err))
		return
	}
	want := writing
	if r.Method == http.MethodGet {
		want = reading
	}
	if !s.mayUseLease(w, r, who, id.String(), want) {
		return
	}
	request.Path += "/" + id.String()
	s.passLease(w, r, who, request)
}

// first returns the first value of a name, if there is one.
func first(values url.Values, name string) url.Values {
	if given := values[name]; len(given) > 0 {
		return url.Values{name: given[:1]}
	}
	return url.Values{}
}

func (s *Server) passLease(w http.ResponseWriter, r *http.Request, who caller, request etcdv2.Request) {
	a, err := s.relay(r, who, request, r.Method == http.MethodGet)
	if r.Method == http.MethodDelete {
		s.forget("") // whatever went with it
	}
	if err != nil {
		s.failUpstream(w, err)
		return
	}
	defer a.Body.Close()
	index := number(a.Header, etcdv2.HeaderIndex)
	if r.Method == http.MethodDelete && a.Status/100 == 2 {
		s.changed("", index)
	}
	s.told(who.client, a.Header.Get(etcdv2.HeaderClusterID), index)
	s.pass(w, r, a)
}

// mayUseLease reports whether the rules give want on all keys that go with a lease, or answers why not. An id that
// is none is left to the store.
func (s *Server) mayUseLease(w http.ResponseWriter, r *http.Request, who caller, id string, want right) bool {
	lease, err := kv.ParseLeaseID(id)
	all := who.rules.mayWrite("") || want == reading && who.rules.mayRead("", true)
	if err != nil || all {
		return true
	}
	a, err := s.relay(r, who, etcdv2.LeaseRequest(lease), true)
	if err != nil {
		s.failUpstream(w, err)
		return false
	}
	defer a.Body.Close()
	if a.Status != http.StatusOK {
		s.pass(w, r, a)
		return false
	}
	var wire etcdv2.Lease
	body, err := io.ReadAll(io.LimitReader(a.Body, leaseBytesMax))
	if err != nil || json.Unmarshal(body, &wire) != nil || wire.Attached != len(wire.Keys) {
		s.refuse(w, http.StatusForbidden, etcdv2.CodeUnauthorized, fmt.Sprintf("not all keys of lease %s can be seen, so that the rules of this gateway cannot be asked", id))
		return false
	}
	other := slices.ContainsFunc(wire.Keys, func(key string) bool {
		if key = kv.Clean(key); want == writing {
			return !who.rules.mayWrite(key)
		}
		return !who.rules.mayRead(key, true)
	})
	if other {
		s.refuse(w, http.StatusForbidden, etcdv2.CodeUnauthorized, fmt.Sprintf("keys go with lease %s that the rules of this gateway do not let %s %s (--gateway-allow)", id, who, map[right]string{reading: "read", writing: "write"}[want]))
		return false
	}
	return true
}
