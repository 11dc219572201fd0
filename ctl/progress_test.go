package ctl

import (
	"strings"
	"testing"
	"time"
)

func TestProgressIsABarOnATerminalAndALineNowAndThenElsewhere(t *testing.T) {
	var out strings.Builder
	var now time.Time
	show := func(terminal bool, total uint64, every time.Duration) []string {
		out.Reset()
		p := newProgress(&out, "from n1")
		p.now = func() time.Time { return now }
		p.begun, p.shown, p.terminal, p.total = now, now, terminal, total
		for i := range 4 * stepsAtATime {
			if i%stepsAtATime == stepsAtATime-1 {
				now = now.Add(every)
			}
			p.step(int64(i+1) << 10)
		}
		p.end()
		return strings.FieldsFunc(out.String(), func(r rune) bool { return r == '\r' || r == '\n' })
	}
	lines := show(false, 4*stepsAtATime, 6*time.Second)
	if len(lines) != 2 || lines[0] != "from n1: 512 of 1024 keys, 0.5 MiB, 0.0 MiB/s" || lines[1] != "from n1: 1024 of 1024 keys, 1.0 MiB, 0.0 MiB/s" {
		t.Errorf("elsewhere: %q", lines)
	}
	lines = show(true, 4*stepsAtATime, 125*time.Millisecond)
	if len(lines) != 5 || !strings.Contains(lines[1], "["+strings.Repeat("=", 15)+strings.Repeat(" ", 15)+"] 512 of 1024 keys, 0.5 MiB, 2.0 MiB/s") || strings.TrimPrefix(lines[4], "\x1b[K") != "" {
		t.Errorf("on a terminal: %q", lines)
	}
	if lines = show(false, 0, 20*time.Second); len(lines) != 4 || !strings.HasPrefix(lines[0], "from n1: 256 keys, ") {
		t.Errorf("of an unknown number: %q", lines)
	}
}
