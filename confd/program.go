package confd

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/kvd-io/kvd/confd/crypt"
	"github.com/kvd-io/kvd/confd/keys"
	"github.com/kvd-io/kvd/pkg/agentstatus"
	"github.com/kvd-io/kvd/pkg/kvclient/clientflags"
	"github.com/kvd-io/kvd/pkg/program"
	"github.com/kvd-io/kvd/pkg/spelling"
)

const flagConfigFile = "config-file"

// aliases are the names that confd gives to flags which all programs of the suite have.
var aliases = map[string]string{
	"node":           "endpoints",
	"nodes":          "endpoints",
	"client-cert":    "cert-file",
	"client-key":     "key-file",
	"client-ca-keys": "ca-file",
	"client-cakeys":  "ca-file",
	"keepstagefile":  "keep-stage-file",
}

// ignored are settings of confd that mean nothing here: they belong to backends that kvconfd does
// not have, or had no effect in confd either.
var ignored = []string{
	"app-id", "auth-token", "auth-type", "basic-auth", "client-insecure", "path", "role-id", "secret-id", "separator", "table", "user-id",
}

// Program is kvconfd.
func Program() program.Program { return ProgramAs("kvconfd") }

// ProgramAs is the program as it is called by a name, which may be a path. By the name confd it is what
// confd is: without commands, in confd's directory, and without telling anybody of its status.
func ProgramAs(called string) program.Program {
	asConfd := filepath.Base(called) == nameConfd
	dir := defaultConfDir(asConfd)
	file := &configFile{}
	command := func() *cobra.Command { return newCommand(dir, file, asConfd) }
	versionLine := ""
	if asConfd { // in the form that scripts may take apart
		versionLine = fmt.Sprintf("%s %s (Git SHA: , Go Version: %s)", nameConfd, program.Version(), runtime.Version())
	}
	return program.Program{
		VersionLine:   versionLine,
		ConfigMayMiss: asConfd,
		Name:          "kvconfd",
		Command:       command,
		EnvAliases:    environmentAliases(ownFlags(command())),
		ConfigFile:    dir + "/confd.toml",
		ConfigFlag:    flagConfigFile,
		DecodeConfig:  file.decode,
		Args:          doubleDashes,
	}
}

const nameConfd = "confd"

// defaultConfDir is /etc/kvconfd if it is there, else confd's own directory; for confd the other way round.
func defaultConfDir(asConfd bool) string {
	dirs := []string{"/etc/kvconfd", "/etc/confd"}
	if asConfd {
		slices.Reverse(dirs)
	}
	for _, dir := range dirs {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir
		}
	}
	return "/etc/confd"
}

// ownFlags returns the flags of the program itself: those that confd.toml may set.
func ownFlags(cmd *cobra.Command) *pflag.FlagSet {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.AddFlagSet(cmd.Flags())
	flags.AddFlagSet(cmd.PersistentFlags())
	return flags
}

// allFlags returns the flags of cmd and of its commands.
func allFlags(cmd *cobra.Command) *pflag.FlagSet {
	flags := ownFlags(cmd)
	for _, child := range cmd.Commands() {
		flags.AddFlagSet(child.Flags())
	}
	return flags
}

// defaultStateDir is the usual directory for state if it is there, as the service manager makes it, and may be
// written.
func defaultStateDir() string {
	const dir = "/var/lib/kvconfd"
	if unix.Access(dir, unix.W_OK|unix.X_OK) != nil {
		return ""
	}
	return dir
}

// options are the flags as they are typed, where Config wants something else.
type options struct {
	Config
	password  string
	keyring   string // path
	srvDomain string
	srvRecord string

	statusPrefix string
	host         string
	socket       string
	httpListen   string
}

// examples are those without a command.
const examples = `  kvconfd -onetime -backend etcd -node http://127.0.0.1:2379
  kvconfd -watch
  kvconfd -onetime -noop -confdir ./confd`

func newCommand(confDir string, file *configFile, asConfd bool) *cobra.Command {
	o := &options{}
	cmd := &cobra.Command{
		Use:   "kvconfd",
		Short: "Keep configuration files equal to keys in a store",
		Long: `kvconfd renders files from templates and keys, checks them, puts them in place and reloads their
readers. It takes confd's configuration, resource files, templates and flags, with one dash or two.

-node, -client-cert, -client-key and -client-ca-keys are confd's names of --endpoints, --cert-file,
--key-file and --ca-file.`,
		Example: examples + `
  kvconfd check                         # typos in resource files and templates
  kvconfd status                        # ask the one that runs`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			env := program.EnvFrom(cmd.Context())
			for _, warning := range append(file.warnings(cmd.Flags(), env.Origins), overlooked(env.Origins)...) {
				env.Log.Warn(warning)
			}
			if file.path != "" {
				env.Log.Info("settings are read once, at the start", "file", file.path)
			}
			if path := cmd.Flag(flagConfigFile).Value.String(); path != "" && env.Origins[flagConfigFile] != program.OriginDefault {
				if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
					env.Log.Warn("there is no such file of settings", "file", path)
				}
			}
			if len(args) > 0 { // which confd passes over
				env.Log.Warn("arguments that are no flags have no effect"+meantCommand(args[0]), "arguments", args)
			}
			if err := o.run(cmd.Context(), env); err != nil {
				return &program.ExitError{Code: program.ExitUsage, Err: err}
			}
			return nil
		},
	}
	o.addFlags(cmd, confDir, asConfd)
	if asConfd {
		o.Present = true
		cmd.Use, cmd.Args = nameConfd, cobra.ArbitraryArgs
		cmd.Example = strings.ReplaceAll(examples, "kvconfd", nameConfd)
	} else {
		cmd.AddCommand(commands(o)...)
	}
	cmd.SetGlobalNormalizationFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(canonical(name))
	})
	return cmd
}

// meantCommand says what is to be called instead of confd if a word is a command of kvconfd.
func meantCommand(word string) string {
	for _, command := range commands(&options{}) {
		if command.Name() == word {
			return "; called as confd there are no commands: use kvconfd " + word
		}
	}
	return ""
}

// addFlags defines the flags: those that say what is rendered from what for every command, and those of
// the agent.
func (o *options) addFlags(cmd *cobra.Command, confDir string, asConfd bool) {
	statusPrefix, socket := agentstatus.DefaultPrefix, DefaultSocket
	if asConfd {
		statusPrefix, socket = "", ""
	}
	flags := cmd.PersistentFlags()
	flags.StringVar(&o.ConfDir, "confdir", confDir, "`directory` with conf.d and templates")
	flags.StringVar(&o.Prefix, "prefix", "", "`key` put before the keys of every resource, instead of the resource's own prefix")
	flags.StringVar(&o.Backend, "backend", keys.BackendEtcd, "where keys come from: etcd or kvd (the v2 API), etcdv3, env, or file")
	clientflags.Add(flags, &o.Client)
	flags.StringVar(&o.password, "password", "", "password for the store")
	flags.StringVar(&o.Scheme, "scheme", "", "`scheme` of endpoints given without one: http or https (default: http, https with certificates)")
	flags.StringVar(&o.srvDomain, "srv-domain", "", "`domain` whose SRV record _BACKEND._tcp.DOMAIN names the endpoints")
	flags.StringVar(&o.srvRecord, "srv-record", "", "SRV `record` that names the endpoints")
	flags.StringArrayVar(&o.Files, "file", nil, "file backend: YAML or JSON `file`, or directory of such; may be repeated")
	flags.StringVar(&o.Filter, "filter", "*", "file backend: `pattern` for the names of files in directories")
	flags.StringVar(&o.keyring, "secret-keyring", "", "`file` of armored PGP secret keys, with which cget, cgets, cgetv and cgetvs decrypt; all content is sensitive then")
	for _, name := range ignored {
		flags.String(name, "", "a setting of confd that has no effect here")
		flags.Lookup(name).Hidden = true
	}
	for _, name := range []string{"basic-auth", "client-insecure"} {
		flags.Lookup(name).NoOptDefVal = "true" // they are switches in confd
	}
	if err := flags.SetAnnotation("password", program.AnnotationSecret, nil); err != nil {
		panic(err) // the flag was defined above
	}
	flags.StringVar(&o.socket, "socket", socket, "`path` of the socket on which kvconfd status, explain and release are answered; empty: none")
	flags.Var(&logLevel{"info"}, "log-level", "least severe messages to log: debug, info, warn or error")

	flags = cmd.Flags()
	flags.BoolVar(&o.Onetime, "onetime", false, "bring everything up to date once and exit, with 1 if anything failed; wins over --watch")
	flags.BoolVar(&o.Watch, "watch", false, "follow changes as they happen; otherwise look at every interval")
	flags.DurationVar(&o.Interval, "interval", DefaultInterval, "`time` between two looks at everything; with --watch too, as a safety net")
	flags.StringVar(&o.StateDir, "state-dir", defaultStateDir(), "`directory` for what is known of the store, for a start at which it does not answer; empty for none")
	flags.BoolVar(&o.Noop, "noop", false, "change nothing, log what would change")
	flags.BoolVar(&o.SyncOnly, "sync-only", false, "write files, but run no check_cmd and no reload_cmd")
	flags.BoolVar(&o.KeepStageFile, "keep-stage-file", false, "leave the staged file where it was not installed")
	flags.DurationVar(&o.Quiet, "quiet", DefaultQuiet, "in a burst of changes, check and reload when this long has passed without one; a change after a pause, or at run time, is acted on at once")
	flags.DurationVar(&o.QuietMax, "quiet-max", DefaultQuietMax, "in a burst of changes, check and reload after this long at the latest")
	flags.StringVar(&o.statusPrefix, "status-prefix", statusPrefix, "`directory` of the store in which to publish how every file stands, for kvctl converged and set --wait-live; empty: none")
	flags.StringVar(&o.host, "host", "", "`name` of this host there (default: its host name)")
	flags.StringVar(&o.httpListen, "http-listen", "", "`address` on which to answer /health, /metrics and /status, such as 127.0.0.1:8602 (default: none)")
}

// config returns the settings that Run takes.
func (o options) config() Config {
	cfg := o.Config
	cfg.Backend = cmp.Or(cfg.Backend, keys.BackendEtcd) // a script's variable that is not set
	cfg.Client.Password = o.password
	if cfg.Onetime && cfg.Interval == 0 {
		cfg.Interval = DefaultInterval // confd does not look at it then
	}
	switch {
	case o.srvRecord != "":
		cfg.SRV = o.srvRecord
	case o.srvDomain != "":
		cfg.SRV = fmt.Sprintf("_%s._tcp.%s.", o.Backend, strings.TrimSuffix(o.srvDomain, "."))
	}
	return cfg
}

// keyed is config with the secret keys to decrypt with.
func (o options) keyed() (cfg Config, err error) {
	cfg = o.config()
	if o.keyring != "" {
		cfg.Keyring, err = crypt.Read(o.keyring)
	}
	return cfg, err
}

// canonical returns the name of the flag that confd, on the command line or in confd.toml, calls name.
func canonical(name string) string {
	name = strings.ReplaceAll(strings.ToLower(name), "_", "-")
	if ours, ok := aliases[name]; ok {
		return ours
	}
	return name
}

// environmentAliases lets every setting be given as CONFD_NAME too, by confd's name or ours.
func environmentAliases(flags *pflag.FlagSet) map[string][]string {
	all := clientflags.EnvAliases()
	flags.VisitAll(func(f *pflag.Flag) {
		names := []string{program.EnvName("confd", f.Name)}
		for theirs, ours := range aliases {
			if ours == f.Name {
				names = append(names, program.EnvName("kvconfd", theirs), program.EnvName("confd", theirs))
			}
		}
		slices.Sort(names[1:])
		all[f.Name] = append(names, all[f.Name]...)
	})
	return all
}

// doubleDashes spells confd's long flags with one dash as everybody else spells them.
func doubleDashes(args []string) []string {
	return program.DoubleDashes(args, allFlags(newCommand("", &configFile{}, false)), canonical)
}

// logLevel is the flag --log-level; it also understands the names that confd has for levels.
type logLevel struct{ text string }

func (l *logLevel) String() string { return l.text }
func (l *logLevel) Type() string   { return "level" }
func (l *logLevel) Set(text string) error {
	switch l.text = strings.ToLower(text); l.text {
	case "warning":
		l.text = "warn"
	case "panic", "fatal":
		l.text = "error"
	case "":
		l.text = "info"
	}
	return nil
}

// configFile is confd.toml as it was read.
type configFile struct {
	path    string
	values  map[string]any // by the name of the flag
	unknown []string
}

// decode returns the settings of confd.toml under the names of the flags. Names that mean nothing
// are left out and warned of later, as confd's users have all kinds of things in this file; but a
// misspelt one is an error.
func (c *configFile) decode(path string, data []byte) (map[string]any, error) {
	var raw map[string]any
	if _, err := toml.Decode(string(data), &raw); err != nil {
		return nil, fmt.Errorf("not valid TOML: %w", err)
	}
	known := ownFlags(newCommand("", &configFile{}, false))
	c.path, c.values, c.unknown = path, map[string]any{}, nil
	for written, value := range raw {
		name := canonical(written)
		_, isTable := value.(map[string]any)
		switch {
		case isTable: // such as [confd], in which confd had its settings before 0.4, and [template] of a resource file
			c.unknown = append(c.unknown, written)
		case known.Lookup(name) == nil || slices.Contains(ignored, name):
			if meant := misspelling(name, raw, known); meant != "" {
				return nil, fmt.Errorf("unknown setting %q: did you mean %s?", written, meant)
			}
			c.unknown = append(c.unknown, written)
		case name == "quiet" && isBool(value): // in confd before 0.10 a switch of the log; confd 0.16 passes over it
			c.unknown = append(c.unknown, written)
		case value == "" || isEmptyList(value): // confd's documentation shows unset settings like this
		default:
			c.values[name] = value
		}
	}
	slices.Sort(c.unknown)
	return c.values, nil
}

// misspelling returns the flag that an unknown name in a file was surely meant to be, "" if it may
// mean something elsewhere. What the file sets under its right name was not meant.
func misspelling(name string, file map[string]any, known *pflag.FlagSet) string {
	if known.Lookup(name) != nil {
		return ""
	}
	set := map[string]bool{}
	for written := range file {
		set[canonical(written)] = true
	}
	var names []string
	known.VisitAll(func(f *pflag.Flag) {
		if !set[f.Name] {
			names = append(names, f.Name)
		}
	})
	return spelling.Meant(name, names)
}

func isBool(value any) bool {
	_, ok := value.(bool)
	return ok
}

func isEmptyList(value any) bool {
	list, ok := value.([]any)
	return ok && len(list) == 0
}

// warnings says what of the file was not used, and why.
func (c *configFile) warnings(flags *pflag.FlagSet, origins map[string]program.Origin) (texts []string) {
	for _, name := range c.unknown {
		texts = append(texts, fmt.Sprintf("%s: setting %q has no effect", c.path, name))
	}
	for name, value := range c.values {
		if origins[name] == program.OriginFlag && !means(flags.Lookup(name), value) {
			texts = append(texts, fmt.Sprintf("--%s wins over the value in %s; in confd 0.16 the file won", name, c.path))
		}
	}
	slices.Sort(texts)
	return texts
}

// means reports whether a flag is set to what a value of confd.toml says.
func means(flag *pflag.Flag, value any) bool {
	text := fmt.Sprint(value)
	if list, isList := value.([]any); isList {
		texts := make([]string, len(list))
		for i, item := range list {
			texts[i] = fmt.Sprint(item)
		}
		text = strings.Join(texts, ",")
	}
	if slice, isSlice := flag.Value.(pflag.SliceValue); isSlice {
		return text == strings.Join(slice.GetSlice(), ",")
	}
	if flag.Value.Type() == "duration" {
		for _, text := range []string{text, text + "s"} { // a plain number is one of seconds
			if duration, err := time.ParseDuration(text); err == nil {
				return duration.String() == flag.Value.String()
			}
		}
	}
	return text == flag.Value.String()
}

// overlooked says which settings were given that have no effect.
func overlooked(origins map[string]program.Origin) (texts []string) {
	for _, name := range ignored {
		if origins[name] != program.OriginDefault {
			texts = append(texts, fmt.Sprintf("--%s (%s) has no effect", name, origins[name]))
		}
	}
	return texts
}
