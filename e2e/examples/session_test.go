package examples

import (
	"os"
	"strings"
	"testing"
	"time"
)

// patience bounds how long a command is repeated.
const patience = 20 * time.Second

// What a session shows for what it leaves open, and for no output.
const (
	anything = "..."
	nothing  = "(nothing)"
)

// entry is a command of a session and what it prints.
type entry struct {
	line    int
	command string
	output  []string
}

// parse reads a session.
func parse(t *testing.T, path string) []entry {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var entries []entry
	for i, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		last := len(entries) - 1
		switch {
		case strings.HasPrefix(line, "#"), line == "":
		case strings.HasPrefix(line, "$ "):
			entries = append(entries, entry{line: i + 1, command: line[2:]})
		case last < 0:
			t.Fatalf("%s:%d: a session begins with a command", path, i+1)
		case strings.HasPrefix(line, "> "):
			entries[last].command += "\n" + line[2:]
		default:
			entries[last].output = append(entries[last].output, line)
		}
	}
	if len(entries) == 0 {
		t.Fatalf("%s: no commands", path)
	}
	return entries
}

// play types a session into shell, which returns what a command prints, on both streams if it fails.
func play(t *testing.T, path string, shell func(line string) (string, error)) {
	t.Helper()
	for _, e := range parse(t, path) {
		if len(e.output) == 0 || e.output[0] == anything { // it is typed once
			if got, err := shell(e.command); err != nil {
				t.Fatalf("%s:%d: %s\n%v\n%s", path, e.line, e.command, err, got)
			}
			continue
		}
		deadline := time.Now().Add(patience)
		for got, _ := shell(e.command); !matches(e.output, got); got, _ = shell(e.command) {
			if time.Now().After(deadline) {
				t.Fatalf("%s:%d: %s\nprinted\n%s\nand not\n%s", path, e.line, e.command, got, strings.Join(e.output, "\n"))
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// matches reports whether a command has printed what the session shows.
func matches(want []string, got string) bool {
	if len(want) == 1 && want[0] == nothing {
		return got == ""
	}
	lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
	if want[len(want)-1] == anything {
		want = want[:len(want)-1]
		lines = lines[:min(len(lines), len(want))]
	}
	if len(want) != len(lines) {
		return false
	}
	for i := range want {
		beginning, open := strings.CutSuffix(want[i], anything)
		if lines[i] != want[i] && !(open && strings.HasPrefix(lines[i], beginning)) {
			return false
		}
	}
	return true
}
