package speaker

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// What two servers that behave alike may differ in, and what becomes of it:
//
//   - index numbers count from the dialogue's beginning: +1 is its first write; 0 stays 0
//   - TTLs are rounded up to hundreds, so that a slow machine does not matter; below 10 they are "soon"
//   - points in time are only checked for their form
//   - addresses, ids and names of members: only their form
//   - cluster id, raft index and term, server's date: present or absent
//   - Content-Length: whether it fits the body; a long body may come in chunks instead
var (
	indexField   = regexp.MustCompile(`"(modifiedIndex|createdIndex|index)":(\d+)`)
	inOrderName  = regexp.MustCompile(`/(\d{20})\b`)
	comparison   = regexp.MustCompile(`\[(\d+)( != |/)(\d+)\]`)
	ttlField     = regexp.MustCompile(`"ttl":(-?\d+)`)
	expiration   = regexp.MustCompile(`"expiration":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,8}[1-9])?Z"`)
	address      = regexp.MustCompile(`https?://127\.0\.0\.1:\d+`)
	memberName   = regexp.MustCompile(`"id":"[1-9a-f][0-9a-f]*","name":"[^"]+"`)
	opaqueHeader = []string{"X-Etcd-Cluster-Id", "X-Raft-Index", "X-Raft-Term"}
)

func relative(digits string, base int64) string {
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n == 0 {
		return digits
	}
	return fmt.Sprintf("%+d", n-base)
}

// NormalBody returns the normal form of a body, or a line of one, of a server whose index was base
// when the dialogue began.
func NormalBody(body string, base int64) string {
	body = indexField.ReplaceAllStringFunc(body, func(field string) string {
		part := indexField.FindStringSubmatch(field)
		return fmt.Sprintf("%q:%s", part[1], relative(part[2], base))
	})
	body = inOrderName.ReplaceAllStringFunc(body, func(name string) string { return "/in-order" + relative(name[1:], base) })
	body = comparison.ReplaceAllStringFunc(body, func(cause string) string {
		part := comparison.FindStringSubmatch(cause)
		return "[" + relative(part[1], base) + part[2] + relative(part[3], base) + "]"
	})
	body = address.ReplaceAllString(body, "ADDRESS")
	body = memberName.ReplaceAllString(body, `"id":"ID","name":"NAME"`)
	body = expiration.ReplaceAllString(body, `"expiration":"TIME"`)
	return ttlField.ReplaceAllStringFunc(body, func(field string) string {
		ttl, _ := strconv.ParseInt(ttlField.FindStringSubmatch(field)[1], 10, 64) // the pattern admits nothing else
		if ttl > 0 && ttl < 10 {
			return `"ttl":soon`
		}
		return fmt.Sprintf(`"ttl":%d`, (ttl+99)/100*100)
	})
}

// Body returns the normal form of a body, or a line of one.
func (s *Speaker) Body(body string) string { return NormalBody(body, s.base) }

// Headers returns the normal form of the headers, one a line. bodyLength is the length of the body;
// -1 for an answer that is read piece by piece.
func (s *Speaker) Headers(answer Answer, bodyLength int) string {
	return normalHeader(answer.Header, bodyLength, s.base)
}

func normalHeader(header http.Header, bodyLength int, base int64) string {
	header = header.Clone()
	header.Del("Date")
	header.Del("Connection")
	header.Del("X-Content-Type-Options") // of kvd's every answer, of some of etcd's
	for _, name := range opaqueHeader {
		if header.Get(name) != "" {
			header.Set(name, "present")
		}
	}
	if index := header.Get("X-Etcd-Index"); index != "" {
		header.Set("X-Etcd-Index", relative(index, base))
	}
	if header.Get("Content-Length") == strconv.Itoa(bodyLength) && bodyLength > 0 || bodyLength > 2048 {
		header.Del("Content-Length")
	}
	if bodyLength >= 0 {
		header.Del("Transfer-Encoding")
	}
	var lines []string
	for name, values := range header {
		lines = append(lines, name+": "+strings.Join(values, " | "))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
