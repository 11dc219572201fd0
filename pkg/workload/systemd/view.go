package systemd

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/kvd-io/kvd/pkg/workload"
)

// view is what is known of the units over one connection.
type view struct {
	connection bus
	given      []string // the units to follow; none: those that have a section
	host       string
	open       func(path string) ([]byte, error)
	notFound   map[string]bool
	log        *slog.Logger

	loaded  map[string]bool // the units that were looked at, whether they are followed or not
	entries map[string]*entry
}

// entry is one unit that is followed.
type entry struct {
	workload workload.Workload
	labels   map[string]string
	problems []string
}

func (s *Source) newView(connection bus) *view {
	return &view{
		connection: connection, given: s.cfg.Units, host: s.cfg.Host, open: s.cfg.open, notFound: s.notFound, log: s.cfg.Log,
		loaded: map[string]bool{}, entries: map[string]*entry{},
	}
}

// refresh reads what may have changed.
func (v *view) refresh(ctx context.Context, again changes) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	if len(v.given) > 0 {
		for _, unit := range v.given {
			if _, changed := again.units[unit]; !changed && !again.relist && !again.reloaded {
				continue
			}
			if err := v.readGiven(ctx, unit); err != nil {
				return err
			}
		}
		return nil
	}
	if again.reloaded || again.relist {
		units, err := v.relist(ctx, again.reloaded)
		if err != nil {
			return err
		}
		again.units = units
	}
	for unit, anew := range again.units {
		if err := v.read(ctx, unit, anew); err != nil {
			return err
		}
	}
	return nil
}

// relist returns the units that must be read after a look at all that are loaded: those that are
// followed, and those that were not looked at yet or whose files count anew.
func (v *view) relist(ctx context.Context, anew bool) (map[string]bool, error) {
	names, err := v.connection.units(ctx)
	if err != nil {
		return nil, err
	}
	units := make(map[string]bool, len(v.entries))
	for unit := range v.loaded {
		units[unit] = true // unless it is still there
	}
	for _, unit := range names {
		if !canOffer(unit) {
			continue
		}
		switch {
		case anew || !v.loaded[unit]:
			units[unit] = true
		case v.entries[unit] != nil:
			units[unit] = false
		default:
			delete(units, unit)
		}
	}
	return units, nil
}

// canOffer reports whether a unit is of a kind that answers on ports.
func canOffer(unit string) bool {
	return strings.HasSuffix(unit, ".service") || strings.HasSuffix(unit, ".socket")
}

// readGiven reads one of the units that were asked for.
func (v *view) readGiven(ctx context.Context, unit string) error {
	properties, err := v.connection.properties(ctx, unit)
	if err == nil && properties == nil {
		var exists bool
		if exists, err = v.connection.exists(ctx, unit); err == nil {
			properties = map[string]any{"ActiveState": "inactive", "SubState": "dead"}
			if !exists {
				properties["LoadState"] = reasonNotFound
			}
		}
	}
	if err != nil {
		return err
	}
	found := describe(unit, properties)
	if missing := found.Reason == reasonNotFound; missing != v.notFound[unit] {
		v.notFound[unit] = missing
		if missing {
			v.log.Warn("no such unit; waiting for it", "unit", unit)
		}
	}
	v.entries[unit] = &entry{workload: found}
	return nil
}

// read reads a unit that may have a section, and the section if it is not known or counts anew.
func (v *view) read(ctx context.Context, unit string, anew bool) error {
	if !canOffer(unit) || !anew && v.loaded[unit] && v.entries[unit] == nil {
		return nil
	}
	properties, err := v.connection.properties(ctx, unit)
	if err != nil {
		return err
	}
	if properties == nil {
		delete(v.loaded, unit)
		delete(v.entries, unit)
		return nil
	}
	e := v.entries[unit]
	if anew || e == nil {
		v.loaded[unit] = true
		if e = v.sections(unit, properties); e == nil {
			delete(v.entries, unit)
			return nil
		}
		v.entries[unit] = e
	}
	e.workload = describe(unit, properties)
	e.workload.Labels, e.workload.Problems, e.workload.Trusted = e.labels, e.problems, true
	return nil
}

// sections reads what the files of a unit say to kvd; nil if they say nothing.
func (v *view) sections(unit string, properties map[string]any) *entry {
	paths, _ := properties["DropInPaths"].([]string)
	paths = append([]string{text(properties, "FragmentPath")}, paths...)
	var files []file
	var problems []string
	for _, path := range paths {
		if path == "" {
			continue
		}
		content, err := v.open(path)
		if err != nil {
			problems = append(problems, fmt.Sprintf("a part of the unit cannot be read: %v", err))
			continue
		}
		files = append(files, file{path: path, text: content})
	}
	p := parse(files, expander(unit, v.host))
	if len(p.sections) == 0 {
		if problems != nil { // most likely it has none
			v.log.Debug("cannot see whether a unit has a section for kvd", "unit", unit, "reason", problems[0])
		}
		return nil
	}
	e := &entry{labels: p.labels(partsOf(unit).prefix)}
	e.problems = append(problems, p.problems...)
	return e
}

// snapshot returns the units that are followed, by name.
func (v *view) snapshot() []workload.Workload {
	workloads := make([]workload.Workload, 0, len(v.entries))
	for _, unit := range slices.Sorted(maps.Keys(v.entries)) {
		workloads = append(workloads, v.entries[unit].workload)
	}
	return workloads
}

// readUnitFile reads a file of which systemd says that a unit is made of it.
func readUnitFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // the /dev/null of a masked unit
		return nil, nil
	}
	content, err := io.ReadAll(io.LimitReader(f, fileBytesMax+1))
	if err == nil && len(content) > fileBytesMax {
		return nil, fmt.Errorf("%s: is larger than %d bytes", path, fileBytesMax)
	}
	return content, err
}
