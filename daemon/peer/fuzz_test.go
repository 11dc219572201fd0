package peer

import (
	"bufio"
	"bytes"
	"net/http"
	"strings"
	"testing"
	"unicode"

	"github.com/kvd-io/kvd/pkg/fuzztest"
)

// FuzzMessages reads messages from any bytes. What is read is written as the same bytes, and no
// length is believed before its bytes are there.
func FuzzMessages(f *testing.F) {
	f.Add(header{id: 1, method: 1, length: 3}.append(nil))
	f.Add(append(header{id: 1, method: 1, length: 3}.append(nil), "abc"...))
	f.Add(append(header{id: 1 << 63, flags: flagAnswer}.append(nil), header{id: 2, method: 255, flags: flagAnswer | flagFailed | flagNotHandled}.append(nil)...))
	f.Add(header{id: 1, method: 1, length: MessageBytesMax}.append(nil))
	f.Add(header{id: 1, method: 1, length: MessageBytesMax + 1}.append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		var back []byte
		fuzztest.WantBounded(t, 64*uint64(len(data))+fuzztest.Fixed, func() {
			for r := bytes.NewReader(data); ; {
				h, body, err := readMessage(r)
				if err != nil {
					return
				}
				if h.length != len(body) || h.length > MessageBytesMax {
					t.Fatalf("%d bytes were announced, %d read", h.length, len(body))
				}
				back = append(h.append(back), body...)
			}
		})
		if !bytes.HasPrefix(data, back) {
			t.Fatalf("%x was read as %x", data, back)
		}
	})
}

// FuzzHello reads the request that opens a stream from any bytes. One that is taken says the same
// when it is written; one that is not is refused in one clean line.
func FuzzHello(f *testing.F) {
	good := hello{kind: kindRaft, cluster: 1, from: 2, to: 1<<64 - 1}
	f.Add(good.request("a:1"))
	f.Add(strings.Replace(good.request("a:1"), "kvd-peer/1", "kvd-peer/2\x1b[31m", 1))
	f.Add(strings.Replace(good.request("a:1"), "raft", "raf%0a", 1))
	f.Add(strings.Replace(good.request("a:1"), "Upgrade\r", "keep-alive, uPGRADE\r", 1))
	f.Fuzz(func(t *testing.T, text string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
		if err != nil {
			return
		}
		h, err := parseHello(r)
		if err != nil {
			wantCleanLine(t, err.Error())
			return
		}
		again, err := http.ReadRequest(bufio.NewReader(strings.NewReader(h.request("a:1"))))
		if err != nil {
			t.Fatal(err)
		}
		if back, err := parseHello(again); back != h || err != nil {
			t.Fatalf("%+v was written as %+v, %v", h, back, err)
		}
		if err := h.check(1, 2, func(uint64) bool { return false }); err == nil {
			t.Fatal("somebody unknown is let in")
		} else {
			wantCleanLine(t, err.Error())
		}
	})
}

// FuzzWelcome reads the answer to that request from any bytes.
func FuzzWelcome(f *testing.F) {
	f.Add([]byte(welcome + "more"))
	f.Add([]byte("HTTP/1.1 412 Precondition Failed\r\nContent-Length: 5\r\n\r\nno\nway"))
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n"))
	f.Add([]byte("HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"))
	f.Add([]byte{recordAlert, 3, 3})
	f.Fuzz(func(t *testing.T, data []byte) {
		var early []byte
		var err error
		fuzztest.WantBounded(t, 64*uint64(len(data))+fuzztest.Fixed, func() {
			early, err = readWelcome(bufio.NewReader(bytes.NewReader(data)), "a:1")
		})
		if err == nil && !bytes.HasSuffix(data, early) {
			t.Fatalf("%q belongs to the stream, of %q", early, data)
		}
		if r, ok := err.(*Refusal); ok {
			wantCleanLine(t, r.Error())
		}
	})
}

func wantCleanLine(t *testing.T, text string) {
	t.Helper()
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsGraphic(r) }) || len(text) > 3*cleanMax {
		t.Fatalf("%q is not for a log", text)
	}
}
