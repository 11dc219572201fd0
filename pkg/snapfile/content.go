package snapfile

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/zeebo/xxh3"
)

// Label says where a snapshot comes from. It is for people: what is restored does not depend on it.
type Label struct {
	Cluster, Member uint64    // ids
	Name            string    // of the member
	Version         string    // of kvd
	Time            time.Time // by the member's clock
	Keys            uint64    // how many records follow, to show progress
}

const labelForm = 1

// AppendTo appends the label's encoding to b and returns the extended slice.
func (l Label) AppendTo(b []byte) []byte {
	b = append(b, labelForm)
	b = binary.AppendUvarint(b, l.Cluster)
	b = binary.AppendUvarint(b, l.Member)
	b = appendText(b, l.Name)
	b = appendText(b, l.Version)
	b = binary.AppendVarint(b, l.Time.UnixNano())
	return binary.AppendUvarint(b, l.Keys)
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// Record is one key with its value.
type Record struct {
	Key, Value           string
	Create, Mod, Version uint64 // of the v3 API
	Lease                uint64 // 0 for none
	Created, Modified    uint64 // createdIndex and modifiedIndex of the v2 API
}

// ReadRecord reads a record from an item.
func ReadRecord(item *Item) Record {
	item.Tag(ItemRecord)
	return Record{Key: item.Text(), Value: item.Text(), Create: item.Uint(), Mod: item.Uint(), Version: item.Uint(),
		Lease: item.Uint(), Created: item.Uint(), Modified: item.Uint()}
}

// Lease is what ends keys.
type Lease struct {
	ID       uint64
	TTL      time.Duration
	Deadline int64 // on the lease clock, ns
}

// ReadLease reads a lease from an item, but for what is of use to the store alone.
func ReadLease(item *Item) Lease {
	item.Tag(ItemLease)
	l := Lease{ID: item.Uint(), TTL: time.Duration(item.Int()), Deadline: item.Int()}
	item.Int()
	return l
}

// ImplicitLease is what the upper 16 bits of a lease's id are that belongs to one key or directory alone,
// because that was given a TTL.
const ImplicitLease = 0x7E76

// Implicit reports whether a lease is of one key or directory alone.
func (l Lease) Implicit() bool { return l.ID>>48 == ImplicitLease }

// Dir is one directory.
type Dir struct {
	Path              string // "" is the root
	Created, Modified uint64
	Lease             uint64 // 0 for none
	Children          uint64
}

// ReadDir reads a directory from an item.
func ReadDir(item *Item) Dir {
	item.Tag(ItemDir)
	return Dir{Path: item.Text(), Created: item.Uint(), Modified: item.Uint(), Lease: item.Uint(), Children: item.Uint()}
}

// Access is an item of access control: whether it is on, a user, or a role.
type Access struct {
	Tag         byte        // ItemAuth, ItemUser or ItemRole
	Name        string      // of the user or role
	Enabled     bool        // ItemAuth
	Hash        string      // of the user's password
	Roles       []string    // of the user
	Read, Write [][2]string // of the role: from the first key to before the second
}

// ReadAccess reads an item of access control.
func ReadAccess(item *Item) Access {
	a := Access{Tag: item.Byte()}
	span := func() [2]string { return [2]string{item.Text(), item.Text()} }
	switch a.Tag {
	case ItemAuth:
		item.Uint()
		a.Enabled = item.Uint() == 1
	case ItemUser:
		a.Name, a.Hash, a.Roles = item.Text(), item.Text(), readList(item, item.Text)
	case ItemRole:
		a.Name, a.Read, a.Write = item.Text(), readList(item, span), readList(item, span)
	default:
		item.Fail()
	}
	return a
}

// readList reads a list, whose length is written one too high: 0 stands for one that is not there.
func readList[T any](item *Item, one func() T) (list []T) {
	for length := item.Uint(); length > 1 && !item.Failed(); length-- {
		list = append(list, one())
	}
	return list
}

// Sum is the sum of the hashes of all items that the store sums up: see the store's Sum.
type Sum struct{ Hi, Lo uint64 }

// String returns the sum in 32 hex digits.
func (s Sum) String() string { return fmt.Sprintf("%016x%016x", s.Hi, s.Lo) }

// Facts are what a snapshot says about itself, all of it checked.
type Facts struct {
	Level               uint64 // features that are needed to restore it
	RaftIndex, RaftTerm uint64 // of the last log entry in it
	Index               uint64 // of the last change, X-Etcd-Index
	Clock               int64  // lease clock, ns
	Labelled            bool
	Label               Label
	Records, Dirs       int
	Leases, Events      int
	Bytes               int64 // size of the file
	Sum                 Sum   // of the state
}

// Visitor is who looks at what a snapshot holds. Each function may be nil. What one is given is its
// own to keep; its error ends the reading.
type Visitor struct {
	Facts  func(Facts) error // first: header and label, not counts and sum
	Record func(Record) error
	Dir    func(Dir) error    // after all records
	Lease  func(Lease) error  // after all directories
	Access func(Access) error // after all leases
}

// Scan reads a snapshot to its end, checks checksums, counts and sum, and shows it to v as it goes.
// What was shown before an error proves nothing. Errors: as those of Read.
func Scan(r io.Reader, v Visitor) (Facts, error) {
	s := scanner{visitor: v}
	counted := &countingReader{r: r}
	if err := Read(counted, s.item); err != nil {
		return Facts{}, err
	}
	s.facts.Bytes = counted.n
	return s.facts, nil
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

type scanner struct {
	visitor Visitor
	facts   Facts
	begun   bool // the header was there
	told    bool // the visitor knows the facts
	sum     Sum
}

func (s *scanner) item(section byte, data []byte) error {
	if !s.begun && section != Header {
		return Damaged("its first section is %d", section&^Critical)
	}
	if section != Header && section != Labels {
		if err := s.tell(); err != nil {
			return err
		}
	}
	item := NewItem(data)
	f := &s.facts
	switch section {
	case Header:
		s.begun = true
		f.Level, f.RaftIndex, f.RaftTerm, f.Index, f.Clock = item.Uint(), item.Uint(), item.Uint(), item.Uint(), item.Int()
		item.Int()
	case Labels:
		s.label(item)
		return nil
	case Records:
		s.add(data)
		f.Records++
		return visit(s.visitor.Record, ReadRecord(item), item)
	case Dirs:
		s.add(data)
		f.Dirs++
		return visit(s.visitor.Dir, ReadDir(item), item)
	case Leases:
		s.add(data)
		f.Leases++
		return visit(s.visitor.Lease, ReadLease(item), item)
	case Auth:
		s.add(data)
		return visit(s.visitor.Access, ReadAccess(item), item)
	case History:
		f.Events++
		return nil
	case End:
		return s.end(item)
	case Members, Origins, Removed, Invited:
		return nil
	default:
		if section&Critical != 0 {
			return Newer("it has section %d, which this version does not know but must", section&^Critical)
		}
		return nil
	}
	if !item.Done() {
		return Damaged("an item of section %d cannot be read", section&^Critical)
	}
	return nil
}

// visit shows v, read from item, to show.
func visit[T any](show func(T) error, v T, item *Item) error {
	if !item.Done() {
		return Damaged("a %T cannot be read", v)
	}
	if show == nil {
		return nil
	}
	return show(v)
}

// label reads a label. One in a form of a later version is left out.
func (s *scanner) label(item *Item) {
	if item.Byte() != labelForm {
		return
	}
	l := Label{Cluster: item.Uint(), Member: item.Uint(), Name: item.Text(), Version: item.Text()}
	l.Time = time.Unix(0, item.Int()).UTC()
	l.Keys = item.Uint()
	if !item.Failed() {
		s.facts.Label, s.facts.Labelled = l, true
	}
}

func (s *scanner) tell() error {
	if s.told || s.visitor.Facts == nil {
		return nil
	}
	s.told = true
	return s.visitor.Facts(s.facts)
}

func (s *scanner) add(item []byte) {
	h := xxh3.Hash128(item)
	s.sum.Hi, s.sum.Lo = s.sum.Hi+h.Hi, s.sum.Lo+h.Lo
}

// end compares what was read with what the writer counted and summed.
func (s *scanner) end(item *Item) error {
	f := &s.facts
	if f.Events > 0 {
		f.Events-- // the head of the history
	}
	counts := []int{f.Records, f.Dirs, f.Leases, -1, f.Events, -1, -1}
	if f.Level >= LevelOrigins {
		counts = append(counts, -1, -1)
	}
	for i, n := range counts {
		if want := item.Uint(); n >= 0 && want != uint64(n) {
			return Damaged("part %d has %d items instead of %d", i, n, want)
		}
	}
	f.Sum = Sum{item.Fixed(), item.Fixed()}
	if f.Level >= LevelOrigins {
		s.sum.Hi, s.sum.Lo = s.sum.Hi+item.Fixed(), s.sum.Lo+item.Fixed()
	}
	if !item.Done() {
		return Damaged("its end cannot be read")
	}
	if f.Sum != s.sum {
		return Damaged("the sum of its items is %v instead of %v", s.sum, f.Sum)
	}
	return nil
}
