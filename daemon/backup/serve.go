package backup

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/kvd-io/kvd/daemon/route"
	"github.com/kvd-io/kvd/pkg/etcdv2"
)

const (
	// chunkBytes is what is sent at a time, and chunkTime the least that each takes: 64 MiB a second
	// leave something of the link to others.
	chunkBytes = 256 << 10
	chunkTime  = chunkBytes * time.Second / (64 << 20)
)

// currentTimeout is how long a request waits for the member to be as far as the others.
const currentTimeout = 3 * time.Second

// Routes returns the route of a snapshot of this member.
func (b *Backups) Routes() []route.Route {
	return []route.Route{{Path: etcdv2.SnapshotPath, Methods: route.For(route.Root, http.MethodGet), Handler: b.serve}}
}

// serve sends a new snapshot, of all that was acknowledged before or, with serializable=true, of what this
// member has, or, asked for snapshot=ID and from=OFFSET, the rest of one that broke off. A
// stream that ends with an error is cut off, so that nobody takes it for whole.
func (b *Backups) serve(w http.ResponseWriter, r *http.Request) {
	s, from, ok := b.find(w, r)
	if !ok {
		return
	}
	defer b.spools.leave(s)
	header := w.Header()
	header.Set("Content-Type", "application/octet-stream")
	header.Set("Cache-Control", "no-store")
	header.Set(etcdv2.HeaderSnapshot, s.id)
	header.Set(etcdv2.HeaderIndex, strconv.FormatUint(s.index, 10))
	header.Set(etcdv2.HeaderRaftIndex, strconv.FormatUint(s.raftIndex, 10))
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(b.ctx, cancel)()
	if err := s.send(ctx, w, from); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// find returns the spool that a request is about, which counts the request as a reader, or answers it.
func (b *Backups) find(w http.ResponseWriter, r *http.Request) (s *spool, from int64, ok bool) {
	query := r.URL.Query()
	id, offset := query.Get("snapshot"), query.Get("from")
	if id == "" {
		if offset != "" {
			refuse(w, http.StatusBadRequest, "from is the place in a snapshot: name that one with snapshot=ID, as the header "+etcdv2.HeaderSnapshot+" did")
			return nil, 0, false
		}
		if query.Get("serializable") != "true" {
			ctx, cancel := context.WithTimeout(r.Context(), currentTimeout)
			err := b.config.Current(ctx)
			cancel()
			if err != nil {
				refuse(w, http.StatusServiceUnavailable, "this member cannot tell whether it has everything: "+err.Error()+"; with serializable=true (kvctl snapshot save --serializable) it sends what it has")
				return nil, 0, false
			}
		}
		s, err := b.newSpool()
		if err != nil {
			refuse(w, http.StatusServiceUnavailable, err.Error())
			return nil, 0, false
		}
		return s, 0, true
	}
	from, err := strconv.ParseInt(offset, 10, 64)
	if offset == "" {
		from, err = 0, nil
	}
	if err != nil || from < 0 {
		refuse(w, http.StatusBadRequest, "from is not a number of bytes")
		return nil, 0, false
	}
	if s = b.spools.resume(id); s == nil {
		refuse(w, http.StatusNotFound, "this member does not have that snapshot any more: begin a new one")
		return nil, 0, false
	}
	if size, _ := s.place(); from > size {
		b.spools.leave(s)
		refuse(w, http.StatusRequestedRangeNotSatisfiable, "from is behind what there is of that snapshot")
		return nil, 0, false
	}
	return s, from, true
}

// send writes the snapshot from offset on, as far and as soon as it is there.
func (s *spool) send(ctx context.Context, w http.ResponseWriter, offset int64) error {
	flush := http.NewResponseController(w).Flush
	chunk := make([]byte, chunkBytes)
	for {
		begun := time.Now()
		n, err := s.readAt(ctx, chunk, offset)
		switch {
		case errors.Is(err, io.EOF) && n == 0:
			return nil
		case err != nil && !errors.Is(err, io.EOF):
			return err
		}
		if _, err := w.Write(chunk[:n]); err != nil {
			return err
		}
		if err := flush(); err != nil {
			return err
		}
		offset += int64(n)
		if err := rest(ctx, chunkTime*time.Duration(n)/chunkBytes-time.Since(begun)); err != nil {
			return err
		}
	}
}

func refuse(w http.ResponseWriter, status int, message string) {
	body, err := json.Marshal(map[string]string{"message": message})
	if err != nil {
		http.Error(w, message, status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(body, '\n'))
}
