// Package starter makes a first working set of files for kvconfd from the shipped templates: a resource
// file and a template, fitted to what is installed on a machine.
//
// It knows the shipped programs, where they are usually kept, and how their resource files are written.
// It writes nothing and runs nothing: it looks, and returns the files.
//
//	program, err := starter.Find("haproxy")
//	found := starter.Machine{}.Look(program, "")
//	files, err := starter.Files(program, found, "/etc/kvconfd")
package starter

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/kvd-io/kvd/pkg/spelling"
	"github.com/kvd-io/kvd/templates"
)

// Program is one that templates are shipped for.
type Program struct {
	Name  string // of the directory in package templates
	About string // what the template makes of registered services, in a few words

	binary   string    // the program; "": nothing has to be installed
	unit     string    // of systemd, without .service
	settings []setting // what the file that is there now says better than the template's defaults
}

// setting is a default in a template that the program's present configuration may overrule.
type setting struct {
	variable string         // the variable of kvconfd's environment that the default is for
	found    *regexp.Regexp // its first group is the value
	option   string         // the option of the resource file with the same value, "" if there is none
}

var programs = []Program{
	{Name: "caddy", About: "HTTP services behind Caddy, by domain, host or path", binary: "caddy", unit: "caddy",
		settings: []setting{{"KVD_CADDY_ADMIN", regexp.MustCompile(`(?m)^\s*admin\s+([A-Za-z0-9.:/_\[\]-]+)\s*$`), "admin"}}},
	{Name: "dnsmasq", About: "names of services for dnsmasq", binary: "dnsmasq", unit: "dnsmasq"},
	{Name: "envoy", About: "endpoints of Envoy's clusters (EDS)", binary: "envoy", unit: "envoy"},
	{Name: "haproxy", About: "HTTP services behind HAProxy, by domain, host or path", binary: "haproxy", unit: "haproxy", settings: ofHAProxy},
	{Name: "haproxy-tcp", About: "a port of HAProxy for each service that asks for one", binary: "haproxy", unit: "haproxy", settings: ofHAProxy},
	{Name: "hosts", About: "names of services in /etc/hosts"},
	{Name: "keepalived", About: "LVS virtual servers and a virtual address", binary: "keepalived", unit: "keepalived"},
	{Name: "nginx", About: "HTTP services behind nginx, by domain, host or path", binary: "nginx", unit: "nginx",
		settings: []setting{
			{"KVD_NGINX_USER", regexp.MustCompile(`(?m)^\s*user\s+([A-Za-z0-9_-]+)\s*;`), ""},
			{"KVD_NGINX_PID", regexp.MustCompile(`(?m)^\s*pid\s+(/[A-Za-z0-9_./-]+)\s*;`), "pid_file"},
			{"KVD_NGINX_LOG", regexp.MustCompile(`(?m)^\s*error_log\s+(/[A-Za-z0-9_./-]+)[\s;]`), ""},
		}},
	{Name: "prometheus", About: "targets for Prometheus (file_sd)", binary: "prometheus", unit: "prometheus"},
	{Name: "traefik", About: "routers and services for Traefik's file provider", binary: "traefik", unit: "traefik"},
	{Name: "varnish", About: "HTTP services behind Varnish, by domain, host or path", binary: "varnishd", unit: "varnish"},
}

var ofHAProxy = []setting{
	{"KVD_STATS_SOCKET", regexp.MustCompile(`(?m)^\s*stats\s+socket\s+(/[A-Za-z0-9_./-]+)(?:\s.*)?$`), "socket"},
	{"KVD_HAPROXY_USER", regexp.MustCompile(`(?m)^\s*user\s+([A-Za-z0-9_-]+)\s*$`), ""},
}

// Programs returns all that templates are shipped for, sorted by name.
func Programs() []Program { return slices.Clone(programs) }

// Find returns the program called name. The error names those that there are.
func Find(name string) (Program, error) {
	var names []string
	for _, p := range programs {
		if p.Name == name {
			return p, nil
		}
		names = append(names, p.Name)
	}
	text := "no template is shipped for %q; there are %s"
	if meant := spelling.Meant(name, names); meant != "" {
		text = "no template is shipped for %q: did you mean " + meant + "? There are %s"
	}
	return Program{}, fmt.Errorf(text, name, strings.Join(names, ", "))
}

// Machine is where programs are looked for. The zero value is this one.
type Machine struct {
	Root     string                            // what stands for /; "": /
	LookPath func(name string) (string, error) // nil: the PATH, and the directories of system daemons
}

// Found is what a machine has of a program.
type Found struct {
	Binary  string   // path of the program; "" if it is not there, or none is needed
	Missing string   // what should be installed and is not
	Unit    string   // the unit that reloads it; "" if systemd does not run here or has no such unit
	Systemd bool     // systemd runs here
	Dest    string   // the file to write
	NoDir   bool     // the directory of Dest does not exist
	Present bool     // there is a file at Dest
	Known   []string // settings taken over from it, as "VARIABLE=value", in the order of the program's

	values map[string]string // of Known
}

// Look finds out what m has of p. dest is where the file goes, "" for where the template says.
func (m Machine) Look(p Program, dest string) Found {
	f := Found{Dest: dest, values: map[string]string{}}
	if f.Dest == "" {
		f.Dest = p.dest()
	}
	if p.binary != "" {
		if f.Binary = m.lookPath(p.binary); f.Binary == "" {
			f.Missing = p.binary
		}
	}
	f.Systemd = m.exists("/run/systemd/system")
	for _, dir := range []string{"/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"} {
		if f.Systemd && f.Unit == "" && p.unit != "" && m.exists(dir+"/"+p.unit+".service") {
			f.Unit = p.unit
		}
	}
	f.NoDir = !m.exists(filepath.Dir(f.Dest))
	text, err := os.ReadFile(m.path(f.Dest))
	f.Present = err == nil
	for _, s := range p.settings {
		if match := s.found.FindSubmatch(text); match != nil {
			f.values[s.variable] = string(match[1])
			f.Known = append(f.Known, s.variable+"="+string(match[1]))
		}
	}
	return f
}

func (m Machine) path(name string) string {
	if m.Root == "" {
		return name
	}
	return filepath.Join(m.Root, name)
}

func (m Machine) exists(name string) bool {
	_, err := os.Stat(m.path(name))
	return err == nil
}

func (m Machine) lookPath(name string) string {
	look := m.LookPath
	if look == nil {
		look = exec.LookPath
	}
	if found, err := look(name); err == nil {
		return found
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if info, err := os.Stat(m.path(dir + "/" + name)); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return dir + "/" + name
		}
	}
	return ""
}

// File is one to be written below the configuration directory.
type File struct {
	Path    string
	Content []byte
}

var (
	destLine        = regexp.MustCompile(`(?m)^dest *= *"(.*)"$`)
	systemdReload   = regexp.MustCompile(`(?m)^(reload_cmd *= *"systemctl .*")$`)
	otherwiseReload = regexp.MustCompile(`(?m)^# +(reload_cmd *= .*)$`)
)

// Files returns what makes kvconfd write the file of p as it was found, in the order in which it is to be
// written: the template, and the resource file that names it.
func Files(p Program, found Found, confDir string) ([]File, error) {
	var files []File
	for _, dir := range []string{"templates", "conf.d"} {
		names, err := fs.Glob(templates.FS, p.Name+"/"+dir+"/*")
		if err != nil || len(names) != 1 {
			return nil, fmt.Errorf("%s/%s has %d files instead of one", p.Name, dir, len(names))
		}
		text, err := templates.FS.ReadFile(names[0])
		if err != nil {
			return nil, err
		}
		if dir == "conf.d" {
			text = p.resource(text, found)
		} else {
			text = p.template(text, found)
		}
		files = append(files, File{filepath.Join(confDir, dir, path.Base(names[0])), text})
	}
	return files, nil
}

// dest is where the shipped resource file has the file written.
func (p Program) dest() string {
	text, err := templates.FS.ReadFile(p.Name + "/conf.d/" + p.Name + ".toml")
	if err != nil {
		return "" // a test makes sure that it is there
	}
	if match := destLine.FindSubmatch(text); match != nil {
		return string(match[1])
	}
	return ""
}

// resource fits a shipped resource file to what was found.
func (p Program) resource(text []byte, found Found) []byte {
	text = destLine.ReplaceAllLiteral(text, fmt.Appendf(nil, "dest = %q", found.Dest))
	// Without its unit a program is told in the other way that the file names.
	if other := otherwiseReload.FindSubmatch(text); found.Unit == "" && other != nil && systemdReload.Match(text) {
		command := bytes.Clone(other[1])
		first := true
		text = otherwiseReload.ReplaceAllFunc(text, func(line []byte) []byte {
			if first {
				first = false
				return command
			}
			return line
		})
		text = systemdReload.ReplaceAll(text, []byte("# $1"))
	}
	for _, s := range p.settings {
		if value, known := found.values[s.variable]; known && s.option != "" {
			line := regexp.MustCompile(`(?m)^` + s.option + ` *=.*$`)
			text = line.ReplaceAllLiteral(text, fmt.Appendf(nil, "%s = %q", s.option, value))
		}
	}
	return text
}

// template gives the defaults of a shipped template the values that were found.
func (p Program) template(text []byte, found Found) []byte {
	for variable, value := range found.values {
		call := regexp.MustCompile(`(getenv "` + variable + `") "[^"]*"`)
		text = call.ReplaceAllFunc(text, func(match []byte) []byte {
			return fmt.Appendf(nil, "%s %q", call.FindSubmatch(match)[1], value)
		})
	}
	return text
}
