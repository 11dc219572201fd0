package agent

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/kvd-io/kvd/pkg/registry"
)

// metadataPrefix begins every label and environment variable that is meant for the agent.
const metadataPrefix = "SERVICE_"

// Limits on what one container may say. Beyond them an entry is left out and the refusal says so.
const (
	tagBytesMax  = 256
	metaBytesMax = 1024
	entriesMax   = 64 // of tags, and of meta entries
	problemsMax  = 16 // that are told about one list of entries
)

// metadata is what a container says about itself: SERVICE_KEY=value by upper-case KEY. A KEY that
// begins with a number and '_' is about that port alone.
type metadata map[string]string

// readMetadata joins environment and labels; a label wins.
func readMetadata(env, labels map[string]string) metadata {
	m := metadata{}
	for _, source := range []map[string]string{env, labels} {
		for _, name := range slices.Sorted(maps.Keys(source)) {
			if key, found := strings.CutPrefix(name, metadataPrefix); found && key != "" {
				m[strings.ToUpper(key)] = source[name]
			}
		}
	}
	return m
}

// forPort returns what holds for one port: what is said about all ports, and over it what is said
// about this one.
func (m metadata) forPort(port int) metadata {
	own := metadata{}
	scoped := metadata{}
	for key, value := range m {
		number, rest, found := strings.Cut(key, "_")
		switch n, err := strconv.Atoi(number); {
		case err != nil || !found || rest == "":
			own[key] = value
		case n == port:
			scoped[rest] = value
		}
	}
	maps.Copy(own, scoped)
	return own
}

// isTrue reads a switch as people write it.
func (m metadata) isTrue(key string) bool { return isOn(m[key]) }

// The keys with a meaning of their own; every other one is passed on as meta.
const (
	keyName   = "NAME"
	keyID     = "ID"
	keyTags   = "TAGS"
	keyIgnore = "IGNORE"
	keyWeight = "WEIGHT"
	keyCheck  = "CHECK"
)

// meta returns all keys without a meaning of their own, in lower case.
func (m metadata) meta() (map[string]string, []string) {
	rest := map[string]string{}
	for key, value := range m {
		switch {
		case slices.Contains([]string{keyName, keyID, keyTags, keyIgnore, keyWeight, keyCheck}, key), slices.Contains(checkKeys(), key):
		default:
			rest[strings.ToLower(key)] = value
		}
	}
	return readMeta(rest, func(key string) string { return metadataPrefix + strings.ToUpper(key) })
}

// readMeta returns what may become the meta entries of a record, and what is wrong with the others, by
// the names that label gives them.
func readMeta(entries map[string]string, label func(key string) string) (map[string]string, []string) {
	meta := map[string]string{}
	var problems []string
	for _, key := range sortedKeys(entries) {
		value := entries[key]
		switch {
		case !isName(key):
			problems = append(problems, fmt.Sprintf("%.50q: letters, digits, '.', '-' and '_' are allowed in a name; left out", label(key)))
		case len(value) > metaBytesMax:
			problems = append(problems, fmt.Sprintf("%s has %d bytes: at most %d are allowed; left out", label(key), len(value), metaBytesMax))
		case !isPrintable(value):
			problems = append(problems, fmt.Sprintf("%s contains control bytes or is not UTF-8; left out", label(key)))
		case len(meta) == entriesMax:
			return meta, append(problems, fmt.Sprintf("more than %d entries like %s; the rest is left out", entriesMax, label("...")))
		default:
			meta[key] = value
		}
		if len(problems) == problemsMax {
			return meta, append(problems, "and more of the kind")
		}
	}
	return meta, problems
}

// tags returns the tags without repetition. `\,` is a comma within a tag.
func (m metadata) tags() ([]string, []string) { return readTags(m[keyTags]) }

func readTags(list string) ([]string, []string) {
	var tags, problems []string
	for _, tag := range splitEscaped(list) {
		if len(problems) == problemsMax {
			return tags, append(problems, "and more of the kind")
		}
		switch {
		case tag == "" || slices.Contains(tags, tag):
		case len(tag) > tagBytesMax:
			problems = append(problems, fmt.Sprintf("a tag of %d bytes: at most %d are allowed; left out", len(tag), tagBytesMax))
		case !isPrintable(tag):
			problems = append(problems, fmt.Sprintf("tag %.40q contains control bytes or is not UTF-8; left out", tag))
		case len(tags) == entriesMax:
			return tags, append(problems, fmt.Sprintf("more than %d tags; the rest is left out", entriesMax))
		default:
			tags = append(tags, tag)
		}
	}
	return tags, problems
}

// splitEscaped splits at commas that no backslash precedes, and trims space around each part.
func splitEscaped(list string) []string {
	var parts []string
	var part strings.Builder
	for i := 0; i < len(list); i++ {
		switch {
		case list[i] == '\\' && i+1 < len(list) && list[i+1] == ',':
			part.WriteByte(',')
			i++
		case list[i] == ',':
			parts = append(parts, strings.TrimSpace(part.String()))
			part.Reset()
		default:
			part.WriteByte(list[i])
		}
	}
	return append(parts, strings.TrimSpace(part.String()))
}

// weight returns the weight, 0 if none is given.
func (m metadata) weight() (int, error) {
	text := strings.TrimSpace(m[keyWeight])
	if text == "" {
		return 0, nil
	}
	weight, err := strconv.Atoi(text)
	if err != nil || weight < 0 || weight > registry.WeightMax {
		return 0, fmt.Errorf("%s%s=%.20q: must be a number from 1 to %d, or 0 for none; left out", metadataPrefix, keyWeight, text, registry.WeightMax)
	}
	return weight, nil
}
