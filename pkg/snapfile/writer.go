package snapfile

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Writer collects items into blocks and writes them. The first error sticks. It is for one goroutine.
type Writer struct {
	w        io.Writer
	blockMax int
	digest   hash.Hash
	encoder  *zstd.Encoder
	written  int64
	err      error

	section byte
	items   uint32
	block   []byte
	packed  []byte
}

// NewWriter returns a writer that has begun a snapshot on w. Close ends it.
func NewWriter(w io.Writer) *Writer {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	o := &Writer{w: w, blockMax: BlockSizeMax, digest: sha256.New(), encoder: encoder, err: err}
	o.raw([]byte(Magic))
	o.raw(binary.LittleEndian.AppendUint32(nil, Format))
	return o
}

// Err returns the first error, nil while there is none.
func (o *Writer) Err() error { return o.err }

func (o *Writer) raw(b []byte) {
	if o.err != nil {
		return
	}
	var n int
	n, o.err = o.w.Write(b)
	o.written += int64(n)
	o.digest.Write(b)
}

// Item adds what encode appends as one item of a section.
func (o *Writer) Item(section byte, encode func([]byte) []byte) {
	if o.section != section || len(o.block) >= BlockSize {
		o.flush()
		o.section = section
	}
	start := len(o.block)
	o.block = append(o.block, 0, 0, 0, 0)
	o.block = encode(o.block)
	binary.LittleEndian.PutUint32(o.block[start:], uint32(len(o.block)-start-4))
	o.items++
}

func (o *Writer) flush() {
	if o.items == 0 || o.err != nil {
		return
	}
	if len(o.block) > o.blockMax {
		o.err = fmt.Errorf("a block of %d bytes is larger than a reader accepts", len(o.block))
	}
	codec, data := byte(CodecNone), o.block
	if o.packed = o.encoder.EncodeAll(o.block, o.packed[:0]); len(o.packed) < len(o.block) {
		codec, data = CodecZstd, o.packed
	}
	header := make([]byte, BlockHeaderSize)
	header[0], header[1] = o.section, codec
	binary.LittleEndian.PutUint32(header[4:], o.items)
	binary.LittleEndian.PutUint32(header[8:], uint32(len(o.block)))
	binary.LittleEndian.PutUint32(header[12:], uint32(len(data)))
	binary.LittleEndian.PutUint32(header[16:], crc32.Checksum(data, Castagnoli))
	o.raw(header)
	o.raw(data)
	o.block, o.items = o.block[:0], 0
}

// Close writes the rest and the digest, and returns how many bytes there are in all. It does not
// close the underlying writer.
func (o *Writer) Close() (int64, error) {
	o.flush()
	o.raw(o.digest.Sum(nil))
	if o.encoder != nil {
		o.encoder.Close()
	}
	return o.written, o.err
}
