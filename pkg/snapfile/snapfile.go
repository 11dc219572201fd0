// Package snapfile is the file form of a snapshot: blocks of items in sections, checksums, and what
// clients may read in it, records and directories, leases and the label.
//
// It knows the form for the store, which writes and restores snapshots, and for whoever looks into
// a file without a daemon. It knows no rules of the store and no place where snapshots are kept.
//
//	facts, err := snapfile.Scan(file, snapfile.Visitor{Record: func(r snapfile.Record) error { ... }})
//
// A snapshot is a row of blocks between a magic and a digest:
//
//	magic "kvd snap", format uint32
//	block*: section uint8, codec uint8, 2 zero bytes, items uint32, raw length uint32, length uint32, CRC32C uint32, data
//	a block of the section End: counts of the sections and the state sum
//	SHA-256 over everything before it
//
// All numbers are little endian. A section may take many blocks; an item, which is led by its length
// as uint32, never crosses from one block to the next. A reader refuses an unknown section whose
// number has the critical bit and skips any other, so that later versions can add what earlier ones
// may ignore.
package snapfile

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	// Magic begins every snapshot.
	Magic = "kvd snap"
	// Format is the one form that this version writes and reads.
	Format = 1

	// BlockSize is the raw size at which a block is closed; one large item may exceed it.
	BlockSize = 256 << 10
	// BlockSizeMax bounds what a reader allocates for a block. The largest item is an event with a
	// node before and one after it, each of a request of up to 32 MiB.
	BlockSizeMax = 128 << 20

	// HeadSize is the size of magic and format.
	HeadSize = len(Magic) + 4
	// BlockHeaderSize is the size of what leads a block.
	BlockHeaderSize = 20
)

// Critical marks sections that a reader must know.
const Critical = 0x80

// The sections, in the order that they are written.
const (
	Header  = Critical | 1
	Labels  = 1 // of files that leave the cluster; at most one
	Records = Critical | 2
	Dirs    = Critical | 3
	Leases  = Critical | 4
	Members = Critical | 5
	History = Critical | 6
	Auth    = Critical | 7
	Origins = Critical | 8 // since LevelOrigins
	Removed = Critical | 9 // since LevelOrigins
	Invited = Critical | 10
	End     = Critical | 0x7f
)

// LevelOrigins is the feature level since which End has nine counts instead of seven, and after the
// state sum that part of it which is over the sequences of Origins.
const LevelOrigins = 3

// The codecs of a block.
const (
	CodecNone = 0
	CodecZstd = 1
)

// The first byte of an item's encoding keeps a record and a directory of one path apart.
const (
	ItemRecord = 'r'
	ItemDir    = 'd'
	ItemLease  = 'l'
	ItemOrigin = 'p'
	ItemAuth   = 'a'
	ItemUser   = 'u'
	ItemRole   = 'o'
)

// Castagnoli is the table of the blocks' checksums. It is read only.
var Castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrDamaged is wrapped by every error about the content of a snapshot.
var ErrDamaged = errors.New("damaged or foreign snapshot")

// ErrNewer is wrapped, beside ErrDamaged, by the error of a snapshot that only a later version reads.
var ErrNewer = errors.New("written by a newer kvd")

// Damaged returns an error that wraps ErrDamaged.
func Damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

// Newer returns an error that wraps ErrDamaged and ErrNewer.
func Newer(format string, args ...any) error {
	return fmt.Errorf("%w: %s: %w", ErrDamaged, fmt.Sprintf(format, args...), ErrNewer)
}

// cut says why there was no more to read: the reader's own error, or a snapshot that is too short.
func cut(where string, err error) error {
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return err
	}
	return Damaged("it ends %s", where)
}
