package proxy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// haConfig is what is understood of an HAProxy configuration: its sections, and the servers of those
// that have any. All else is text.
type haConfig struct {
	sections []*haSection
	opaque   string // why the sections cannot be trusted, "" if they can
}

// haSection is one section. Its header and lines have single blanks and no comments.
type haSection struct {
	kind, name string
	header     string
	lines      []string // all but the server lines that are understood
	servers    []*haServer
	names      map[string]*haServer // of servers; see byName
	defaults   *haSection           // that it inherits from; nil if the file has none before it
	elsewhere  bool                 // it names defaults that the file does not have
	opaque     string               // why its servers are not understood, "" if they are

	inherited map[int]haInherited // that were asked for, by the number of default-server lines
}

type haInherited struct {
	settings haSettings
	reason   string
}

// haServer is one server line of a backend or listen section.
type haServer struct {
	name     string
	line     string // from the name on
	section  *haSection
	defaults int // how many default-server lines of the section come before it
	place    int // how many lines of the section, of those that are no such servers, come before it

	read    bool // whether the two below are filled in
	meaning haSettings
	reason  string
}

// haSettings are what a server line means, with what it inherits.
type haSettings struct {
	addr     netip.AddrPort
	weight   int
	disabled bool
	other    map[string]string // the other keywords, with their value, "" for those without one; never changed, as it may be shared

	// unsure: another file may have set what is not said here. What is said of weight and state is among other then.
	unsure bool
}

// says reports whether one of words, which are of weight or state, is not for another file to say.
func (t *haSettings) says(words ...string) bool {
	return !t.unsure || slices.ContainsFunc(words, func(word string) bool { _, said := t.other[word]; return said })
}

// sectionWords open a section, in the versions up to 3.2.
var sectionWords = map[string]bool{
	"global": true, "defaults": true, "frontend": true, "backend": true, "listen": true,
	"peers": true, "userlist": true, "resolvers": true, "mailers": true, "program": true, "cache": true,
	"http-errors": true, "ring": true, "log-forward": true, "fcgi-app": true, "crt-store": true,
	"traces": true, "log-profile": true, "acme": true,
}

// parseHAProxy reads a configuration. It finds no errors: what it does not understand is text, or
// makes a section or the whole opaque.
func parseHAProxy(content []byte) *haConfig {
	c := &haConfig{}
	var section, defaults *haSection
	named := map[string]*haSection{}
	headers := map[string]bool{}
	defaultServers := 0
	var room []haServer // for the next servers
	text := string(content)
	if strings.IndexByte(text, 0) >= 0 {
		c.opaque = "it holds a NUL byte"
	}
	for line := range strings.Lines(text) {
		line, plain := normalLine(line)
		if line == "" {
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		switch {
		case !plain && strings.ContainsAny(word, `"'\$`):
			c.opaque = "a line begins with a quoted or expanded word"
		case word[0] == '.':
			c.opaque = "it holds directives such as " + word
		}
		if sectionWords[word] {
			name, _, _ := strings.Cut(rest, " ")
			section = &haSection{kind: word, name: name, header: line}
			section.defaults, section.elsewhere = inheritedBy(word, rest, named, defaults)
			defaultServers = 0
			c.sections = append(c.sections, section)
			if !plain {
				section.opaque = "its header is quoted"
			}
			if headers[word+" "+name] && word != "global" && word != "defaults" {
				c.opaque = "there are two sections " + strings.TrimSpace(word+" "+name)
			}
			headers[word+" "+name] = true
			if word == "defaults" {
				defaults, named[name] = section, section
			}
			continue
		}
		if section == nil {
			c.opaque = "a line is in no section"
			continue
		}
		if word == "default-server" {
			defaultServers++
		}
		if word != "server" || !section.holdsServers() || !plain {
			if word == "server" && section.holdsServers() {
				section.opaque = "a server line is quoted"
			}
			section.lines = append(section.lines, line)
			continue
		}
		if len(room) == 0 {
			room = make([]haServer, 128)
		}
		server := &room[0]
		room = room[1:]
		server.name, _, _ = strings.Cut(rest, " ")
		server.line, server.section, server.defaults, server.place = rest, section, defaultServers, len(section.lines)
		section.servers = append(section.servers, server)
	}
	return c
}

func (s *haSection) holdsServers() bool { return s.kind == "backend" || s.kind == "listen" }

// title is how people are told of the section.
func (s *haSection) title() string { return strings.TrimSpace(s.kind + " " + s.name) }

// byName returns the server of that name, nil if there is none. It finds names that are there twice.
func (s *haSection) byName(name string) *haServer {
	if s.names == nil {
		s.names = make(map[string]*haServer, len(s.servers))
		for _, server := range s.servers {
			if s.names[server.name] != nil {
				s.opaque = "there are two servers " + server.name
			}
			s.names[server.name] = server
		}
	}
	return s.names[name]
}

// inheritedBy returns the defaults section that a section with these words after its keyword has:
// the one it names, or the last before it. Only by name does one defaults section have another.
func inheritedBy(kind, words string, named map[string]*haSection, last *haSection) (section *haSection, elsewhere bool) {
	fields := strings.Fields(words)
	if at := slices.Index(fields, "from"); at > 0 && at+1 < len(fields) {
		section = named[fields[at+1]]
		return section, section == nil
	}
	if kind == "defaults" {
		return nil, false
	}
	return last, last == nil
}

// isWhole reports whether all that s inherits is in the file: HAProxy may have read others before it.
func (s *haSection) isWhole() bool {
	for ; s != nil; s = s.defaults {
		if s.elsewhere {
			return false
		}
	}
	return true
}

// normalLine returns a line without its comment and with single blanks. plain is false for a line
// with quotes, escapes or variables, which is kept as it is after its first word.
func normalLine(line string) (normal string, plain bool) {
	start, end, single := -1, 0, true // of what is no blank and no comment
	for i := 0; i < len(line); i++ {
		switch c := line[i]; c {
		case '"', '\'', '\\', '$':
			first, rest := strings.TrimSpace(line), ""
			if end := strings.IndexFunc(first, isBlank); end >= 0 {
				first, rest = first[:end], " "+strings.TrimLeftFunc(first[end:], isBlank)
			}
			return first + rest, false
		case '#':
			return tidy(line, start, end, single), true
		case ' ', '\t', '\r', '\n', '\v', '\f':
		default:
			if start < 0 {
				start = i
			} else if gap := i - end; gap > 1 || gap == 1 && line[end] != ' ' {
				single = false
			}
			end = i + 1
		}
	}
	return tidy(line, start, end, single), true
}

func tidy(line string, start, end int, single bool) string {
	if start < 0 {
		return ""
	}
	if single {
		return line[start:end]
	}
	return strings.Join(strings.FieldsFunc(line[start:end], isBlank), " ")
}

func isBlank(r rune) bool {
	return r == ' ' || r == '\t' || r == '\r' || r == '\n' || r == '\v' || r == '\f'
}

// serverValues says how many words follow a keyword of a server line. A keyword that is missing
// here makes the line one that only a reload can bring about.
var serverValues = map[string]int{
	"check": 0, "backup": 0, "disabled": 0, "enabled": 0, "non-stick": 0, "ssl": 0, "check-ssl": 0,
	"send-proxy": 0, "send-proxy-v2": 0, "check-send-proxy": 0, "agent-check": 0, "tfo": 0, "allow-0rtt": 0,
	"send-proxy-v2-ssl": 0, "send-proxy-v2-ssl-cn": 0, "no-ssl-reuse": 0, "no-tls-tickets": 0,
	"no-sslv3": 0, "no-tlsv10": 0, "no-tlsv11": 0, "no-tlsv12": 0, "no-tlsv13": 0,
	"no-check": 0, "no-backup": 0, "no-send-proxy": 0, "no-send-proxy-v2": 0, "no-ssl": 0, "no-check-ssl": 0,
	"no-agent-check": 0, "stick": 0, "no-check-send-proxy": 0, "no-tfo": 0,
	"weight": 1, "inter": 1, "fastinter": 1, "downinter": 1, "fall": 1, "rise": 1, "observe": 1,
	"error-limit": 1, "on-error": 1, "on-marked-down": 1, "on-marked-up": 1, "slowstart": 1,
	"maxconn": 1, "minconn": 1, "maxqueue": 1, "id": 1, "port": 1, "addr": 1, "proto": 1, "check-proto": 1,
	"pool-low-conn": 1, "pool-max-conn": 1, "pool-purge-delay": 1, "max-reuse": 1, "ws": 1,
	"init-addr": 1, "resolve-prefer": 1, "resolve-net": 1, "resolve-opts": 1, "resolvers": 1, "track": 1,
	"cookie": 1, "redir": 1, "namespace": 1, "log-proto": 1, "verify": 1, "ca-file": 1, "crl-file": 1,
	"crt": 1, "sni": 1, "check-sni": 1, "verifyhost": 1, "alpn": 1, "check-alpn": 1, "npn": 1, "ciphers": 1,
	"ciphersuites": 1, "curves": 1, "ssl-min-ver": 1, "ssl-max-ver": 1, "proxy-v2-options": 1,
	"agent-addr": 1, "agent-inter": 1, "agent-port": 1, "agent-send": 1, "tcp-ut": 1, "shard": 1, "guid": 1,
	"hash-key": 1, "socks4": 1,
}

// opposites are the keywords that take back another.
var opposites = map[string]string{
	"stick": "non-stick", "no-check": "check", "no-backup": "backup",
	"no-send-proxy": "send-proxy", "no-send-proxy-v2": "send-proxy-v2", "no-ssl": "ssl",
	"no-check-ssl": "check-ssl", "no-agent-check": "agent-check", "no-check-send-proxy": "check-send-proxy", "no-tfo": "tfo",
}

// settings says what s means, with what the default-server lines before it say. reason is why that
// cannot be told, "" if it can. The result is shared: it is not to be changed.
func (s *haServer) settings() (settings haSettings, reason string) {
	if !s.read {
		s.read = true
		s.meaning, s.reason = s.understand()
	}
	return s.meaning, s.reason
}

func (s *haServer) understand() (settings haSettings, reason string) {
	settings, reason = s.section.inheritedSettings(s.defaults)
	if reason != "" {
		return settings, reason
	}
	_, rest, _ := strings.Cut(s.line, " ")
	address, rest, _ := strings.Cut(rest, " ")
	addr, err := netip.ParseAddrPort(address)
	if err != nil || addr.Port() == 0 || addr.Addr().IsUnspecified() || addr.Addr().Zone() != "" {
		return settings, strconv.Quote(address) + " is not an IP address with a port"
	}
	settings.addr = addr
	return settings, settings.take(strings.Fields(rest))
}

// inheritedSettings are those that the default-server lines make: of the sections that s inherits
// from, and the first count of its own.
func (s *haSection) inheritedSettings(count int) (settings haSettings, reason string) {
	if known, ok := s.inherited[count]; ok {
		return known.settings, known.reason
	}
	settings.weight, settings.unsure = 1, !s.isWhole()
	var sections []*haSection // nearest first
	for section := s.defaults; section != nil; section = section.defaults {
		sections = append(sections, section)
	}
	for _, section := range slices.Backward(sections) {
		reason = cmp.Or(reason, settings.take(section.defaultServers(-1)))
	}
	reason = cmp.Or(reason, settings.take(s.defaultServers(count)))
	if s.inherited == nil {
		s.inherited = map[int]haInherited{}
	}
	s.inherited[count] = haInherited{settings, reason}
	return settings, reason
}

// defaultServers returns the words of the first count default-server lines, of all if count is
// negative.
func (s *haSection) defaultServers(count int) (words []string) {
	for _, line := range s.lines {
		if rest, ok := strings.CutPrefix(line, "default-server "); ok && count != 0 {
			words = append(words, strings.Fields(rest)...)
			count--
		}
	}
	return words
}

// take takes over keywords. A later one wins over an earlier one.
func (t *haSettings) take(words []string) (reason string) {
	shared := true
	for len(words) > 0 {
		word := words[0]
		count, known := serverValues[word]
		if !known {
			return "keyword " + word + " cannot be changed at run time"
		}
		if len(words) < 1+count {
			return "keyword " + word + " has no value"
		}
		value := strings.Join(words[1:1+count], " ")
		words = words[1+count:]
		own := true // it has a field of its own
		switch word {
		case "disabled", "enabled":
			t.disabled = word == "disabled"
		case "weight":
			weight, err := strconv.Atoi(value)
			if err != nil || weight < 0 || weight > 256 {
				return "weight " + strconv.Quote(value) + " is not a number from 0 to 256"
			}
			t.weight, value = weight, ""
		default:
			own = false
		}
		if own && !t.unsure {
			continue
		}
		if shared {
			t.other, shared = maps.Clone(t.other), false
		}
		if opposite := opposites[word]; opposite != "" {
			delete(t.other, opposite)
			continue
		}
		if t.other == nil {
			t.other = map[string]string{}
		}
		t.other[word] = value
	}
	return ""
}

// setting returns the words after a keyword that the section or, failing that, what it inherits
// from has as a line; the last one of several.
func (s *haSection) setting(word string) (rest string, ok bool) {
	for section := s; section != nil; section = section.defaults {
		for _, line := range slices.Backward(section.lines) {
			if first, rest, _ := strings.Cut(line, " "); first == word {
				return rest, true
			}
		}
	}
	return "", false
}
