package proxy

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Apply makes the changes of plan, and looks whether they are made.
func (h *HAProxy) Apply(ctx context.Context, plan Plan) error {
	changes, ok := plan.work.([]haChange)
	if !ok || plan.Kind != Runtime {
		return nil
	}
	for _, change := range changes {
		if err := h.move(ctx, change); err != nil {
			return err
		}
	}
	if err := h.add(ctx, changes); err != nil {
		return err
	}
	var commands []string
	for _, change := range changes {
		commands = append(commands, change.up()...)
	}
	for _, change := range changes { // last: there is no moment without servers
		commands = append(commands, change.down()...)
		if change.after == nil {
			h.retired[change.name()] = change.before.other
		}
	}
	if err := h.tell(ctx, commands); err != nil {
		return err
	}
	states, err := h.states(ctx, changes)
	if err != nil {
		return err
	}
	for _, change := range changes {
		state, ok := states[change.backend][change.server]
		if problem := change.missing(state, ok); problem != "" {
			return fmt.Errorf("HAProxy took the commands, but %s is not done: %s", change, problem)
		}
	}
	return h.remove(ctx, changes, states)
}

// move gives a server with kept connections another address. HAProxy then closes those that wait for a
// request. But one that has a request under way would be kept after it, and used again: with
// such a one it is an error, since only a reload is sure to end it.
func (h *HAProxy) move(ctx context.Context, change haChange) error {
	if !change.moves() || !change.pooled {
		return nil
	}
	look := "show servers conn " + change.backend
	answer, err := h.change(ctx, numbered, look, change.address(), look)
	if err != nil {
		return err
	}
	used, rest := connections(answer, change.name().String())
	if refused := refusals(rest); len(refused) > 0 || len(used) != 2 {
		return fmt.Errorf("HAProxy refused %s: %.300q", change, refused)
	}
	if used[0] != "0" || used[1] != "0" {
		return fmt.Errorf("server %s has requests under way at its old address, and HAProxy would go on using their connections", change.name())
	}
	return nil
}

// connections returns how many connections of a server are in use, for each table in an answer to
// "show servers conn", and the lines that belong to no table.
func connections(answer, name string) (used []string, rest string) {
	at := -1 // of the column, less the word "#" before the first
	for line := range strings.Lines(answer) {
		fields := strings.Fields(line)
		switch {
		case len(fields) > 2 && fields[0] == "#":
			at = slices.Index(fields, "used_cur") - 1
		case at > 0 && len(fields) > at && strings.Contains(fields[0], "/"):
			if fields[0] == name {
				used = append(used, fields[at])
			}
		default:
			rest += line
		}
	}
	return used, rest
}

// add makes the new servers, which are in maintenance then.
func (h *HAProxy) add(ctx context.Context, changes []haChange) error {
	var commands []string
	var added []haChange
	for _, change := range changes {
		if change.before == nil {
			commands = append(commands, change.add())
			added = append(added, change)
		}
	}
	if len(added) == 0 || h.tell(ctx, commands) == nil {
		return nil
	}
	// Some server exists already: it was removed while it had connections, or added by an earlier try.
	for _, change := range added {
		if err := h.addOne(ctx, change); err != nil {
			return err
		}
	}
	return nil
}

// addOne makes one new server of whose name there may be one.
func (h *HAProxy) addOne(ctx context.Context, change haChange) error {
	states, err := h.states(ctx, []haChange{change})
	if err != nil {
		return err
	}
	state, exists := states[change.backend][change.server]
	if exists {
		if state.admin&adminMaint == 0 {
			return fmt.Errorf("server %s runs already, though the file did not have it", change.name())
		}
		// A refusal shows below.
		if _, err := h.change(ctx, "del server "+change.name().String()); err != nil {
			return err
		}
		states, err := h.states(ctx, []haChange{change})
		if err != nil {
			return err
		}
		_, exists = states[change.backend][change.server]
	}
	if !exists {
		return h.tell(ctx, []string{change.add()})
	}
	was, known := h.retired[change.name()]
	if !known || !maps.Equal(was, change.after.other) {
		return fmt.Errorf("server %s cannot be added yet: one with other settings still has connections", change.name())
	}
	revived := change
	revived.before = &haSettings{addr: state.addr, weight: state.weight, disabled: true}
	if err := h.move(ctx, revived); err != nil {
		return err
	}
	return h.tell(ctx, revived.up())
}

// remove deletes the servers that are gone from the file and, with states being what HAProxy told
// last, in maintenance. What still has connections refuses, and is deleted later.
func (h *HAProxy) remove(ctx context.Context, changes []haChange, states haStates) error {
	var commands []string
	for _, change := range changes {
		if _, exists := states[change.backend][change.server]; change.after == nil && exists {
			commands = append(commands, "del server "+change.name().String())
		}
	}
	for line := range lines(commands) {
		if _, err := h.change(ctx, line...); err != nil {
			return err
		}
	}
	return nil
}

// states asks for the servers of the backends of changes.
func (h *HAProxy) states(ctx context.Context, changes []haChange) (haStates, error) {
	var commands []string
	for _, change := range changes {
		if command := "show servers state " + change.backend; !slices.Contains(commands, command) {
			commands = append(commands, command)
		}
		if len(commands) > 10 {
			commands = []string{"show servers state"}
			break
		}
	}
	answer, err := h.change(ctx, commands...)
	if err != nil {
		return nil, err
	}
	return parseStates(answer)
}

// tell sends commands, in as many lines as they take, and returns the first refusal.
func (h *HAProxy) tell(ctx context.Context, commands []string) error {
	for line := range lines(commands) {
		answer, err := h.change(ctx, append([]string{numbered}, line...)...)
		if err != nil {
			return err
		}
		if refused := refusals(answer); len(refused) > 0 {
			return fmt.Errorf("HAProxy refused a change: %.300s", refused[0])
		}
	}
	return nil
}

// lines yields commands in parts that are short enough to be sent as one line.
func lines(commands []string) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		for len(commands) > 0 {
			size, n := len(commands[0]), 1
			for n < len(commands) && size+len(commands[n]) < commandBytesMax {
				size += len(commands[n]) + 1
				n++
			}
			if !yield(commands[:n]) {
				return
			}
			commands = commands[n:]
		}
	}
}

func (c haChange) name() haName { return haName{c.backend, c.server} }

// add is the command that makes the server. It is in maintenance then, without health checks.
func (c haChange) add() string {
	words := []string{"add server", c.name().String(), c.after.addr.String(), "weight", strconv.Itoa(c.after.weight)}
	if c.after.disabled { // without the word its checks would run
		words = append(words, "disabled")
	}
	settings := maps.Clone(defaultsToSpell)
	if _, observed := c.after.other["observe"]; observed {
		maps.Copy(settings, defaultsOfObserving)
	}
	maps.Copy(settings, c.after.other)
	for _, keyword := range slices.Sorted(maps.Keys(settings)) {
		if !addable[keyword] {
			continue
		}
		words = append(words, keyword)
		if value := settings[keyword]; value != "" {
			words = append(words, value)
		}
	}
	return strings.Join(words, " ")
}

// What a server of the file has if nothing is said, and one that is added has not: HAProxy 2.6 keeps
// no connections to the latter, and draws no conclusions from what it observes.
var (
	defaultsToSpell     = map[string]string{"pool-max-conn": "-1", "pool-purge-delay": "5s"}
	defaultsOfObserving = map[string]string{"error-limit": "10", "on-error": "fail-check"}
)

// up are the commands that bring a server to its address and weight, and make it serve.
func (c haChange) up() (commands []string) {
	if c.after == nil {
		return nil
	}
	name := c.name().String()
	_, checked := c.after.other["check"]
	if c.moves() && !c.pooled { // else it is done by move
		commands = append(commands, c.address())
	}
	if c.before != nil && c.before.weight != c.after.weight {
		commands = append(commands, fmt.Sprintf("set server %s weight %d", name, c.after.weight))
	}
	if c.before == nil && checked { // its first check comes downinter after it was added
		commands = append(commands, "enable health "+name)
	}
	switch {
	case c.after.disabled:
	case c.before == nil || c.before.disabled:
		commands = append(commands, "set server "+name+" state ready")
	case c.moves() && checked:
		// What was found out about the old address says nothing of the new one. A server that has just
		// been read from the file is up until a check fails.
		commands = append(commands, "set server "+name+" health up")
	}
	return commands
}

// address is the command that brings a server to its address.
func (c haChange) address() string {
	return fmt.Sprintf("set server %s addr %s port %d", c.name(), c.after.addr.Addr(), c.after.addr.Port())
}

// down are the commands that make a server serve no longer. Connections that it has are finished.
func (c haChange) down() []string {
	if c.before != nil && (c.after == nil || c.after.disabled && !c.before.disabled) {
		return []string{"set server " + c.name().String() + " state maint"}
	}
	return nil
}

// missing says what of c is not done with a server in state, "" if it is done. What c does not
// change may be otherwise.
func (c haChange) missing(state haState, exists bool) string {
	inMaint := state.admin&adminMaint != 0
	if c.after == nil {
		if exists && !inMaint {
			return "it still serves"
		}
		return ""
	}
	_, checked := c.after.other["check"]
	switch {
	case !exists:
		return "there is no such server"
	case state.addr != c.after.addr:
		return "its address is " + state.addr.String()
	case (c.before == nil || c.before.weight != c.after.weight) && state.weight != c.after.weight:
		return "its weight is " + strconv.Itoa(state.weight)
	case (c.before == nil || c.before.disabled != c.after.disabled) && (inMaint != c.after.disabled || !inMaint && state.admin&adminForcedDrain != 0):
		return fmt.Sprintf("its administrative state is %d", state.admin)
	case c.before == nil && checked && state.checkState&checkIsEnabled == 0:
		return "its health checks do not run"
	}
	return ""
}
