package proxy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// HAProxyConfig says how to reach a running HAProxy.
type HAProxyConfig struct {
	Socket       string        // path of a "stats socket ... level admin"; required
	MasterSocket string        // path of the master's socket (-S), "" if there is none: it tells at once of a reload that failed
	Wait         time.Duration // how long Confirm waits for a new generation after a reload; 0: 10 s
	Timeout      time.Duration // for one dialogue with the socket; 0: 2 s
	Log          *slog.Logger  // notes what was changed by hand at the socket; nil: nothing is logged
}

// HAProxy is the Applier for HAProxy 2.4 and later. Servers of known backends are added, removed,
// moved, weighted, enabled and disabled at run time; anything else takes a reload.
//
// What somebody sets by hand at the socket, a state or a weight, is left alone until the next
// reload: it is noted in the log, and is no difference.
type HAProxy struct {
	cfg     HAProxyConfig
	socket  haSocket
	master  haSocket
	parsed  []parsedHAProxy // the last few configurations
	info    haInfo          // of the generation that was asked last; zero if none was
	retired map[haName]map[string]string
	byHand  string // what was noted last
}

// haName is a server of a backend.
type haName struct{ backend, server string }

func (n haName) String() string { return n.backend + "/" + n.server }

type parsedHAProxy struct {
	content []byte
	config  *haConfig
}

// NewHAProxy returns an applier; nothing is asked of HAProxy yet.
func NewHAProxy(cfg HAProxyConfig) *HAProxy {
	cfg.Wait = cmp.Or(cfg.Wait, 10*time.Second)
	cfg.Timeout = cmp.Or(cfg.Timeout, 2*time.Second)
	return &HAProxy{
		cfg:     cfg,
		socket:  haSocket{cfg.Socket, cfg.Timeout},
		master:  haSocket{cfg.MasterSocket, cfg.Timeout},
		retired: map[haName]map[string]string{},
	}
}

var _ Applier = (*HAProxy)(nil)

// config parses content, or remembers it.
func (h *HAProxy) config(content []byte) *haConfig {
	for _, parsed := range h.parsed {
		if bytes.Equal(parsed.content, content) {
			return parsed.config
		}
	}
	fresh := parsedHAProxy{bytes.Clone(content), parseHAProxy(content)}
	h.parsed = append([]parsedHAProxy{fresh}, h.parsed[:min(len(h.parsed), 1)]...)
	return fresh.config
}

// Plan says what it takes to bring HAProxy from live to next.
func (h *HAProxy) Plan(ctx context.Context, live, next []byte) (Plan, error) {
	if live == nil || bytes.Equal(live, next) {
		return planWhole(live, next), nil
	}
	changes, reason := diffHAProxy(h.config(live), h.config(next))
	switch {
	case reason != "":
		return Plan{Kind: Reload, Reason: reason}, nil
	case len(changes) == 0:
		return Plan{}, nil
	}
	if h.info.pid == "" {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if _, err := h.ask(ctx); err != nil {
			return Plan{Kind: Reload, Reason: err.Error()}, nil
		}
	}
	if h.info.processes > 1 {
		return Plan{Kind: Reload, Reason: "HAProxy runs as several processes, and a socket reaches one of them"}, nil
	}
	plan := Plan{Kind: Runtime, work: changes}
	for _, change := range changes {
		if (change.before == nil || change.after == nil) && !h.info.version.atLeast(2, 6) {
			return Plan{Kind: Reload, Reason: change.String() + ": HAProxy before 2.6 has a fixed set of servers"}, nil
		}
		plan.Steps = append(plan.Steps, change.String())
	}
	return plan, nil
}

// ask returns the state of all servers, and notes the generation.
func (h *HAProxy) ask(ctx context.Context) (haStates, error) {
	answer, err := h.socket.ask(ctx, "show info", "show servers state")
	if err != nil {
		return nil, err
	}
	first, second, _ := strings.Cut(answer, "\n\n")
	info, err := parseInfo(first)
	if err != nil {
		return nil, err
	}
	states, err := parseStates(second)
	if err != nil {
		return nil, err
	}
	if info.generation() != h.info.generation() {
		clear(h.retired)
	}
	h.info = info
	return states, nil
}

// Apply makes the changes of plan, and looks whether they are made.
func (h *HAProxy) Apply(ctx context.Context, plan Plan) error {
	changes, ok := plan.work.([]haChange)
	if !ok || plan.Kind != Runtime {
		return nil
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
		if _, err := h.socket.ask(ctx, "del server "+change.name().String()); err != nil {
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
	revived := haChange{backend: change.backend, server: change.server, before: &haSettings{disabled: true}, after: change.after}
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
		if _, err := h.socket.ask(ctx, line...); err != nil {
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
	answer, err := h.socket.ask(ctx, commands...)
	if err != nil {
		return nil, err
	}
	return parseStates(answer)
}

// tell sends commands, in as many lines as they take, and returns the first refusal.
func (h *HAProxy) tell(ctx context.Context, commands []string) error {
	for line := range lines(commands) {
		answer, err := h.socket.ask(ctx, append([]string{numbered}, line...)...)
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
	moved := c.before != nil && c.before.addr != c.after.addr
	if moved {
		commands = append(commands, fmt.Sprintf("set server %s addr %s port %d", name, c.after.addr.Addr(), c.after.addr.Port()))
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
	case moved && checked:
		// What was found out about the old address says nothing of the new one. A server that has just
		// been read from the file is up until a check fails.
		commands = append(commands, "set server "+name+" health up")
	}
	return commands
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

// haGeneration is one worker process.
type haGeneration struct{ pid, started string }

// haMark is what Mark notes: the worker, and how often the master was reloaded.
type haMark struct {
	worker  haGeneration // zero if none ran
	reloads int          // -1: not known
}

// Mark returns the worker that answers now. It waits, for at most two seconds, until its master
// hears of a reload: one that has just been started or reloaded ignores the signal.
func (h *HAProxy) Mark(ctx context.Context) (Mark, error) {
	mark := haMark{reloads: -1}
	answer, err := h.socket.ask(ctx, "show info")
	switch {
	case err == nil:
		info, err := parseInfo(answer)
		if err != nil {
			return Mark{}, err
		}
		mark.worker = info.generation()
		if err := h.masterListens(ctx, info.pid); err != nil {
			return Mark{}, err
		}
	case !isAbsent(err):
		return Mark{}, err
	}
	if h.cfg.MasterSocket != "" {
		if reloads, _, err := h.reloads(ctx); err == nil {
			mark.reloads = reloads
		}
	}
	return Mark{taken: true, generation: mark}, nil
}

// masterListens waits until the master of worker does not ignore the signal to reload. A worker
// that has no master, or is not of the processes that can be seen here, needs none.
func (h *HAProxy) masterListens(ctx context.Context, worker string) error {
	ctx, cancel := context.WithTimeout(ctx, h.cfg.Timeout)
	defer cancel()
	for poll := newPoll(); ignoresReload(procDir, worker); {
		if !poll.wait(ctx) {
			return fmt.Errorf("the master of HAProxy's process %s does not listen for a reload", worker)
		}
	}
	return nil
}

// ignoresReload reports whether the parent of pid is an HAProxy that ignores SIGUSR2.
func ignoresReload(proc, pid string) bool {
	parent, _, ok := readStat(filepath.Join(proc, pid))
	if !ok || parent <= 1 {
		return false
	}
	status, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(parent), "status"))
	if err != nil || !bytes.HasPrefix(status, []byte("Name:\thaproxy\n")) {
		return false
	}
	_, ignored, _ := bytes.Cut(status, []byte("\nSigIgn:"))
	ignored, _, _ = bytes.Cut(ignored, []byte("\n"))
	mask, err := strconv.ParseUint(string(bytes.TrimSpace(ignored)), 16, 64)
	return err == nil && mask&(1<<(syscall.SIGUSR2-1)) != 0
}

// isAbsent reports whether err says that nobody listens.
func isAbsent(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED)
}

// reloads asks the master how often it was reloaded, and how many of the last reloads failed.
func (h *HAProxy) reloads(ctx context.Context) (reloads, failed int, err error) {
	answer, err := h.master.askMaster(ctx, "show proc", []byte("\n\n"))
	if err != nil {
		return 0, 0, err
	}
	return parseProc(answer)
}

// parseProc reads the answer to "show proc". Masters before 2.5 do not tell of failures.
func parseProc(answer string) (reloads, failed int, err error) {
	for line := range strings.Lines(answer) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[1] != "master" {
			continue
		}
		reloads, err := strconv.Atoi(fields[2])
		if err == nil && len(fields) > 4 && fields[3] == "[failed:" {
			failed, err = strconv.Atoi(strings.TrimSuffix(fields[4], "]"))
		}
		if err == nil {
			return reloads, failed, nil
		}
	}
	return 0, 0, fmt.Errorf("the answer to show proc is not understood: %.80q", answer)
}

// settle is how long a new generation may differ from the file: another reload may be on its way.
const settle = time.Second

// Confirm looks whether HAProxy runs next.
func (h *HAProxy) Confirm(ctx context.Context, next []byte, mark Mark) error {
	config := h.config(next)
	if mark.IsZero() {
		states, err := h.ask(ctx)
		if err != nil {
			return err
		}
		return h.compare(ctx, config, states)
	}
	before, _ := mark.generation.(haMark)
	ctx, cancel := context.WithTimeout(ctx, h.cfg.Wait)
	defer cancel()
	var problem error
	var differsSince time.Time
	for poll := newPoll(); ; {
		fresh, err := h.confirmNew(ctx, config, before)
		switch {
		case err == nil:
			return nil
		case isOver(ctx):
			return cmp.Or(problem, err)
		case !fresh && !isPassing(err):
			return err
		case fresh && differsSince.IsZero():
			differsSince = time.Now()
		case fresh && time.Since(differsSince) > settle:
			return err
		}
		problem = err
		if err := h.refused(ctx, before); err != nil {
			return err
		}
		if !poll.wait(ctx) {
			return problem
		}
	}
}

// errOldGeneration is the reason while nothing has come of a reload.
type errOldGeneration struct{ pid string }

func (e errOldGeneration) Error() string {
	return fmt.Sprintf("HAProxy still runs the configuration of before: no new worker took the place of process %s; its log says why", e.pid)
}

// confirmNew looks once whether a generation other than before runs config. fresh reports whether
// there is another generation.
func (h *HAProxy) confirmNew(ctx context.Context, config *haConfig, before haMark) (fresh bool, err error) {
	answer, err := h.socket.ask(ctx, "show info")
	if err != nil {
		return false, err
	}
	info, err := parseInfo(answer)
	if err != nil {
		return false, err
	}
	if info.generation() == before.worker {
		return false, errOldGeneration{info.pid}
	}
	states, err := h.ask(ctx)
	if err != nil {
		return false, err
	}
	return true, h.compare(ctx, config, states)
}

// isPassing reports whether err may be over in a moment: nothing has come of a reload yet, or the
// worker that was asked ended meanwhile.
func isPassing(err error) bool {
	var old errOldGeneration
	return errors.As(err, &old) || isAbsent(err) || errors.Is(err, errCut) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// refused asks the master whether a reload since before failed.
func (h *HAProxy) refused(ctx context.Context, before haMark) error {
	if before.reloads < 0 {
		return nil
	}
	reloads, failed, err := h.reloads(ctx)
	if err != nil || reloads == before.reloads || failed == 0 {
		return nil // a master that is executed anew does not answer for a moment
	}
	reason := "its log says why"
	if h.info.version.atLeast(2, 7) {
		if answer, err := h.master.askMaster(ctx, "show startup-logs", []byte("\n\n")); err == nil && strings.TrimSpace(answer) != "" {
			reason = strings.TrimSpace(answer)
		}
	}
	return fmt.Errorf("HAProxy refused the reload and runs the configuration of before: %.500s", reason)
}

// compare says how the servers that run differ from those of config. Servers that run, are in
// maintenance and are not in config are deleted if they have no connections left.
func (h *HAProxy) compare(ctx context.Context, config *haConfig, states haStates) error {
	if config.opaque != "" {
		return nil // of which a reload is all that can be known
	}
	var byHand, left []string
	for _, section := range config.sections {
		if _, off := section.setting("disabled"); off || section.opaque != "" || !section.holdsServers() {
			continue
		}
		running := states[section.name]
		for _, server := range section.servers {
			state, ok := running[server.name]
			if !ok {
				return fmt.Errorf("server %s/%s of the file does not run", section.name, server.name)
			}
			problem, hand := server.compare(state)
			if problem != "" {
				return fmt.Errorf("server %s/%s is not as in the file: %s", section.name, server.name, problem)
			}
			if hand != "" {
				byHand = append(byHand, section.name+"/"+server.name+" "+hand)
			}
		}
		if len(running) == len(section.servers) || section.hasTemplates() {
			continue
		}
		for name, state := range running {
			switch {
			case section.byName(name) != nil:
			case state.admin&adminMaint == 0:
				return fmt.Errorf("server %s/%s runs, but is not in the file", section.name, name)
			case isPlainName(name) && isPlainName(section.name):
				left = append(left, "del server "+section.name+"/"+name)
			}
		}
	}
	h.note(byHand)
	for line := range lines(left) {
		if _, err := h.socket.ask(ctx, line...); err != nil {
			return err
		}
	}
	return nil
}

// hasTemplates reports whether a line of s makes servers that have no line of their own.
func (s *haSection) hasTemplates() bool {
	_, ok := s.setting("server-template")
	return ok
}

// note logs what was changed by hand, when it is another thing than before.
func (h *HAProxy) note(byHand []string) {
	slices.Sort(byHand)
	text := strings.Join(byHand, ", ")
	if text != h.byHand && text != "" && h.cfg.Log != nil {
		h.cfg.Log.Info("changed by hand at HAProxy's socket, and left so until the next reload", "servers", text)
	}
	h.byHand = text
}

// compare says how a running server differs from its line: a problem, or what was set by hand.
func (s *haServer) compare(state haState) (problem, byHand string) {
	want, reason := s.settings()
	if reason != "" || want.refuses() != "" {
		return "", "" // its address or state depends on more than its line
	}
	inMaint, sinceStart := state.admin&adminForcedMaint != 0, state.admin&adminConfigMaint != 0
	switch {
	case state.addr != want.addr:
		return "its address is " + state.addr.String() + ", not " + want.addr.String(), ""
	case state.weight != want.weight && state.weight == state.initialWeight:
		return fmt.Sprintf("its weight is %d, not %d", state.weight, want.weight), ""
	case want.disabled && !inMaint && !sinceStart:
		return "it is not disabled", ""
	case !want.disabled && inMaint && sinceStart:
		return "it is disabled", ""
	case want.disabled != inMaint:
		return "", map[bool]string{true: "in maintenance", false: "enabled"}[inMaint]
	case state.admin&adminForcedDrain != 0:
		return "", "drains"
	case state.weight != want.weight:
		return "", "has weight " + strconv.Itoa(state.weight)
	}
	return "", ""
}
