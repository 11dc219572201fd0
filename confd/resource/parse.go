package resource

import (
	"errors"
	"fmt"
	"io/fs"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/kvd-io/kvd/confd/install"
	"github.com/kvd-io/kvd/pkg/kv"
)

// Problem is one thing that is wrong with a resource file.
type Problem struct {
	Line int // 0: the file as a whole
	Text string
}

func (p Problem) String() string {
	if p.Line == 0 {
		return p.Text
	}
	return fmt.Sprintf("line %d: %s", p.Line, p.Text)
}

// Problems is everything that is wrong with one resource file.
type Problems []Problem

func (p Problems) Error() string {
	texts := make([]string, len(p))
	for i, problem := range p {
		texts[i] = problem.String()
	}
	return strings.Join(texts, "; ")
}

// Parse reads one resource file of a configuration directory. globalPrefix, unless empty, replaces the
// resource's own. The warnings name what is probably not meant, such as settings that are not known and are
// ignored, as confd ignores them. err is a Problems.
func Parse(file string, data []byte, confDir, globalPrefix string) (r Resource, warnings []Problem, err error) {
	var doc document
	meta, err := toml.Decode(string(data), &doc)
	if err != nil {
		return Resource{}, nil, Problems{explain(err)}
	}
	p := parser{file: file, confDir: confDir, globalPrefix: globalPrefix, lines: findLines(data)}
	p.unknown(meta)
	if doc.Template == nil {
		p.wrong("", "there is no [template] table")
	}
	if len(p.problems) == 0 {
		r = p.resource(doc)
	}
	if len(p.problems) > 0 {
		return Resource{}, p.warnings, p.problems
	}
	return r, p.warnings, nil
}

// parser turns a document into a Resource and collects what is wrong with it.
type parser struct {
	file, confDir, globalPrefix string

	lines    map[string]int // where a setting stands, by "table.setting"
	problems Problems
	warnings []Problem
}

// wrong notes a problem with a setting, written as "template.mode"; "" is the file as a whole.
func (p *parser) wrong(setting, format string, values ...any) {
	p.problems = append(p.problems, Problem{p.lines[setting], fmt.Sprintf(format, values...)})
}

func (p *parser) warn(setting, format string, values ...any) {
	p.warnings = append(p.warnings, Problem{p.lines[setting], fmt.Sprintf(format, values...)})
}

// unknown tells misspelt settings, which are wrong, from those that may mean something elsewhere.
func (p *parser) unknown(meta toml.MetaData) {
	for _, key := range meta.Undecoded() {
		name := strings.ToLower(key.String())
		if meant := misspelling(meta, key); meant != "" {
			p.wrong(name, "unknown setting %q: did you mean %s?", key, meant)
			continue
		}
		p.warn(name, "unknown setting %q is ignored%s", key, belongs(key))
	}
}

// belongs says in which table a setting is known that was given in another.
func belongs(key toml.Key) string {
	name := strings.ToLower(key[len(key)-1])
	for _, table := range []string{"template", "haproxy", "nginx", "caddy", "backend"} {
		if slices.Contains(settings()[table], name) {
			return fmt.Sprintf("; %s belongs below [%s]", name, table)
		}
	}
	return ""
}

// typeMismatch is how the TOML reader says that a setting has another type.
var typeMismatch = regexp.MustCompile(`^toml: line (\d+) \(last key "(.*)"\): (?:incompatible types: TOML value has type \w+; destination has type (\w+)|type mismatch for .* expected (table) .*|(.*))$`)

// wantedTypes says what a setting of a type is to look like.
var wantedTypes = map[string]string{
	"string": "a text in quotes", "integer": "a whole number without quotes", "boolean": "true or false without quotes", "table": "one table in brackets",
}

// explain turns an error of the TOML reader into a problem.
func explain(err error) Problem {
	var parse toml.ParseError
	if errors.As(err, &parse) {
		if text, isValue := strings.CutPrefix(parse.Message, unfitPrefix); isValue {
			return Problem{parse.Position.Line, parse.LastKey + ": " + text}
		}
		return Problem{parse.Position.Line, "not valid TOML: " + parse.Message}
	}
	if match := typeMismatch.FindStringSubmatch(err.Error()); match != nil {
		line, _ := strconv.Atoi(match[1])
		if wanted := wantedTypes[match[3]+match[4]]; wanted != "" {
			return Problem{line, fmt.Sprintf("%s: it must be %s", match[2], wanted)}
		}
		return Problem{line, match[2] + ": " + match[3] + match[5]}
	}
	return Problem{Text: "not valid TOML: " + err.Error()}
}

// resource turns the document into a Resource.
func (p *parser) resource(doc document) Resource {
	t := doc.Template
	r := Resource{
		Name: name(p.file, p.confDir), File: p.file,
		Src: filepath.Join(p.confDir, "templates", t.Src), Dest: p.dest(t.Dest),
		Prefix: kv.Clean(t.Prefix),
		Mode:   p.mode(t), UID: p.userID(t), GID: p.groupID(t),
		FollowSymlink: p.choice("symlink", t.Symlink, "replace", "follow") == "follow",

		ReloadGroup:  t.ReloadGroup,
		CheckDirs:    p.directories("template.check_dirs", t.CheckDirs),
		OutputFormat: p.choice("output_format", t.OutputFormat, "", "json", "yaml", "yml", "toml", "xml"),

		MinKeys:          p.atLeastZero("min_keys", t.MinKeys),
		MaxShrinkPercent: p.percent("max_shrink_percent", t.MaxShrinkPercent),
		ShrinkGrace:      p.grace("shrink_grace", t.ShrinkGrace, t.MaxShrinkPercent, DefaultShrinkGrace),

		MaxExpiredPercent: p.percent("max_expired_percent", t.MaxExpiredPercent),
		ExpiryGrace:       p.grace("expiry_grace", t.ExpiryGrace, t.MaxExpiredPercent, DefaultExpiryGrace),

		Debounce: t.Debounce.Duration, DebounceMax: p.debounceMax(t),
		MinReloadInterval: t.MinReloadInterval.Duration, RetryMax: t.RetryMax.Duration,

		Rollback:  p.choice("on_reload_failure", t.OnReloadFailure, "keep", "rollback") == "rollback",
		Sensitive: t.Sensitive,
	}
	if t.Src == "" {
		p.wrong("template.src", "src is missing: it names a file below the templates directory")
	}
	if r.OutputFormat == "yml" {
		r.OutputFormat = "yaml"
	}
	if p.globalPrefix != "" {
		r.Prefix = kv.Clean(p.globalPrefix)
	}
	r.Named = absoluteKeys(r.Prefix, t.Keys)
	r.Keys = Minimal(r.Named)
	p.forEach(&r, t)
	p.commands(&r, t)
	p.programs(&r, doc)
	if doc.Backend != nil {
		r.Backend = p.backend(*doc.Backend)
	}
	p.idle(r, t)
	return r
}

// idle warns of settings that have nothing to work on.
func (p *parser) idle(r Resource, t *table) {
	reloads := !r.Reload.IsZero() || r.ReloadGroup != "" || r.Caddy != nil
	for _, c := range []struct {
		setting string
		idle    bool
		needs   string
	}{
		{"check_cmd_timeout", t.CheckCmdTimeout.given && r.Check.IsZero(), "check_cmd"},
		{"check_dirs", len(t.CheckDirs) > 0 && r.Check.IsZero() && r.ReloadGroup == "", "check_cmd"},
		{"reload_cmd_timeout", t.ReloadCmdTimeout.given && !reloads, "reload_cmd"},
		{"min_reload_interval", t.MinReloadInterval.Duration > 0 && !reloads, "reload_cmd"},
		{"on_reload_failure", t.OnReloadFailure != "" && !reloads, "reload_cmd"},
		{"confirm_cmd", !r.Confirm.IsZero() && !reloads, "reload_cmd"},
		{"confirm_cmd_timeout", t.ConfirmCmdTimeout.given && r.Confirm.IsZero(), "confirm_cmd"},
		{"shrink_grace", t.ShrinkGrace.given && r.MaxShrinkPercent == 0, "max_shrink_percent"},
		{"expiry_grace", t.ExpiryGrace.given && r.MaxExpiredPercent == 0, "max_expired_percent"},
	} {
		if c.idle {
			p.warn("template."+c.setting, "%s has no effect without %s", c.setting, c.needs)
		}
	}
}

// name returns the path of file below conf.d without .toml.
func name(file, confDir string) string {
	below, err := filepath.Rel(filepath.Join(confDir, "conf.d"), file)
	if err != nil || strings.HasPrefix(below, "..") {
		below = filepath.Base(file)
	}
	return strings.TrimSuffix(filepath.ToSlash(below), ".toml")
}

// dest returns the destination as an absolute path. confd takes a relative one from where it was started.
func (p *parser) dest(written string) string {
	if written == "" {
		p.wrong("template.dest", "dest is missing: it names the file to write")
		return ""
	}
	dest, err := filepath.Abs(written)
	if err != nil {
		p.wrong("template.dest", "dest %q cannot be made absolute: %v; write it from the root", written, err)
	}
	for _, own := range []string{"conf.d", "templates"} {
		dir, err := filepath.Abs(filepath.Join(p.confDir, own))
		if err == nil && isBelow(dest, dir) {
			p.wrong("template.dest", "dest %s is in %s, which is read to know what to write; choose another directory", written, dir)
		}
	}
	return dest
}

// isBelow reports whether path is dir or below it.
func isBelow(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// choice checks a setting that has a few values, the first of which is the default.
func (p *parser) choice(setting, value string, values ...string) string {
	if value == "" {
		return values[0]
	}
	if !slices.Contains(values, value) {
		known := slices.DeleteFunc(slices.Clone(values), func(v string) bool { return v == "" })
		p.wrong("template."+setting, "%s is %q; use one of %s", setting, value, strings.Join(known, ", "))
	}
	return value
}

func (p *parser) atLeastZero(setting string, value int) int {
	if value < 0 {
		p.wrong("template."+setting, "%s is %d; use 0 or more", setting, value)
	}
	return value
}

func (p *parser) percent(setting string, value int) int {
	if value < 0 || value > 100 {
		p.wrong("template."+setting, "%s is %d; use 1 to 100, or 0 for no limit", setting, value)
	}
	return value
}

// grace returns for how long the guard with this limit holds a file, 0 if for ever or if there is no limit.
func (p *parser) grace(setting string, value grace, limit int, usual time.Duration) time.Duration {
	switch {
	case limit == 0, value.forever:
		return 0
	case !value.given:
		return usual
	case value.Duration == 0:
		p.wrong("template."+setting, "%s is 0, so the limit would hold nothing; give a time such as \"5m\" or \"forever\", or leave the limit out", setting)
	}
	return value.Duration
}

func (p *parser) debounceMax(t *table) time.Duration {
	longest, quiet := t.DebounceMax.Duration, t.Debounce.Duration
	switch {
	case longest == 0 && quiet > 0:
		return min(debounceMaxFactor*quiet, durationMax)
	case longest > 0 && longest < quiet:
		p.wrong("template.debounce_max", "debounce_max %v is shorter than debounce %v; make it at least as long", longest, quiet)
	}
	return longest
}

// directories returns absolute, clean paths.
func (p *parser) directories(setting string, written []string) []string {
	var dirs []string
	for _, dir := range written {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) == "/" {
			p.wrong(setting, "%q is not the absolute path of a directory below the root; write it as \"/etc/nginx\"", dir)
		}
		dirs = append(dirs, filepath.Clean(dir))
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// commands fills in what is to be run.
func (p *parser) commands(r *Resource, t *table) {
	r.Check = p.command("check_cmd", t.CheckCmd, t.CheckCmdTimeout, DefaultCheckTimeout, t.Sensitive)
	r.Check.Template = r.Check.Shell != ""
	r.Reload = p.command("reload_cmd", t.ReloadCmd, t.ReloadCmdTimeout, DefaultReloadTimeout, t.Sensitive)
	r.Confirm = p.command("confirm_cmd", t.ConfirmCmd, t.ConfirmCmdTimeout, DefaultConfirmTimeout, t.Sensitive)
	if r.ForEach != "" {
		for setting, c := range map[string]install.Command{"reload_cmd": r.Reload, "confirm_cmd": r.Confirm} {
			if c.Uses("dest") {
				p.wrong("template."+setting, "%s asks for {{.dest}}, but with for_each there are many; name their directory", setting)
			}
		}
		return
	}
	r.Reload = r.Reload.With(install.Vars{Dest: r.Dest})
	r.Confirm = r.Confirm.With(install.Vars{Dest: r.Dest})
}

// command returns a command with its time-out. Without a command there is no time-out either.
func (p *parser) command(setting string, c command, timeout duration, usual time.Duration, sensitive bool) install.Command {
	made := install.Command(c)
	if made.IsZero() {
		return install.Command{}
	}
	made.Timeout, made.Sensitive = usual, sensitive
	if timeout.given {
		made.Timeout = timeout.Duration
		if made.Timeout == 0 {
			p.wrong("template."+setting+"_timeout", "%s_timeout is 0; a command that may take for ever would hold up everything: give it a time such as \"30s\"", setting)
		}
	}
	if strings.ContainsRune(made.Shell+strings.Join(made.Argv, ""), 0) {
		p.wrong("template."+setting, "%s has a zero byte in it; no command can", setting)
	}
	return made
}

// programs fills in which program reads the file.
func (p *parser) programs(r *Resource, doc document) {
	var given []string
	if h := doc.HAProxy; h != nil {
		given = append(given, "[haproxy]")
		p.absolute("haproxy.socket", h.Socket, "the path of a \"stats socket ... level admin\"")
		if h.MasterSocket != "" {
			p.absolute("haproxy.master_socket", h.MasterSocket, "the path given to HAProxy's -S")
		}
		r.HAProxy = &HAProxy{Socket: h.Socket, MasterSocket: h.MasterSocket}
	}
	if n := doc.Nginx; n != nil {
		given = append(given, "[nginx]")
		r.Nginx = &Nginx{PidFile: DefaultNginxPidFile}
		if n.PidFile != "" {
			p.absolute("nginx.pid_file", n.PidFile, "the path of the master's \"pid\" file")
			r.Nginx.PidFile = n.PidFile
		}
	}
	if c := doc.Caddy; c != nil {
		given = append(given, "[caddy]")
		r.Caddy = &Caddy{Admin: DefaultCaddyAdmin}
		if c.Admin != "" {
			r.Caddy.Admin = c.Admin
		}
	}
	if len(given) > 1 {
		p.wrong("", "there are %s: one file is read by one program; keep one of the tables", strings.Join(given, " and "))
	}
}

// absolute checks that a setting is an absolute path.
func (p *parser) absolute(setting, value, meaning string) {
	switch {
	case value == "":
		p.wrong(setting, "%s is missing: it is %s", setting, meaning)
	case !filepath.IsAbs(value):
		p.wrong(setting, "%s %q is not an absolute path; it is %s", setting, value, meaning)
	}
}

// backendNames are the backends that kvconfd has.
var backendNames = [...]string{"etcd", "kvd", "etcdv3", "env", "file"}

func (p *parser) backend(t backendTable) *Backend {
	switch {
	case t.Backend == "":
		p.wrong("backend.backend", "[backend] does not say which: backend = \"etcd\", or one of %s", strings.Join(backendNames[:], ", "))
	case !slices.Contains(backendNames[:], t.Backend):
		p.wrong("backend.backend", "backend %q is one that kvconfd does not have; use one of %s", t.Backend, strings.Join(backendNames[:], ", "))
	case t.Backend == "file" && len(t.File) == 0:
		p.wrong("backend.backend", "the file backend needs at least one file: file = [\"/etc/keys.yaml\"]")
	}
	if t.Scheme != "" && t.Scheme != "http" && t.Scheme != "https" {
		p.wrong("backend.scheme", "scheme is %q; use \"http\" or \"https\"", t.Scheme)
	}
	if t.ClientInsecure {
		p.warn("backend.client_insecure", "client_insecure has no effect: certificates are always verified; name the authority in client_cakeys")
	}
	if t.Password != "" && t.PasswordFile != "" {
		p.wrong("backend.password_file", "there are password and password_file; keep one")
	}
	filter := t.Filter
	if filter == "" {
		filter = "*"
	} else if _, err := filepath.Match(filter, ""); err != nil {
		p.wrong("backend.filter", "filter %q is not a pattern for file names such as \"*.yaml\"", filter)
	}
	return &Backend{
		Backend: t.Backend, Nodes: t.Nodes, Scheme: t.Scheme, SRVDomain: t.SRVDomain, SRVRecord: t.SRVRecord,
		ClientCert: t.ClientCert, ClientKey: t.ClientKey, ClientCAKeys: t.ClientCAKeys,
		Username: t.Username, Password: t.Password, PasswordFile: t.PasswordFile, Files: t.File, Filter: filter,
	}
}

// mode reads mode as confd does: "0644" is octal, "644" is decimal, and what is above the nine
// permission bits is dropped.
func (p *parser) mode(t *table) *fs.FileMode {
	secret := fs.FileMode(0o600)
	if t.Mode == "" {
		if t.Sensitive {
			return &secret
		}
		return nil
	}
	number, err := strconv.ParseUint(t.Mode, 0, 32)
	if err != nil || number > 0o7777 {
		p.wrong("template.mode", "mode %q is not a file mode; write it as \"0644\"", t.Mode)
		return nil
	}
	if decimalMode(t.Mode) {
		p.warn("template.mode", "mode %q is a decimal number, as in confd; octal is \"0%s\"", t.Mode, t.Mode)
	}
	mode := fs.FileMode(number & 0o777)
	return &mode
}

// decimalMode reports whether text is a mode that was probably meant to be octal: "644".
func decimalMode(text string) bool {
	return len(text) == 3 && text[0] != '0' && strings.Trim(text, "01234567") == ""
}

// userID returns the owner's number. uid wins over a name given in owner, as in confd.
func (p *parser) userID(t *table) int {
	return p.id("uid", t.UID, "owner", t.Owner, func(name string) (string, error) {
		found, err := user.Lookup(name)
		if err != nil {
			return "", fmt.Errorf("is not a user of this machine")
		}
		return found.Uid, nil
	})
}

func (p *parser) groupID(t *table) int {
	return p.id("gid", t.GID, "group", t.Group, func(name string) (string, error) {
		found, err := user.LookupGroup(name)
		if err != nil {
			return "", fmt.Errorf("is not a group of this machine")
		}
		return found.Gid, nil
	})
}

// id returns the number of a user or group that is given by number, by name or not at all (-1).
func (p *parser) id(setting string, number *int, byName, name string, lookup func(string) (string, error)) int {
	if number != nil && *number >= 0 || name == "" {
		switch {
		case number == nil:
			return -1
		case *number < -1:
			p.wrong("template."+setting, "%s %d is not a number of a user or group", setting, *number)
		case name != "":
			p.warn("template."+byName, "%s is not used: %s wins, as in confd", byName, setting)
		}
		return *number
	}
	text, err := name, error(nil)
	if _, notNumber := strconv.ParseUint(name, 10, 31); notNumber != nil {
		text, err = lookup(name)
	}
	id, notNumber := strconv.Atoi(text)
	if err == nil {
		err = notNumber
	}
	if err != nil {
		p.wrong("template."+byName, "%s %q %v; create it, or correct its name", byName, name, err)
	}
	return id
}
