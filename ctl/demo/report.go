package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/program"
)

// Step is one line of the result.
type Step struct {
	Name       string  `json:"step"`
	Expected   string  `json:"expected"`
	ObservedMS float64 `json:"observed_ms"` // how long it took until the expectation held
	Requests   int     `json:"requests"`    // that ended during the step; 0 while nothing is served yet
	Failed     int     `json:"failed"`      // of these
	Held       bool    `json:"held"`
	Problem    string  `json:"problem,omitempty"` // why it did not hold
}

// Report is what --json prints.
type Report struct {
	Pass         bool           `json:"pass"`
	Proxy        string         `json:"proxy"`     // which proxy served, and why that one
	Docker       string         `json:"docker"`    // which engine took part, or why none
	Endpoints    []string       `json:"endpoints"` // of the members of kvd
	Steps        []Step         `json:"steps"`
	Requests     int            `json:"requests"`
	Failed       int            `json:"failed"`
	Answers      map[string]int `json:"answers"`                 // by backend
	Writes       int            `json:"writes"`                  // acknowledged to the writers while members died and were restarted
	WritesFailed int            `json:"writes_failed"`           // not acknowledged
	WriteFailure string         `json:"write_failure,omitempty"` // the latest
	Seconds      float64        `json:"seconds"`
	Problem      string         `json:"problem,omitempty"` // why the steps could not go on
	Kept         string         `json:"kept,omitempty"`    // folder with logs and files, after a failure
}

// printer shows the demo to a person while it runs. Its zero value shows nothing.
type printer struct {
	w      io.Writer
	colour bool
}

func newPrinter(w io.Writer) printer {
	return printer{w: w, colour: program.IsTerminal(w)}
}

func (p printer) line(format string, args ...any) {
	if p.w != nil {
		fmt.Fprintf(p.w, format+"\n", args...)
	}
}

const rowFormat = "%-4s  %-34s  %-47s  %9s  %8s  %6s"

func (p printer) header() {
	p.line("")
	p.line(rowFormat, "", "step", "expected", "observed", "requests", "failed")
}

func (p printer) step(s Step) {
	mark := p.paint(green, "ok  ")
	if !s.Held {
		mark = p.paint(red, "FAIL")
	}
	observed := time.Duration(s.ObservedMS * float64(time.Millisecond)).Round(time.Millisecond)
	requests, failed := "-", "-"
	if s.Requests > 0 {
		requests, failed = fmt.Sprint(s.Requests), fmt.Sprint(s.Failed)
	}
	// The mark may hold colour codes, which must not count as its width.
	row := fmt.Sprintf(rowFormat, "", s.Name, s.Expected, fmt.Sprintf("%d ms", observed.Milliseconds()), requests, failed)
	p.line("%s%s", mark, strings.TrimPrefix(row, "    "))
	if s.Problem != "" {
		p.line("      %s", strings.ReplaceAll(s.Problem, "\n", "\n      "))
	}
}

func (p printer) result(r Report) {
	p.line("")
	if len(r.Answers) == 0 {
		p.line("%d requests in %.1f s; nothing has answered", r.Requests, r.Seconds)
	} else {
		p.line("%d requests in %.1f s, %d failed; answered by %s", r.Requests, r.Seconds, r.Failed, perBackend(r.Answers))
	}
	if r.Writes > 0 {
		p.line("%d writes acknowledged while members died and were restarted, %d not", r.Writes, r.WritesFailed)
		if r.WritesFailed > 0 {
			p.line("      the latest that was not: %s", r.WriteFailure)
		}
	}
	if r.Pass {
		p.line("%s", p.paint(green, "PASS"))
		return
	}
	if r.Problem != "" {
		p.line("%s", r.Problem)
	}
	p.line("%s", p.paint(red, "FAIL"))
	if r.Kept != "" {
		p.line("logs and files are kept in %s", r.Kept)
	}
}

const (
	red   = "\x1b[31m"
	green = "\x1b[32m"
	reset = "\x1b[0m"
)

func (p printer) paint(colour, text string) string {
	if !p.colour {
		return text
	}
	return colour + text + reset
}

func writeJSON(w io.Writer, r Report) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}
