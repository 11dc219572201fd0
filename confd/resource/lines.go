package resource

import (
	"bytes"
	"regexp"
	"strings"
)

var (
	tableHeader = regexp.MustCompile(`^\s*\[\s*"?([A-Za-z0-9_-]+)"?\s*\]`)
	assignment  = regexp.MustCompile(`^\s*"?([A-Za-z0-9_-]+)"?(?:\s*\.\s*"?([A-Za-z0-9_-]+)"?)?\s*=`)
)

// findLines returns on which line each setting stands, by "table.setting" in small letters, and each table
// by its name. It is for messages: what is written in unusual ways is not found.
func findLines(data []byte) map[string]int {
	lines := map[string]int{}
	note := func(name string, line int) {
		if name = strings.ToLower(name); lines[name] == 0 {
			lines[name] = line
		}
	}
	table, quoted := "", false
	for i, line := range bytes.Split(data, []byte("\n")) {
		if !quoted {
			if header := tableHeader.FindSubmatch(line); header != nil {
				table = string(header[1])
				note(table, i+1)
			} else if set := assignment.FindSubmatch(line); set != nil {
				names := []string{string(set[1])}
				if len(set[2]) > 0 {
					names = append(names, string(set[2]))
				}
				if table != "" {
					names = append([]string{table}, names...)
				}
				note(strings.Join(names, "."), i+1)
			}
		}
		if (bytes.Count(line, []byte(`"""`))+bytes.Count(line, []byte("'''")))%2 == 1 {
			quoted = !quoted
		}
	}
	return lines
}
