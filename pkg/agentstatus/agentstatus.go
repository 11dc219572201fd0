// Package agentstatus is what a template agent tells the store of itself, so that it can be known
// whether what was written runs everywhere: the keys and the JSON of that, for who writes and who reads.
//
//	PREFIX/HOST/kvconfd                  Host: up to which index of the store everything runs there
//	PREFIX/HOST/kvconfd-targets/NAME     Target: where one file stands
//	PREFIX-sync/ID                       a moment: each agent that sees it says how far it is
//
// All have a TTL. It knows no store and no agent.
package agentstatus

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

// DefaultPrefix is the directory of all agents. It is hidden: who lists the root does not see it.
const DefaultPrefix = "/_agents"

// MomentTTL is how long a moment lives.
const MomentTTL = 30 * time.Second

// bytesMax bounds a record that is read.
const bytesMax = 1 << 20

const (
	program    = "kvconfd"
	targetsDir = program + "-targets"
)

// BehindMax is how many targets a Host names.
const BehindMax = 16

// Host is one agent. It is rewritten when it says something else, when a moment asks for it, and from time
// to time.
type Host struct {
	Host    string `json:"host"`
	Version string `json:"version,omitempty"`
	// Instance is another one for each run of an agent: two that live cannot have one name.
	Instance string `json:"instance,omitempty"`

	// Index is of the store: all of it up to there has been brought to every target that follows it, but for
	// those in Behind.
	Index   kv.Index  `json:"index"`
	Cluster string    `json:"cluster,omitempty"` // whose index it is, as far as the store says
	Since   time.Time `json:"since,omitzero"`    // of its start

	Keys    []string `json:"keys"`    // absolute keys and directories that any target follows
	Targets int      `json:"targets"` // files
	// Converged is how many of them have a program that runs what the store says.
	Converged int `json:"converged"`

	Behind     []Target `json:"behind,omitempty"`     // those that are not, BehindMax at most
	BehindMore int      `json:"behindMore,omitempty"` // and how many more

	// Problems are what else keeps the host from being what is wanted: resource files that cannot be used.
	Problems []string `json:"problems,omitempty"`
}

// Target is one file of an agent.
type Target struct {
	Name  string    `json:"name"`
	Dest  string    `json:"dest,omitempty"`
	State string    `json:"state"`
	Step  string    `json:"step,omitempty"` // at which it failed
	Index kv.Index  `json:"index"`
	Hash  string    `json:"hash,omitempty"` // SHA-256 of the content in hexadecimal; "" if it is secret
	Err   string    `json:"error,omitempty"`
	Since time.Time `json:"since,omitzero"`
	Next  time.Time `json:"next,omitzero"` // it is tried again
	Keys  []string  `json:"keys,omitempty"`
}

// Text says where t stands, in a few words: "haproxy failed at check: unknown keyword".
func (t Target) Text() string {
	text := t.Name + " " + t.State
	if t.Step != "" {
		text += " at " + t.Step
	}
	if t.Err != "" {
		text += ": " + t.Err
	}
	return text
}

// Names are the keys of a prefix.
type Names struct{ prefix string }

// NamesOf returns the keys below prefix; "" is DefaultPrefix.
func NamesOf(prefix string) Names {
	if prefix = kv.Clean(prefix); prefix == "" {
		prefix = DefaultPrefix
	}
	return Names{prefix}
}

// Dir is the directory of all agents.
func (n Names) Dir() string { return n.prefix }

// Sync is the directory of moments.
func (n Names) Sync() string { return n.prefix + "-sync" }

// Moment is the key of one moment. id is one segment.
func (n Names) Moment(id string) string { return n.Sync() + "/" + id }

// Host is the key of an agent's record.
func (n Names) Host(host string) string { return n.prefix + "/" + host + "/" + program }

// Target is the key of the record of one of its targets.
func (n Names) Target(host, name string) string {
	return n.prefix + "/" + host + "/" + targetsDir + "/" + escape(name)
}

// escape makes one segment of a name: it is never hidden, and never two.
func escape(name string) string {
	name = strings.ReplaceAll(strings.ReplaceAll(name, "%", "%25"), "/", "%2F")
	if name == "" || name[0] == '_' || name[0] == '.' {
		name = fmt.Sprintf("%%%02X", append([]byte(name), 0)[0]) + name[min(1, len(name)):]
	}
	return name
}

// HostOf returns the host whose record key is, "" if it is none.
func (n Names) HostOf(key string) string {
	host, isHost := strings.CutSuffix(strings.TrimPrefix(key, n.prefix+"/"), "/"+program)
	if !isHost || !kv.Below(key, n.prefix) || CheckHost(host) != nil {
		return ""
	}
	return host
}

// CheckHost returns why host cannot be a host's name here.
func CheckHost(host string) error {
	switch {
	case host == "":
		return fmt.Errorf("the name of the host is empty; give one with --host")
	case strings.HasPrefix(host, "_") || strings.Contains(host, "/") || kv.Clean(host) != "/"+host || len(host) > 255:
		return fmt.Errorf("host %.60q: it has to be one segment of a key, of 255 bytes at most, that does not begin with _", host)
	}
	return nil
}

// Parse reads the record of a host.
func Parse(value string) (h Host, err error) {
	if len(value) > bytesMax {
		return Host{}, fmt.Errorf("it has %d bytes, at most %d make sense", len(value), bytesMax)
	}
	if err := json.Unmarshal([]byte(value), &h); err != nil {
		return Host{}, fmt.Errorf("not the record of an agent: %w", err)
	}
	if h.Index == 0 && h.Targets == 0 && h.Host == "" {
		return Host{}, fmt.Errorf("not the record of an agent")
	}
	return h, nil
}

// Value is the record as it is written.
func (h Host) Value() string { return text(h) }

// Value is the record as it is written.
func (t Target) Value() string { return text(t) }

func text(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return "" // structs of texts, numbers and times within the calendar
	}
	return string(data)
}

// IsConverged reports whether everything up to index runs on h.
func (h Host) IsConverged(index kv.Index) bool {
	return h.Index >= index && len(h.Behind) == 0 && h.BehindMore == 0 && len(h.Problems) == 0
}

// Covers reports whether any target of h follows key.
func (h Host) Covers(key string) bool { return covers(h.Keys, key) }

// Has reports whether the write of key at index runs on h, as far as h follows it: what else is behind does
// not count.
func (h Host) Has(key string, index kv.Index) bool {
	return h.Index >= index && h.BehindMore == 0 && !slices.ContainsFunc(h.Behind, func(t Target) bool { return covers(t.Keys, key) })
}

// covers reports whether key is one of keys or below one and not hidden from there, or above one: who
// removes a directory changes what is below.
func covers(keys []string, key string) bool {
	key = kv.Clean(key)
	return slices.ContainsFunc(keys, func(followed string) bool {
		followed = kv.Clean(followed)
		return key == followed || kv.Below(key, followed) && !kv.HiddenBelow(key, followed) || kv.Below(followed, key)
	})
}
