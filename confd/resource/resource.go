// Package resource reads confd's resource files: conf.d/*.toml, each with one [template] table
// that says which template becomes which file from which keys, and what to run then.
//
// It knows TOML, confd's rules for finding files and turning prefixes and keys into absolute
// keys, and the names of users. It reads no template file and no store and runs nothing.
package resource

import (
	"io/fs"
	"path"
	"slices"
	"time"

	"github.com/kvd-io/kvd/confd/install"
	"github.com/kvd-io/kvd/pkg/kv"
)

// Resource is one template and what belongs to it. It is not changed after Load or Parse.
type Resource struct {
	// Name is the path of File below conf.d without .toml: "haproxy", "sites/a". It is unique, and the name
	// of this resource in status, log, metrics and commands.
	Name string
	File string // the resource file it was read from
	Src  string // path of the template
	// Dest is the absolute path of the file to write. With ForEach it is a pattern for DestOf.
	Dest string

	// Prefix is stripped from keys before the template sees them; clean, "" is the root.
	Prefix string
	// Keys are absolute and clean, as Minimal returns them. Empty: the template reads no keys.
	Keys []string
	// Named are the keys of the resource file, absolute and clean, in its order: also those that Keys covers.
	Named []string
	// ForEach, unless empty, is a pattern as path.Match has it: every key or directory below Prefix that
	// matches becomes a file of its own. It is clean and begins with "/", as the template sees keys.
	ForEach string

	Mode          *fs.FileMode // nil keeps the mode of an existing file
	UID, GID      int          // -1 is the process's own
	FollowSymlink bool         // write the file that a link at Dest leads to, instead of replacing the link

	// Check is run on the staged file, Reload after the file has changed, Confirm after the reload: it fails
	// unless what runs is what the file says. In Reload and Confirm {{.dest}} is replaced already.
	Check, Reload, Confirm install.Command
	// ReloadGroup joins resources to one check, of all their staged files together, and one reload; "" joins
	// those with an equal Reload, each with a check of its own. Members have an equal Reload.
	ReloadGroup string
	// CheckDirs are the directories that the private check directory mirrors; absolute and clean.
	CheckDirs []string
	// OutputFormat is what the render must parse as: "json", "yaml", "toml" or "xml"; "" is anything.
	OutputFormat string

	MinKeys          int           // hold the existing file while fewer keys are found; 0 never holds
	MaxShrinkPercent int           // hold it if more than this part of the keys is gone at once; 0 never holds
	ShrinkGrace      time.Duration // for how long MaxShrinkPercent holds; 0: until the keys are back or it is released
	// MaxExpiredPercent holds the file if more than this part of the keys has expired, rather than been
	// removed, at once; 0 never holds. ExpiryGrace is for how long; 0: until they are back or it is released.
	MaxExpiredPercent int
	ExpiryGrace       time.Duration

	Debounce          time.Duration // quiet time that a burst of changes is waited for; 0 is the program's
	DebounceMax       time.Duration // but no longer than this; 0 is the program's; not less than Debounce
	MinReloadInterval time.Duration // between two reloads; a change in between waits, and is not lost
	RetryMax          time.Duration // longest pause between two tries of what failed; 0 is the program's

	Rollback  bool // put the last confirmed version back after a reload failed
	Sensitive bool // the content is secret: it is in no message, and masked in differences

	// HAProxy, Nginx and Caddy say what program reads the file; at most one is not nil.
	HAProxy *HAProxy
	Nginx   *Nginx
	Caddy   *Caddy

	Backend *Backend // where the keys come from; nil is the program's own backend
}

// HAProxy says where a running HAProxy listens for commands.
type HAProxy struct {
	Socket       string // path of its "stats socket ... level admin"
	MasterSocket string // path of the master's socket (-S); "" if there is none
}

// Nginx says how to find a running nginx.
type Nginx struct {
	PidFile string // of its master
}

// Caddy says where a running Caddy is administered.
type Caddy struct {
	Admin string // host:port, http://host:port or unix//path
}

// Backend is a place that keys come from. Resources with deeply equal ones share one reading of it.
type Backend struct {
	Backend                             string   // "etcd" or "kvd", "etcdv3", "env" or "file"
	Nodes                               []string // endpoints; empty: the backend's default
	Scheme                              string   // of Nodes without one: "", "http" or "https"
	SRVDomain, SRVRecord                string   // find Nodes by DNS
	ClientCert, ClientKey, ClientCAKeys string   // paths of PEM files
	Username, Password, PasswordFile    string
	Files                               []string // of the file backend: files and directories
	Filter                              string   // of the file backend: pattern for names in directories; "*" if not given
}

// What holds when a resource file does not say.
const (
	DefaultCheckTimeout   = 30 * time.Second
	DefaultReloadTimeout  = time.Minute
	DefaultConfirmTimeout = 10 * time.Second
	DefaultShrinkGrace    = 5 * time.Minute
	DefaultExpiryGrace    = time.Minute
	DefaultNginxPidFile   = "/run/nginx.pid"
	DefaultCaddyAdmin     = "localhost:2019"
)

// debounceMaxFactor is how many times Debounce a burst of changes is waited for when the resource file does
// not say.
const debounceMaxFactor = 4

// Withhold makes r sensitive, and its commands.
func (r *Resource) Withhold() {
	r.Sensitive, r.Check.Sensitive, r.Reload.Sensitive, r.Confirm.Sensitive = true, true, true, true
}

// Destination returns what the file at dest must look like: Dest, or one that DestOf has returned.
func (r Resource) Destination(dest string) install.File {
	return install.File{Path: dest, Mode: r.Mode, UID: r.UID, GID: r.GID, Follow: r.FollowSymlink}
}

// absoluteKeys puts prefix before each key.
func absoluteKeys(prefix string, keys []string) []string {
	absolute := make([]string, 0, len(keys))
	for _, key := range keys {
		absolute = append(absolute, kv.Clean(path.Join("/", prefix, key)))
	}
	return absolute
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
