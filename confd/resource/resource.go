// Package resource reads confd's resource files: conf.d/*.toml, each with one [template] table
// that says which template becomes which file from which keys, and what to run then.
//
// It knows TOML, confd's rules for finding files and turning prefixes and keys into absolute
// keys, and the names of users. It reads no template file and no store and runs nothing.
package resource

import (
	"errors"
	"fmt"
	"io/fs"
	"os/user"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/spelling"
)

// Resource is one template and what belongs to it. It is not changed after Parse.
type Resource struct {
	File string // the resource file it was read from
	Src  string // path of the template
	Dest string // path of the file to write

	// Prefix is stripped from keys before the template sees them; clean, "" is the root.
	Prefix string
	// Keys are absolute and clean, as Minimal returns them. Empty: the template reads no keys.
	Keys []string

	Mode     *fs.FileMode // nil keeps the mode of an existing file
	UID, GID int          // -1 is the process's own

	CheckCmd      string // for CheckCommand
	CheckTimeout  time.Duration
	ReloadCmd     string // final: {{.dest}} is already replaced
	ReloadTimeout time.Duration

	// MinKeys holds the existing file while fewer keys than this are found; 0 never holds.
	MinKeys int
	// Rollback puts the version before back after a reload failed.
	Rollback bool
}

// What a command may take when its resource file does not say.
const (
	DefaultCheckTimeout  = 30 * time.Second
	DefaultReloadTimeout = time.Minute
)

// document is the file as it is written. Field names are matched without regard to case.
type document struct {
	Template *table `toml:"template"`
}

type table struct {
	Src              string   `toml:"src"`
	Dest             string   `toml:"dest"`
	Keys             keyList  `toml:"keys"`
	Prefix           string   `toml:"prefix"`
	Mode             string   `toml:"mode"`
	UID              *int     `toml:"uid"`
	GID              *int     `toml:"gid"`
	Owner            string   `toml:"owner"`
	Group            string   `toml:"group"`
	CheckCmd         string   `toml:"check_cmd"`
	CheckCmdTimeout  duration `toml:"check_cmd_timeout"`
	ReloadCmd        string   `toml:"reload_cmd"`
	ReloadCmdTimeout duration `toml:"reload_cmd_timeout"`
	MinKeys          int      `toml:"min_keys"`
	OnReloadFailure  string   `toml:"on_reload_failure"`
}

// keyList reads a list of keys.
type keyList []string

func (l *keyList) UnmarshalTOML(value any) error {
	list, ok := value.([]any)
	if text, isText := value.(string); isText {
		return fmt.Errorf("keys must be a list: keys = [%q]", text)
	}
	for _, item := range list {
		key, isText := item.(string)
		ok = ok && isText
		*l = append(*l, key)
	}
	if !ok {
		return errors.New("keys must be a list of texts: keys = [\"/\"]")
	}
	return nil
}

// duration reads "30s", and a bare number as seconds.
type duration time.Duration

func (d *duration) UnmarshalTOML(value any) error {
	switch value := value.(type) {
	case int64:
		*d = duration(time.Duration(value) * time.Second)
	case string:
		parsed, err := time.ParseDuration(value)
		if err != nil {
			return fmt.Errorf("%q is not a duration such as \"30s\"", value)
		}
		*d = duration(parsed)
	default:
		return fmt.Errorf("%v is not a duration such as \"30s\"", value)
	}
	if *d <= 0 || *d > duration(24*time.Hour) {
		return fmt.Errorf("%v is not between 0 and 24h", value)
	}
	return nil
}

// Parse reads one resource file. templateDir is where src is looked for; globalPrefix, unless
// empty, replaces the resource's own. The warnings name settings that are not known and are
// ignored, as confd ignores them.
func Parse(file string, data []byte, templateDir, globalPrefix string) (r Resource, warnings []string, err error) {
	var doc document
	meta, err := toml.Decode(string(data), &doc)
	if err != nil {
		return Resource{}, nil, explain(err)
	}
	var misspelt error
	for _, key := range meta.Undecoded() {
		if meant := misspelling(meta, key); meant != "" {
			misspelt = errors.Join(misspelt, fmt.Errorf("unknown setting %q: did you mean %s?", key, meant))
			continue
		}
		warnings = append(warnings, fmt.Sprintf("unknown setting %q is ignored", key))
	}
	if misspelt != nil {
		return Resource{}, warnings, misspelt
	}
	if doc.Template == nil {
		return Resource{}, warnings, errors.New("there is no [template] table")
	}
	if mode := doc.Template.Mode; decimalMode(mode) {
		warnings = append(warnings, fmt.Sprintf("mode %q is a decimal number, as in confd; octal is \"0%s\"", mode, mode))
	}
	r, err = doc.Template.resource(file, templateDir, globalPrefix)
	return r, warnings, err
}

// settings are the names that table knows.
var settings = func() (names []string) {
	for field := range reflect.TypeFor[table]().Fields() {
		names = append(names, field.Tag.Get("toml"))
	}
	return names
}()

// misspelling returns the setting that an unknown key must have been meant to be, "" if it may mean
// something elsewhere. What the file sets under its right name was not meant.
func misspelling(meta toml.MetaData, key toml.Key) string {
	known := []string{"template"}
	if len(key) == 2 && strings.EqualFold(key[0], "template") {
		known = slices.Clone(settings)
	} else if len(key) != 1 {
		return ""
	}
	for _, set := range meta.Keys() {
		if len(set) == len(key) {
			known = slices.DeleteFunc(known, func(name string) bool { return strings.EqualFold(name, set[len(set)-1]) })
		}
	}
	return spelling.Meant(strings.ToLower(key[len(key)-1]), known)
}

// explain adds the line to an error of the TOML reader.
func explain(err error) error {
	var parse toml.ParseError
	if errors.As(err, &parse) {
		return fmt.Errorf("not valid TOML: line %d: %s", parse.Position.Line, parse.Message)
	}
	return fmt.Errorf("not valid TOML: %w", err)
}

func (t *table) resource(file, templateDir, globalPrefix string) (Resource, error) {
	dest, err := filepath.Abs(t.Dest) // confd takes a relative path from where it was started
	if err != nil {
		return Resource{}, err
	}
	r := Resource{
		File: file, Src: filepath.Join(templateDir, t.Src), Dest: dest,
		Prefix: kv.Clean(t.Prefix),
		UID:    -1, GID: -1,
		CheckCmd:      t.CheckCmd,
		CheckTimeout:  DefaultCheckTimeout,
		ReloadCmd:     expandCommand(t.ReloadCmd, "", dest),
		ReloadTimeout: DefaultReloadTimeout,
		MinKeys:       t.MinKeys,
	}
	switch {
	case t.Src == "":
		return Resource{}, errors.New("src is missing: it names a file below the templates directory")
	case t.Dest == "":
		return Resource{}, errors.New("dest is missing: it names the file to write")
	case t.MinKeys < 0:
		return Resource{}, fmt.Errorf("min_keys is %d; use 0 or more", t.MinKeys)
	}
	if globalPrefix != "" {
		r.Prefix = kv.Clean(globalPrefix)
	}
	r.Keys = absoluteKeys(r.Prefix, t.Keys)
	if t.CheckCmdTimeout > 0 {
		r.CheckTimeout = time.Duration(t.CheckCmdTimeout)
	}
	if t.ReloadCmdTimeout > 0 {
		r.ReloadTimeout = time.Duration(t.ReloadCmdTimeout)
	}
	switch t.OnReloadFailure {
	case "", "keep":
	case "rollback":
		r.Rollback = true
	default:
		return Resource{}, fmt.Errorf("on_reload_failure is %q; use \"keep\" or \"rollback\"", t.OnReloadFailure)
	}
	if r.Mode, err = parseMode(t.Mode); err != nil {
		return Resource{}, err
	}
	if r.UID, err = t.userID(); err != nil {
		return Resource{}, err
	}
	if r.GID, err = t.groupID(); err != nil {
		return Resource{}, err
	}
	return r, nil
}

// absoluteKeys puts prefix before each key and leaves out what another key already covers.
func absoluteKeys(prefix string, keys []string) []string {
	absolute := make([]string, 0, len(keys))
	for _, key := range keys {
		absolute = append(absolute, kv.Clean(path.Join("/", prefix, key)))
	}
	return Minimal(absolute)
}

// Minimal returns keys in order without those that are repeated or below another. A hidden key is
// not seen from above and stays.
func Minimal(keys []string) []string {
	sorted := slices.Clone(keys)
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	given := make(map[string]bool, len(sorted))
	for _, key := range sorted {
		given[key] = true
	}
	return slices.DeleteFunc(sorted, func(key string) bool {
		for dir := key; dir != ""; {
			if dir = kv.Parent(dir); given[dir] && !kv.HiddenBelow(key, dir) {
				return true
			}
		}
		return false
	})
}

// parseMode reads mode as confd does: "0644" is octal, "644" is decimal, and what is above the
// nine permission bits is dropped.
func parseMode(text string) (*fs.FileMode, error) {
	if text == "" {
		return nil, nil
	}
	number, err := strconv.ParseUint(text, 0, 32)
	if err != nil || number > 0o7777 {
		return nil, fmt.Errorf("mode %q is not a file mode; write it as \"0644\"", text)
	}
	mode := fs.FileMode(number & 0o777)
	return &mode, nil
}

// userID returns the owner's number. A name given in owner wins over uid.
func (t *table) userID() (int, error) {
	if t.Owner == "" {
		return number(t.UID, "uid")
	}
	if id, err := strconv.Atoi(t.Owner); err == nil {
		return number(&id, "owner")
	}
	found, err := user.Lookup(t.Owner)
	if err != nil {
		return 0, fmt.Errorf("owner %q is not a user of this machine", t.Owner)
	}
	return strconv.Atoi(found.Uid)
}

func (t *table) groupID() (int, error) {
	if t.Group == "" {
		return number(t.GID, "gid")
	}
	if id, err := strconv.Atoi(t.Group); err == nil {
		return number(&id, "group")
	}
	found, err := user.LookupGroup(t.Group)
	if err != nil {
		return 0, fmt.Errorf("group %q is not a group of this machine", t.Group)
	}
	return strconv.Atoi(found.Gid)
}

func number(id *int, name string) (int, error) {
	switch {
	case id == nil:
		return -1, nil
	case *id < -1:
		return 0, fmt.Errorf("%s %d is not a number of a user or group", name, *id)
	}
	return *id, nil
}

// CheckCommand returns check_cmd for the staged file src. It is a template that knows .src and
// .dest, as in confd. Where that does not work out, its braces are meant for somebody else, such
// as docker's --format, and only {{.src}} and {{.dest}} are replaced.
func (r Resource) CheckCommand(src string) string {
	var command strings.Builder
	parsed, err := template.New("check_cmd").Option("missingkey=error").Parse(r.CheckCmd)
	if err == nil {
		err = parsed.Execute(&command, map[string]string{"src": src, "dest": r.Dest})
	}
	if err != nil {
		return expandCommand(r.CheckCmd, src, r.Dest)
	}
	return command.String()
}

var placeholder = regexp.MustCompile(`\{\{-?\s*\.(src|dest)\s*-?\}\}`)

// expandCommand replaces {{.src}} by src and {{.dest}} by dest, and leaves every other pair of
// braces to the shell. An empty src leaves {{.src}} as it is.
func expandCommand(command, src, dest string) string {
	return placeholder.ReplaceAllStringFunc(command, func(match string) string {
		switch {
		case strings.Contains(match, ".dest"):
			return dest
		case src != "":
			return src
		}
		return match
	})
}

// decimalMode reports whether text is a mode that was probably meant to be octal: "644".
func decimalMode(text string) bool {
	return len(text) == 3 && text[0] != '0' && strings.Trim(text, "01234567") == ""
}
