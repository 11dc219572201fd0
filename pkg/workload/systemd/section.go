package systemd

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/kvd-io/kvd/pkg/spelling"
)

// Limits of what a unit's files may say; what is beyond them is a problem of that unit.
const (
	fileBytesMax  = 1 << 20
	sectionsMax   = 64  // services of one unit
	settingsMax   = 512 // of one unit
	valueBytesMax = 4 << 10
)

const sectionName = "X-Kvd"

// options maps what an [X-Kvd] section may set to the option of a label.
var options = map[string]string{
	"Port": "port", "Id": "id", "Protocol": "protocol", "Address": "address", "Family": "family",
	"Weight": "weight", "Tags": "tags", "Check": "check", "CheckInterval": "check-interval", "CheckTimeout": "check-timeout",
	"CheckRise": "check-rise", "CheckFall": "check-fall", "Unhealthy": "unhealthy", "KeepLast": "keep-last", "Drain": "drain",
}

// optionNames are all names that a section may set, for those who misspell one.
func optionNames() []string {
	names := []string{"Service", "Meta", "Ignore"}
	for name := range options {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// file is one file that a unit is made of.
type file struct {
	path string
	text []byte
}

// section is what all files of a unit say below one heading.
type section struct {
	heading  string // "X-Kvd" or "X-Kvd NAME"
	settings map[string]string
	meta     map[string]string
}

// parsed is what the files of one unit say to kvd.
type parsed struct {
	sections []*section
	settings int
	problems []string
}

// hasSection reports whether text may hold a section for kvd: a look that is cheaper than parsing.
func hasSection(text []byte) bool { return bytes.Contains(text, []byte("["+sectionName)) }

// parse reads the sections for kvd from the files of a unit, in the order in which systemd applies
// them: what a later one sets replaces what an earlier one has set, lists grow, and an empty value
// forgets what was set before. Everything else in the files is left to systemd.
func parse(files []file, expand func(string) (string, error)) parsed {
	var p parsed
	for _, f := range files {
		if hasSection(f.text) {
			p.read(f, expand)
		}
	}
	return p
}

// read adds what one file says.
func (p *parsed) read(f file, expand func(string) (string, error)) {
	var current *section
	for number, line := range logicalLines(string(f.text)) {
		problem := func(format string, args ...any) {
			p.problems = append(p.problems, fmt.Sprintf("%s:%d: ", f.path, number)+fmt.Sprintf(format, args...))
		}
		if strings.HasPrefix(line, "[") {
			heading := strings.TrimSuffix(strings.TrimPrefix(line, "["), "]")
			if current = nil; heading == sectionName || strings.HasPrefix(heading, sectionName+" ") {
				if current = p.section(heading); current == nil {
					problem("more than %d sections for kvd", sectionsMax)
				}
			}
			continue
		}
		if current == nil {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if p.settings++; p.settings > settingsMax {
			problem("more than %d settings for kvd", settingsMax)
			return
		}
		switch expanded, err := expand(value); {
		case !ok:
			problem("%q is no setting; expected NAME=VALUE", cut(line))
		case len(value) > valueBytesMax:
			problem("%s has %d bytes; at most %d are allowed", cut(name), len(value), valueBytesMax)
		case err != nil:
			problem("%s=%s: %v", cut(name), cut(value), err)
		default:
			if err := current.set(name, expanded); err != nil {
				problem("%v", err)
			}
		}
	}
}

// section returns the section of that heading, a new one if there is none, nil if there are too many.
func (p *parsed) section(heading string) *section {
	heading = strings.Join(strings.Fields(heading), " ")
	for _, s := range p.sections {
		if s.heading == heading {
			return s
		}
	}
	if len(p.sections) == sectionsMax {
		return nil
	}
	s := &section{heading: heading, settings: map[string]string{}, meta: map[string]string{}}
	p.sections = append(p.sections, s)
	return s
}

// set applies one setting.
func (s *section) set(name, value string) error {
	_, known := options[name]
	switch {
	case name == "Meta" && value == "":
		clear(s.meta)
	case name == "Meta":
		key, text, ok := strings.Cut(value, "=")
		if key = strings.TrimSpace(key); !ok || key == "" {
			return fmt.Errorf("setting Meta=%s: must be KEY=VALUE", cut(value))
		}
		s.meta[key] = strings.TrimSpace(text)
	case !known && name != "Service" && name != "Ignore":
		hint := ""
		if meant := spelling.Meant(name, optionNames()); meant != "" {
			hint = "; did you mean " + meant + "=?"
		}
		return fmt.Errorf("unknown setting %s=%s", cut(name), hint)
	case value == "":
		delete(s.settings, name)
	case name == "Tags" && s.settings[name] != "":
		s.settings[name] += "," + value
	default:
		s.settings[name] = value
	}
	return nil
}

// labels turns the sections of a unit into labels, kvd.SERVICE.OPTION, and adds to the problems what is
// wrong with a whole section. fallback is the service's name where no section says another.
func (p *parsed) labels(fallback string) map[string]string {
	labels := map[string]string{}
	named := map[string]string{} // service to heading
	for _, s := range p.sections {
		problem := func(format string, args ...any) {
			p.problems = append(p.problems, fmt.Sprintf("[%s]: ", s.heading)+fmt.Sprintf(format, args...))
		}
		if s.settings["Ignore"] != "" {
			ignore, ok := truth(s.settings["Ignore"])
			if !ok {
				problem("Ignore=%s: must be yes or no", cut(s.settings["Ignore"]))
			} else if ignore {
				return map[string]string{"kvd.ignore": "true"}
			}
		}
		service := s.service(fallback)
		if other, twice := named[service]; twice {
			problem("names the service %s, as [%s] does; give one of them another Service=", service, other)
			continue
		}
		named[service] = s.heading
		if s.settings["Port"] == "" {
			problem("Port= is missing: the number of the port on which %s answers, or none", service)
			continue
		}
		for name, value := range s.settings {
			if option := options[name]; option != "" {
				labels["kvd."+service+"."+option] = value
			}
		}
		for key, value := range s.meta {
			labels["kvd."+service+".meta."+key] = value
		}
	}
	return labels
}

func (s *section) service(fallback string) string {
	if name := s.settings["Service"]; name != "" {
		return name
	}
	if _, name, ok := strings.Cut(s.heading, " "); ok {
		return name
	}
	return fallback
}

// truth reads a boolean as systemd does.
func truth(text string) (value, ok bool) {
	switch strings.ToLower(text) {
	case "1", "yes", "y", "true", "t", "on":
		return true, true
	case "0", "no", "n", "false", "f", "off":
		return false, true
	}
	return false, false
}

// logicalLines yields the lines of a unit file that are neither empty nor comments, with the number of
// the line on which each begins. A line that ends in a backslash goes on in the next one that is no
// comment, as systemd has it.
func logicalLines(text string) func(yield func(number int, line string) bool) {
	return func(yield func(int, string) bool) {
		var joined []string
		number, began := 0, 0
		for line := range strings.Lines(text) {
			number++
			line = strings.TrimSpace(line)
			if isComment := strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";"); isComment || line == "" && joined == nil {
				continue
			}
			if joined == nil {
				began = number
			}
			rest, more := strings.CutSuffix(line, `\`)
			joined = append(joined, strings.TrimSpace(rest))
			if more {
				continue
			}
			if !yield(began, strings.Join(joined, " ")) {
				return
			}
			joined = nil
		}
		if joined != nil {
			yield(began, strings.Join(joined, " "))
		}
	}
}

// cut shortens text of others for a message.
func cut(text string) string {
	const runesMax = 60
	text = strings.ToValidUTF8(text, "?")
	if runes := []rune(text); len(runes) > runesMax {
		return string(runes[:runesMax]) + "..."
	}
	return text
}
