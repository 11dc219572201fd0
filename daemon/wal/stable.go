package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"github.com/hashicorp/raft"
)

// The file of a Stable has two slots, which are written in turn, in different pages. Each holds the
// record twice, in two blocks. A disk writes a block whole or not at all, so a slot without any whole
// block is damaged, never cut short: it cannot pass for one that was not written yet.
//
//	block:  crc32c of all that follows             4 bytes
//	        magic                                  4
//	        number of the record                   8
//	        length of the pairs                    2
//	        pairs: length of key, of value, both   1 + 2 + ...
const (
	stableMagic    = "kvdS"
	slotBytes      = 2 * blockBytes
	slotStride     = 4096
	stableBytes    = 2 * slotStride
	stableHead     = 18
	stablePairsMax = blockBytes - stableHead
)

// ErrKeyNotFound is what a Stable says of a key that was never set. raft knows it by its text.
var ErrKeyNotFound = errors.New("not found")

// StableConfig says where a Stable is.
type StableConfig struct {
	Dir      Dir
	Name     string // of its file
	Create   bool   // make a new one if there is none; otherwise that is an error that is fs.ErrNotExist
	ReadOnly bool   // change nothing
}

// Stable keeps a few small values durably: what raft must not forget, such as term and vote. All keys
// and values together, and three bytes for each pair, are at most 494 bytes. Each change is one write
// and one sync. After an error of the file system it takes no more changes. It implements
// raft.StableStore and is safe for concurrent use.
type Stable struct {
	path     string
	file     File
	readOnly bool

	mu     sync.Mutex // guards the fields below
	number uint64     // of the newest record
	values map[string][]byte
	fault  error
}

var _ raft.StableStore = (*Stable)(nil)

// OpenStable opens a Stable. Errors: *DamageError; fs.ErrNotExist; others are those of the file system.
func OpenStable(cfg StableConfig) (*Stable, error) {
	file, err := cfg.Dir.Open(cfg.Name)
	if errors.Is(err, fs.ErrNotExist) && cfg.Create {
		file, err = createStable(cfg.Dir, cfg.Name)
	}
	if err != nil {
		return nil, err
	}
	s := &Stable{path: cfg.Dir.Path(cfg.Name), file: file, readOnly: cfg.ReadOnly}
	err = s.read()
	if err == nil && !cfg.ReadOnly {
		// What was read may be in the kernel's memory only, if its sync had failed.
		err = errors.Join(s.put(s.number, s.values), cfg.Dir.SyncDir())
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return s, nil
}

func createStable(dir Dir, name string) (File, error) {
	file, err := dir.Create(name + unfinished)
	if err != nil {
		return nil, err
	}
	content := make([]byte, stableBytes)
	putRecord(content[slotStride:], 1, nil)
	putRecord(content, 2, nil)
	_, err = file.WriteAt(content, 0)
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = dir.Rename(name+unfinished, name)
	}
	if err == nil {
		err = dir.SyncDir()
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// slotOffset returns where record number goes.
func slotOffset(number uint64) int64 { return int64(number%2) * slotStride }

// putRecord writes both blocks of a record into b.
func putRecord(b []byte, number uint64, values map[string][]byte) {
	block := b[:blockBytes]
	clear(block)
	copy(block[4:], stableMagic)
	binary.LittleEndian.PutUint64(block[8:], number)
	pairs := block[stableHead:stableHead]
	for _, key := range slices.Sorted(maps.Keys(values)) {
		pairs = append(pairs, byte(len(key)))
		pairs = binary.LittleEndian.AppendUint16(pairs, uint16(len(values[key])))
		pairs = append(append(pairs, key...), values[key]...)
	}
	binary.LittleEndian.PutUint16(block[16:], uint16(len(pairs)))
	binary.LittleEndian.PutUint32(block, crc32.Checksum(block[4:], crc32.MakeTable(crc32.Castagnoli)))
	copy(b[blockBytes:slotBytes], block)
}

// parseRecord reads one block. ok is false if it is not whole.
func parseRecord(block []byte) (number uint64, values map[string][]byte, ok bool) {
	if len(block) < blockBytes || string(block[4:8]) != stableMagic ||
		binary.LittleEndian.Uint32(block) != crc32.Checksum(block[4:blockBytes], crc32.MakeTable(crc32.Castagnoli)) {
		return 0, nil, false
	}
	length := int(binary.LittleEndian.Uint16(block[16:]))
	if length > stablePairsMax {
		return 0, nil, false
	}
	values = map[string][]byte{}
	for pairs := block[stableHead : stableHead+length]; len(pairs) > 0; {
		if len(pairs) < 3 {
			return 0, nil, false
		}
		key, value := int(pairs[0]), int(binary.LittleEndian.Uint16(pairs[1:]))
		pairs = pairs[3:]
		if len(pairs) < key+value {
			return 0, nil, false
		}
		values[string(pairs[:key])] = slices.Clone(pairs[key : key+value])
		pairs = pairs[key+value:]
	}
	return binary.LittleEndian.Uint64(block[8:]), values, true
}

// read finds the newest record.
func (s *Stable) read() error {
	content := make([]byte, stableBytes)
	n, err := s.file.ReadAt(content, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read %s: %w", s.path, err)
	}
	content = content[:n]
	var newest [2]uint64 // in each slot
	for slot := range newest {
		off := int64(slot) * slotStride
		for _, off := range []int64{off, off + blockBytes} {
			number, values, ok := parseRecord(content[min(off, int64(n)):])
			if !ok || number%2 != uint64(slot) || number == 0 {
				continue
			}
			newest[slot] = max(newest[slot], number)
			if number > s.number {
				s.number, s.values = number, values
			}
		}
		if newest[slot] == 0 {
			return &DamageError{Path: s.path, Offset: off, Problem: "neither copy of the record of term and vote is what was written"}
		}
	}
	if newest[0]+1 != newest[1] && newest[1]+1 != newest[0] {
		return &DamageError{Path: s.path, Problem: fmt.Sprintf("records %d and %d were not written one after the other", newest[0], newest[1])}
	}
	return nil
}

// write makes values the newest record.
func (s *Stable) write(values map[string][]byte) error {
	if s.readOnly {
		return errReadOnly
	}
	if s.fault != nil {
		return s.fault
	}
	size := 0
	for key, value := range values {
		if len(key) > 255 {
			return fmt.Errorf("the key %.20q... is %d bytes long, at most 255 can be stored", key, len(key))
		}
		size += 3 + len(key) + len(value)
	}
	if size > stablePairsMax {
		return fmt.Errorf("all values would take %d bytes, at most %d can be stored", size, stablePairsMax)
	}
	if s.fault = s.put(s.number+1, values); s.fault != nil {
		return s.fault
	}
	s.number, s.values = s.number+1, values
	return nil
}

// put writes a record to its slot and syncs it.
func (s *Stable) put(number uint64, values map[string][]byte) error {
	slot := make([]byte, slotBytes)
	putRecord(slot, number, values)
	_, err := s.file.WriteAt(slot, slotOffset(number))
	if err == nil {
		err = s.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("write to %s: %w", s.path, err)
	}
	return nil
}

// Set writes a value durably.
func (s *Stable) Set(key, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	values := maps.Clone(s.values)
	values[string(key)] = slices.Clone(value)
	return s.write(values)
}

// Get returns a copy of a value, or ErrKeyNotFound.
func (s *Stable) Get(key []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.values[string(key)]
	if !ok {
		return nil, ErrKeyNotFound
	}
	return slices.Clone(value), nil
}

// SetUint64 writes a number durably.
func (s *Stable) SetUint64(key []byte, value uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, value))
}

// GetUint64 returns a number, or ErrKeyNotFound.
func (s *Stable) GetUint64(key []byte) (uint64, error) {
	value, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(value) != 8 {
		return 0, fmt.Errorf("the value of %q in %s is %d bytes long, a number has 8", key, s.path, len(value))
	}
	return binary.BigEndian.Uint64(value), nil
}

// Close closes the file.
func (s *Stable) Close() error { return s.file.Close() }
