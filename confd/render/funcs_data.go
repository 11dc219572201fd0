package render

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

var codingFunctions = []function{
	fn("json TEXT", "The JSON object in TEXT, as a map; of `null` an empty one. Numbers are floating: 1000000 is printed as 1e+06.",
		`{{with json "{\"host\":\"h\",\"port\":8080}"}}{{.host}}:{{.port}}{{end}}`, "h:8080", FromConfd, func(r *run) any { return decodeJSON[map[string]any](r) }),
	fn("jsonArray TEXT", "The JSON array in TEXT, as a list.", `{{range jsonArray "[\"x\",2]"}}{{.}} {{end}}`, "x 2 ", FromConfd, func(r *run) any { return decodeJSON[[]any](r) }),
	fn("fromJson TEXT", "Whatever JSON is in TEXT.", `{{fromJson "[1,2]"}}`, "[1 2]", FromFork, func(r *run) any { return decodeJSON[any](r) }),
	fn("toJson VALUE", "VALUE as JSON in one line. `<`, `>` and `&` are escaped.", `{{toJson (dict "a" 1)}}`, `{"a":1}`, FromFork,
		func(r *run) any { return r.encodeJSON("") }),
	fn("toPrettyJson VALUE", "VALUE as JSON in lines.", `{{toPrettyJson (list 1)}}`, "[\n  1\n]", FromFork,
		func(r *run) any { return r.encodeJSON("  ") }),
	fn("base64Encode TEXT", "TEXT in base64.", `{{base64Encode "hi"}}`, "aGk=", FromConfd, func(r *run) any {
		return func(s string) (string, error) { return r.text(base64.StdEncoding.EncodeToString([]byte(s))) }
	}),
	fn("base64Decode TEXT", "What TEXT is the base64 of.", `{{base64Decode "aGk="}}`, "hi", FromConfd, func(r *run) any {
		return func(s string) (string, error) {
			data, err := base64.StdEncoding.DecodeString(s)
			return string(data), r.fault(s, err)
		}
	}),
	fn("sha256sum TEXT", "The SHA-256 of TEXT in hexadecimal.", `{{sha256sum ""}}`, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", FromFork,
		plain(func(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) })),
	fn("hashNumber TEXT COUNT", "A number from 0 to COUNT-1 that is always the same for TEXT: a slot, a shard, a port above a base.", `{{hashNumber "web" 100}}`, "25", FromKvd,
		plain(func(s string, n int) (int, error) {
			if n < 1 {
				return 0, fmt.Errorf("there is no number below %d", n)
			}
			sum := sha256.Sum256([]byte(s))
			return int(binary.BigEndian.Uint64(sum[:]) % uint64(n)), nil
		})),
}

// jsonBytesMax bounds the texts that are read as JSON; decoded they take many times the room.
const jsonBytesMax = 16 << 20

func decodeJSON[T any](r *run) func(s string) (T, error) {
	return func(s string) (value T, err error) {
		if value, ok := known[T](r.decoded, s); ok {
			return value, r.live()
		}
		if len(s) > jsonBytesMax {
			return value, limitError(fmt.Sprintf("the JSON is larger than %d MiB", jsonBytesMax>>20))
		}
		if err := r.spend(16 * len(s)); err != nil {
			return value, err
		}
		err = json.Unmarshal([]byte(s), &value)
		if err == nil {
			_, err = size(value)
		}
		if err == nil {
			r.decoded.keep(s, value)
		}
		return value, r.fault(s, err)
	}
}

// decodedJSONs remembers what was decoded from texts, so that a change of one value does not decode
// all the others again. It keeps what the last run used. Templates cannot change what they are given.
type decodedJSONs struct {
	before, now map[string]any
	bytes       *int // of the texts in now
}

// decodedBytesMax bounds the texts that are remembered.
const decodedBytesMax = 8 << 20

func (d decodedJSONs) next() decodedJSONs {
	return decodedJSONs{before: d.now, now: make(map[string]any, len(d.now)), bytes: new(int)}
}

func (d decodedJSONs) keep(s string, value any) {
	if *d.bytes+len(s) <= decodedBytesMax && strings.TrimSpace(s) != "null" { // null is another nil for each type

		*d.bytes += len(s)
		d.now[s] = value
	}
}

// known returns what s was decoded to, if it was to a value of this type.
func known[T any](d decodedJSONs, s string) (value T, ok bool) {
	if value, ok = d.now[s].(T); ok {
		return value, true
	}
	if value, ok = d.before[s].(T); ok {
		d.keep(s, value)
	}
	return value, ok
}

func (r *run) encodeJSON(indent string) func(value any) (string, error) {
	return func(value any) (string, error) {
		bytes, err := size(value)
		if err == nil {
			err = r.spend(6 * bytes)
		}
		if err != nil {
			return "", err
		}
		data, err := json.Marshal(value)
		if indent != "" && err == nil {
			data, err = json.MarshalIndent(value, "", indent)
		}
		return string(data), err
	}
}

var numberFunctions = []function{
	fn("atoi TEXT", "The number in TEXT.", `{{atoi "12"}}`, "12", FromConfd, func(r *run) any {
		return func(s string) (int, error) { n, err := strconv.Atoi(s); return n, r.fault(s, err) }
	}),
	fn("parseBool TEXT", "The truth in TEXT: `1`, `t`, `true` or `0`, `f`, `false`, also in capitals.", `{{parseBool "true"}}`, "true", FromConfd, func(r *run) any {
		return func(s string) (bool, error) { b, err := strconv.ParseBool(s); return b, r.fault(s, err) }
	}),
	fn("add A B", "A+B.", `{{add 1 2}}`, "3", FromConfd, plain(func(a, b int) int { return a + b })),
	fn("sub A B", "A-B.", `{{sub 5 3}}`, "2", FromConfd, plain(func(a, b int) int { return a - b })),
	fn("mul A B", "A*B.", `{{mul 2 3}}`, "6", FromConfd, plain(func(a, b int) int { return a * b })),
	fn("div A B", "A/B without a remainder; by 0 is an error.", `{{div 7 2}}`, "3", FromConfd, func(r *run) any {
		return func(a, b int) (int, error) {
			if b == 0 {
				return 0, r.fault("", errors.New("division by zero"))
			}
			return a / b, nil
		}
	}),
	fn("mod A B", "What remains of A/B; by 0 is an error.", `{{mod 7 2}}`, "1", FromConfd, func(r *run) any {
		return func(a, b int) (int, error) {
			if b == 0 {
				return 0, r.fault("", errors.New("division by zero"))
			}
			return a % b, nil
		}
	}),
	fn("min A B", "The smaller one.", `{{min 1 2}}`, "1", FromKvd, plain(func(a, b int) int { return min(a, b) })),
	fn("max A B", "The larger one.", `{{max 1 2}}`, "2", FromKvd, plain(func(a, b int) int { return max(a, b) })),
}

var choiceFunctions = []function{
	fn("default DEFAULT VALUE", "VALUE, or DEFAULT if VALUE is empty: no text, 0, false, nothing in it.", `{{default "x" ""}} {{default "x" "y"}}`, "x y", FromFork,
		plain(func(fallback, value any) any {
			if isEmpty(value) {
				return fallback
			}
			return value
		})),
	fn("coalesce VALUE ...", "The first value that is not empty.", `{{coalesce "" 0 "z"}}`, "z", FromFork,
		plain(func(values ...any) any {
			for _, value := range values {
				if !isEmpty(value) {
					return value
				}
			}
			return nil
		})),
	fn("empty VALUE", "Whether VALUE is empty.", `{{empty ""}} {{empty 1}}`, "true false", FromFork, plain(isEmpty)),
	fn("ternary YES NO CONDITION", "YES if CONDITION is true, NO if it is false.", `{{ternary "yes" "no" true}}`, "yes", FromFork,
		plain(func(yes, no any, condition bool) any {
			if condition {
				return yes
			}
			return no
		})),
}

// isEmpty reports whether value is nothing: zero, or without anything in it.
func isEmpty(value any) bool {
	v := reflect.ValueOf(value)
	switch v.Kind() {
	case reflect.Invalid:
		return true
	case reflect.String, reflect.Slice, reflect.Map, reflect.Array:
		return v.Len() == 0
	case reflect.Func, reflect.Chan:
		return false
	}
	return v.IsZero()
}
