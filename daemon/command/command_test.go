package command

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/pkg/kv"
)

func batches() *rapid.Generator[Batch] {
	text := rapid.StringN(0, 12, 40)
	body := rapid.OneOf(
		rapid.Map(rapid.Custom(func(t *rapid.T) kv.Write {
			return kv.Write{
				Op:  kv.Op(rapid.Uint8Range(1, 7).Draw(t, "op")),
				Key: text.Draw(t, "key"), Value: text.Draw(t, "value"), PrevValue: text.Draw(t, "prevValue"),
				Dir: rapid.Bool().Draw(t, "dir"), Recursive: rapid.Bool().Draw(t, "recursive"), Refresh: rapid.Bool().Draw(t, "refresh"),
				TTL: time.Duration(rapid.Int64Min(-1).Draw(t, "ttl")), PrevIndex: rapid.Uint64().Draw(t, "prevIndex"),
			}
		}), func(w kv.Write) Body { return w }),
		rapid.Map(rapid.Uint64(), func(n uint64) Body { return Expire{Lease: n, Deadline: -int64(n / 3)} }),
		rapid.Just(Body(Tick{})),
		rapid.Map(rapid.SliceOfN(text, 1, 3), func(urls []string) Body {
			return Member{ID: 7, Name: "n", PeerURLs: urls, ClientURLs: urls, Voter: len(urls) > 1}
		}),
	)
	return rapid.Custom(func(t *rapid.T) Batch {
		b := Batch{Level: rapid.Uint32Range(0, Level).Draw(t, "level"), Clock: rapid.Int64().Draw(t, "clock"), WallOffset: rapid.Int64().Draw(t, "offset")}
		for range rapid.IntRange(0, 4).Draw(t, "commands") {
			b.Commands = append(b.Commands, Command{
				Origin: rapid.Uint64().Draw(t, "origin"), Sequence: rapid.Uint64().Draw(t, "sequence"),
				User: text.Draw(t, "user"), AuthRevision: rapid.Uint64().Draw(t, "auth"), Body: body.Draw(t, "body"),
			})
		}
		return b
	})
}

func TestDecodeReturnsWhatWasAppended(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := batches().Draw(t, "batch")
		entry := b.Append([]byte("before"))
		got, err := Decode(bytes.TrimPrefix(entry, []byte("before")))
		if err != nil || !reflect.DeepEqual(*got, b) {
			t.Fatalf("decoded %+v, %v; appended %+v", got, err, b)
		}
	})
}

func TestWhatThisVersionDoesNotKnowIsAFormatError(t *testing.T) {
	write := Command{Body: kv.Write{Op: kv.OpSet, Key: "/a"}}
	valid := (&Batch{Level: 1, Commands: []Command{write}}).Append(nil)
	for name, entry := range map[string][]byte{
		"empty":              nil,
		"another format":     append([]byte{2}, valid[1:]...),
		"a newer level":      (&Batch{Level: Level + 1}).Append(nil),
		"cut short":          valid[:len(valid)-1],
		"an unknown field":   appendUint(bytes.Clone(valid), 9, 1),
		"an unknown command": appendBytes(bytes.Clone(valid), 4, appendUint(nil, 1, 99)),
		"a type of 33 bits":  appendBytes(bytes.Clone(valid), 4, appendUint(nil, 1, 1<<32|uint64(TypeTick))),
		"no operation":       appendBytes([]byte{format}, 4, appendUint(nil, 1, uint64(TypeWrite))),
	} {
		_, err := Decode(entry)
		var format *FormatError
		if !errors.As(err, &format) {
			t.Errorf("%s: got %v, want a FormatError", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add((&Batch{Level: 1, Clock: 5, Commands: []Command{{User: "u", Body: kv.Write{Op: kv.OpCreate, Key: "/k", Value: "v"}}, {Body: Tick{}}}}).Append(nil))
	f.Fuzz(func(t *testing.T, entry []byte) {
		b, err := Decode(entry)
		if err != nil {
			return
		}
		again, err := Decode(b.Append(nil))
		if err != nil || !reflect.DeepEqual(b, again) {
			t.Fatalf("%+v does not survive a round trip: %+v, %v", b, again, err)
		}
	})
}
