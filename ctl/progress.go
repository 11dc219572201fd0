package ctl

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/program"
)

const (
	barWidth = 30
	// On a terminal the bar is drawn anew, elsewhere there is a line now and then.
	barInterval  = 100 * time.Millisecond
	lineInterval = 10 * time.Second
	// stepsAtATime is how many steps are taken between two looks at the clock.
	stepsAtATime = 256
)

// progress shows on w how far something has come. It is for one goroutine.
type progress struct {
	w        io.Writer
	what     string
	terminal bool
	now      func() time.Time
	total    uint64 // steps; 0 when that is not known
	steps    uint64
	begun    time.Time
	shown    time.Time
}

func newProgress(w io.Writer, what string) *progress {
	p := &progress{w: w, what: what, terminal: program.IsTerminal(w), now: time.Now}
	p.begun = p.now()
	p.shown = p.begun
	return p
}

// step counts one step, with the bytes that there are by then.
func (p *progress) step(bytes int64) {
	if p.steps++; p.steps%stepsAtATime != 0 {
		return
	}
	interval := lineInterval
	if p.terminal {
		interval = barInterval
	}
	now := p.now()
	if now.Sub(p.shown) < interval {
		return
	}
	p.shown = now
	mib := float64(bytes) / (1 << 20)
	rate := mib / now.Sub(p.begun).Seconds()
	if !p.terminal {
		fmt.Fprintf(p.w, "%s: %s keys, %.1f MiB, %.1f MiB/s\n", p.what, p.count(), mib, rate)
		return
	}
	filled := 0
	if p.total > 0 {
		filled = int(min(p.steps, p.total) * barWidth / p.total)
	}
	fmt.Fprintf(p.w, "\r\033[K%s [%s%s] %s keys, %.1f MiB, %.1f MiB/s", p.what, strings.Repeat("=", filled), strings.Repeat(" ", barWidth-filled), p.count(), mib, rate)
}

func (p *progress) count() string {
	if p.total == 0 {
		return fmt.Sprint(p.steps)
	}
	return fmt.Sprintf("%d of %d", p.steps, p.total)
}

// end removes the bar.
func (p *progress) end() {
	if p.terminal {
		fmt.Fprint(p.w, "\r\033[K")
	}
}
