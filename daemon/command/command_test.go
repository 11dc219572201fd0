package command

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/pkg/fuzztest"
	"github.com/kvd-io/kvd/pkg/kv"
)

func batches() *rapid.Generator[Batch] {
	text := rapid.StringN(0, 12, 40)
	names := rapid.OneOf(rapid.Just([]string(nil)), rapid.SliceOfN(text, 0, 3))
	ranges := rapid.OneOf(rapid.Just([]kv.KeyRange(nil)), rapid.SliceOfN(rapid.Custom(func(t *rapid.T) kv.KeyRange {
		return kv.KeyRange{From: text.Draw(t, "from"), To: text.Draw(t, "to")}
	}), 0, 3))
	rights := rapid.Custom(func(t *rapid.T) Rights { return Rights{Read: ranges.Draw(t, "read"), Write: ranges.Draw(t, "write")} })
	ends := rapid.SliceOfN(rapid.Map(rapid.Uint64(), func(n uint64) LeaseEnd { return LeaseEnd{Lease: n, Deadline: -int64(n / 3)} }), 1, 3)
	body := rapid.OneOf(
		rapid.Map(rapid.Bool(), func(on bool) Body { return AuthEnable{on} }),
		rapid.Map(rapid.Custom(func(t *rapid.T) AuthUser {
			return AuthUser{
				Op: AuthOp(rapid.Uint8Range(1, 4).Draw(t, "op")), Name: text.Draw(t, "name"), Hash: Secret(text.Draw(t, "hash")),
				Roles: names.Draw(t, "roles"), Grant: names.Draw(t, "grant"), Revoke: names.Draw(t, "revoke"),
			}
		}), func(u AuthUser) Body { return u }),
		rapid.Map(rapid.Custom(func(t *rapid.T) AuthRole {
			return AuthRole{
				Op: rapid.SampledFrom([]AuthOp{AuthCreate, AuthUpdate, AuthDelete}).Draw(t, "op"), Name: text.Draw(t, "name"),
				Rights: rights.Draw(t, "rights"), Grant: rights.Draw(t, "grant"), Revoke: rights.Draw(t, "revoke"),
			}
		}), func(r AuthRole) Body { return r }),
		rapid.Map(rapid.Custom(func(t *rapid.T) kv.Write {
			return kv.Write{
				Op:  kv.Op(rapid.Uint8Range(1, 7).Draw(t, "op")),
				Key: text.Draw(t, "key"), Value: text.Draw(t, "value"), PrevValue: text.Draw(t, "prevValue"),
				Dir: rapid.Bool().Draw(t, "dir"), Recursive: rapid.Bool().Draw(t, "recursive"), Refresh: rapid.Bool().Draw(t, "refresh"),
				TTL: time.Duration(rapid.Int64Min(-1).Draw(t, "ttl")), PrevIndex: rapid.Uint64().Draw(t, "prevIndex"), Lease: kv.LeaseID(rapid.Uint64().Draw(t, "lease")),
			}
		}), func(w kv.Write) Body { return w }),
		rapid.Map(ends, func(ends []LeaseEnd) Body { return Expire{Leases: ends} }),
		rapid.Map(ends, func(ends []LeaseEnd) Body { return LeaseCheckpoint{Leases: ends} }),
		rapid.Map(rapid.Uint64(), func(n uint64) Body { return LeaseGrant{ID: n, TTL: time.Duration(n / 3)} }),
		rapid.Map(rapid.Uint64(), func(n uint64) Body { return LeaseRevoke{ID: n} }),
		rapid.Just(Body(Tick{})),
		rapid.Map(rapid.SliceOfN(text, 1, 3), func(urls []string) Body {
			return Member{ID: 7, Name: "n", PeerURLs: urls, ClientURLs: urls, Voter: len(urls) > 1, Learner: len(urls) > 2, Part: MemberPart(len(urls) - 1)}
		}),
		rapid.Map(rapid.Uint64(), func(n uint64) Body { return MemberRemove{ID: n} }),
		rapid.Map(rapid.Uint64(), func(n uint64) Body {
			return Invitation{Hash: [32]byte{31: byte(n)}, TTL: time.Duration(n)}
		}),
		rapid.Map(rapid.Custom(func(t *rapid.T) Check {
			c := Check{Member: rapid.Uint64().Draw(t, "member"), Index: rapid.Uint64().Draw(t, "index")}
			copy(c.Sum[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "sum"))
			return c
		}), func(c Check) Body { return c }),
	)
	return rapid.Custom(func(t *rapid.T) Batch {
		b := Batch{Level: rapid.Uint32Range(0, Level).Draw(t, "level"), Term: rapid.Uint64().Draw(t, "term"), Clock: rapid.Int64().Draw(t, "clock"), WallOffset: rapid.Int64().Draw(t, "offset")}
		for range rapid.IntRange(0, 4).Draw(t, "commands") {
			b.Commands = append(b.Commands, Command{
				Origin: rapid.Uint64().Draw(t, "origin"), Sequence: rapid.Uint64().Draw(t, "sequence"),
				User: text.Draw(t, "user"), AuthRevision: rapid.Uint64().Draw(t, "auth"), AsDir: rapid.Bool().Draw(t, "asDir"), Body: body.Draw(t, "body"),
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
		"empty":               nil,
		"another format":      append([]byte{2}, valid[1:]...),
		"a newer level":       (&Batch{Level: Level + 1}).Append(nil),
		"cut short":           valid[:len(valid)-1],
		"an unknown field":    appendUint(bytes.Clone(valid), 9, 1),
		"an unknown command":  appendBytes(bytes.Clone(valid), 4, appendUint(nil, 1, 99)),
		"a type of 33 bits":   appendBytes(bytes.Clone(valid), 4, appendUint(nil, 1, 1<<32|uint64(TypeTick))),
		"a lease with a name": appendBytes([]byte{format}, 4, appendBytes(appendUint(nil, 1, uint64(TypeLeaseGrant)), 6, appendBytes(nil, 3, []byte("n")))),
		"an expire of more":   appendBytes([]byte{format}, 4, appendBytes(appendUint(nil, 1, uint64(TypeExpire)), 6, appendBytes(nil, 2, []byte("n")))),
		"a removal of more":   appendBytes([]byte{format}, 4, appendBytes(appendUint(nil, 1, uint64(TypeMemberRemove)), 6, appendUint(nil, 2, 1))),
		"a check of no sum":   appendBytes([]byte{format}, 4, appendBytes(appendUint(nil, 1, uint64(TypeCheck)), 6, appendUint(nil, 1, 1))),
		"a sum of 15 bytes":   appendBytes([]byte{format}, 4, appendBytes(appendUint(nil, 1, uint64(TypeCheck)), 6, appendBytes(nil, 3, make([]byte, 15)))),
		"a sum of 17 bytes":   appendBytes([]byte{format}, 4, appendBytes(appendUint(nil, 1, uint64(TypeCheck)), 6, appendBytes(nil, 3, make([]byte, 17)))),
		"no operation":        appendBytes([]byte{format}, 4, appendUint(nil, 1, uint64(TypeWrite))),
		"a role that is put":  appendBytes([]byte{format}, 4, appendBytes(appendUint(nil, 1, uint64(TypeAuthRole)), 6, appendUint(nil, 1, uint64(AuthPut)))),
		"a user of no op":     appendBytes([]byte{format}, 4, appendUint(nil, 1, uint64(TypeAuthUser))),
	} {
		_, err := Decode(entry)
		var format *FormatError
		if !errors.As(err, &format) {
			t.Errorf("%s: got %v, want a FormatError", name, err)
		}
	}
}

func TestAnEntryOfALaterVersionSaysToUpgradeThisMember(t *testing.T) {
	_, err := Decode((&Batch{Level: Level + 1, Commands: []Command{{Body: Tick{}}}}).Append(nil))
	if want := fmt.Sprintf("needs feature level %d, this version has %d: upgrade this member", Level+1, Level); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want it to say %q", err, want)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add((&Batch{Level: 1, Clock: 5, Commands: []Command{{User: "u", Body: kv.Write{Op: kv.OpCreate, Key: "/k", Value: "v"}}, {Body: Tick{}}}}).Append(nil))
	for _, body := range []Body{
		AuthEnable{true},
		AuthUser{Op: AuthPut, Name: "u", Hash: "$2a$10$", Roles: []string{"r", ""}, Grant: []string{}, Revoke: []string{"x"}},
		AuthRole{Op: AuthCreate, Name: "r", Rights: Rights{Read: []kv.KeyRange{{From: "/a", To: "/b"}, {From: "/c"}}, Write: []kv.KeyRange{}}, Grant: Rights{Write: []kv.KeyRange{{}}}},
	} {
		f.Add((&Batch{Level: Level, Commands: []Command{{User: "root", AuthRevision: 7, AsDir: true, Body: body}}}).Append(nil))
	}
	ends := []LeaseEnd{{Lease: 7, Deadline: 1e9}, {Lease: 1 << 63}}
	for _, body := range []Body{
		kv.Write{Op: kv.OpSet, Key: "/k", Value: "v", Lease: 7}, Expire{ends}, LeaseGrant{7, time.Minute}, LeaseRevoke{7}, LeaseCheckpoint{ends},
		Member{ID: 1, Name: "m", PeerURLs: []string{"http://p"}, Learner: true, Part: MemberSelf}, MemberRemove{7}, Invitation{Hash: [32]byte{7}, TTL: time.Minute}, Check{Member: 1, Index: 9, Sum: [16]byte{1, 2, 15: 3}},
	} {
		f.Add((&Batch{Level: Level, Clock: 5, Commands: []Command{{Body: body}}}).Append(nil))
	}
	f.Fuzz(func(t *testing.T, entry []byte) {
		var b *Batch
		var err error
		fuzztest.WantBounded(t, 512*uint64(len(entry))+fuzztest.Fixed, func() { b, err = Decode(entry) })
		if err != nil {
			return
		}
		written := b.Append(nil)
		again, err := Decode(written)
		if err != nil || !reflect.DeepEqual(b, again) {
			t.Fatalf("%+v does not survive a round trip: %+v, %v", b, again, err)
		}
		if twice := again.Append(nil); !bytes.Equal(twice, written) || len(written) > len(entry) {
			t.Fatalf("%+v is written in %d bytes, then in %d; it was read from %d", b, len(written), len(twice), len(entry))
		}
	})
}

func TestASecretIsNeverShown(t *testing.T) {
	const canary = "c4nary"
	user := AuthUser{Op: AuthCreate, Name: "u", Hash: canary}
	encoded, err := json.Marshal(user)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("", "user", user, "hash", user.Hash)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("", "user", user, "hash", user.Hash)
	for _, shown := range []string{fmt.Sprintf("%v %+v %#v %s %q %x", user, user, user, user.Hash, user.Hash, user.Hash), string(encoded), log.String()} {
		if strings.Contains(shown, canary) || strings.Contains(shown, hex.EncodeToString([]byte(canary))) {
			t.Errorf("shown in %s", shown)
		}
	}
}
