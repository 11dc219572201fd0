package keys

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tidwall/btree"

	"github.com/kvd-io/kvd/pkg/kv"
)

// A snapshot is a view as a file. It is JSON, one value a line: what it is, the keys in their order, and the
// SHA-256 of all that is before, so that one which was cut short or edited is not taken for the truth.
//
//	{"format":"kvconfd keys 1","time":"2030-01-02T02:04:05Z","store":"...","cluster":"d8fd","index":41,"roots":["/app"]}
//	["/app/a","value"]
//	["L2FwcC9i","/w==","base64"]      a key or value that is not UTF-8
//	{"keys":2,"sha256":"..."}

// snapshotFormat is the one form that this version writes, and the newest that it reads.
const snapshotFormat = "kvconfd keys 1"

// Bounds of what a reader takes.
const (
	snapshotLineMax = 64 << 20 // the longest value of a store, as JSON
	snapshotKeysMax = 10_000_000
	snapshotLevels  = 1024 // of a key
)

// snapshotHead is the first line.
type snapshotHead struct {
	Format  string    `json:"format"`
	Time    time.Time `json:"time"` // when the view was true
	Store   string    `json:"store"`
	Cluster string    `json:"cluster"`
	Index   kv.Index  `json:"index"`
	Roots   []string  `json:"roots"`
	Naming  Naming    `json:"naming,omitempty"` // its number
}

// snapshotTail is the last line.
type snapshotTail struct {
	Keys   int    `json:"keys"`
	SHA256 string `json:"sha256"`
}

// WriteSnapshot writes view, which was true at the given time, so that ReadSnapshot can read it. store says for
// people, and for who reads it again, which store it is of. It writes values as they are: whoever keeps it has
// to keep it to itself.
func WriteSnapshot(w io.Writer, view View, store string, at time.Time) error {
	sum := sha256.New()
	out := bufio.NewWriter(io.MultiWriter(w, sum))
	line := json.NewEncoder(out) // ends each value with a newline
	line.SetEscapeHTML(false)
	head := snapshotHead{snapshotFormat, at.UTC(), store, view.from.Cluster, view.from.Index, view.roots, view.naming}
	err := line.Encode(head)
	view.Ascend("", func(key, value string) bool {
		if err != nil {
			return false
		}
		if utf8.ValidString(key) && utf8.ValidString(value) {
			err = line.Encode([]string{key, value})
		} else {
			err = line.Encode([]string{base64.StdEncoding.EncodeToString([]byte(key)), base64.StdEncoding.EncodeToString([]byte(value)), "base64"})
		}
		return err == nil
	})
	if err = errors.Join(err, out.Flush()); err != nil {
		return err
	}
	tail, err := json.Marshal(snapshotTail{view.Len(), hex.EncodeToString(sum.Sum(nil))})
	if err != nil {
		return err
	}
	_, err = w.Write(append(tail, '\n'))
	return err
}

// Snapshot is what a file has kept.
type Snapshot struct {
	View  View      // Stale tells Time
	Store string    // as WriteSnapshot was told
	Time  time.Time // when it was true
}

// ReadSnapshot reads what WriteSnapshot has written, all of it. It refuses what is of another program or a later
// form, and what was cut short or changed; the error says which.
func ReadSnapshot(r io.Reader) (Snapshot, error) {
	lines := &lineReader{in: bufio.NewReaderSize(r, 64<<10), sum: sha256.New()}
	var head snapshotHead
	first, err := lines.next()
	if err != nil {
		return Snapshot{}, err
	}
	if err := json.Unmarshal(first, &head); err != nil || head.Format == "" {
		return Snapshot{}, errors.New("it is no snapshot of kvconfd's keys: its first line does not say so")
	}
	if head.Format != snapshotFormat {
		return Snapshot{}, fmt.Errorf("it is of the form %q; this version reads %q", cut(head.Format), snapshotFormat)
	}
	if head.Time.IsZero() || head.Naming > Unhidden || !slices.IsSorted(head.Roots) || slices.ContainsFunc(head.Roots, func(root string) bool { return head.Naming != Textual && kv.Clean(root) != root }) {
		return Snapshot{}, damaged("the first line is not as it was written")
	}
	tree, err := readPairs(lines, head)
	if err != nil {
		return Snapshot{}, err
	}
	return Snapshot{
		View:  View{tree: tree, naming: head.Naming, roots: head.Roots, complete: true, from: Origin{head.Cluster, head.Index}, stale: head.Time},
		Store: head.Store, Time: head.Time,
	}, nil
}

func readPairs(lines *lineReader, head snapshotHead) (*btree.Map[string, string], error) {
	tree := &btree.Map[string, string]{}
	last := ""
	for {
		before := ""
		if lines.atObject() {
			before = hex.EncodeToString(lines.sum.Sum(nil))
		}
		line, err := lines.next()
		if err != nil {
			return nil, err
		}
		if line[0] == '{' {
			var tail snapshotTail
			switch err := json.Unmarshal(line, &tail); {
			case err != nil || tail.Keys != tree.Len() || tail.SHA256 != before:
				return nil, damaged("what it holds is not what was written")
			case !lines.ended():
				return nil, damaged("something follows after its end")
			}
			return tree, nil
		}
		key, value, err := readPair(line)
		switch {
		case err != nil:
			return nil, err
		case tree.Len() > 0 && key <= last:
			return nil, damaged("keys are out of order")
		case tree.Len() == snapshotKeysMax:
			return nil, fmt.Errorf("it has more than %d keys", snapshotKeysMax)
		case kv.Clean(key) != key || strings.Count(key, "/") > snapshotLevels || !head.Naming.covers(head.Roots, key):
			return nil, damaged("a key is none, or not one of those that it is of")
		}
		tree.Set(key, value)
		last = key
	}
}

func readPair(line []byte) (key, value string, err error) {
	var pair []string
	if err := json.Unmarshal(line, &pair); err != nil || len(pair) < 2 || len(pair) > 3 || len(pair) == 3 && pair[2] != "base64" {
		return "", "", damaged("a line is no key with a value")
	}
	if len(pair) == 2 {
		return pair[0], pair[1], nil
	}
	k, keyErr := base64.StdEncoding.DecodeString(pair[0])
	v, valueErr := base64.StdEncoding.DecodeString(pair[1])
	if keyErr != nil || valueErr != nil {
		return "", "", damaged("a line is no key with a value")
	}
	return string(k), string(v), nil
}

func damaged(how string) error { return fmt.Errorf("it is damaged: %s", how) }

func cut(text string) string { return text[:min(len(text), 60)] }

// lineReader reads lines of a bounded length and sums them up.
type lineReader struct {
	in  *bufio.Reader
	sum hash.Hash
}

// next returns the next line without its end, never an empty one. It is valid until the call after it.
func (l *lineReader) next() ([]byte, error) {
	var line []byte
	for {
		part, err := l.in.ReadSlice('\n')
		l.sum.Write(part)
		if line == nil && err == nil {
			line = part
		} else {
			line = append(line, part...)
		}
		switch {
		case err == nil && len(line) > 1:
			return line[:len(line)-1], nil
		case err == bufio.ErrBufferFull && len(line) <= snapshotLineMax:
			continue
		case err == bufio.ErrBufferFull:
			return nil, damaged("a line is too long")
		case err != nil && err != io.EOF:
			return nil, err
		}
		return nil, damaged("it was cut short")
	}
}

// atObject reports whether the next line is a JSON object.
func (l *lineReader) atObject() bool {
	first, err := l.in.Peek(1)
	return err == nil && first[0] == '{'
}

// ended reports whether nothing follows.
func (l *lineReader) ended() bool {
	_, err := l.in.ReadByte()
	return err == io.EOF
}

// LoadSnapshot reads the snapshot at path.
func LoadSnapshot(path string) (Snapshot, error) {
	file, err := os.Open(path)
	if err != nil {
		return Snapshot{}, err
	}
	defer file.Close()
	snapshot, err := ReadSnapshot(file)
	if err != nil {
		return Snapshot{}, fmt.Errorf("cannot use %s: %w", path, err)
	}
	return snapshot, nil
}

// saveSnapshot replaces the file at path, whole or not at all, readable for its owner alone.
func saveSnapshot(path string, view View, store string, at time.Time) (err error) {
	staged, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // its mode is 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(staged.Name())
		}
	}()
	err = WriteSnapshot(staged, view, store, at)
	if err == nil {
		err = staged.Sync()
	}
	if err = errors.Join(err, staged.Close()); err != nil {
		return err
	}
	if err = os.Rename(staged.Name(), path); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(path))
}

func syncDirectory(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// sweepSnapshots removes what a crash has left beside the file at path.
func sweepSnapshots(path string) {
	left, err := filepath.Glob(globEscape(filepath.Join(filepath.Dir(path), "."+filepath.Base(path))) + ".*")
	if err != nil {
		return
	}
	for _, name := range left {
		os.Remove(name) // of no use to anybody, and of little harm
	}
}

// globEscape returns the pattern that matches exactly path.
func globEscape(path string) string {
	var out bytes.Buffer
	for _, c := range []byte(path) {
		if strings.IndexByte(`*?[\`, c) >= 0 {
			out.WriteByte('\\')
		}
		out.WriteByte(c)
	}
	return out.String()
}
