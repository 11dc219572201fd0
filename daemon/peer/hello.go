package peer

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"unicode"
)

// kind is what a stream is for.
type kind string

const (
	kindRaft kind = "raft"
	kindRPC  kind = "rpc"
)

const (
	streamPath = "/kvd/stream/"
	protocol   = "kvd-peer/1"

	headerCluster = "Kvd-Cluster-Id"
	headerFrom    = "Kvd-From"
	headerTo      = "Kvd-To"
)

// hello is what a member says when it opens a stream.
type hello struct {
	kind              kind
	cluster, from, to uint64
}

// request returns h as the head of a request to address.
func (h hello) request(address string) string {
	return fmt.Sprintf("GET %s%s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: %s\r\n%s: %s\r\n%s: %s\r\n%s: %s\r\n\r\n",
		streamPath, h.kind, address, protocol, headerCluster, hex(h.cluster), headerFrom, hex(h.from), headerTo, hex(h.to))
}

// welcome is the answer that makes a connection a stream.
const welcome = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + protocol + "\r\n\r\n"

// parseHello returns what a request for a stream says. The error is a *Refusal without address.
func parseHello(r *http.Request) (hello, error) {
	offered := r.Header.Get("Upgrade")
	switch {
	case r.Method != http.MethodGet || offered == "" || !hasToken(r.Header.Values("Connection"), "upgrade"):
		return hello{}, refuse(StatusOtherVersion, "streams are for the members of a cluster, and need GET, Connection: Upgrade and Upgrade: %s", protocol)
	case offered != protocol:
		return hello{}, refuse(StatusOtherVersion, "this member speaks %s, and the caller %s: run releases of kvd that are next to each other", protocol, clean(offered))
	}
	h := hello{kind: kind(strings.TrimPrefix(r.URL.Path, streamPath))}
	if h.kind != kindRaft && h.kind != kindRPC {
		return hello{}, refuse(http.StatusNotFound, "there are no streams of kind %s: run releases of kvd that are next to each other", clean(string(h.kind)))
	}
	for _, field := range []struct {
		header string
		id     *uint64
	}{{headerCluster, &h.cluster}, {headerFrom, &h.from}, {headerTo, &h.to}} {
		id, err := strconv.ParseUint(r.Header.Get(field.header), 16, 64)
		if err != nil || id == 0 {
			return hello{}, refuse(http.StatusBadRequest, "the header %s must be an id, 1 to 16 hexadecimal digits that are not all 0", field.header)
		}
		*field.id = id
	}
	return h, nil
}

// check refuses a hello that is not for this member, or not from one of its cluster.
func (h hello) check(cluster, self uint64, known func(uint64) bool) error {
	switch {
	case cluster == 0:
		return refuse(StatusNotReady, "this process is not a member of a cluster yet")
	case h.cluster != cluster:
		return refuse(StatusOtherCluster, "it belongs to cluster %s, and the caller, member %s, to cluster %s: give both the same --initial-cluster and --initial-cluster-token, or correct the address",
			hex(cluster), hex(h.from), hex(h.cluster))
	case h.from == self:
		return refuse(http.StatusConflict, "both sides are member %s: either a data directory was copied, or the address of another member leads here", hex(self))
	case h.to != self:
		return refuse(StatusOtherMember, "member %s lives at this address, and the caller wants member %s: correct the peer URLs of one of them with kvctl member update", hex(self), hex(h.to))
	case !known(h.from):
		return refuse(StatusUnknownMember, "member %s is not a member of cluster %s, or not any more: a removed member starts anew with an empty --data-dir", hex(h.from), hex(cluster))
	}
	return nil
}

func refuse(status int, format string, args ...any) *Refusal {
	return &Refusal{Status: status, Text: fmt.Sprintf(format, args...)}
}

func hasToken(values []string, want string) bool {
	for _, v := range values {
		for token := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(token), want) {
				return true
			}
		}
	}
	return false
}

const cleanMax = 400 // bytes of another side's text that are repeated

// clean returns text of the other side as one line that a log can take.
func clean(text string) string {
	if len(text) > cleanMax {
		text = text[:cleanMax] + "..."
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsGraphic(r) && r != unicode.ReplacementChar {
			return r
		}
		return ' '
	}, text))
}

// say opens the stream from the caller's side: it writes h and reads the answer. Bytes that came
// with the answer and belong to the stream are returned. Errors: a *Refusal, errSpeaksTLS, those of
// the connection.
func (h hello) say(conn io.ReadWriter, address string) (early []byte, err error) {
	if _, err := io.WriteString(conn, h.request(address)); err != nil {
		return nil, err
	}
	return readWelcome(bufio.NewReader(io.LimitReader(conn, headerBytesMax)), address)
}

func readWelcome(r *bufio.Reader, address string) (early []byte, err error) {
	if first, err := r.Peek(1); err != nil {
		return nil, noEOF(err)
	} else if first[0] == recordAlert || first[0] == recordHandshake {
		return nil, errSpeaksTLS
	}
	answer, err := http.ReadResponse(r, nil)
	if err != nil {
		return nil, fmt.Errorf("what answers there is not kvd: %w", noEOF(err))
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		return nil, readRefusal(answer, address)
	}
	if answer.Header.Get("Upgrade") != protocol {
		return nil, fmt.Errorf("what answers there is not kvd: it speaks %q", clean(answer.Header.Get("Upgrade")))
	}
	early = make([]byte, r.Buffered())
	_, err = io.ReadFull(r, early)
	return early, err
}

// readRefusal returns an answer that is no success as an error: a *Refusal or errSpeaksTLS.
func readRefusal(answer *http.Response, address string) error {
	text, _ := io.ReadAll(io.LimitReader(answer.Body, cleanMax+1))
	if answer.StatusCode == http.StatusBadRequest && strings.HasPrefix(string(text), "Client sent an HTTP request to an HTTPS server") {
		return errSpeaksTLS
	}
	said := clean(string(text))
	if said == "" {
		said = clean(answer.Status)
	}
	return &Refusal{Address: address, Status: answer.StatusCode, Text: said}
}

// noEOF says in words that the other side has hung up.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errClosed
	}
	return err
}

// First bytes of what TLS sends.
const (
	recordAlert     = 0x15
	recordHandshake = 0x16
)

var errSpeaksTLS = errors.New("it speaks https there, and this member is set up for http: give this member --peer-cert-file and --peer-key-file, and all peer URLs the same scheme")
var errSpeaksPlain = errors.New("it speaks plain http there, and this member is set up for https: give that member --peer-cert-file and --peer-key-file, and all peer URLs the same scheme")
