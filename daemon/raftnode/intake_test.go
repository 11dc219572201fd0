package raftnode

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/pkg/fuzztest"
)

// asRaftSends returns a request as raft's transport sends it.
func asRaftSends(t testing.TB, kind byte, request any) []byte {
	t.Helper()
	out := bytes.NewBuffer([]byte{kind})
	if err := codec.NewEncoder(out, &codec.MsgpackHandle{}).Encode(request); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// wire is a connection that has brought what r holds.
type wire struct {
	net.Conn
	r io.Reader
}

func (w wire) Read(p []byte) (int, error) { return w.r.Read(p) }

func requestsOfRaft(t testing.TB) []byte {
	header := raft.RPCHeader{ProtocolVersion: 3, ID: []byte("7"), Addr: []byte("h1:2380")}
	entries := []*raft.Log{{Index: 8, Term: 3, Type: raft.LogCommand, Data: bytes.Repeat([]byte("v"), 300), Extensions: []byte("abcd"), AppendedAt: time.Now()}}
	entries = append(entries, &raft.Log{Index: 1 << 40, Term: 1 << 20, Data: bytes.Repeat([]byte("w"), 70_000)})
	return bytes.Join([][]byte{
		asRaftSends(t, 0, &raft.AppendEntriesRequest{RPCHeader: header, Term: 3, PrevLogEntry: 7, PrevLogTerm: 2, Entries: entries}),
		asRaftSends(t, 1, &raft.RequestVoteRequest{RPCHeader: header, Term: 4}),
		asRaftSends(t, 2, &raft.InstallSnapshotRequest{RPCHeader: header, Term: 4, Configuration: make([]byte, 1000), Size: 100_000}),
		make([]byte, 100_000),
		asRaftSends(t, 2, &raft.InstallSnapshotRequest{}),
		asRaftSends(t, 3, &raft.TimeoutNowRequest{RPCHeader: header}),
		asRaftSends(t, 4, &raft.RequestPreVoteRequest{RPCHeader: header, Term: 4}),
		asRaftSends(t, 0, &raft.AppendEntriesRequest{}),
	}, nil)
}

func TestWhatRaftSendsIsTakenInHoweverItComes(t *testing.T) {
	all := requestsOfRaft(t)
	for name, r := range map[string]io.Reader{"at once": bytes.NewReader(all), "byte by byte": iotest.OneByteReader(bytes.NewReader(all))} {
		var sizes []int64
		c := &intake{Conn: wire{r: r}, fits: func(bytes int64) error { sizes = append(sizes, bytes); return nil }}
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, all) || len(sizes) != 2 || sizes[0] != 100_000 || sizes[1] != 0 {
			t.Errorf("%s: %d of %d bytes, snapshots of %d, %v", name, len(got), len(all), sizes, err)
		}
		if c.values != 0 || c.skip != 0 || len(c.asked) != 0 {
			t.Errorf("%s: something is still to come: %+v", name, c)
		}
	}
}

func TestWhatIsTooMuchIsRefusedBeforeRaftTakesItIn(t *testing.T) {
	full := errors.New("the disk is full")
	for name, c := range map[string]struct {
		sent string
		want string
	}{
		"bytes of 4 GiB":          {"\x00\x81\xa4Term\xc6\xff\xff\xff\xff", "larger than"},
		"a vote with a long name": {"\x01\x81\xa2ID\xc6\x00\x01\x00\x00", "larger than 65536 bytes"},
		"a long list":             {"\x00\x81\xa7Entries\xdd\x00\x00\x04\x01\x80", "1025 elements"},
		"many values":             {"\x01" + strings.Repeat("\xdc\x04\x00", 70), "larger than"},
		"no kind of request":      {"GET / HTTP/1.1", "no kind 71"},
		"no value":                {"\x00\xc1", "not in the form"},
		"a snapshot":              {string(asRaftSends(t, 2, &raft.InstallSnapshotRequest{Size: 1 << 40})), full.Error()},
		"a snapshot of less":      {string(asRaftSends(t, 2, &raft.InstallSnapshotRequest{Size: -1})), "a snapshot of -1 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			conn := &intake{Conn: wire{r: strings.NewReader(c.sent)}, fits: func(int64) error { return full }}
			got, err := io.ReadAll(conn)
			if err == nil || !strings.Contains(err.Error(), c.want) || len(got) > 0 {
				t.Errorf("%d bytes were handed out, %v", len(got), err)
			}
		})
	}
}

// FuzzIntake: whatever comes, no more memory is taken than a request may have, and what is handed out is what
// has come.
func FuzzIntake(f *testing.F) {
	f.Add(requestsOfRaft(f)[:2000])
	f.Add([]byte("\x02\x81\xa4Size\xcf\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var got []byte
		fuzztest.WantBounded(t, 16*uint64(len(data))+fuzztest.Fixed, func() {
			got, _ = io.ReadAll(&intake{Conn: wire{r: iotest.HalfReader(bytes.NewReader(data))}, fits: func(int64) error { return nil }})
		})
		if !bytes.HasPrefix(data, got) {
			t.Fatalf("%q became %q", data, got)
		}
	})
}
