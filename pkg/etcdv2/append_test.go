package etcdv2

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/pkg/kv"
)

func wantSameBytes(t interface{ Fatalf(string, ...any) }, got []byte, wire any) {
	want, err := json.Marshal(wire)
	if err != nil {
		t.Fatalf("encoding/json refuses %+v: %v", wire, err)
	}
	if string(got) != string(want) {
		t.Fatalf("\n got %s\nwant %s", got, want)
	}
}

func TestStringsAreEscapedExactlyAsEncodingJSONDoes(t *testing.T) {
	for c := range 256 { // every byte alone, which is not UTF-8 above 0x7f
		s := "a" + string([]byte{byte(c)}) + "b"
		wantSameBytes(t, appendString(nil, s), s)
	}
	for _, s := range []string{
		"", "é", "日本", "\u2028", "x\u2029", "\ufffd", "<script>&amp;</script>", `\"`, "\x00\x7f",
		"\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc0\xaf", "\xe2\x80", "\xe2\x80\xa8\xe2", "a\xffb\xfe", "\U0010ffff",
	} {
		wantSameBytes(t, appendString(nil, s), s)
	}
}

func FuzzStringsAreEscapedExactlyAsEncodingJSONDoes(f *testing.F) {
	f.Add("a<b>\u2028\xff\b\f\n")
	f.Fuzz(func(t *testing.T, s string) { wantSameBytes(t, appendString(nil, s), s) })
}

func TestErrorsAreEncodedExactlyAsEncodingJSONDoes(t *testing.T) {
	for _, e := range []*Error{
		{Code: CodeKeyNotFound, Message: "Key not found", Cause: "/a", Index: 12},
		{Code: CodeNotFile, Message: "Not a file", Index: 3},
		NewError(CodeInvalidForm, `invalid URL escape "%zz" <b>`),
	} {
		wantSameBytes(t, AppendError(nil, e), e)
	}
}

// hostile draws strings with many bytes that need care.
func hostile(t *rapid.T, name string) string {
	pieces := rapid.SampledFrom([]string{"/", "a", "_", "é", "<", "\"", "\\", "\u2028", "\xff", "\n", "\x01", "\xe2\x80", "0"})
	s := ""
	for _, piece := range rapid.SliceOfN(pieces, 0, 6).Draw(t, name) {
		s += piece
	}
	return s
}

func drawNode(t *rapid.T, depth int) *kv.Node {
	n := &kv.Node{
		Key:           hostile(t, "key"),
		Value:         hostile(t, "value"),
		Dir:           rapid.Bool().Draw(t, "dir"),
		TTL:           rapid.Int64Range(-1, 3).Draw(t, "ttl"),
		ModifiedIndex: rapid.Uint64Range(0, 2).Draw(t, "modified"),
		CreatedIndex:  rapid.Uint64Range(0, 2).Draw(t, "created"),
	}
	if rapid.Bool().Draw(t, "expires") {
		n.Expiration = time.Unix(rapid.Int64Range(0, 1<<35).Draw(t, "s"), rapid.SampledFrom([]int64{0, 1, 120_000_000, 999_999_999}).Draw(t, "ns")).UTC()
	}
	if rapid.Bool().Draw(t, "leased") {
		n.Lease = kv.LeaseID(rapid.Uint64().Draw(t, "lease"))
	}
	for range rapid.IntRange(0, depth).Draw(t, "children") {
		n.Nodes = append(n.Nodes, drawNode(t, depth-1))
	}
	return n
}

func TestEventsAreEncodedExactlyAsEncodingJSONDoes(t *testing.T) {
	actions := []kv.Action{kv.ActionGet, kv.ActionSet, kv.ActionCreate, kv.ActionUpdate, kv.ActionCompareAndSwap, kv.ActionDelete, kv.ActionCompareAndDelete, kv.ActionExpire}
	rapid.Check(t, func(t *rapid.T) {
		e := kv.Event{Action: rapid.SampledFrom(actions).Draw(t, "action")}
		if rapid.Bool().Draw(t, "node") {
			e.Node = drawNode(t, 2)
		}
		if rapid.Bool().Draw(t, "prevNode") {
			e.PrevNode = drawNode(t, 0)
		}
		wantSameBytes(t, AppendEvent(nil, e), encode(e))
	})
}

func BenchmarkAppendEvent(b *testing.B) {
	n := &kv.Node{Key: "/services/web/10.0.0.7:80", Value: `{"address":"10.0.0.7","port":80}`, Expiration: time.Unix(1, 2).UTC(), TTL: 30, ModifiedIndex: 1234, CreatedIndex: 1200}
	e := kv.Event{Action: kv.ActionSet, Node: n, PrevNode: n}
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendEvent(buf[:0], e)
	}
}

// encode returns the wire form of e by the plain way: what encoding/json makes of it is the law for
// AppendEvent.
func encode(e kv.Event) Event {
	wire := Event{Action: e.Action, Node: encodeNode(e.Node), PrevNode: encodeNode(e.PrevNode)}
	if e.Removes() && wire.Node != nil {
		wire.Node.Value = nil // a removed key has no value any more, not an empty one
	}
	return wire
}

func encodeNode(n *kv.Node) *Node {
	if n == nil {
		return nil
	}
	wire := &Node{Key: n.Key, Dir: n.Dir, TTL: n.TTL, ModifiedIndex: n.ModifiedIndex, CreatedIndex: n.CreatedIndex}
	if !n.Dir {
		wire.Value = &n.Value
	}
	if !n.Expiration.IsZero() {
		wire.Expiration = &n.Expiration
	}
	if n.Lease != 0 {
		wire.Lease = n.Lease.String()
	}
	for _, child := range n.Nodes {
		wire.Nodes = append(wire.Nodes, encodeNode(child))
	}
	return wire
}

func TestEveryByteIsEscapedAtEveryPlaceOfAWord(t *testing.T) {
	for c := range 256 {
		for at := range 17 {
			text := []byte("0123456789abcdefg")
			text[at] = byte(c)
			want, err := json.Marshal(string(text))
			if err != nil {
				t.Fatal(err)
			}
			if got := appendString(nil, string(text)); string(got) != string(want) {
				t.Errorf("got %s, want %s", got, want)
			}
			wantPlain := at / 8 * 8
			if c < utf8.RuneSelf && plain(byte(c)) {
				wantPlain = 16
			}
			if got := plainWords(string(text)); got != wantPlain {
				t.Errorf("%q begins with %d plain bytes, want %d", text, got, wantPlain)
			}
		}
	}
}

func BenchmarkAppendAListing(b *testing.B) {
	node := &kv.Node{Key: "/bench/dir", Dir: true, ModifiedIndex: 4, CreatedIndex: 4}
	for i := range 1000 {
		node.Nodes = append(node.Nodes, &kv.Node{
			Key: "/bench/dir/child-0000", Value: strings.Repeat("v", 256), ModifiedIndex: kv.Index(4 + i), CreatedIndex: kv.Index(4 + i),
		})
	}
	var line []byte
	for b.Loop() {
		line = AppendEvent(line[:0], kv.Event{Action: kv.ActionGet, Node: node})
		b.SetBytes(int64(len(line)))
	}
}
