package registry

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// changeBytesMax is how much of a value is shown where a change is told.
const changeBytesMax = 100

// changes says for people what the value after has that before had not: each field of a JSON object
// that differs, or else the whole. It is "" if nothing does.
func changes(before, after string) string {
	var was, is map[string]json.RawMessage
	if len(before) > valueBytesMax || len(after) > valueBytesMax ||
		json.Unmarshal([]byte(before), &was) != nil || json.Unmarshal([]byte(after), &is) != nil {
		if before == after {
			return ""
		}
		return change(before, after)
	}
	fields := maps.Clone(was)
	if fields == nil {
		fields = map[string]json.RawMessage{}
	}
	maps.Copy(fields, is)
	var told []string
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		if string(was[field]) != string(is[field]) {
			told = append(told, changeText(field)+" "+change(string(was[field]), string(is[field])))
		}
	}
	return strings.Join(told, ", ")
}

func change(before, after string) string { return changeText(before) + " -> " + changeText(after) }

func changeText(value string) string {
	if value == "" {
		return "none"
	}
	if len(value) > changeBytesMax {
		return strings.ToValidUTF8(value[:changeBytesMax], "") + "..."
	}
	return value
}
