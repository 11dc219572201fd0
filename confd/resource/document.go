package resource

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/kvd-io/kvd/confd/install"
	"github.com/kvd-io/kvd/pkg/spelling"
)

// document is the file as it is written. Field names are matched without regard to case.
type document struct {
	Template *table        `toml:"template"`
	Backend  *backendTable `toml:"backend"`
	HAProxy  *haproxyTable `toml:"haproxy"`
	Nginx    *nginxTable   `toml:"nginx"`
	Caddy    *caddyTable   `toml:"caddy"`
}

type table struct {
	Src               string   `toml:"src"`
	Dest              string   `toml:"dest"`
	Keys              textList `toml:"keys"`
	Prefix            string   `toml:"prefix"`
	ForEach           string   `toml:"for_each"`
	Mode              string   `toml:"mode"`
	UID               *int     `toml:"uid"`
	GID               *int     `toml:"gid"`
	Owner             string   `toml:"owner"`
	Group             string   `toml:"group"`
	Symlink           string   `toml:"symlink"`
	CheckCmd          command  `toml:"check_cmd"`
	CheckCmdTimeout   duration `toml:"check_cmd_timeout"`
	CheckDirs         textList `toml:"check_dirs"`
	ReloadCmd         command  `toml:"reload_cmd"`
	ReloadCmdTimeout  duration `toml:"reload_cmd_timeout"`
	ReloadGroup       string   `toml:"reload_group"`
	MinReloadInterval duration `toml:"min_reload_interval"`
	OnReloadFailure   string   `toml:"on_reload_failure"`
	ConfirmCmd        command  `toml:"confirm_cmd"`
	ConfirmCmdTimeout duration `toml:"confirm_cmd_timeout"`
	RetryMax          duration `toml:"retry_max"`
	OutputFormat      string   `toml:"output_format"`
	Debounce          duration `toml:"debounce"`
	DebounceMax       duration `toml:"debounce_max"`
	MinKeys           int      `toml:"min_keys"`
	MaxShrinkPercent  int      `toml:"max_shrink_percent"`
	ShrinkGrace       grace    `toml:"shrink_grace"`
	MaxExpiredPercent int      `toml:"max_expired_percent"`
	ExpiryGrace       grace    `toml:"expiry_grace"`
	Sensitive         bool     `toml:"sensitive"`
}

type backendTable struct {
	Backend        string   `toml:"backend"`
	Nodes          textList `toml:"nodes"`
	Scheme         string   `toml:"scheme"`
	SRVDomain      string   `toml:"srv_domain"`
	SRVRecord      string   `toml:"srv_record"`
	ClientCert     string   `toml:"client_cert"`
	ClientKey      string   `toml:"client_key"`
	ClientCAKeys   string   `toml:"client_cakeys"`
	ClientInsecure bool     `toml:"client_insecure"`
	BasicAuth      bool     `toml:"basic_auth"` // it is used whenever there is a username
	Username       string   `toml:"username"`
	Password       string   `toml:"password"`
	PasswordFile   string   `toml:"password_file"`
	File           textList `toml:"file"`
	Filter         string   `toml:"filter"`
}

type haproxyTable struct {
	Socket       string `toml:"socket"`
	MasterSocket string `toml:"master_socket"`
}

type nginxTable struct {
	PidFile string `toml:"pid_file"`
}

type caddyTable struct {
	Admin string `toml:"admin"`
}

// unfitPrefix begins the errors of values that are TOML but not what their setting takes.
const unfitPrefix = "value: "

// unfit returns an error about a value, which explain will find again.
func unfit(format string, values ...any) error { return fmt.Errorf(unfitPrefix+format, values...) }

// textList reads a list of texts.
type textList []string

func (l *textList) UnmarshalTOML(value any) error {
	list, ok := value.([]any)
	if text, isText := value.(string); isText {
		return unfit("it must be a list: [%q]", text)
	}
	for _, item := range list {
		text, isText := item.(string)
		ok = ok && isText
		*l = append(*l, text)
	}
	if !ok {
		return unfit("it must be a list of texts, such as [\"/\"]")
	}
	return nil
}

// command reads a line for the shell, or a list of a program and its arguments.
type command install.Command

func (c *command) UnmarshalTOML(value any) error {
	switch value := value.(type) {
	case string:
		c.Shell = value
		return nil
	case []any:
		for _, item := range value {
			argument, isText := item.(string)
			if !isText {
				return unfit("it must be a list of texts, such as [\"nginx\", \"-t\"]")
			}
			c.Argv = append(c.Argv, argument)
		}
		if len(c.Argv) > 0 && c.Argv[0] != "" {
			return nil
		}
	}
	return unfit("it must be a text for the shell, or a list of a program and its arguments such as [\"nginx\", \"-t\"]")
}

// duration reads "30s", and a bare number as seconds.
type duration struct {
	given bool
	time.Duration
}

// durationMax is a week.
const durationMax = 7 * 24 * time.Hour

func (d *duration) UnmarshalTOML(value any) error {
	switch value := value.(type) {
	case int64:
		if value < 0 || value > int64(durationMax/time.Second) {
			return unfit("%d seconds are not between 0 and a week", value)
		}
		d.Duration = time.Duration(value) * time.Second
	case string:
		parsed, err := time.ParseDuration(value)
		if err != nil {
			return unfit("%q is not a duration such as \"30s\"", value)
		}
		d.Duration = parsed
	default:
		return unfit("%v is not a duration such as \"30s\"", value)
	}
	if d.Duration < 0 || d.Duration > durationMax {
		return unfit("%v is not between 0 and a week", value)
	}
	d.given = true
	return nil
}

// grace is a duration, or "forever".
type grace struct {
	duration
	forever bool
}

func (g *grace) UnmarshalTOML(value any) error {
	if value == "forever" {
		g.given, g.forever = true, true
		return nil
	}
	return g.duration.UnmarshalTOML(value)
}

// settings returns the names that each table knows.
func settings() map[string][]string {
	tables := map[string][]string{}
	for field := range reflect.TypeFor[document]().Fields() {
		var names []string
		for setting := range field.Type.Elem().Fields() {
			names = append(names, setting.Tag.Get("toml"))
		}
		tables[field.Tag.Get("toml")] = names
	}
	return tables
}

// misspelling returns the setting that an unknown key must have been meant to be, "" if it may mean
// something elsewhere. What the file sets under its right name was not meant.
func misspelling(meta toml.MetaData, key toml.Key) string {
	tables := settings()
	var known []string
	switch {
	case len(key) == 2:
		known = tables[strings.ToLower(key[0])]
	case len(key) == 1:
		for name := range tables {
			known = append(known, name)
		}
		slices.Sort(known)
	}
	for _, set := range meta.Keys() {
		if len(set) == len(key) && (len(key) == 1 || strings.EqualFold(set[0], key[0])) {
			known = slices.DeleteFunc(known, func(name string) bool { return strings.EqualFold(name, set[len(set)-1]) })
		}
	}
	return spelling.Meant(strings.ToLower(key[len(key)-1]), known)
}
