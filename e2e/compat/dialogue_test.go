package compat

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// dialogue is one scene of a file in dialogues/.
type dialogue struct {
	name  string
	steps []step
}

// step is one line of a dialogue and what is known about its answer.
type step struct {
	where   string // file:line
	text    string
	differs string // why kvd answers differently; "" when it must not
	kvd     string // what kvd answers, where it differs
}

func readDialogues(t *testing.T) []dialogue {
	t.Helper()
	files, err := filepath.Glob("dialogues/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dialogues: %v", err)
	}
	var all []dialogue
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		read, err := parseDialogues(file, string(data))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, read...)
	}
	return all
}

func parseDialogues(file, text string) ([]dialogue, error) {
	var all []dialogue
	for i, line := range strings.Split(text, "\n") {
		where := fmt.Sprintf("%s:%d", file, i+1)
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if name, ok := strings.CutPrefix(line, "== "); ok {
			all = append(all, dialogue{name: name})
			continue
		}
		if len(all) == 0 {
			return nil, fmt.Errorf("%s: a step before the first ==", where)
		}
		steps := &all[len(all)-1].steps
		why, isReason := strings.CutPrefix(line, "differs: ")
		answer, isAnswer := strings.CutPrefix(line, "kvd> ")
		switch {
		case (isReason || isAnswer) && len(*steps) == 0:
			return nil, fmt.Errorf("%s: no step above", where)
		case isReason:
			(*steps)[len(*steps)-1].differs = why
		case isAnswer:
			(*steps)[len(*steps)-1].kvd = answer
		default:
			*steps = append(*steps, step{where: where, text: line})
		}
	}
	for _, d := range all {
		for _, s := range d.steps {
			if (s.differs == "") != (s.kvd == "") {
				return nil, fmt.Errorf("%s: differs and kvd> go together", s.where)
			}
		}
	}
	return all, nil
}
