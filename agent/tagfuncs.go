package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"text/template"
)

// tagFuncs are the functions that registrator has for templates of tags, with its names and the order
// of their arguments.
func tagFuncs(fetch func(url string) ([]byte, error)) template.FuncMap {
	return template.FuncMap{
		"strSlice":          strSlice,
		"sIndex":            sIndex,
		"mIndex":            func(key string, m map[string]string) string { return m[key] },
		"toUpper":           strings.ToUpper,
		"toLower":           strings.ToLower,
		"replace":           func(n int, old, with, text string) string { return strings.Replace(text, old, with, n) },
		"join":              func(separator string, list []string) string { return strings.Join(list, separator) },
		"split":             func(separator, text string) []string { return strings.Split(text, separator) },
		"splitIndex":        func(i int, separator, text string) (string, error) { return sIndex(i, strings.Split(text, separator)) },
		"matchFirstElement": matchFirstElement,
		"matchAllElements":  matchAllElements,
		"httpGet":           fetch,
		"jsonParse":         jsonParse,
	}
}

// strSlice is text[from:] or text[from:to]; limits beyond the text leave it whole.
func strSlice(text string, limits ...int) string {
	for _, limit := range limits {
		if limit < 0 || limit > len(text) {
			return text
		}
	}
	switch {
	case len(limits) == 1, len(limits) == 2 && limits[1] < limits[0]:
		return text[limits[0]:]
	case len(limits) == 2:
		return text[limits[0]:limits[1]]
	}
	return text
}

// sIndex is list[i], counted from the end if i is negative; beyond either end it is the last element there.
func sIndex(i int, list []string) (string, error) {
	if len(list) == 0 {
		return "", errors.New("sIndex of an empty list")
	}
	if i < 0 {
		i = len(list) + i
	}
	return list[max(0, min(i, len(list)-1))], nil
}

func matchFirstElement(pattern string, list []string) (string, error) {
	found, err := matchAllElements(pattern, list)
	if len(found) == 0 {
		return "", err
	}
	return found[0], nil
}

func matchAllElements(pattern string, list []string) (found []string, err error) {
	expression, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	for _, element := range list {
		if expression.MatchString(element) {
			found = append(found, element)
		}
	}
	return found, nil
}

// jsonParse returns what is at "key::key::[index]" in a JSON document: the text of a string, everything
// else as JSON, and "" if there is nothing.
func jsonParse(document []byte, path string) (string, error) {
	var value any
	decoder := json.NewDecoder(strings.NewReader(string(document)))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		return "", fmt.Errorf("jsonParse: %w", err)
	}
	for _, key := range strings.Split(path, "::") {
		switch inner := value.(type) {
		case map[string]any:
			value = inner[key]
		case []any:
			i, err := strconv.Atoi(strings.Trim(key, "[]"))
			if err != nil || i < 0 || i >= len(inner) {
				return "", nil
			}
			value = inner[i]
		default:
			return "", nil
		}
	}
	switch value := value.(type) {
	case nil:
		return "", nil
	case string:
		return value, nil
	}
	text, err := json.Marshal(value)
	return string(text), err
}
