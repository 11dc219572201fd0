package resource

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/kvd-io/kvd/confd/install"
	"github.com/kvd-io/kvd/pkg/kv"
)

// Severity is how bad a Finding is.
type Severity string

const (
	Error   Severity = "error"   // it cannot work as it is
	Warning Severity = "warning" // it does not work on this machine, or hardly as it is meant
	Note    Severity = "note"    // it works, and somebody may be surprised one day
)

// Finding is something about a resource file that its author should know.
type Finding struct {
	File     string   `json:"file"`           // "" is the configuration directory as a whole
	Line     int      `json:"line,omitempty"` // 0 is the file as a whole
	Severity Severity `json:"severity"`
	Text     string   `json:"text"` // what, why, and what to do
}

// String returns "FILE:LINE: SEVERITY: TEXT".
func (f Finding) String() string {
	where := f.File
	if f.Line > 0 {
		where = fmt.Sprintf("%s:%d", f.File, f.Line)
	}
	if where == "" {
		return fmt.Sprintf("%s: %s", f.Severity, f.Text)
	}
	return fmt.Sprintf("%s: %s: %s", where, f.Severity, f.Text)
}

// Lint looks at every resource file of a configuration directory, and at what it names on this machine:
// templates, directories and commands. It changes nothing, runs nothing and asks no store. The findings are in
// the order of files and lines; none means that nothing was found.
func Lint(confDir, globalPrefix string) []Finding {
	loaded, err := Load(confDir, globalPrefix)
	if err != nil {
		return []Finding{{Severity: Error, Text: err.Error()}}
	}
	if len(loaded) == 0 {
		return []Finding{{Severity: Warning, Text: fmt.Sprintf("there are no resource files (*.toml) in %s; nothing is written", filepath.Join(confDir, "conf.d"))}}
	}
	var all []Finding
	for i, l := range loaded {
		all = append(all, lintFile(l, loaded[:i], globalPrefix)...)
	}
	slices.SortStableFunc(all, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return all
}

// lintFile looks at one file; before are those that were loaded before it.
func lintFile(l Loaded, before []Loaded, globalPrefix string) (found []Finding) {
	for _, warning := range l.Warnings {
		found = append(found, Finding{l.File, warning.Line, Warning, warning.Text})
	}
	var problems Problems
	switch {
	case errors.As(l.Err, &problems):
		for _, p := range problems {
			found = append(found, Finding{l.File, p.Line, Error, p.Text})
		}
		return found
	case l.Err != nil:
		return append(found, Finding{l.File, 0, Error, strings.TrimPrefix(l.Err.Error(), "resource file "+l.File+": ")})
	}
	data, err := readFile(l.File)
	var doc document
	if err == nil {
		_, err = toml.Decode(string(data), &doc)
	}
	if err != nil || doc.Template == nil {
		return append(found, Finding{l.File, 0, Error, "it has just been changed; try again"})
	}
	lint := linter{Resource: l.Resource, written: doc, lines: findLines(data), globalPrefix: globalPrefix}
	lint.files()
	lint.keys()
	lint.command("check_cmd", l.Resource.Check)
	lint.command("reload_cmd", l.Resource.Reload)
	lint.command("confirm_cmd", l.Resource.Confirm)
	lint.braces()
	lint.group(before)
	lint.secrets()
	return append(found, lint.found...)
}

// linter collects what is to be said about one resource.
type linter struct {
	Resource
	written      document
	lines        map[string]int
	globalPrefix string
	found        []Finding
}

func (l *linter) add(severity Severity, setting, format string, values ...any) {
	l.found = append(l.found, Finding{l.File, l.lines[setting], severity, fmt.Sprintf(format, values...)})
}

// files looks at what is read and written.
func (l *linter) files() {
	switch info, err := os.Stat(l.Src); {
	case errors.Is(err, fs.ErrNotExist):
		l.add(Error, "template.src", "template %s does not exist; create it, or correct src", l.Src)
	case err != nil:
		l.add(Error, "template.src", "template cannot be read: %v", err)
	case !info.Mode().IsRegular():
		l.add(Error, "template.src", "template %s is not a file; correct src", l.Src)
	}
	dir := filepath.Dir(l.Dest)
	if l.ForEach != "" {
		dir, _, _ = l.Files()
	} else if info, err := os.Stat(l.Dest); err == nil && info.IsDir() {
		l.add(Error, "template.dest", "dest %s is a directory; name the file in it", l.Dest)
	} else if dir, err = l.Destination(l.Dest).Place(); err != nil {
		l.add(Error, "template.dest", "%v", err)
	}
	if info, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		l.add(Warning, "template.dest", "the directory %s does not exist; create it, or correct dest", dir)
	}
	for _, dir := range l.CheckDirs {
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			l.add(Warning, "template.check_dirs", "there is no directory %s; correct check_dirs", dir)
		}
	}
	if b := l.Backend; b != nil {
		for setting, file := range map[string]string{"client_cert": b.ClientCert, "client_key": b.ClientKey, "client_cakeys": b.ClientCAKeys, "password_file": b.PasswordFile} {
			if _, err := os.Stat(file); file != "" && err != nil {
				l.add(Warning, "backend."+setting, "%s cannot be read: %v", setting, err)
			}
		}
	}
}

// keys looks for keys that do not say what they seem to say.
func (l *linter) keys() {
	prefix := l.written.Template.Prefix
	switch {
	case len(l.Keys) == 0:
		l.add(Warning, "template", "there are no keys, so the template sees none; name what it reads: keys = [\"/\"]")
	case l.globalPrefix != "" && prefix != "":
		l.add(Note, "template.prefix", "the prefix of the program, %s, replaces prefix = %q", l.globalPrefix, prefix)
	}
	given := make([]string, len(l.written.Template.Keys))
	for i, key := range l.written.Template.Keys {
		given[i] = kv.Clean(path.Join("/", l.Prefix, key))
	}
	for i, key := range given {
		written := l.written.Template.Keys[i]
		for j, other := range given {
			switch {
			case i == j || l.Prefix != "" && !isBelow(key, l.Prefix):
			case key == other && j < i:
				l.add(Note, "template.keys", "key %q is there twice", written)
			case key != other && covers([]string{other}, key):
				l.add(Note, "template.keys", "key %q is below %q, which has it already", written, l.written.Template.Keys[j])
			}
		}
		switch {
		case l.Prefix == "":
		case !isBelow(key, l.Prefix):
			l.add(Warning, "template.keys", "key %q leads out of the prefix %s; the template sees it under its whole name", written, l.Prefix)
		case isBelow(kv.Clean(written), l.Prefix):
			l.add(Warning, "template.keys", "key %q has the prefix %s already, which is put before it once more: %s is read", written, l.Prefix, key)
		}
	}
}

// shellWords are what a line for the shell may begin with and no program in PATH need exist for.
var shellWords = strings.Fields(": . [ ! { ( alias break case cd command continue echo eval exec exit export false for hash if kill printf pwd read readonly return set shift test times trap true type ulimit umask unset until wait while")

// plainWord is a word that a shell takes as it is.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./+-]+$`)

// command looks for the program that a command starts.
func (l *linter) command(setting string, c install.Command) {
	program := ""
	if len(c.Argv) > 0 {
		program = c.Argv[0]
	} else {
		words := strings.Fields(c.Shell)
		for len(words) > 1 && strings.Contains(words[0], "=") {
			words = words[1:] // variables for the command
		}
		if len(words) == 0 || !plainWord.MatchString(words[0]) || slices.Contains(shellWords, words[0]) {
			return
		}
		program = words[0]
	}
	if _, err := exec.LookPath(program); err != nil && !strings.Contains(program, "{{") {
		l.add(Warning, "template."+setting, "%s starts %s, which is not found or may not be executed; install it, or give its whole path", setting, program)
	}
}

// anyBraces finds what looks like a placeholder.
var anyBraces = regexp.MustCompile(`\{\{[^{}]*\}\}`)

// braces looks for placeholders that are not filled in.
func (l *linter) braces() {
	if c := l.Check; !c.IsZero() && !c.Uses("src") && !c.Uses("dir") {
		l.add(Warning, "template.check_cmd", "check_cmd names neither {{.src}} nor {{.dir}}, so the new version is in place while it is checked; the program is not told before the check agrees, and a refused version is taken back; name {{.src}} to have it checked before")
	}
	vars := install.Vars{Src: "/src", Dest: "/dest", Dir: "/dir"}
	if left := anyBraces.FindString(l.Check.With(vars).String()); left != "" {
		l.add(Warning, "template.check_cmd", "check_cmd has %s, which is left as it is: {{.src}}, {{.dest}} and {{.dir}} are known", left)
	}
	for setting, c := range map[string]install.Command{"reload_cmd": l.Reload, "confirm_cmd": l.Confirm} {
		if left := anyBraces.FindString(c.String()); left != "" {
			l.add(Warning, "template."+setting, "%s has %s, which is left as it is: {{.dest}} alone is known", setting, left)
		}
	}
}

// group looks at what the resource has in common with those before it.
func (l *linter) group(before []Loaded) {
	for _, other := range before {
		if other.Err == nil && other.Resource.Src == l.Src {
			l.add(Note, "template.src", "%s has the same src; each renders it with its own keys", other.File)
			break
		}
	}
	if l.ReloadGroup != "" && l.Reload.IsZero() {
		l.add(Warning, "template.reload_group", "no member of reload_group %q has a reload_cmd, so nobody is told of a change", l.ReloadGroup)
	}
}

// secrets looks for content that too many can read.
func (l *linter) secrets() {
	if l.Sensitive && l.Mode != nil && *l.Mode&0o007 != 0 {
		l.add(Warning, "template.mode", "mode %04o lets everybody at a file that is sensitive; use \"0600\", or \"0640\" with a group", *l.Mode)
	}
	info, err := os.Stat(l.File)
	if l.Backend != nil && l.Backend.Password != "" && err == nil && info.Mode().Perm()&0o004 != 0 {
		l.add(Warning, "backend.password", "everybody can read this password; chmod 0600 this file, or use password_file")
	}
}
