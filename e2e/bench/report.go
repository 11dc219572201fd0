package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// report is everything one run has measured.
type report struct {
	Machine []fact   `json:"machine"`
	Args    []string `json:"args"`
	Tables  []table  `json:"tables"`
}

// fact is one thing to know about the machine.
type fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// table is one piece of work done by each subject. All rows have the same figures.
type table struct {
	Scenario string   `json:"scenario"`
	Work     string   `json:"work"`
	Rows     []row    `json:"rows"`
	Claims   []claim  `json:"claims,omitempty"`
	Commands []string `json:"commands,omitempty"`
}

type row struct {
	Subject string   `json:"subject"`
	Figures []figure `json:"figures"`
}

// figure is one number; its name holds the unit.
type figure struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Digits int     `json:"-"` // behind the point, when it is printed
}

// claim is a figure with a target, at least or at most; a Target of 0 is none.
type claim struct {
	What    string  `json:"what"`
	Value   float64 `json:"value"`
	Target  float64 `json:"target,omitempty"`
	AtLeast bool    `json:"atLeast"`
}

// unmeasured reports whether what the claim divides by was too small for the clock, as it can be in
// a short run.
func (c claim) unmeasured() bool { return math.IsInf(c.Value, 0) || math.IsNaN(c.Value) }

func (c claim) String() string {
	text := fmt.Sprintf("%s = %.4g", c.What, c.Value)
	if c.Target == 0 {
		return text
	}
	bound, met := "at most", c.Value <= c.Target
	if c.AtLeast {
		bound, met = "at least", c.Value >= c.Target
	}
	verdict := "missed"
	if met {
		verdict = "met"
	}
	return fmt.Sprintf("%s (target %s %.4g: %s)", text, bound, c.Target, verdict)
}

// describeMachine says what the figures were taken on.
func (b *bench) describeMachine(ctx context.Context) []fact {
	first := func(name string, args ...string) string {
		output, _ := exec.CommandContext(ctx, name, args...).CombinedOutput()
		line, _, _ := strings.Cut(string(output), "\n")
		return strings.TrimSpace(line)
	}
	processor := "unknown"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if m := regexp.MustCompile(`(?m)^model name\s*:\s*(.*)$`).FindSubmatch(info); m != nil {
			processor = string(m[1])
		}
	}
	busy := "unknown"
	if average, err := os.ReadFile("/proc/loadavg"); err == nil {
		busy, _, _ = strings.Cut(string(average), " ")
	}
	return []fact{
		{"date", time.Now().UTC().Format("2006-01-02 15:04 UTC")},
		{"processor", fmt.Sprintf("%d of %s", runtime.NumCPU(), processor)},
		{"kernel", first("uname", "-sr")},
		{"load before", busy},
		{"kvd", first(b.kvd, "--version") + ", " + runtime.Version()},
		{"etcd", first(b.etcd, "--version")},
		{"wrk", first("wrk", "--version")},
		{"rounds", fmt.Sprintf("%d of %v each, median", b.rounds, b.duration)},
	}
}

// writeText writes the report for a terminal.
func (r report) writeText(w io.Writer) {
	for _, f := range r.Machine {
		fmt.Fprintf(w, "%-12s %s\n", f.Name, f.Value)
	}
	for _, t := range r.Tables {
		fmt.Fprintf(w, "\n%s: %s\n", t.Scenario, t.Work)
		tabs := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		for i, cells := range t.cells() {
			if i == 0 {
				cells[0] = ""
			}
			fmt.Fprintln(tabs, strings.Join(cells, "\t")+"\t")
		}
		tabs.Flush()
		for _, c := range t.Claims {
			fmt.Fprintf(w, "  %v\n", c)
		}
		for _, c := range t.Commands {
			fmt.Fprintf(w, "  $ %s\n", c)
		}
	}
}

// cells returns the table as text, the names of the columns first.
func (t table) cells() [][]string {
	var lines [][]string
	for i, r := range t.Rows {
		names, values := []string{t.Work}, []string{r.Subject}
		for _, f := range r.Figures {
			names = append(names, f.Name)
			values = append(values, fmt.Sprintf("%.*f", f.Digits, f.Value))
		}
		if i == 0 {
			lines = append(lines, names)
		}
		lines = append(lines, values)
	}
	return lines
}

// The marks in a Markdown file between which the report stands.
const (
	docBegin = "<!-- bench: what follows is written by e2e/bench -doc -->\n"
	docEnd   = "<!-- /bench -->\n"
)

// writeDoc replaces what stands between the marks of a Markdown file.
func (r report) writeDoc(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(text, []byte(docBegin))
	_, after, ended := bytes.Cut(rest, []byte(docEnd))
	if !ok || !ended {
		return errors.New(file + " has no bench marks")
	}
	var doc bytes.Buffer
	doc.Write(before)
	doc.WriteString(docBegin)
	r.writeMarkdown(&doc)
	doc.WriteString(docEnd)
	doc.Write(after)
	return os.WriteFile(file, doc.Bytes(), 0o644)
}

func (r report) writeMarkdown(w io.Writer) {
	fmt.Fprint(w, "\n| taken on | |\n|---|---|\n")
	for _, f := range r.Machine {
		fmt.Fprintf(w, "| %s | %s |\n", f.Name, f.Value)
	}
	fmt.Fprintln(w)
	for _, t := range r.Tables {
		for i, cells := range t.cells() {
			fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
			if i == 0 {
				fmt.Fprintln(w, "|---"+strings.Repeat("|---:", len(cells)-1)+"|")
			}
		}
		fmt.Fprintln(w)
		for _, c := range t.Claims {
			fmt.Fprintf(w, "- %v\n", c)
		}
		for _, c := range t.Commands {
			fmt.Fprintf(w, "- `%s`\n", c)
		}
		fmt.Fprintln(w)
	}
}
