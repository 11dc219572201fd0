package program

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// settings are what the test program can be told.
type settings struct {
	name     string
	password string
	limit    int
	timeout  time.Duration
	peers    []string
	verbose  bool
}

// outcome is how one run of the test program ended.
type outcome struct {
	code           int
	stdout, stderr string
	got            settings
	origins        map[string]Origin
	unused         []UnusedVariable
	ran            bool
}

// trial is one run of a program "tool" with a child command "show" and a child "other".
type trial struct {
	program Program // Name and Command are filled in
	args    []string
	env     map[string]string
	ctx     context.Context
	result  error // of the command
}

func (tr trial) run(t *testing.T) outcome {
	t.Helper()
	var o outcome
	tr.program.Name = "tool"
	tr.program.Command = func() *cobra.Command {
		root := &cobra.Command{Use: "tool"}
		root.PersistentFlags().StringVar(&o.got.name, "name", "default-name", "")
		show := &cobra.Command{Use: "show", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			env := EnvFrom(cmd.Context())
			o.ran, o.origins, o.unused = true, env.Origins, env.Unused
			env.Log.Debug("shown", "name", o.got.name, "took", 90*time.Second)
			return tr.result
		}}
		flags := show.Flags()
		flags.StringVar(&o.got.password, "password", "", "")
		if err := flags.SetAnnotation("password", AnnotationSecret, nil); err != nil {
			t.Fatal(err)
		}
		flags.IntVar(&o.got.limit, "limit", 7, "")
		flags.DurationVar(&o.got.timeout, "timeout", time.Second, "")
		flags.StringSliceVar(&o.got.peers, "peers", []string{"a"}, "")
		flags.BoolVar(&o.got.verbose, "verbose", false, "")
		other := &cobra.Command{Use: "other", Run: func(*cobra.Command, []string) {}}
		other.Flags().Int("only-other", 0, "")
		root.AddCommand(show, other)
		return root
	}
	if tr.ctx == nil {
		tr.ctx = t.Context()
	}
	var stdout, stderr bytes.Buffer
	lookup := func(name string) (string, bool) { v, ok := tr.env[name]; return v, ok }
	environ := func() (all []string) {
		for name, value := range tr.env {
			all = append(all, name+"="+value)
		}
		return all
	}
	o.code = Run(tr.ctx, tr.program, tr.args, lookup, &Env{Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr, Environ: environ})
	o.stdout, o.stderr = stdout.String(), stderr.String()
	return o
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAFlagBeatsTheEnvironmentWhichBeatsTheFileWhichBeatsTheDefault(t *testing.T) {
	file := writeFile(t, "tool.yaml", "limit: 30\n")
	env := map[string]string{"TOOL_LIMIT": "20"}
	for _, c := range []struct {
		name   string
		args   []string
		env    map[string]string
		want   int
		origin Origin
	}{
		{"all four", []string{"show", "--limit=10", "--config", file}, env, 10, OriginFlag},
		{"without the flag", []string{"show", "--config", file}, env, 20, "environment TOOL_LIMIT"},
		{"without the environment", []string{"show", "--config", file}, nil, 30, Origin("file " + file)},
		{"with an empty environment", []string{"show", "--config", file}, map[string]string{"TOOL_LIMIT": ""}, 30, Origin("file " + file)},
		{"with nothing", []string{"show"}, nil, 7, OriginDefault},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := trial{args: c.args, env: c.env}.run(t)
			if o.code != 0 || o.got.limit != c.want || o.origins["limit"] != c.origin {
				t.Errorf("code %d, limit %d from %q; want %d from %q\n%s", o.code, o.got.limit, o.origins["limit"], c.want, c.origin, o.stderr)
			}
		})
	}
}

func TestEveryFileFormatGivesTheSameSettings(t *testing.T) {
	want := settings{name: "n", limit: 1000000, timeout: 90 * time.Second, peers: []string{"x", "y"}, verbose: true}
	for name, text := range map[string]string{
		"tool.yaml": "name: n\nlimit: 1000000\ntimeout: 1m30s\npeers: [x, y]\nverbose: true\n",
		"tool.toml": "name = \"n\"\nlimit = 1000000\ntimeout = \"1m30s\"\npeers = [\"x\", \"y\"]\nverbose = true\n",
		"tool.json": `{"name":"n","limit":1000000,"timeout":"1m30s","peers":["x","y"],"verbose":true}`,
	} {
		t.Run(name, func(t *testing.T) {
			o := trial{args: []string{"show", "--config", writeFile(t, name, text)}}.run(t)
			if got, want := fmt.Sprint(o.got), fmt.Sprint(want); o.code != 0 || got != want {
				t.Errorf("code %d, got %s, want %s\n%s", o.code, got, want, o.stderr)
			}
		})
	}
}

func TestAListFromTheEnvironmentReplacesTheDefault(t *testing.T) {
	o := trial{args: []string{"show"}, env: map[string]string{"TOOL_PEERS": "x,y"}}.run(t)
	if fmt.Sprint(o.got.peers) != "[x y]" {
		t.Errorf("peers %q\n%s", o.got.peers, o.stderr)
	}
}

func TestAnAliasIsReadAfterTheProgramsOwnVariable(t *testing.T) {
	p := Program{EnvAliases: map[string][]string{"name": {"OLD_NAME", "OLDER_NAME"}}}
	for _, c := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"TOOL_NAME": "own", "OLD_NAME": "old"}, "own"},
		{map[string]string{"OLD_NAME": "old", "OLDER_NAME": "older"}, "old"},
		{map[string]string{"OLDER_NAME": "older"}, "older"},
	} {
		if o := (trial{program: p, args: []string{"show"}, env: c.env}).run(t); o.got.name != c.want {
			t.Errorf("%v gave %q, want %q", c.env, o.got.name, c.want)
		}
	}
}

func TestBadSettingsAreRefusedBeforeTheCommandRuns(t *testing.T) {
	for _, c := range []struct {
		name string
		file string // text of a yaml file; "" means none
		args []string
		env  map[string]string
		want []string // parts of the message
	}{
		{"a bad value in the environment", "", nil, map[string]string{"TOOL_LIMIT": "many"}, []string{"TOOL_LIMIT", `"many"`, "--limit"}},
		{"a bad value in the file", "timeout: soon\n", nil, nil, []string{"tool.yaml", "soon", `"timeout"`}},
		{"an unknown name in the file", "limmit: 3\n", nil, nil, []string{"tool.yaml", `unknown setting "limmit"`, `did you mean "limit"?`}},
		{"two problems at once", "limmit: 3\ntimeout: soon\n", nil, nil, []string{"limmit", "soon"}},
		{"a name without a value", "name:\n", nil, nil, []string{`"name"`, "no value"}},
		{"a table where a value belongs", "name: {first: x}\n", nil, nil, []string{`"name"`, "one value"}},
		{"a file that names another file", "config: other.yaml\n", nil, nil, []string{`unknown setting "config"`}},
		{"a setting that is about one call only", "print-config: true\n", nil, nil, []string{`unknown setting "print-config"`}},
		{"a file that is not yaml", "{{{\n", nil, nil, []string{"tool.yaml", "expected yaml"}},
		{"a file that is missing", "", []string{"--config", "/nonexistent/tool.yaml"}, nil, []string{"/nonexistent/tool.yaml", "no such file"}},
		{"a bad log level", "", []string{"--log-level", "loud"}, nil, []string{`log-level "loud" (flag)`, "debug, info, warn or error"}},
		{"a bad log level in the environment", "", nil, map[string]string{"TOOL_LOG_LEVEL": "loud"}, []string{`log-level "loud" (environment TOOL_LOG_LEVEL)`}},
		{"no file", "", []string{"--config", ""}, nil, []string{"--config needs the path of a file"}},
		{"no duration", "", []string{"--timeout", "soon"}, nil, []string{"--timeout", "a number of seconds"}},
		{"no number", "", []string{"--limit", "many"}, nil, []string{"--limit", "use a whole number"}},
		{"a number too large", "", []string{"--limit", "99999999999999999999"}, nil, []string{"--limit", "out of range"}},
		{"an argument that nobody takes", "", []string{"stray"}, nil, []string{`unexpected argument "stray"`, "try: tool show --help"}},
		{"a single dash", "", []string{"-limit", "3"}, nil, []string{"did you mean --limit?"}},
		{"a bad log format", "", []string{"--log-format", "xml"}, nil, []string{`log-format "xml" (flag)`, "text, json or auto"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{"show"}, c.args...)
			if c.file != "" {
				args = append(args, "--config", writeFile(t, "tool.yaml", c.file))
			}
			o := trial{args: args, env: c.env}.run(t)
			if o.code != ExitUsage || o.ran {
				t.Errorf("code %d, ran %v", o.code, o.ran)
			}
			for _, part := range c.want {
				if !strings.Contains(o.stderr, part) {
					t.Errorf("%q is not in:\n%s", part, o.stderr)
				}
			}
		})
	}
}

func TestASettingOfAnotherCommandIsNoMistake(t *testing.T) {
	o := trial{args: []string{"show", "--config", writeFile(t, "tool.yaml", "only-other: 3\nlimit: 8\n")}}.run(t)
	if o.code != 0 || o.got.limit != 8 {
		t.Errorf("code %d, limit %d\n%s", o.code, o.got.limit, o.stderr)
	}
}

func TestTheDefaultFileMayBeMissing(t *testing.T) {
	folder := t.TempDir()
	p := Program{ConfigFile: filepath.Join(folder, "tool.yaml")}
	if o := (trial{program: p, args: []string{"show"}}).run(t); o.code != 0 || o.got.limit != 7 {
		t.Errorf("without the file: code %d, limit %d\n%s", o.code, o.got.limit, o.stderr)
	}
	if err := os.WriteFile(p.ConfigFile, []byte("limit: 9"), 0o600); err != nil {
		t.Fatal(err)
	}
	if o := (trial{program: p, args: []string{"show"}}).run(t); o.got.limit != 9 {
		t.Errorf("with the file: limit %d\n%s", o.got.limit, o.stderr)
	}
}

func TestAProgramMayDecodeItsOwnFile(t *testing.T) {
	p := Program{ConfigFlag: "config-file", DecodeConfig: func(_ string, data []byte) (map[string]any, error) {
		if string(data) == "bad" {
			return nil, errors.New("line 1 is bad")
		}
		return map[string]any{"name": string(data)}, nil
	}}
	if o := (trial{program: p, args: []string{"show", "--config-file", writeFile(t, "x", "Ada")}}).run(t); o.got.name != "Ada" {
		t.Errorf("name %q\n%s", o.got.name, o.stderr)
	}
	if o := (trial{program: p, args: []string{"show", "--config-file", writeFile(t, "x", "bad")}}).run(t); o.code != ExitUsage || !strings.Contains(o.stderr, "line 1 is bad") {
		t.Errorf("code %d\n%s", o.code, o.stderr)
	}
}

func TestPrintConfigShowsOriginsAndHidesSecrets(t *testing.T) {
	file := writeFile(t, "tool.yaml", "timeout: 5s\n")
	o := trial{
		args: []string{"show", "--print-config", "--config", file, "--limit=10"},
		env:  map[string]string{"TOOL_PASSWORD": "hunter2", "TOOL_NAME": "n"},
	}.run(t)
	if o.code != 0 || o.ran {
		t.Errorf("code %d, ran %v\n%s", o.code, o.ran, o.stderr)
	}
	if strings.Contains(o.stdout+o.stderr, "hunter2") {
		t.Errorf("the password is shown:\n%s", o.stdout)
	}
	got := map[string]string{}
	for line := range strings.Lines(o.stdout) {
		words := strings.Fields(line)
		got[words[0]] = strings.Join(words[1:], " ")
	}
	for name, want := range map[string]string{
		"limit":    "10 flag",
		"name":     "n environment TOOL_NAME",
		"timeout":  "5s file " + file,
		"password": "*** environment TOOL_PASSWORD",
		"verbose":  "false default",
	} {
		if got[name] != want {
			t.Errorf("%s: got %q, want %q", name, got[name], want)
		}
	}
	if _, shown := got[flagPrintConfig]; shown {
		t.Error("--print-config is among the settings")
	}
}

func TestAnUnsetSecretIsNotMasked(t *testing.T) {
	o := trial{args: []string{"show", "--print-config"}}.run(t)
	if strings.Contains(o.stdout, "***") {
		t.Errorf("nothing to hide in:\n%s", o.stdout)
	}
}

func TestAFlagWithOneDashIsRefusedWithBoth(t *testing.T) {
	if o := (trial{args: []string{"show", "-timeout=3s"}}).run(t); o.code != ExitUsage || !strings.Contains(o.stderr, "did you mean --timeout?") {
		t.Errorf("code %d: %s", o.code, o.stderr)
	}
}

func TestAnUnknownFlagIsRefusedWithTheNearestOne(t *testing.T) {
	o := trial{args: []string{"show", "--timeuot", "3s"}}.run(t)
	if o.code != ExitUsage || o.ran {
		t.Errorf("code %d, ran %v", o.code, o.ran)
	}
	for _, part := range []string{"tool: unknown flag: --timeuot", "did you mean --timeout?", "try: tool show --help"} {
		if !strings.Contains(o.stderr, part) {
			t.Errorf("%q is not in:\n%s", part, o.stderr)
		}
	}
}

func TestADurationMayBeAPlainNumberOfSeconds(t *testing.T) {
	file := writeFile(t, "tool.yaml", "timeout: 90\n")
	for name, c := range map[string]struct {
		trial trial
		want  time.Duration
	}{
		"flag":        {trial{args: []string{"show", "--timeout", "15"}}, 15 * time.Second},
		"flag, unit":  {trial{args: []string{"show", "--timeout", "15ms"}}, 15 * time.Millisecond},
		"environment": {trial{args: []string{"show"}, env: map[string]string{"TOOL_TIMEOUT": "2"}}, 2 * time.Second},
		"file":        {trial{args: []string{"show", "--config", file}}, 90 * time.Second},
	} {
		if o := c.trial.run(t); o.code != ExitOK || o.got.timeout != c.want {
			t.Errorf("%s: code %d, timeout %v, want %v\n%s", name, o.code, o.got.timeout, c.want, o.stderr)
		}
	}
}

func TestAProgramOfCommandsPrintsItsConfigurationAndItsHelp(t *testing.T) {
	if o := (trial{args: []string{"--print-config"}}).run(t); o.code != ExitOK || !strings.Contains(o.stdout, "default-name") || strings.Contains(o.stdout, "Usage:") {
		t.Errorf("code %d\n%s", o.code, o.stdout)
	}
	if o := (trial{}).run(t); o.code != ExitOK || !strings.Contains(o.stdout, "Usage:") {
		t.Errorf("code %d\n%s", o.code, o.stdout)
	}
}

func TestDurationsAreWordsInEveryLog(t *testing.T) {
	for _, format := range []string{"json", "text"} {
		o := trial{args: []string{"show", "--log-level", "debug", "--log-format", format}}.run(t)
		if !strings.Contains(o.stderr, "1m30s") {
			t.Errorf("%s: %s", format, o.stderr)
		}
	}
}

func TestAnUnknownFlagUnlikeAnyOtherGetsNoSuggestion(t *testing.T) {
	if o := (trial{args: []string{"show", "--xyzzyx"}}).run(t); strings.Contains(o.stderr, "did you mean") {
		t.Errorf("far-fetched: %s", o.stderr)
	}
}

func TestAnUnknownCommandIsRefused(t *testing.T) {
	o := trial{args: []string{"shwo"}}.run(t)
	if o.code != ExitUsage || !strings.Contains(o.stderr, `unknown command "shwo"`) || !strings.Contains(o.stderr, "tool --help") {
		t.Errorf("code %d\n%s", o.code, o.stderr)
	}
}

func TestAProgramMayReportFailuresInAFormThatAFlagChooses(t *testing.T) {
	for _, c := range []struct {
		args []string
		env  map[string]string
		want string
	}{
		{[]string{"--bogus", "--form", "short"}, nil, "1 unknown flag: --bogus"},
		{[]string{"--number", "x", "--form=short"}, nil, `1 invalid argument "x" for "--number" flag: use a whole number`},
		{[]string{"--bogus"}, map[string]string{"TOOL_FORM": "short"}, "1 unknown flag: --bogus"},
		{[]string{"--bogus"}, nil, "tool: unknown flag: --bogus\ntry: tool --help\n"},
	} {
		var form string
		p := Program{
			Name: "tool",
			Command: func() *cobra.Command {
				cmd := &cobra.Command{Use: "tool", RunE: func(*cobra.Command, []string) error { return nil }}
				cmd.PersistentFlags().StringVar(&form, "form", "", "")
				cmd.PersistentFlags().Int("number", 0, "")
				return cmd
			},
			Report: func(w io.Writer, f Failure) bool {
				if form == "short" {
					fmt.Fprint(w, f.Code, " ", f.Text)
				}
				return form == "short"
			},
		}
		var stderr strings.Builder
		lookup := func(name string) (string, bool) { value, ok := c.env[name]; return value, ok }
		code := Run(t.Context(), p, c.args, lookup, &Env{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: &stderr})
		if code != ExitUsage || stderr.String() != c.want {
			t.Errorf("%q: code %d, %q, want %q", c.args, code, stderr.String(), c.want)
		}
	}
}

func TestTheErrorOfACommandDecidesTheExitCode(t *testing.T) {
	interrupted, cancel := context.WithCancelCause(t.Context())
	cancel(stoppedBy{15})
	for _, c := range []struct {
		name   string
		ctx    context.Context
		err    error
		code   int
		stderr string
	}{
		{"no error", nil, nil, 0, ""},
		{"an error", nil, errors.New("broken"), 1, "tool: broken\n"},
		{"an error with a code", nil, &ExitError{Code: 4, Err: errors.New("not found")}, 4, "tool: not found\n"},
		{"the same, wrapped", nil, fmt.Errorf("get: %w", &ExitError{Code: 4, Err: errors.New("not found")}), 4, "tool: get: not found\n"},
		{"a code without an error", nil, &ExitError{Code: 7}, 7, ""},
		{"a signal that the command gave up on", interrupted, fmt.Errorf("watch: %w", context.Canceled), 128 + 15, ""},
		{"a signal that the command ended on in order", interrupted, nil, 0, ""},
		{"a signal, and a code of the command's own", interrupted, &ExitError{Code: 3, Err: errors.New("child")}, 3, "tool: child\n"},
		{"a cancellation that no signal caused", nil, context.Canceled, 1, "tool: context canceled\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := trial{args: []string{"show"}, ctx: c.ctx, result: c.err}.run(t)
			if o.code != c.code || o.stderr != c.stderr {
				t.Errorf("code %d and %q, want %d and %q", o.code, o.stderr, c.code, c.stderr)
			}
		})
	}
}

func TestVariablesThatSetNothingAreFoundAndGuessed(t *testing.T) {
	o := trial{
		program: Program{EnvPrefixes: []string{"TOOL_", "OLD_"}, EnvAliases: map[string][]string{"limit": {"OLD_LIMIT"}}},
		args:    []string{"show"},
		env: map[string]string{
			"TOOL_LIMTI": "1", "TOOL_NAME": "x", "OLD_LIMIT": "3", "OLD_NAME": "y", "OLD_THING": "1", "TOOL_EMPTY": "", "OTHER_THING": "1",
			"TOOL_ONLY_OTHER": "5",                                                                                                                          // of another command
			"TOOL_PORT":       "tcp://10.0.0.1:80", "TOOL_PORT_80_TCP_ADDR": "10.0.0.1", "OLD_WEB_SERVICE_PORT_HTTP": "80", "TOOL_SERVICE_HOST": "10.0.0.1", // of a container engine
		},
	}.run(t)
	want := []UnusedVariable{{"OLD_NAME", "name", "TOOL_NAME"}, {"OLD_THING", "thing", ""}, {"TOOL_LIMTI", "limti", "TOOL_LIMIT"}}
	if o.code != ExitOK || !slices.Equal(o.unused, want) {
		t.Errorf("code %d, %+v, want %+v", o.code, o.unused, want)
	}
}

func TestFlagsOfAnotherProgramAreToldAllAtOnceWithWhatToDo(t *testing.T) {
	p := Program{Elsewhere: map[string]string{"nome": "leave it out: there is no need", "old-limit": "use --limit"}}
	o := trial{program: p, args: []string{"show", "--nome", "--old-limit=3", "--name", "x", "-nome", "--", "--old-limit"}}.run(t)
	if want := "tool: unknown flag: --nome\n--nome: leave it out: there is no need\n--old-limit: use --limit\ntry: tool show --help\n"; o.code != ExitUsage || o.stderr != want {
		t.Errorf("code %d\n%s\nwant\n%s", o.code, o.stderr, want)
	}
	o = trial{program: p, args: []string{"show", "-old-limit", "3"}}.run(t)
	if o.code != ExitUsage || !strings.Contains(o.stderr, "\n--old-limit: use --limit\n") {
		t.Errorf("with one dash: code %d\n%s", o.code, o.stderr)
	}
	o = trial{program: p, args: []string{"show", "--config", writeFile(t, "tool.yaml", "old-limit: 3\n")}}.run(t)
	if o.code != ExitUsage || !strings.Contains(o.stderr, `unknown setting "old-limit": use --limit`) {
		t.Errorf("in a file: code %d\n%s", o.code, o.stderr)
	}
}

func TestVersionNamesTheProgram(t *testing.T) {
	o := trial{args: []string{"--version"}}.run(t)
	if o.code != 0 || o.stdout != "tool version "+Version()+"\n" || Version() == "" {
		t.Errorf("code %d, %q", o.code, o.stdout)
	}
}

func TestLogsGoToStandardErrorAsTextOrJSON(t *testing.T) {
	text := trial{args: []string{"show", "--log-level", "debug", "--log-format", "text"}}.run(t)
	if !strings.Contains(text.stderr, "msg=shown name=default-name") || text.stdout != "" {
		t.Errorf("stdout %q, stderr %q", text.stdout, text.stderr)
	}
	structured := trial{args: []string{"show", "--log-level", "debug"}}.run(t)
	if !strings.Contains(structured.stderr, `"msg":"shown","name":"default-name"`) {
		t.Errorf("not a terminal, so not json: %q", structured.stderr)
	}
	if quiet := (trial{args: []string{"show"}}).run(t); quiet.stderr != "" {
		t.Errorf("debug message at level info: %q", quiet.stderr)
	}
}

func TestArgumentsMayBeRewrittenForOldHabits(t *testing.T) {
	p := Program{Args: func(args []string) []string {
		for i, arg := range args {
			if strings.HasPrefix(arg, "-limit") {
				args[i] = "-" + arg
			}
		}
		return args
	}}
	if o := (trial{program: p, args: []string{"show", "-limit=12"}}).run(t); o.got.limit != 12 {
		t.Errorf("limit %d\n%s", o.got.limit, o.stderr)
	}
}

func TestEnvNamesFollowTheFlags(t *testing.T) {
	got := map[string]string{}
	for _, flag := range []string{"name", "data-dir", "listen-client-urls"} {
		got[flag] = EnvName("kvd", flag)
	}
	want := map[string]string{"name": "KVD_NAME", "data-dir": "KVD_DATA_DIR", "listen-client-urls": "KVD_LISTEN_CLIENT_URLS"}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
