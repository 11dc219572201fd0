package proxy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// changesMax is how many servers are changed at run time. Beyond it one reload is the shorter way.
const changesMax = 500

// haChange is one server that is another in the next configuration. before or after is nil for one
// that appears or vanishes.
type haChange struct {
	backend, server string
	before, after   *haSettings
	pooled          bool // HAProxy keeps connections to it for later requests
}

// moves reports whether the server has another address.
func (c haChange) moves() bool {
	return c.before != nil && c.after != nil && c.before.addr != c.after.addr
}

// String is the change in one line, for people.
func (c haChange) String() string {
	name := c.backend + "/" + c.server
	switch {
	case c.before == nil:
		return "add server " + name + " " + c.after.addr.String()
	case c.after == nil:
		return "remove server " + name
	}
	var what []string
	if c.before.addr != c.after.addr {
		what = append(what, "address "+c.after.addr.String())
	}
	if c.before.weight != c.after.weight {
		what = append(what, "weight "+strconv.Itoa(c.after.weight))
	}
	if c.before.disabled != c.after.disabled {
		what = append(what, map[bool]string{true: "disabled", false: "enabled"}[c.after.disabled])
	}
	return "set server " + name + " " + strings.Join(what, ", ")
}

// diffHAProxy returns the servers that make the difference between two configurations, or the
// reason why the difference takes a reload. No changes and no reason: they are the same to HAProxy.
func diffHAProxy(live, next *haConfig) (changes []haChange, reason string) {
	if reason := diffHeaders(live, next); reason != "" {
		return nil, reason
	}
	for i, after := range next.sections {
		before := live.sections[i]
		if reason := diffLines(before, after); reason != "" {
			return nil, after.title() + ": " + reason
		}
		found, reason := diffServers(before, after)
		if reason != "" {
			return nil, after.title() + ": " + reason
		}
		opaque := cmp.Or(live.opaque, next.opaque, before.opaque, after.opaque)
		if len(found) > 0 && opaque != "" {
			return nil, after.title() + ": the configuration is not understood: " + opaque
		}
		changes = append(changes, found...)
	}
	if opaque := cmp.Or(live.opaque, next.opaque); opaque != "" && !samePlaces(live, next) {
		return nil, "the configuration is not understood: " + opaque
	}
	if len(changes) > changesMax {
		return nil, fmt.Sprintf("%d servers differ, more than %d are not changed one by one", len(changes), changesMax)
	}
	return changes, ""
}

// samePlaces reports whether two configurations with the same sections have the same servers between the same lines,
// which matters if a line may be a condition.
func samePlaces(live, next *haConfig) bool {
	return slices.EqualFunc(live.sections, next.sections, func(a, b *haSection) bool {
		return slices.EqualFunc(a.servers, b.servers, func(a, b *haServer) bool { return a.name == b.name && a.place == b.place })
	})
}

// diffHeaders compares the sections as such.
func diffHeaders(live, next *haConfig) (reason string) {
	header := func(s *haSection) string { return s.header }
	if slices.EqualFunc(live.sections, next.sections, func(a, b *haSection) bool { return a.header == b.header }) {
		return ""
	}
	before, after := map[string]bool{}, map[string]bool{}
	for _, s := range live.sections {
		before[header(s)] = true
	}
	for _, s := range next.sections {
		after[header(s)] = true
		if !before[header(s)] {
			return "new " + s.title()
		}
	}
	for _, s := range live.sections {
		if !after[header(s)] {
			return s.title() + " is gone"
		}
	}
	return "the sections are in another order"
}

// diffLines compares all but the servers.
func diffLines(before, after *haSection) (reason string) {
	for i, line := range after.lines {
		if i >= len(before.lines) || before.lines[i] != line {
			word, _, _ := strings.Cut(line, " ")
			return word + " changed"
		}
	}
	if len(before.lines) > len(after.lines) {
		word, _, _ := strings.Cut(before.lines[len(after.lines)], " ")
		return word + " changed"
	}
	return ""
}

// diffServers compares the servers of one section.
func diffServers(before, after *haSection) (changes []haChange, reason string) {
	moved := len(before.servers) != len(after.servers)
	for i, server := range after.servers {
		moved = moved || before.servers[i].name != server.name
		var old *haServer
		if i < len(before.servers) && before.servers[i].name == server.name {
			old = before.servers[i]
		} else {
			old = before.byName(server.name)
		}
		if old != nil && old.line == server.line && old.defaults == server.defaults {
			continue
		}
		change, reason := diffServer(old, server)
		if reason != "" {
			return nil, "server " + server.name + ": " + reason
		}
		if change.before == nil || change.before.addr != change.after.addr || change.before.weight != change.after.weight || change.before.disabled != change.after.disabled {
			changes = append(changes, change)
		}
	}
	if !moved && len(changes) == 0 {
		return nil, ""
	}
	before.byName("") // both look for names that are there twice
	after.byName("")
	for _, server := range before.servers {
		if after.byName(server.name) != nil {
			continue
		}
		change, reason := diffServer(server, nil)
		if reason != "" {
			return nil, "server " + server.name + ": " + reason
		}
		changes = append(changes, change)
	}
	return changes, after.refuses(changes, moved)
}

// diffServer compares one server, of which one of both may be nil.
func diffServer(before, after *haServer) (change haChange, reason string) {
	for _, side := range []struct {
		server   *haServer
		settings **haSettings
	}{{before, &change.before}, {after, &change.after}} {
		if side.server == nil {
			continue
		}
		change.backend, change.server = side.server.section.name, side.server.name
		settings, reason := side.server.settings()
		if reason == "" {
			reason = settings.refuses()
		}
		if reason != "" {
			return change, reason
		}
		*side.settings = &settings
		change.pooled = side.server.section.pools()
	}
	switch {
	case !isPlainName(change.backend) || !isPlainName(change.server):
		return change, "its name has characters that are not sent to HAProxy"
	case (before == nil || after == nil) && !cmp.Or(before, after).section.isWhole():
		return change, "the defaults of its backend are in another file"
	case before == nil:
		return change, change.after.refusesAdding()
	case change.before.other["on-marked-down"] != "" && (after == nil || change.after.disabled && !change.before.disabled):
		return change, "on-marked-down would end the connections that a reload lets finish"
	case after == nil:
		return change, ""
	}
	return change, diffKeywords(change.before.other, change.after.other)
}

func diffKeywords(before, after map[string]string) (reason string) {
	for _, keyword := range slices.Sorted(maps.Keys(after)) {
		if value, ok := before[keyword]; !ok || value != after[keyword] {
			return "keyword " + keyword + " cannot be changed at run time"
		}
	}
	for _, keyword := range slices.Sorted(maps.Keys(before)) {
		if _, ok := after[keyword]; !ok {
			return "keyword " + keyword + " cannot be taken away at run time"
		}
	}
	return ""
}

// isPlainName reports whether name can be sent to HAProxy as part of a command.
func isPlainName(name string) bool { return isPlain(name, "_.:-") }

func isPlain(word, marks string) bool {
	for i := range len(word) {
		c := word[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(marks, c) >= 0) {
			return false
		}
	}
	return word != "" && len(word) <= 256
}

// tied are the keywords of servers whose address or state depends on more than their line.
var tied = []string{"agent-check", "resolvers", "redir", "track"}

// addable are the keywords that "add server" takes with the same meaning as the file. Those that are
// false say how a name is resolved, which an IP address has no use for, and are left out.
var addable = map[string]bool{
	"check": true, "inter": true, "fastinter": true, "downinter": true, "fall": true, "rise": true,
	"observe": true, "error-limit": true, "on-error": true, "on-marked-up": true, "on-marked-down": true,
	"slowstart": true, "maxconn": true, "minconn": true, "maxqueue": true, "backup": true, "id": true,
	"port": true, "addr": true, "pool-low-conn": true, "pool-max-conn": true,
	"pool-purge-delay": true, "send-proxy": true, "send-proxy-v2": true,
	"check-send-proxy": true, "ws": true,
	"init-addr": false, "resolve-prefer": false, "resolve-net": false, "resolve-opts": false,
}

// refuses says why nothing about such a server is changed at run time.
func (t *haSettings) refuses() (reason string) {
	for _, keyword := range tied {
		if _, ok := t.other[keyword]; ok {
			return "keyword " + keyword + " ties it to more than its line"
		}
	}
	return ""
}

// refusesAdding says why such a server is not added at run time.
func (t *haSettings) refusesAdding() (reason string) {
	for _, keyword := range slices.Sorted(maps.Keys(t.other)) {
		sent, ok := addable[keyword]
		if !ok {
			return "keyword " + keyword + " is not for servers that are added at run time"
		}
		if value := t.other[keyword]; sent && value != "" && !isPlain(value, "_.:-/%+") {
			return "the value of " + keyword + " has characters that are not sent to HAProxy"
		}
	}
	return ""
}

// refuses says why these changes of a section's servers are not made at run time. moved: the
// servers have other places among each other, or another number.
func (s *haSection) refuses(changes []haChange, moved bool) (reason string) {
	balance, _ := s.setting("balance")
	algorithm, _, _ := strings.Cut(balance, " ")
	algorithm, _, _ = strings.Cut(algorithm, "(")
	hashType, _ := s.setting("hash-type")
	_, cookies := s.setting("cookie")
	mode, _ := s.setting("mode")
	// These choose by the servers' numbers, which follow from their places in the file.
	numbered := true
	switch algorithm {
	case "", "roundrobin", "leastconn", "random":
		numbered = false
	}
	fixed := algorithm == "static-rr" || numbered && algorithm != "first" && !strings.HasPrefix(hashType, "consistent")
	switch {
	case numbered && moved && !s.numbersItsServers():
		return "balance " + balance + " depends on the order of the servers, and not all have an id"
	case moved && s.choosesBackups():
		return "which backup server is used depends on their order"
	case len(changes) == 0:
		return ""
	case mode != "" && mode != "http" && mode != "tcp":
		return "mode " + mode
	case cookies:
		return "cookies tell its servers apart"
	}
	for _, change := range changes {
		switch {
		case !fixed:
		case change.before == nil || change.after == nil:
			return "balance " + balance + " has a fixed set of servers"
		case change.before.weight != change.after.weight:
			return "balance " + balance + " has fixed weights"
		}
	}
	return ""
}

// pools reports whether HAProxy keeps connections to the servers of s for later requests.
func (s *haSection) pools() bool {
	mode, _ := s.setting("mode")
	reuse, _ := s.setting("http-reuse")
	return mode == "http" && reuse != "never"
}

// choosesBackups reports whether there are several backup servers, of which one is used.
func (s *haSection) choosesBackups() bool {
	count := 0
	for _, server := range s.servers {
		inherited, _ := s.inheritedSettings(server.defaults)
		if _, all := inherited.other["backup"]; all || strings.Contains(server.line, " backup") {
			count++
		}
	}
	return count > 1
}

// numbersItsServers reports whether every server line has an id.
func (s *haSection) numbersItsServers() bool {
	return !slices.ContainsFunc(s.servers, func(server *haServer) bool {
		settings, reason := server.settings()
		return reason != "" || settings.other["id"] == ""
	})
}
