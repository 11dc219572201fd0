package httpv2

import (
	"net/http"
	"strconv"
	"time"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

// jsonType is shared by the headers of all answers: read only.
var jsonType = []string{"application/json"}

func (h *handler) setClusterID(w http.ResponseWriter) {
	w.Header()[etcdv2.HeaderClusterID] = h.clusterID
}

// position is what setIndex has to write, and how it reads as text. Between two changes of the
// store all answers have the same.
type position struct {
	index               kv.Index
	raftIndex, raftTerm uint64
	text                [3][]string
}

func (h *handler) setIndex(w http.ResponseWriter, index kv.Index, raftIndex, raftTerm uint64) {
	p := h.last.Load()
	if p == nil || p.index != index || p.raftIndex != raftIndex || p.raftTerm != raftTerm {
		p = &position{index: index, raftIndex: raftIndex, raftTerm: raftTerm}
		for i, n := range [...]uint64{index, raftIndex, raftTerm} {
			p.text[i] = []string{strconv.FormatUint(n, 10)}
		}
		h.last.Store(p)
	}
	header := w.Header()
	header[etcdv2.HeaderIndex], header[etcdv2.HeaderRaftIndex], header[etcdv2.HeaderRaftTerm] = p.text[0], p.text[1], p.text[2]
}

// setOnly says to how many keys an answer is narrowed, so that the client need not do it.
func setOnly(w http.ResponseWriter, keys []string) {
	if len(keys) > 0 {
		w.Header().Set(etcdv2.HeaderOnly, strconv.Itoa(len(keys)))
	}
}

const (
	// usualReply is room for the JSON of most events.
	usualReply = 1 << 10
	// keptReply is the largest buffer that is kept for the next answer.
	keptReply = 1 << 20
	// shortReply is a length up to which net/http itself tells the length of an answer.
	shortReply = 2 << 10
)

// replyEvent answers with the JSON form of event.
func (h *handler) replyEvent(w http.ResponseWriter, status int, event kv.Event) {
	if rendered := h.listings.of(event); rendered != nil {
		h.reply(w, status, rendered)
		return
	}
	buffer, ok := h.buffers.Get().(*[]byte)
	if !ok {
		buffer = new([]byte)
		*buffer = make([]byte, 0, usualReply)
	}
	*buffer = render((*buffer)[:0], event)
	h.reply(w, status, *buffer) // nobody keeps what is given to Write
	if cap(*buffer) <= keptReply {
		h.buffers.Put(buffer)
	}
}

// render appends the JSON form of event as a line.
func render(b []byte, event kv.Event) []byte {
	return append(etcdv2.AppendEvent(b, event), '\n')
}

// replyChunk is how much of a long answer a client has to read within one WriteTimeout.
const replyChunk = 64 << 10

// reply writes the whole answer, with its length. A client that does not read a long one is cut
// off, because the answer stays in memory until it is gone.
func (h *handler) reply(w http.ResponseWriter, status int, body []byte) {
	if len(body) > shortReply {
		w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
	w.WriteHeader(status)
	for len(body) > replyChunk {
		h.extendDeadline(w)
		if _, err := w.Write(body[:replyChunk]); err != nil {
			return
		}
		body = body[replyChunk:]
	}
	_, _ = w.Write(body) // a client that has gone cannot be told
}

// extendDeadline gives the client another WriteTimeout to read what is written next. A writer
// without deadlines, as in a test, has nobody to cut off.
func (h *handler) extendDeadline(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(h.WriteTimeout))
}
