// Package confd is kvconfd: it renders files from keys of a store, checks them, puts them in place
// and reloads whoever reads them, until the running program equals the store.
//
// It composes the rooms below it; the files here hold the loop:
//
//	keys -> group -> target -> output -> set -> reader
//
// keys keeps the mirror, one shared copy of all keys that any template needs, current. A group is the
// resources that share a reload command or a reload group; it wakes when one of their keys has changed,
// and works alone and in order, so that a command is never run twice at a time and once per pass. A
// target is one resource; an output is one file of it, and is rendered only when something that the last
// render looked at has changed. A set is the outputs that are checked and put in place together, and the
// reader is who is told of them. Whether a file may change at all is decided by guard.
//
// Nothing is relied upon over a crash but what is on disk: each pass compares what should be with what
// is, so that whatever failed is simply tried again.
//
// It decides no syntax of templates or resource files and knows no wire protocol.
package confd

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/kvd-io/kvd/confd/crypt"
	"github.com/kvd-io/kvd/confd/keys"
	"github.com/kvd-io/kvd/confd/proxy"
	"github.com/kvd-io/kvd/confd/render"
	"github.com/kvd-io/kvd/confd/report"
	"github.com/kvd-io/kvd/confd/resource"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// Config holds every setting of kvconfd. The flags of Program are bound to its fields.
type Config struct {
	ConfDir string // holds conf.d and templates
	Prefix  string // replaces the prefix of every resource; "" leaves them

	Backend string // "etcd" or "kvd": the store; "env": the environment; "file": YAML or JSON files
	Client  kvclient.Config
	Scheme  string   // of endpoints given without one
	SRV     string   // SRV record that names the endpoints; "" uses Client.Endpoints
	Files   []string // file backend: files and directories
	Filter  string   // file backend: pattern for the names of files in directories

	// Keyring decrypts what templates read by cget, cgets, cgetv and cgetvs; nil: these fail. With it all content is
	// sensitive.
	Keyring *crypt.Keyring

	// StateDir is the directory for what is known of stores, for a start at which they do not answer; ""
	// for none. With Noop nothing is kept.
	StateDir string

	Onetime  bool          // one pass, then return
	Present  bool          // with backend etcd: a key of a resource that is neither a key nor a directory fails it, unless it has for_each, as in confd
	Watch    bool          // follow changes; otherwise look at every Interval
	Interval time.Duration // between two looks at everything, with or without Watch

	// Moments is a directory of the store that is followed beside what resources read; Deps.Moment is called
	// when something was written there, after everything that was written before is known. "": none.
	Moments string

	Noop          bool // change nothing, log what would change
	SyncOnly      bool // write files, run neither check nor reload
	KeepStageFile bool // leave the staged file of a pass that did not install it

	// For what takes a check and a reload: a change after a pause of QuietMax is acted on at once. Changes in a
	// burst wait until Quiet has passed without one, but never longer than QuietMax; while the burst goes on,
	// Quiet grows to QuietMax. What a running program takes without a reload does not wait.
	Quiet, QuietMax time.Duration
}

// Deps is what kvconfd takes from the outside. The zero value is the real world.
type Deps struct {
	Log    *slog.Logger                          // nil: silent
	Store  kv.Store                              // nil: a client made of Config.Client
	World  render.World                          // what templates may ask of the machine
	Hangup <-chan os.Signal                      // asks to read the configuration directory again; may be nil
	Lookup func(record string) ([]string, error) // host:port of an SRV record; nil: DNS

	Report report.Reporter // hears what becomes of each target; nil: nobody
	// Running is called once, when each resource has a status, with what can be asked of the running agent;
	// may be nil. The Control is good until Run returns.
	Running func(Control)
	// Moment is called when something was written below Config.Moments; it returns at once. May be nil.
	Moment func()
	// Applier returns what speaks to the program that reads a resource's files, nil if there is none; nil:
	// what the resource says.
	Applier func(resource.Resource) proxy.Applier
	// MayFollow reports whether this user may read Config.Moments; asked whenever the configuration directory is
	// looked at. It returns at once. A store refuses a reading as a whole. nil: always.
	MayFollow func() bool
	// Step is called before each step on the way of a change, for tests that end the process there;
	// may be nil. The steps are render, check, owe, write, apply, reload, confirm, rollback and paid.
	Step func(target, step string)
}

// Control is what can be asked of a running agent. It is safe for concurrent use and does not wait for
// a pass.
type Control interface {
	report.Agent
	// Status returns where every target stands, by name.
	Status() []report.TargetStatus
	// Poke has every target compared with the store and the disk again, and the store read again if it
	// cannot be watched. It returns at once.
	Poke()
}

// What a Config's durations are when a program's user does not say.
const (
	DefaultInterval = 10 * time.Minute
	DefaultQuiet    = 100 * time.Millisecond
	DefaultQuietMax = 400 * time.Millisecond
)

// replacedGrace is how long a file is held that has fewer keys because the store was replaced: the registrars
// of this suite need a heartbeat, five seconds, to bring their records to the new one.
const replacedGrace = 30 * time.Second

// resources reads the configuration directory. With a keyring any file may hold what was decrypted.
func (c Config) resources(working ...resource.Resource) ([]resource.Loaded, error) {
	loaded, err := resource.Load(c.ConfDir, c.Prefix, working...)
	for i := range loaded {
		if c.Keyring != nil && loaded[i].Err == nil {
			loaded[i].Resource.Withhold()
		}
	}
	return loaded, err
}

// source returns the settings of where keys come from.
func (c Config) source() keys.Config {
	return keys.Config{
		Backend: c.Backend, Client: c.Client, Scheme: c.Scheme, SRV: c.SRV, Files: c.Files, Filter: c.Filter,
		Watch: c.Watch, Interval: c.Interval, StateDir: c.stateDir(),
	}
}

func (c Config) stateDir() string {
	if c.Noop {
		return ""
	}
	return c.StateDir
}

// elsewhere are backends of confd that kvconfd does not have.
var elsewhere = []string{"consul", "dynamodb", "rancher", "redis", "ssm", "stackengine", "vault", "zookeeper"}

// Validate reports what is wrong with c.
func (c Config) Validate() error {
	switch {
	case slices.Contains(elsewhere, c.Backend):
		return fmt.Errorf("backend %q is one of confd's that kvconfd does not have; copy the keys into kvd and use --backend %s, or use %s or %s", c.Backend, keys.BackendEtcd, keys.BackendEnv, keys.BackendFile)
	case !slices.Contains(keys.Backends(), c.Backend):
		return fmt.Errorf("backend %q is not known; use one of %s", c.Backend, strings.Join(keys.Backends(), ", "))
	case c.Backend == keys.BackendFile && len(c.Files) == 0:
		return fmt.Errorf("--backend file needs at least one --file")
	case c.Interval <= 0:
		return fmt.Errorf("interval %v: it must be positive", c.Interval)
	case c.Quiet < 0 || c.QuietMax < c.Quiet:
		return fmt.Errorf("quiet period %v, longest %v: neither may be negative, and the longest not the shorter", c.Quiet, c.QuietMax)
	}
	return nil
}
