package etcdv2

import (
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/kvd-io/kvd/pkg/kv"
)

// AppendEvent appends the JSON of e, without a newline, and returns the extended slice.
// The bytes are those that encoding/json makes of an Event; this is the hot path of a server.
func AppendEvent(b []byte, e kv.Event) []byte {
	b = append(b, `{"action":`...)
	b = appendString(b, string(e.Action))
	if e.Node != nil {
		b = append(b, `,"node":`...)
		b = appendNode(b, e.Node, !e.Removes())
	}
	if e.PrevNode != nil {
		b = append(b, `,"prevNode":`...)
		b = appendNode(b, e.PrevNode, true)
	}
	return append(b, '}')
}

// AppendError appends the JSON of e, without a newline, and returns the extended slice.
func AppendError(b []byte, e *Error) []byte {
	b = append(b, `{"errorCode":`...)
	b = strconv.AppendInt(b, int64(e.Code), 10)
	b = append(b, `,"message":`...)
	b = appendString(b, e.Message)
	if e.Cause != "" {
		b = append(b, `,"cause":`...)
		b = appendString(b, e.Cause)
	}
	b = append(b, `,"index":`...)
	b = strconv.AppendUint(b, e.Index, 10)
	return append(b, '}')
}

// appendNode appends n. hasValue is false for the node of a removal: a removed key has no value
// any more, not an empty one.
func appendNode(b []byte, n *kv.Node, hasValue bool) []byte {
	b = append(b, '{')
	start := len(b)
	if n.Key != "" {
		b = append(b, `"key":`...)
		b = appendString(b, n.Key)
		b = append(b, ',')
	}
	switch {
	case n.Dir:
		b = append(b, `"dir":true,`...)
	case hasValue:
		b = append(b, `"value":`...)
		b = appendString(b, n.Value)
		b = append(b, ',')
	}
	if !n.Expiration.IsZero() {
		b = append(b, `"expiration":"`...)
		b = n.Expiration.UTC().AppendFormat(b, time.RFC3339Nano)
		b = append(b, `",`...)
	}
	if n.TTL != 0 {
		b = append(b, `"ttl":`...)
		b = strconv.AppendInt(b, n.TTL, 10)
		b = append(b, ',')
	}
	if len(n.Nodes) > 0 {
		b = append(b, `"nodes":[`...)
		for i, child := range n.Nodes {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendNode(b, child, true)
		}
		b = append(b, `],`...)
	}
	if n.ModifiedIndex != 0 {
		b = append(b, `"modifiedIndex":`...)
		b = strconv.AppendUint(b, n.ModifiedIndex, 10)
		b = append(b, ',')
	}
	if n.CreatedIndex != 0 {
		b = append(b, `"createdIndex":`...)
		b = strconv.AppendUint(b, n.CreatedIndex, 10)
		b = append(b, ',')
	}
	if n.Lease != 0 {
		b = append(b, `"lease":"`...)
		b = append(b, n.Lease.String()...)
		b = append(b, `",`...)
	}
	if len(b) > start {
		b = b[:len(b)-1] // every field ends in a comma; the last one gives way to the brace
	}
	return append(b, '}')
}

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string that is also safe inside HTML and JavaScript.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	copied := 0 // s[:copied] is in b
	for i := plainWords(s); i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			if plain(c) {
				i++
				continue
			}
			b = append(b, s[copied:i]...)
			b = appendEscaped(b, c)
			i++
			copied = i
			i += plainWords(s[i:])
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1: // not UTF-8
			b = append(b, s[copied:i]...)
			b = append(b, `\ufffd`...)
			copied = i + size
		case r == '\u2028' || r == '\u2029': // these end a line in JavaScript
			b = append(b, s[copied:i]...)
			b = append(b, `\u202`...)
			b = append(b, hexDigits[r&0xF])
			copied = i + size
		}
		i += size
	}
	b = append(b, s[copied:]...)
	return append(b, '"')
}

// plainWords returns the length of the beginning of s that is made of whole words of eight bytes in
// which every byte is plain, so that most text is looked at eight bytes at a time.
func plainWords(s string) int {
	const (
		ones  = 0x0101010101010101
		highs = 0x8080808080808080
	)
	n := 0
	for ; len(s)-n >= 8; n += 8 {
		w := s[n : n+8]
		v := uint64(w[0]) | uint64(w[1])<<8 | uint64(w[2])<<16 | uint64(w[3])<<24 |
			uint64(w[4])<<32 | uint64(w[5])<<40 | uint64(w[6])<<48 | uint64(w[7])<<56
		// A byte of x-ones borrows its high bit where the byte of x is 0, that of v-ones*' ' where
		// the byte of v is below ' '. '"' and '&' differ in bit 2, '<' and '>' in bit 1.
		quote, angle, slash := (v|ones*4)^(ones*'&'), (v|ones*2)^(ones*'>'), v^(ones*'\\')
		odd := (v - ones*' ') &^ v
		odd |= (quote - ones) &^ quote
		odd |= (angle - ones) &^ angle
		odd |= (slash - ones) &^ slash
		if (odd|v)&highs != 0 {
			break
		}
	}
	return n
}

// plain reports whether the ASCII character c stands for itself.
func plain(c byte) bool {
	switch c {
	case '"', '\\', '<', '>', '&':
		return false
	}
	return c >= ' '
}

func appendEscaped(b []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\b':
		return append(b, `\b`...)
	case '\f':
		return append(b, `\f`...)
	case '\n':
		return append(b, `\n`...)
	case '\r':
		return append(b, `\r`...)
	case '\t':
		return append(b, `\t`...)
	}
	return append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xF])
}
