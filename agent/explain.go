package agent

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/printable"
	"github.com/kvd-io/kvd/pkg/registrar"
	"github.com/kvd-io/kvd/pkg/registrar/local"
)

// print writes an explanation for people.
func (e Explanation) print(w io.Writer, now time.Time) {
	p := func(format string, args ...any) { fmt.Fprintln(w, printable.Text(fmt.Sprintf(format, args...))) }
	for _, l := range e.Workloads {
		p("%s %s: %s", kindOf(l.Source), l.Name, stateText(l))
	}
	for _, i := range e.Instances {
		p("")
		p("%s", title(i))
		p("  why        %s", why(i, now))
		p("  address    %s (%s)", i.Address, i.Rule)
		if i.Check != nil {
			p("  check      %s", checkLine(*i.Check, now))
		}
		if i.Health != "" {
			p("  engine     its HEALTHCHECK says %s", i.Health)
		}
		if i.Override != nil {
			p("  override   %s", overrideText(i))
		}
		for _, k := range i.Keys {
			p("  key        %s", keyLine(k, now))
		}
		if len(i.Keys) == 0 {
			p("  key        none")
		}
	}
	if len(e.Refused) > 0 {
		p("")
	}
	for _, r := range e.Refused {
		about := r.Workload
		if r.Port != 0 {
			about = fmt.Sprintf("%s, port %d", about, r.Port)
		}
		word := "not registered"
		if r.Mistake {
			word = "mistake"
		}
		p("%s: %s: %s", about, word, r.Reason)
	}
	p("")
	switch {
	case e.StoreErr != "":
		p("store        %s", e.StoreErr)
	case e.Heartbeat.IsZero():
		p("heartbeat    none yet")
	default:
		p("heartbeat    %s", ago(e.Heartbeat, now))
	}
}

func kindOf(source string) string {
	switch source {
	case SourceDocker:
		return "container"
	case SourceSystemd:
		return "unit"
	}
	return source
}

func stateText(l WorkloadState) string {
	text := l.State
	if l.Reason != "" && l.Reason != l.State {
		text += " (" + l.Reason + ")"
	}
	if l.Image != "" {
		text += ", image " + l.Image
	}
	return text
}

func title(i local.Instance) string {
	state := "not registered"
	if i.State != "" {
		state = "registered as " + i.State
		for _, k := range i.Keys {
			if k.State != "registered" {
				state = "to be registered as " + i.State
			}
		}
	}
	return fmt.Sprintf("%s/%s is %s", i.Service, i.Instance, state)
}

// why says where the instance stands and for how long.
func why(i local.Instance, now time.Time) string {
	text := i.Phase
	if i.Phase == string(registrar.Up) {
		text = "it runs and is healthy"
	}
	if !i.Since.IsZero() {
		text += ", since " + ago(i.Since, now)
	}
	if i.Reason != "" {
		text += ": " + i.Reason
	}
	if i.Kept && i.Phase == string(registrar.Unhealthy) {
		text += "; it is kept because it is the last one"
	}
	return text
}

func checkLine(c local.Check, now time.Time) string {
	if c.At.IsZero() {
		return c.Check + ": has not ended yet"
	}
	result, times := "passed", c.Passed
	if c.Failed > 0 {
		result, times = "failed", c.Failed
	}
	text := fmt.Sprintf("%s: %s %s in %v, %d in a row", c.Check, result, ago(c.At, now), c.Took.Round(100*time.Microsecond), times)
	if c.Output != "" {
		text += ": " + strings.ReplaceAll(c.Output, "\n", "; ")
	}
	return text
}

func overrideText(i local.Instance) string {
	o := i.Override
	text := string(o.Mode)
	if o.Weight != 0 {
		text = strings.TrimSpace(fmt.Sprintf("%s weight %d", text, o.Weight))
	}
	if o.By != "" {
		text += ", wanted by " + o.By
	}
	if o.Reason != "" {
		text += ": " + o.Reason
	}
	return text
}

func keyLine(k local.Key, now time.Time) string {
	text := fmt.Sprintf("%s (%s): %s", k.Key, k.Layout, k.State)
	if !k.Since.IsZero() {
		text += ", since " + ago(k.Since, now)
	}
	if k.Owner != "" {
		text += ", held by " + k.Owner
	}
	if k.Err != "" {
		text += ": " + k.Err
	}
	return text
}

// ago says how long ago something was.
func ago(t, now time.Time) string {
	d := max(now.Sub(t), 0)
	switch {
	case d < 10*time.Second:
		d = d.Round(100 * time.Millisecond)
	case d < time.Hour:
		d = d.Round(time.Second)
	default:
		d = d.Round(time.Minute)
	}
	return d.String() + " ago"
}
