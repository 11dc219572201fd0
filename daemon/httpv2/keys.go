package httpv2

import (
	"net/http"
	"strconv"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

func (h *handler) serveKeys(w http.ResponseWriter, r *http.Request) {
	h.setClusterID(w)
	w.Header()["Content-Type"] = jsonType
	p, err := parse(w, r, h.MaxRequestBytes)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	store, err := h.Gate.Open(r.Context(), credentials(r))
	if err != nil {
		h.fail(w, r, err)
		return
	}
	key := keyOf(r.URL.Path)
	if p.wait && !p.quorum {
		h.watch(w, r, store, kv.WatchFrom{Key: key, Recursive: p.recursive, Index: p.waitIndex, Only: p.only}, p.stream)
		return
	}
	h.operate(w, r, store, &p, key)
}

// operate answers a request that is no watch. It is a function of its own so that watches, which
// are many and wait here, need less of a stack.
func (h *handler) operate(w http.ResponseWriter, r *http.Request, store kv.Store, p *params, key string) {
	var result kv.Result
	var err error
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		quorum := p.quorum && r.Method == http.MethodGet
		result, err = store.Read(r.Context(), kv.Read{Key: key, Recursive: p.recursive, Sorted: p.sorted, Quorum: quorum, Only: p.only})
	} else {
		write := p.write(r.Method, key)
		result, err = store.Write(r.Context(), write)
		if write.NoValue { // a wish to the store, a promise to the client
			result.Node, result.PrevNode = nil, nil
		}
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	setOnly(w, p.only)
	h.setIndex(w, result.Index, result.RaftIndex, result.RaftTerm)
	status := http.StatusOK
	if result.Created {
		status = http.StatusCreated
	}
	h.replyEvent(w, status, result.Event)
}

// keyOf returns the key of a path. It is cleaned inside the key space, so that an escaped ".." leads
// nowhere else; a slash at its end stays, because it asks for a directory.
func keyOf(path string) string {
	key, asDir := kv.SplitDir(path[len(etcdv2.KeysPath):])
	if asDir {
		key += "/"
	}
	return key
}

// write returns the write that a PUT, POST or DELETE of key asks for. Parameters that mean nothing
// to an operation are dropped, as etcd drops them.
func (p *params) write(method, key string) kv.Write {
	if method == http.MethodDelete {
		if p.compares() {
			return kv.Write{Op: kv.OpCompareAndDelete, Key: key, PrevValue: p.prevValue, PrevIndex: p.prevIndex}
		}
		return kv.Write{Op: kv.OpDelete, Key: key, Dir: p.dir, Recursive: p.recursive}
	}
	write := kv.Write{Key: key, Value: p.value, NoValue: p.noValue, Lease: p.lease}
	if p.ttl != nil {
		write.TTL = etcdv2.TTLFromSeconds(*p.ttl)
	}
	switch {
	case method == http.MethodPost:
		write.Op, write.Dir = kv.OpCreateInOrder, p.dir
	case p.prevExist != nil && !*p.prevExist:
		write.Op, write.Dir = kv.OpCreate, p.dir
	case p.compares():
		write.Op, write.Refresh = kv.OpCompareAndSwap, p.refresh
		write.PrevValue, write.PrevIndex = p.prevValue, p.prevIndex
	case p.prevExist != nil:
		write.Op, write.Refresh = kv.OpUpdate, p.refresh
	default:
		write.Op, write.Dir, write.Refresh = kv.OpSet, p.dir, p.refresh
	}
	return write
}

// fail answers with the JSON form of err.
func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := etcdv2.EncodeError(err).Status()
	if kv.Is(err, kv.TooLarge) {
		status = http.StatusRequestEntityTooLarge // etcd says 400; a proxy or client can tell this apart
	}
	h.failAs(w, r, status, err)
}

// failAs is fail with another status than err has by itself.
func (h *handler) failAs(w http.ResponseWriter, r *http.Request, status int, err error) {
	wire := etcdv2.EncodeError(err)
	if status >= http.StatusInternalServerError && r.Context().Err() == nil {
		h.Log.Warn("request failed", "method", r.Method, "path", r.URL.Path, "code", wire.Code, "err", err)
	}
	w.Header().Set(etcdv2.HeaderIndex, strconv.FormatUint(wire.Index, 10))
	h.reply(w, status, append(etcdv2.AppendError(nil, wire), '\n'))
}
