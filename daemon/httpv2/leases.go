package httpv2

import (
	"net/http"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

// Leases that many keys share are kvd's own; etcd's v2 API has only TTLs.

// serveLeases grants a lease or, for root, lists them.
func (h *handler) serveLeases(w http.ResponseWriter, r *http.Request) {
	h.setClusterID(w)
	if r.Method == http.MethodPost {
		h.grantLease(w, r)
		return
	}
	f := form{values: r.URL.Query()}
	after := f.leaseID("after")
	if f.err != nil {
		h.fail(w, r, f.err)
		return
	}
	list, index, err := session(r).Leases(r.Context(), after)
	h.replyLease(w, r, http.StatusOK, index, etcdv2.EncodeLeases(list), err)
}

func (h *handler) grantLease(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, h.MaxRequestBytes)
	if err := r.ParseForm(); err != nil {
		h.fail(w, r, formError(err))
		return
	}
	f := form{values: r.Form}
	if !f.values.Has("ttl") {
		h.fail(w, r, &kv.Error{Kind: kv.Invalid, Cause: "ttl is missing: give the seconds in the query, or in a body of type application/x-www-form-urlencoded"})
		return
	}
	seconds := f.number("ttl", etcdv2.CodeTTLNaN)
	if f.err != nil {
		h.fail(w, r, f.err)
		return
	}
	leases, err := h.Gate.Authenticate(r.Context(), credentials(r))
	if err != nil {
		h.fail(w, r, err)
		return
	}
	lease, err := leases.Grant(r.Context(), etcdv2.TTLFromSeconds(seconds))
	h.replyLease(w, r, http.StatusCreated, lease.Index, etcdv2.EncodeLease(lease), err)
}

// serveLease answers about one lease.
func (h *handler) serveLease(w http.ResponseWriter, r *http.Request) {
	h.setClusterID(w)
	id, err := kv.ParseLeaseID(r.URL.Path[len(etcdv2.LeasesPath)+1:])
	if err != nil {
		h.fail(w, r, err)
		return
	}
	leases, err := h.Gate.Authenticate(r.Context(), credentials(r))
	if err != nil {
		h.fail(w, r, err)
		return
	}
	var lease kv.Lease
	switch r.Method {
	case http.MethodGet:
		lease, err = leases.Lease(r.Context(), id)
	case http.MethodPut:
		lease, err = leases.KeepAlive(r.Context(), id)
	case http.MethodDelete:
		index, err := leases.Revoke(r.Context(), id)
		h.replyLease(w, r, http.StatusOK, index, revoked{id.String()}, err)
		return
	}
	h.replyLease(w, r, http.StatusOK, lease.Index, etcdv2.EncodeLease(lease), err)
}

// revoked is what is left to say of a lease that was revoked.
type revoked struct {
	ID string `json:"id"`
}

func (h *handler) replyLease(w http.ResponseWriter, r *http.Request, status int, index kv.Index, body any, err error) {
	if err != nil {
		h.fail(w, r, err)
		return
	}
	raftIndex, raftTerm := h.Cluster.Position()
	h.setIndex(w, index, raftIndex, raftTerm)
	h.replyJSON(w, status, body, "\n")
}
