package peer

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sync"
)

// header is what every message of a stream of kind rpc begins with: length u32, id u64, method u8,
// flags u8, in network byte order. length counts the bytes behind it.
type header struct {
	length int
	id     uint64 // of the request; its answer has the same
	method Method // 0 for a ping and its answer, which carry nothing
	flags  flags
}

type flags uint8

const (
	flagAnswer     flags = 1 << iota // of the request with the id; otherwise it is a request
	flagFailed                       // the answer is the text of an error
	flagNotHandled                   // and the request had no effect

	flagsKnown = flagAnswer | flagFailed | flagNotHandled
)

const headerBytes = 14

func (h header) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(h.length))
	b = binary.BigEndian.AppendUint64(b, h.id)
	return append(b, byte(h.method), byte(h.flags))
}

func parseHeader(b [headerBytes]byte) (header, error) {
	length := binary.BigEndian.Uint32(b[:])
	h := header{id: binary.BigEndian.Uint64(b[4:]), method: Method(b[12]), flags: flags(b[13])}
	if length > MessageBytesMax {
		return header{}, fmt.Errorf("%w: one of %d bytes was announced, the most is %d", ErrTooLarge, length, MessageBytesMax)
	}
	h.length = int(length)
	switch {
	case h.flags&^flagsKnown != 0:
		return header{}, fmt.Errorf("a message has flags that this release does not know: %#x", byte(h.flags))
	case h.flags&flagAnswer == 0 && h.flags != 0, h.flags&flagFailed == 0 && h.flags&flagNotHandled != 0:
		return header{}, fmt.Errorf("a message has flags that contradict each other: %#x", byte(h.flags))
	case h.method == 0 && (h.length != 0 || h.flags&^flagAnswer != 0):
		return header{}, fmt.Errorf("a ping carries %d bytes and flags %#x", h.length, byte(h.flags))
	}
	return h, nil
}

// trustedBytes is how much of a message is allocated before any of it has arrived.
const trustedBytes = 256 << 10

// readMessage returns the next message of r. Its body belongs to the caller; nil if it is empty.
// Errors: io.EOF between two messages, io.ErrUnexpectedEOF within one.
func readMessage(r io.Reader) (header, []byte, error) {
	var b [headerBytes]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return header{}, nil, err
	}
	h, err := parseHeader(b)
	if err != nil || h.length == 0 {
		return h, nil, err
	}
	body := make([]byte, min(h.length, trustedBytes))
	for read := 0; ; {
		got, err := io.ReadFull(r, body[read:])
		if read += got; err != nil {
			return header{}, nil, io.ErrUnexpectedEOF
		}
		if read == h.length {
			return h, body, nil
		}
		next := min(h.length, 2*read)
		body = slices.Grow(body, next-read)[:next]
	}
}

const (
	// queueBytesMax is how many bytes wait to be written to a connection: room for all requests
	// that may be in flight, with their headers.
	queueBytesMax = callBytesMax + callsMax*headerBytes + 1<<10
	keptBytesMax  = 1 << 20 // larger buffers are not kept for the next round
)

// writer writes messages to a connection, many at a time: whatever was put while the last write was
// under way goes out with the next. It is safe for concurrent use.
type writer struct {
	conn io.Writer

	mu      sync.Mutex
	wake    sync.Cond // of run: there is something to write and nobody writes, or it is over
	room    sync.Cond // of put: there is room again, or it is over
	pending []byte
	spare   []byte // for pending, while that is written
	writing bool
	over    bool
}

func newWriter(conn io.Writer) *writer {
	w := &writer{conn: conn}
	w.wake.L, w.room.L = &w.mu, &w.mu
	return w
}

// put queues a message; h.length is set here. body may be changed afterwards. It waits while too
// much is queued. After close it does nothing.
func (w *writer) put(h header, body []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue(h, body)
	w.wake.Signal()
}

// send is put for who can wait for the connection to take the message. Unless somebody else writes
// already, it writes itself: to wake run would cost more. Error: that of the connection.
func (w *writer) send(h header, body []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue(h, body)
	if w.over || w.writing { // who writes sees to the next
		return nil
	}
	return w.write()
}

// queue waits for room. w.mu is held.
func (w *writer) queue(h header, body []byte) {
	for len(w.pending) >= queueBytesMax && !w.over {
		w.room.Wait()
	}
	if !w.over {
		h.length = len(body)
		w.pending = append(h.append(w.pending), body...)
	}
}

// run writes what is put until close or the first error, which it returns.
func (w *writer) run() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		for (len(w.pending) == 0 || w.writing) && !w.over {
			w.wake.Wait()
		}
		if w.over {
			return nil
		}
		if err := w.write(); err != nil {
			return err
		}
	}
}

// write writes what is queued, if nobody else does. w.mu is held, but for the time of the write.
func (w *writer) write() error {
	batch := w.pending
	w.pending, w.spare = w.spare, nil
	w.writing = true
	w.room.Broadcast()
	w.mu.Unlock()
	_, err := w.conn.Write(batch)
	w.mu.Lock()
	w.writing = false
	if cap(batch) <= keptBytesMax {
		w.spare = batch[:0]
	}
	w.wake.Signal() // for what was put meanwhile
	return err
}

// close ends run, put and send. What is queued is dropped.
func (w *writer) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.pending = nil
	w.wake.Signal()
	w.room.Broadcast()
}
