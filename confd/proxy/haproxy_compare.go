package proxy

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

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
		if _, err := h.change(ctx, line...); err != nil {
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
	if !want.says("weight") {
		want.weight = state.weight
	}
	if !want.says("disabled", "enabled") {
		want.disabled = inMaint
	}
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
