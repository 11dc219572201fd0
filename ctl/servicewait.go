package ctl

import (
	"context"
	"fmt"
	"strings"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/override"
	"github.com/kvd-io/kvd/pkg/registry"
)

// wish is what is wanted of one instance.
type wish struct {
	name     string // SERVICE/INSTANCE
	override override.Override
}

func (w wish) takesOut() bool {
	return w.override.Mode == override.Drain || w.override.Mode == override.Maintenance
}

// text says what is wanted, in one line.
func (w wish) text() string {
	if text := wishText(w.override); text != "" {
		return w.name + ": " + text
	}
	return w.name + ": ready"
}

// holds reports whether a record is as w wants it. there says whether there is one.
func (w wish) holds(record registry.Record, there bool) bool {
	switch {
	case w.takesOut() && !there: // nobody is sent there
		return true
	case !there:
		return false
	case w.override.Weight != 0 && record.Weight != w.override.Weight:
		return false
	}
	switch w.override.Mode {
	case override.Drain:
		return record.State == registry.StateDraining
	case override.Maintenance:
		return record.State == registry.StateMaintenance
	}
	return record.State == registry.StateUp
}

// await waits until all wishes hold, or ctx ends. Its error says which do not, and who would have to act.
func (f *serviceFlags) await(ctx context.Context, c *session, wishes []wish) error {
	follower := kvclient.Follow(c.client, f.prefix)
	defer follower.Close()
	records, nodes := map[string]registry.Record{}, map[string]*kv.Node{}
	for first := true; ; first = false {
		changes, err := nextChanges(ctx, follower)
		switch {
		case err != nil && ctx.Err() != nil:
			return f.overdue(c, wishes, records, nodes)
		case err != nil:
			return err
		}
		for _, event := range changes.Events {
			name := strings.TrimPrefix(event.Node.Key, kv.Clean(f.prefix)+"/")
			delete(records, name)
			delete(nodes, name)
			if record, err := recordOf(event.Node, f.prefix); !event.Removes() && err == nil {
				records[name], nodes[name] = record, event.Node
			}
		}
		if first {
			if err := absent(wishes, records); err != nil {
				return err
			}
		}
		if len(open(wishes, records)) == 0 {
			return nil
		}
	}
}

// open returns the wishes that do not hold.
func open(wishes []wish, records map[string]registry.Record) (left []wish) {
	for _, w := range wishes {
		if record, there := records[w.name]; !w.holds(record, there) {
			left = append(left, w)
		}
	}
	return left
}

// absent is an error if an instance is not there at all: whoever would act on the wish does not know it.
func absent(wishes []wish, records map[string]registry.Record) error {
	for _, w := range wishes {
		if _, there := records[w.name]; !there {
			return &refusedError{
				w.name + " is not registered: nobody is there to act on it",
				"it was written, and counts when it is registered; kvctl service overrides lists it, kvctl service ready " + w.name + " clears it",
			}
		}
	}
	return nil
}

// overdue says what has not happened in time.
func (f *serviceFlags) overdue(c *session, wishes []wish, records map[string]registry.Record, nodes map[string]*kv.Node) error {
	left := open(wishes, records)
	if len(left) == 0 {
		return nil
	}
	w := left[0]
	text := fmt.Sprintf("after %v %s is %s, and not as it is wanted", c.totalTimeout, w.name, stateText(records[w.name].State))
	if more := len(left) - 1; more > 0 {
		text += fmt.Sprintf("; %d more are not either", more)
	}
	return &overdueError{text, whoActs(records[w.name], nodes[w.name])}
}

// whoActs says who would have to act on what is wanted of an instance.
func whoActs(record registry.Record, node *kv.Node) string {
	machine, program := ownerText(record.Owner)
	switch {
	case node == nil:
		return "its service does not pass its checks, or whoever registers it has ended"
	case record.Owner == "":
		return "its record names no owner: whoever has written it by hand does not act on this"
	case node.TTL == 0 && node.Lease == 0:
		return "its record has no TTL: nobody keeps it, and nobody acts on this"
	case record.State == registry.StateUnhealthy:
		return "its checks fail"
	}
	host := record.Host
	if host == "" {
		host = "machine " + machine
	}
	return fmt.Sprintf("%s on %s has not acted: does it run, and reach the store? If it has ended, the record expires soon", program, host)
}

// overdueError is something that was asked for and has not happened in time.
type overdueError struct{ text, hint string }

func (e *overdueError) Error() string { return e.text }
