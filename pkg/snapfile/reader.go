package snapfile

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Read reads a snapshot to its end and calls visit for each item, in order. The item is valid until
// visit returns. An error of visit ends the reading. nil means that the whole snapshot was there,
// that every checksum was right and that nothing follows. Errors: those of visit and of r, and others,
// which wrap ErrDamaged. What was visited before an error proves nothing.
func Read(r io.Reader, visit func(section byte, item []byte) error) error {
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(BlockSizeMax))
	if err != nil {
		return err
	}
	defer decoder.Close()
	digest := sha256.New()
	in := io.TeeReader(bufio.NewReaderSize(r, BlockSize), digest)
	if err := readHead(in); err != nil {
		return err
	}
	for ended := false; !ended; {
		section, items, block, err := readBlock(in, decoder)
		if err != nil {
			return err
		}
		if err := Items(items, block, func(item []byte) error { return visit(section, item) }); err != nil {
			return err
		}
		ended = section == End
	}
	want := digest.Sum(nil)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(in, got); err != nil {
		return cut("before its digest does", err)
	}
	if !bytes.Equal(got, want) {
		return Damaged("its digest does not match its content")
	}
	switch n, err := io.ReadFull(in, got[:1]); {
	case n > 0:
		return Damaged("it goes on after its digest")
	case err != io.EOF:
		return err
	}
	return nil
}

func readHead(in io.Reader) error {
	head := make([]byte, HeadSize)
	switch _, err := io.ReadFull(in, head); {
	case err == io.EOF:
		return Damaged("nothing came, not a single byte")
	case err != nil:
		return cut("before its header does", err)
	}
	if string(head[:len(Magic)]) != Magic {
		return Damaged("it does not begin as a snapshot does")
	}
	switch format := binary.LittleEndian.Uint32(head[len(Magic):]); {
	case format > Format:
		return Newer("it has format %d, this version reads %d", format, Format)
	case format < Format:
		return Damaged("it has format %d, this version reads %d", format, Format)
	}
	return nil
}

func readBlock(in io.Reader, decoder *zstd.Decoder) (section byte, items uint32, block []byte, err error) {
	header := make([]byte, BlockHeaderSize)
	if _, err := io.ReadFull(in, header); err != nil {
		return 0, 0, nil, cut("in the middle", err)
	}
	items = binary.LittleEndian.Uint32(header[4:])
	rawLength, length := binary.LittleEndian.Uint32(header[8:]), binary.LittleEndian.Uint32(header[12:])
	if rawLength > BlockSizeMax || length > BlockSizeMax {
		return 0, 0, nil, Damaged("a block of %d bytes is larger than any that is written", max(rawLength, length))
	}
	data, err := io.ReadAll(io.LimitReader(in, int64(length)))
	if err != nil || len(data) != int(length) {
		return 0, 0, nil, cut("in the middle of a block", err)
	}
	if crc32.Checksum(data, Castagnoli) != binary.LittleEndian.Uint32(header[16:]) {
		return 0, 0, nil, Damaged("the checksum of a block does not match")
	}
	switch header[1] {
	case CodecNone:
	case CodecZstd:
		if data, err = decoder.DecodeAll(data, make([]byte, 0, min(rawLength, 4*BlockSize))); err != nil {
			return 0, 0, nil, Damaged("a block cannot be unpacked: %v", err)
		}
	default:
		return 0, 0, nil, Damaged("unknown codec %d", header[1])
	}
	if len(data) != int(rawLength) {
		return 0, 0, nil, Damaged("a block unpacks to %d bytes instead of %d", len(data), rawLength)
	}
	return header[0], items, data, nil
}

// Items takes a block of n items apart and calls visit for each. Errors: that of visit, and others,
// which wrap ErrDamaged.
func Items(n uint32, block []byte, visit func(item []byte) error) error {
	if n == 0 {
		return Damaged("a block has no items")
	}
	for range n {
		if len(block) < 4 || int64(binary.LittleEndian.Uint32(block)) > int64(len(block)-4) {
			return Damaged("an item ends outside its block")
		}
		length := binary.LittleEndian.Uint32(block)
		item := block[4 : 4+length]
		block = block[4+length:]
		if err := visit(item); err != nil {
			return err
		}
	}
	if len(block) > 0 {
		return Damaged("a block goes on after its last item")
	}
	return nil
}
