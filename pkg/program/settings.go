package program

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/kvd-io/kvd/pkg/spelling"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

const (
	flagConfig      = "config"
	flagPrintConfig = "print-config"
	flagLogLevel    = "log-level"
	flagLogFormat   = "log-format"
)

// Origin says where a setting's value came from: "flag", "default", "environment KVD_NAME" or
// "file /etc/kvd/kvd.yaml".
type Origin string

// The origins without a name of their own.
const (
	OriginFlag    Origin = "flag"
	OriginDefault Origin = "default"
)

// AnnotationSecret marks a flag whose value --print-config must not show: set it with
// flags.SetAnnotation(name, program.AnnotationSecret, nil).
const AnnotationSecret = "secret"

func addCommonFlags(root *cobra.Command, p Program) {
	flags := root.PersistentFlags()
	if name := configFlag(p); flags.Lookup(name) == nil {
		flags.String(name, p.ConfigFile, "file with settings: `path` of a yaml, toml or json file whose names are those of the flags")
	}
	flags.Bool(flagPrintConfig, false, "print every setting with its value and where it came from, and exit")
	if flags.Lookup(flagLogLevel) == nil {
		flags.String(flagLogLevel, "info", "least severe messages to log: debug, info, warn or error")
	}
	flags.String(flagLogFormat, cmp.Or(p.LogFormat, "auto"), "log as text, json, or auto: text on a terminal, json elsewhere")
}

func configFlag(p Program) string {
	if p.ConfigFlag != "" {
		return p.ConfigFlag
	}
	return flagConfig
}

func flagValue(cmd *cobra.Command, name string) string {
	return cmd.Flags().Lookup(name).Value.String()
}

// unsettable are the flags that a file or the environment cannot set: they are about one call.
func unsettable(name string) bool {
	return name == "help" || name == "version" || name == flagPrintConfig
}

// resolve gives every flag of cmd its value: flag, else environment, else file, else default.
// It writes the values back into the flags, so that the fields bound to them are the settings.
func resolve(p Program, cmd *cobra.Command, lookupEnv func(string) (string, bool)) (map[string]Origin, error) {
	flags := cmd.Flags()
	origins := make(map[string]Origin)
	flags.VisitAll(func(f *pflag.Flag) {
		origins[f.Name] = OriginDefault
		if f.Changed {
			origins[f.Name] = OriginFlag
		}
	})
	if err := setFromEnvironment(p, flags, origins, lookupEnv); err != nil {
		return nil, err
	}
	path := flagValue(cmd, configFlag(p))
	if path == "" {
		if origins[configFlag(p)] != OriginDefault && !p.ConfigMayMiss {
			return nil, fmt.Errorf("--%s needs the path of a file", configFlag(p))
		}
		return origins, nil
	}
	values, err := readConfig(p, path)
	if errors.Is(err, os.ErrNotExist) && (p.ConfigMayMiss || origins[configFlag(p)] == OriginDefault) {
		return origins, nil
	}
	if err != nil {
		return nil, err
	}
	return origins, setFromFile(p, cmd, path, values, origins)
}

// guess gives the root's flags what environment and arguments say, and passes over what cannot be
// understood: for the form of an error that came before the settings were resolved.
func guess(p Program, root *cobra.Command, args []string, lookupEnv func(string) (string, bool)) {
	flags := root.PersistentFlags()
	_ = setFromEnvironment(p, flags, map[string]Origin{}, lookupEnv)
	flags.ParseErrorsAllowlist.UnknownFlags = true
	_ = flags.ParseAll(args, func(f *pflag.Flag, value string) error {
		_ = f.Value.Set(value)
		return nil
	})
}

func setFromEnvironment(p Program, flags *pflag.FlagSet, origins map[string]Origin, lookupEnv func(string) (string, bool)) error {
	var problems []error
	flags.VisitAll(func(f *pflag.Flag) {
		if origins[f.Name] == OriginFlag || unsettable(f.Name) {
			return
		}
		for _, variable := range append([]string{EnvName(p.Name, f.Name)}, p.EnvAliases[f.Name]...) {
			value, ok := lookupEnv(variable)
			if !ok || value == "" {
				continue
			}
			if err := f.Value.Set(value); err != nil {
				problems = append(problems, fmt.Errorf("environment variable %s: cannot use %q for --%s: %w", variable, value, f.Name, err))
			}
			f.Changed = true // for cobra's required flags
			origins[f.Name] = Origin("environment " + variable)
			return
		}
	})
	return errors.Join(problems...)
}

// EnvName returns the environment variable of a flag: ("kvd", "data-dir") is KVD_DATA_DIR.
func EnvName(program, flag string) string {
	return strings.ToUpper(program + "_" + strings.ReplaceAll(flag, "-", "_"))
}

// UnusedVariable is an environment variable that was meant for a program and sets nothing.
type UnusedVariable struct {
	Name  string // "KVD_LISTEN_CLIENT_URL"
	Flag  string // what it would set: "listen-client-url"
	Meant string // the variable that was probably meant, "" if none is like it
}

// linked are the variables that container engines set for every service they know, whatever it is called.
var linked = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// unused returns the variables of environ that begin as those of p do, have a value, and set no flag of any
// command.
func unused(p Program, root *cobra.Command, environ func() []string) (found []UnusedVariable) {
	if environ == nil || len(p.EnvPrefixes) == 0 {
		return nil
	}
	flags, known := map[string]bool{}, map[string]bool{}
	collectFlags(root, flags)
	for name := range flags {
		if unsettable(name) {
			continue
		}
		for _, variable := range append([]string{EnvName(p.Name, name)}, p.EnvAliases[name]...) {
			known[variable] = true
		}
	}
	for _, entry := range environ() {
		name, value, _ := strings.Cut(entry, "=")
		at := slices.IndexFunc(p.EnvPrefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
		if at < 0 || value == "" || known[name] || linked.MatchString(name) {
			continue
		}
		rest := strings.TrimPrefix(name, p.EnvPrefixes[at])
		v := UnusedVariable{Name: name, Flag: strings.ToLower(strings.ReplaceAll(rest, "_", "-"))}
		if own := EnvName(p.Name, v.Flag); known[own] { // there is no such alias
			v.Meant = own
		} else {
			v.Meant = spelling.Meant(name, slices.Sorted(maps.Keys(known)))
		}
		found = append(found, v)
	}
	slices.SortFunc(found, func(a, b UnusedVariable) int { return cmp.Compare(a.Name, b.Name) })
	return found
}

func readConfig(p Program, path string) (map[string]any, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration file: %w", err)
	}
	if p.DecodeConfig != nil {
		values, err := p.DecodeConfig(path, data)
		if err != nil {
			return nil, fmt.Errorf("configuration file %s: %w", path, err)
		}
		return values, nil
	}
	v := viper.New()
	v.SetConfigType(strings.TrimPrefix(filepath.Ext(path), "."))
	if err := v.ReadConfig(bytes.NewReader(data)); err != nil {
		return nil, fmt.Errorf("configuration file %s: %w (expected yaml, toml or json, by its ending)", path, err)
	}
	values := v.AllSettings()
	for _, key := range v.AllKeys() {
		if name, _, _ := strings.Cut(key, "."); values[name] == nil {
			values[name] = nil // AllSettings leaves out a name without a value; here it is a mistake
		}
	}
	return values, nil
}

// setFromFile gives the values of a file to the flags of cmd that nothing stronger has set. A name
// that no command of the program knows is an error; one that another command knows is not.
func setFromFile(p Program, cmd *cobra.Command, path string, values map[string]any, origins map[string]Origin) error {
	fileFlag := configFlag(p)
	known := map[string]bool{}
	collectFlags(cmd.Root(), known)
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(values)) {
		f := cmd.Flags().Lookup(name)
		switch {
		case unsettable(name) || name == fileFlag || !known[name]:
			problems = append(problems, unknownSetting(p, path, name, known))
		case f == nil || origins[name] != OriginDefault:
		default:
			if err := setAny(f, values[name]); err != nil {
				problems = append(problems, fmt.Errorf("configuration file %s: cannot use %v for %q: %w", path, values[name], name, err))
			}
			f.Changed = true
			origins[name] = Origin("file " + path)
		}
	}
	return errors.Join(problems...)
}

func collectFlags(cmd *cobra.Command, known map[string]bool) {
	add := func(f *pflag.Flag) { known[f.Name] = true }
	cmd.Flags().VisitAll(add)
	cmd.PersistentFlags().VisitAll(add)
	for _, child := range cmd.Commands() {
		collectFlags(child, known)
	}
}

func unknownSetting(p Program, path, name string, known map[string]bool) error {
	if advice := p.Elsewhere[name]; advice != "" {
		return fmt.Errorf("configuration file %s: unknown setting %q: %s", path, name, advice)
	}
	if meant := spelling.Meant(name, slices.Sorted(maps.Keys(known))); meant != "" {
		return fmt.Errorf("configuration file %s: unknown setting %q, did you mean %q?", path, name, meant)
	}
	return fmt.Errorf("configuration file %s: unknown setting %q", path, name)
}

// setAny sets a flag from a decoded file value: a scalar by its text, a list as a whole.
func setAny(f *pflag.Flag, value any) error {
	list, ok := value.([]any)
	if !ok {
		text, err := scalar(value)
		if err != nil {
			return err
		}
		return f.Value.Set(text)
	}
	texts := make([]string, len(list))
	for i, item := range list {
		var err error
		if texts[i], err = scalar(item); err != nil {
			return err
		}
	}
	if slice, ok := f.Value.(pflag.SliceValue); ok {
		return slice.Replace(texts)
	}
	return f.Value.Set(strings.Join(texts, ","))
}

// scalar returns the text of one decoded value as a person would give it to the flag.
func scalar(value any) (string, error) {
	switch value := value.(type) {
	case string, bool, int, int64, uint64:
		return fmt.Sprint(value), nil
	case float64: // every number of a JSON file; 1000000 must not become 1e+06
		return strconv.FormatFloat(value, 'f', -1, 64), nil
	case nil:
		return "", errors.New("it has no value")
	}
	return "", errors.New("it must be one value or a list of values")
}

// printConfig writes one line for each setting: name, value, origin.
func printConfig(w io.Writer, flags *pflag.FlagSet, origins map[string]Origin) {
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	flags.VisitAll(func(f *pflag.Flag) {
		if unsettable(f.Name) || f.Hidden {
			return
		}
		value := f.Value.String()
		if _, secret := f.Annotations[AnnotationSecret]; secret && value != "" {
			value = "***"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", f.Name, value, origins[f.Name])
	})
	table.Flush()
}
