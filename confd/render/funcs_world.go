package render

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
)

// sequenceMax bounds seq and repeat, whose results are built in memory before they are output.
const sequenceMax = 1 << 20

// worldFuncs are the functions that do not read the tree.
func worldFuncs(w World) template.FuncMap {
	w = w.real()
	funcs := template.FuncMap{
		"getenv": func(name string, fallback ...string) string {
			if value := w.Getenv(name); value != "" || len(fallback) == 0 {
				return value
			}
			return fallback[0]
		},
		"hostname":   w.Hostname,
		"datetime":   w.Now,
		"fileExists": w.FileExists,
		"lookupIP":   func(host string) []string { return lookup(w, host, func(net.IP) bool { return true }) },
		"lookupIPV4": func(host string) []string { return lookup(w, host, func(ip net.IP) bool { return ip.To4() != nil }) },
		"lookupIPV6": func(host string) []string { return lookup(w, host, func(ip net.IP) bool { return ip.To4() == nil }) },
		"lookupSRV": func(service, proto, name string) []*net.SRV {
			records, err := w.LookupSRV(service, proto, name)
			if err != nil {
				return []*net.SRV{}
			}
			text := func(r *net.SRV) string { return fmt.Sprintf("%s%d%d%d", r.Target, r.Port, r.Priority, r.Weight) }
			slices.SortFunc(records, func(a, b *net.SRV) int { return strings.Compare(text(a), text(b)) })
			return records
		},
	}
	maps.Copy(funcs, textFuncs)
	maps.Copy(funcs, listFuncs)
	maps.Copy(funcs, numberFuncs)
	return funcs
}

func lookup(w World, host string, want func(net.IP) bool) []string {
	addresses, err := w.LookupIP(host)
	if err != nil {
		return nil
	}
	var texts []string
	for _, ip := range addresses {
		if want(ip) {
			texts = append(texts, ip.String())
		}
	}
	slices.Sort(texts)
	return texts
}

var textFuncs = template.FuncMap{
	"base":       path.Base,
	"dir":        path.Dir,
	"split":      strings.Split,
	"join":       strings.Join,
	"replace":    strings.Replace,
	"contains":   strings.Contains,
	"trimSuffix": strings.TrimSuffix,
	"trimPrefix": strings.TrimPrefix,
	"toUpper":    strings.ToUpper,
	"toLower":    strings.ToLower,
	"nospace":    func(s string) string { return strings.Join(strings.Fields(s), "") },
	"quote":      strconv.Quote,
	"squote":     func(s string) string { return "'" + s + "'" },
	"repeat": func(n int, s string) (string, error) {
		if n < 0 || n*len(s) > sequenceMax {
			return "", fmt.Errorf("repeat %d: the result must have 0 to %d bytes", n, sequenceMax)
		}
		return strings.Repeat(s, n), nil
	},
	"indent":  indent,
	"nindent": func(n int, s string) (string, error) { text, err := indent(n, s); return "\n" + text, err },
	"base64Encode": func(s string) string {
		return base64.StdEncoding.EncodeToString([]byte(s))
	},
	"base64Decode": func(s string) (string, error) {
		data, err := base64.StdEncoding.DecodeString(s)
		return string(data), err
	},
	"sha256sum": func(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) },
	"regexMatch": func(pattern, s string) (bool, error) {
		return regexp.MatchString(pattern, s)
	},
	"regexFind": func(pattern, s string) (string, error) {
		re, err := regexp.Compile(pattern)
		if err != nil {
			return "", err
		}
		return re.FindString(s), nil
	},
	"regexReplaceAll": func(pattern, s, replacement string) (string, error) {
		re, err := regexp.Compile(pattern)
		if err != nil {
			return "", err
		}
		return re.ReplaceAllString(s, replacement), nil
	},
	"json": func(s string) (object map[string]any, err error) {
		err = json.Unmarshal([]byte(s), &object)
		return object, err
	},
	"jsonArray": func(s string) (array []any, err error) {
		err = json.Unmarshal([]byte(s), &array)
		return array, err
	},
	"fromJson": func(s string) (value any, err error) {
		err = json.Unmarshal([]byte(s), &value)
		return value, err
	},
	"toJson": func(value any) (string, error) {
		data, err := json.Marshal(value)
		return string(data), err
	},
	"toPrettyJson": func(value any) (string, error) {
		data, err := json.MarshalIndent(value, "", "  ")
		return string(data), err
	},
	"parseBool": strconv.ParseBool,
	"hostport":  func(host string, port any) string { return net.JoinHostPort(host, fmt.Sprint(port)) },
}

func indent(n int, s string) (string, error) {
	if n < 0 || n > 1000 {
		return "", fmt.Errorf("indent %d: use 0 to 1000", n)
	}
	pad := strings.Repeat(" ", n)
	return pad + strings.ReplaceAll(s, "\n", "\n"+pad), nil
}

var listFuncs = template.FuncMap{
	"map":  dictionary,
	"dict": dictionary,
	"list": func(items ...any) []any { return items },
	"append": func(list []any, items ...any) []any {
		return append(slices.Clone(list), items...)
	},
	"hasKey": func(object map[string]any, key string) bool {
		_, ok := object[key]
		return ok
	},
	"keys": func(object map[string]any) []string { return slices.Sorted(maps.Keys(object)) },
	"values": func(object map[string]any) []any {
		values := make([]any, 0, len(object))
		for _, key := range slices.Sorted(maps.Keys(object)) {
			values = append(values, object[key])
		}
		return values
	},
	"pluck": func(key string, objects ...map[string]any) []any {
		values := []any{}
		for _, object := range objects {
			if value, ok := object[key]; ok {
				values = append(values, value)
			}
		}
		return values
	},
	// reverse and the sorts work in place, as in confd: a variable that holds the list sees it.
	// reverse turns around []string and []KVPair and hands anything else back as it is: that
	// includes what gets returns, as in confd. Sort it with sortKVByLength first.
	"reverse": func(list any) any {
		switch list := list.(type) {
		case []string:
			slices.Reverse(list)
		case []KVPair:
			slices.Reverse(list)
		}
		return list
	},
	"sortByLength": func(list []string) []string {
		slices.SortStableFunc(list, func(a, b string) int { return cmp.Compare(len(a), len(b)) })
		return list
	},
	"sortKVByLength": func(list []KVPair) []KVPair {
		slices.SortStableFunc(list, func(a, b KVPair) int { return cmp.Compare(len(a.Key), len(b.Key)) })
		return list
	},
	"default": func(fallback, value any) any {
		if isEmpty(value) {
			return fallback
		}
		return value
	},
	"coalesce": func(values ...any) any {
		for _, value := range values {
			if !isEmpty(value) {
				return value
			}
		}
		return nil
	},
	"empty": isEmpty,
	"ternary": func(yes, no any, condition bool) any {
		if condition {
			return yes
		}
		return no
	},
}

func dictionary(pairs ...any) (map[string]any, error) {
	if len(pairs)%2 != 0 {
		return nil, errors.New("map: give keys and values in pairs")
	}
	object := make(map[string]any, len(pairs)/2)
	for i := 0; i < len(pairs); i += 2 {
		key, ok := pairs[i].(string)
		if !ok {
			return nil, fmt.Errorf("map: key %v is not a string", pairs[i])
		}
		object[key] = pairs[i+1]
	}
	return object, nil
}

// isEmpty reports whether value is what a condition of text/template takes for false.
func isEmpty(value any) bool {
	truth, _ := template.IsTrue(value)
	return !truth
}

var numberFuncs = template.FuncMap{
	"atoi": strconv.Atoi,
	"add":  func(a, b int) int { return a + b },
	"sub":  func(a, b int) int { return a - b },
	"mul":  func(a, b int) int { return a * b },
	"div": func(a, b int) (int, error) {
		if b == 0 {
			return 0, fmt.Errorf("div %d 0: division by zero", a)
		}
		return a / b, nil
	},
	"mod": func(a, b int) (int, error) {
		if b == 0 {
			return 0, fmt.Errorf("mod %d 0: division by zero", a)
		}
		return a % b, nil
	},
	"seq": func(first, last int) ([]int, error) {
		if last < first {
			return []int{}, nil
		}
		if last-first >= sequenceMax || last-first < 0 {
			return nil, fmt.Errorf("seq %d %d: at most %d numbers", first, last, sequenceMax)
		}
		numbers := make([]int, 0, last-first+1)
		for n := first; n <= last; n++ {
			numbers = append(numbers, n)
		}
		return numbers, nil
	},
}
