package compat

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
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
	address      = regexp.MustCompile(`http://127\.0\.0\.1:\d+`)
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

func normalBody(body string, base int64) string {
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

func normalHeader(header http.Header, bodyLength int, base int64) string {
	header = header.Clone()
	header.Del("Date")
	header.Del("Connection")
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
	var lines []string
	for name, values := range header {
		lines = append(lines, name+": "+strings.Join(values, " | "))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestOnlyWhatCannotBeEqualIsNormalised(t *testing.T) {
	for body, want := range map[string]string{
		`{"key":"/q/00000000000000000012","modifiedIndex":12,"createdIndex":9}`: `{"key":"/q/in-order+2","modifiedIndex":+2,"createdIndex":-1}`,
		`{"cause":"[7 != 11] [a != b]","index":0}`:                              `{"cause":"[-3 != +1] [a != b]","index":0}`,
		`the requested history has been cleared [111/11]`:                       `the requested history has been cleared [+101/+1]`,
		`{"expiration":"2030-01-02T03:04:05.5Z","ttl":99}`:                      `{"expiration":"TIME","ttl":100}`,
		`{"expiration":"2030-01-02T03:04:05.50Z","ttl":2}`:                      `{"expiration":"2030-01-02T03:04:05.50Z","ttl":soon}`,
		`{"id":"a1","name":"one","peerURLs":["http://127.0.0.1:2380"]}`:         `{"id":"ID","name":"NAME","peerURLs":["ADDRESS"]}`,
		`{"value":"12","ttl":0}`:                                                `{"value":"12","ttl":0}`,
	} {
		if got := normalBody(body, 10); got != want {
			t.Errorf("%s\n got %s\nwant %s", body, got, want)
		}
	}
}
