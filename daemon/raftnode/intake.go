package raftnode

import (
	"errors"
	"fmt"
	"net"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/daemon/peer"
)

const (
	// appendBytesMax is the size of the largest request to append entries: each may be a batch that was all
	// but full when the largest message of another member came to it.
	appendBytesMax = maxAppendEntries * (batchBytes + peer.MessageBytesMax)
	// otherBytesMax is that of every other request, without the content of a snapshot.
	otherBytesMax = 64 << 10
	// elementsMax is how many elements a list in a request has; that of entries is the longest there is.
	elementsMax = 1024
)

// The kinds of requests, by their first byte.
const (
	requestAppend  = 0
	requestInstall = 2
	requestKinds   = 5
)

// intake is a connection on which another member makes requests to raft, with a bound. Raft itself would
// take in whatever length is announced, and on a peer port without TLS that comes from whoever connects.
//
// A request is a byte for its kind and one value of MessagePack, an InstallSnapshot with as many bytes behind
// it as it says.
type intake struct {
	net.Conn
	// fits returns why there is no room for a snapshot, nil if there is.
	fits func(bytes int64) error

	kind   byte   // of the request
	values int    // of the request that are still to come, as far as is known; 0: none is on its way
	most   int    // bytes that the request may have
	room   int    // for bytes of the request that are still to come
	skip   uint64 // bytes in which no value begins
	head   []byte // of a value that began in an earlier read
	asked  []byte // an InstallSnapshot, as far as it has come
}

// Read reads. What follows a request that is refused is not handed out.
func (c *intake) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if refusal := c.follow(p[:n]); refusal != nil {
		return 0, refusal
	}
	return n, err
}

// follow takes what has come.
func (c *intake) follow(p []byte) error {
	for len(p) > 0 {
		var n int
		var err error
		switch {
		case c.skip > 0:
			n = int(min(c.skip, uint64(len(p))))
			c.skip -= uint64(n)
			if c.values > 0 || len(c.asked) > 0 {
				c.keep(p[:n])
			}
		case c.values == 0:
			n, err = 1, c.begin(p[0])
		default:
			n, err = 1, c.step(p[0])
			c.keep(p[:1])
		}
		if p = p[n:]; err == nil && c.values == 0 && c.skip == 0 {
			err = c.end()
		}
		if err != nil {
			return fmt.Errorf("a request to raft is refused: %w", err)
		}
	}
	return nil
}

// begin takes the first byte of a request.
func (c *intake) begin(kind byte) error {
	if kind >= requestKinds {
		return fmt.Errorf("there is no kind %d", kind)
	}
	c.kind, c.values, c.most = kind, 1, otherBytesMax
	if kind == requestAppend {
		c.most = appendBytesMax
	}
	c.room = c.most
	return nil
}

// keep keeps what a snapshot's size is read from.
func (c *intake) keep(p []byte) {
	if c.kind == requestInstall {
		c.asked = append(c.asked, p...)
	}
}

// step takes a byte of what says of a value what it is.
func (c *intake) step(b byte) error {
	c.head = append(c.head, b)
	c.room--
	form := forms[c.head[0]]
	if len(c.head) < 1+form.length {
		return nil
	}
	n := form.size
	for _, b := range c.head[1:] {
		n = n<<8 | uint64(b)
	}
	c.head = c.head[:0]
	c.values--
	switch {
	case !form.valid:
		return errors.New("it is not in the form of this version")
	case form.elements == 0:
		c.skip = n + form.more
	case n > elementsMax:
		return fmt.Errorf("a list in it has %d elements, the most is %d", n, elementsMax)
	default:
		c.values += int(n) * form.elements
	}
	if c.skip > uint64(max(c.room, 0)) || c.values > c.room {
		return fmt.Errorf("it is larger than %d bytes", c.most)
	}
	c.room -= int(c.skip)
	return nil
}

// end is called when a request has come, or the content of a snapshot behind it.
func (c *intake) end() error {
	if c.kind != requestInstall || len(c.asked) == 0 {
		return nil
	}
	var request raft.InstallSnapshotRequest
	err := codec.NewDecoderBytes(c.asked, &codec.MsgpackHandle{}).Decode(&request)
	c.asked = nil
	if err != nil || request.Size < 0 {
		return fmt.Errorf("a snapshot of %d bytes: %w", request.Size, err)
	}
	c.skip = uint64(request.Size)
	return c.fits(request.Size)
}

// form says how a value of MessagePack goes on after its first byte.
type form struct {
	valid    bool
	length   int    // bytes of a number that follows: how long the value is, or how many elements it has
	size     uint64 // that number if there is none
	more     uint64 // bytes that belong to the value beside
	elements int    // values that each element is, 0 for a value that is bytes
}

// forms are those of all first bytes. It is read only.
var forms = func() (table [256]form) {
	for b := range table {
		switch {
		case b <= 0x7f, b >= 0xe0: // small numbers
			table[b] = form{valid: true}
		case b <= 0x8f: // small maps
			table[b] = form{valid: true, size: uint64(b & 0xf), elements: 2}
		case b <= 0x9f: // small lists
			table[b] = form{valid: true, size: uint64(b & 0xf), elements: 1}
		case b <= 0xbf: // short text
			table[b] = form{valid: true, size: uint64(b & 0x1f)}
		}
	}
	for b, size := range map[byte]uint64{
		0xc0: 0, 0xc2: 0, 0xc3: 0, // nothing, no, yes
		0xca: 4, 0xcb: 8, // floating point
		0xcc: 1, 0xcd: 2, 0xce: 4, 0xcf: 8, 0xd0: 1, 0xd1: 2, 0xd2: 4, 0xd3: 8, // numbers
		0xd4: 2, 0xd5: 3, 0xd6: 5, 0xd7: 9, 0xd8: 17, // extensions
	} {
		table[b] = form{valid: true, size: size}
	}
	for i, length := range []int{1, 2, 4} {
		table[0xc4+i] = form{valid: true, length: length}          // bytes
		table[0xc7+i] = form{valid: true, length: length, more: 1} // extensions
		table[0xd9+i] = form{valid: true, length: length}          // text
	}
	for i, length := range []int{2, 4} {
		table[0xdc+i] = form{valid: true, length: length, elements: 1} // lists
		table[0xde+i] = form{valid: true, length: length, elements: 2} // maps
	}
	return table
}()
