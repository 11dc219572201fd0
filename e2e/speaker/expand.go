package speaker

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

var (
	relativeIndex = regexp.MustCompile(`\{(0?)([+-]\d+)\}`)
	repetition    = regexp.MustCompile(`\{([^{}*]+)\*(\d+)\}`)
	escapedByte   = regexp.MustCompile(`\\x[0-9a-f]{2}`)
)

// expand replaces "~" by the dialogue's directory, {+n} by base+n, {0+n} by the name of the
// in-order key with that index, and {x*n} by n times x.
func expand(text, home string, base int64) string {
	text = strings.ReplaceAll(text, "~", "/v2/keys"+home)
	text = relativeIndex.ReplaceAllStringFunc(text, func(mark string) string {
		part := relativeIndex.FindStringSubmatch(mark)
		n, _ := strconv.ParseInt(part[2], 10, 64) // the pattern admits nothing else
		if part[1] == "0" {
			return fmt.Sprintf("%020d", base+n)
		}
		return strconv.FormatInt(base+n, 10)
	})
	return repetition.ReplaceAllStringFunc(text, func(mark string) string {
		part := repetition.FindStringSubmatch(mark)
		n, _ := strconv.Atoi(part[2])
		return strings.Repeat(part[1], n)
	})
}

// unescape replaces \xNN by the byte, once the words of a line are apart.
func unescape(word string) string {
	return escapedByte.ReplaceAllStringFunc(word, func(mark string) string {
		n, _ := strconv.ParseUint(mark[2:], 16, 8)
		return string([]byte{byte(n)})
	})
}
