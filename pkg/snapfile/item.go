package snapfile

import "encoding/binary"

// Item takes an item apart. After the first failure everything reads as zero.
type Item struct {
	data   []byte
	failed bool
}

// NewItem returns an Item that reads data.
func NewItem(data []byte) *Item { return &Item{data: data} }

// Done reports whether all was read, and nothing else than what was there.
func (r *Item) Done() bool { return !r.failed && len(r.data) == 0 }

// Failed reports whether something was read that was not there.
func (r *Item) Failed() bool { return r.failed }

// Len returns how many bytes are left.
func (r *Item) Len() int { return len(r.data) }

// Peek returns the next byte without reading it, 0 if there is none.
func (r *Item) Peek() byte {
	if len(r.data) == 0 {
		return 0
	}
	return r.data[0]
}

// Fail makes the item one that cannot be read.
func (r *Item) Fail() { r.failed, r.data = true, nil }

// Byte reads one byte.
func (r *Item) Byte() byte {
	if len(r.data) == 0 {
		r.Fail()
		return 0
	}
	b := r.data[0]
	r.data = r.data[1:]
	return b
}

// Tag reads a byte that must be want.
func (r *Item) Tag(want byte) {
	if len(r.data) == 0 || r.Byte() != want {
		r.Fail()
	}
}

// Uint reads a varint.
func (r *Item) Uint() uint64 {
	v, n := binary.Uvarint(r.data)
	if n <= 0 {
		r.Fail()
		return 0
	}
	r.data = r.data[n:]
	return v
}

// Int reads a signed varint.
func (r *Item) Int() int64 {
	v, n := binary.Varint(r.data)
	if n <= 0 {
		r.Fail()
		return 0
	}
	r.data = r.data[n:]
	return v
}

// Fixed reads eight bytes.
func (r *Item) Fixed() uint64 {
	if len(r.data) < 8 {
		r.Fail()
		return 0
	}
	v := binary.LittleEndian.Uint64(r.data)
	r.data = r.data[8:]
	return v
}

// Text reads a length and as many bytes. The text is a copy.
func (r *Item) Text() string {
	length := r.Uint()
	if length > uint64(len(r.data)) {
		r.Fail()
		return ""
	}
	text := string(r.data[:length])
	r.data = r.data[length:]
	return text
}

// Rest reads what is left. It is shared with the item.
func (r *Item) Rest() []byte {
	rest := r.data
	r.data = nil
	return rest
}
