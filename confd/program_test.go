package confd

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/kvd-io/kvd/confd/keys"
	"github.com/kvd-io/kvd/pkg/program"
)

// run calls kvconfd with a configuration file and an environment.
func run(t testing.TB, r *rig, file string, environment map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	r.write("confd.toml", file)
	var out, log bytes.Buffer
	lookup := func(name string) (string, bool) {
		value, ok := environment[name]
		return value, ok
	}
	args = append([]string{"-config-file", r.path("confd.toml")}, args...)
	code = program.Run(t.Context(), Program(), args, lookup, &program.Env{Stdout: &out, Stderr: &log})
	return code, out.String(), log.String()
}

// setting returns the line of --print-config about a setting, without repeated blanks.
func setting(printed, name string) string {
	for line := range strings.Lines(printed) {
		if fields := strings.Fields(line); fields[0] == name {
			return strings.Join(fields[1:], " ")
		}
	}
	return ""
}

func TestFlagsWinOverTheEnvironmentOverTheFileOverDefaults(t *testing.T) {
	r := newRig(t, nil)
	file := `
backend = "etcd"
confdir = "/from/file"
nodes = ["http://10.0.0.1:2379", "http://10.0.0.2:2379"]
prefix = "/file"
interval = 5
sync-only = true
client_cakeys = "/ca.pem"
Watch = true
log-level = "warning"
srv_domain = ""
unheard_of = 1
role_id = "x"
`
	environment := map[string]string{"KVCONFD_PREFIX": "/environment", "CONFD_CLIENT_CERT": "/cert.pem", "CONFD_INTERVAL": "6", "KVCONFD_INTERVAL": "7"}
	code, printed, stderr := run(t, r, file, environment, "-print-config", "-prefix=/flag", "--keep-stage-file", "-node", "a:1", "-node", "b:2")
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	from := "file " + r.path("confd.toml")
	for name, want := range map[string]string{
		"prefix":          "/flag flag",
		"keep-stage-file": "true flag",
		"endpoints":       "[a:1,b:2] flag",
		"interval":        "7s environment KVCONFD_INTERVAL",
		"cert-file":       "/cert.pem environment CONFD_CLIENT_CERT",
		"confdir":         "/from/file " + from,
		"ca-file":         "/ca.pem " + from,
		"sync-only":       "true " + from,
		"watch":           "true " + from,
		"log-level":       "warn " + from,
		"noop":            "false default",
		"srv-domain":      "default",
	} {
		if got := setting(printed, name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestWhatIsIgnoredOrOverruledIsSaid(t *testing.T) {
	r := fileRig(t, "x: 1")
	r.resource("a", `{{getv "/x"}}`, `keys = ["/"]`)
	file := "backend = \"etcd\"\nunheard_of = 1\n[section]\nx = 1\n"
	code, _, stderr := run(t, r, file, nil, "-onetime", "-backend", "file", "-file", r.path("keys.yaml"), "-confdir", r.path("conf"), "-client-insecure")
	if code != 0 || r.read("a.out") != "1" {
		t.Errorf("exit code %d, file %q", code, r.read("a.out"))
	}
	for _, want := range []string{`\"unheard_of\" has no effect`, `\"section\" has no effect`, "--backend wins over the value in", "--client-insecure (flag) has no effect"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("not said: %s\n%s", want, stderr)
		}
	}
}

func TestAFlagThatSaysWhatTheFileSaysIsNotToldToWin(t *testing.T) {
	r := fileRig(t, "x: 1")
	r.resource("a", `{{getv "/x"}}`, `keys = ["/"]`)
	file := "backend = \"file\"\nnodes = [\"http://a\", \"http://b\"]\ninterval = 60\nprefix = \"/p\"\n"
	args := []string{"-onetime", "-backend", "file", "-node", "http://a", "-node", "http://b", "-interval", "1m", "-prefix", "/", "-file", r.path("keys.yaml"), "-confdir", r.path("conf")}
	code, _, stderr := run(t, r, file, nil, args...)
	if code != 0 || strings.Count(stderr, " wins over ") != 1 || !strings.Contains(stderr, "--prefix wins over") {
		t.Errorf("exit code %d:\n%s", code, stderr)
	}
	if !strings.Contains(stderr, "settings are read once") || !strings.Contains(stderr, `"file":"`+r.path("confd.toml")) {
		t.Errorf("the log does not say which settings were read:\n%s", stderr)
	}
}

func TestMistakesAtTheCommandLineAreExplained(t *testing.T) {
	r := newRig(t, nil)
	for _, c := range []struct {
		file string
		args []string
		want string
	}{
		{"", []string{"-nod", "x"}, "unknown flag: --nod"},
		{"", []string{"-backend", "vault"}, "kvconfd does not have"},
		{"", []string{"positional"}, "\"positional\" for \"kvconfd\""},
		{"", []string{"-interval", "soon"}, "use a time such as"},
		{"", []string{"-onetime", "-confdir", r.path("nope")}, "nope does not exist: create it"},
		{"intervall = 5", nil, `unknown setting "intervall": did you mean interval?`},
		{"nodes = [", nil, "not valid TOML"},
		{"interval = \"soon\"", nil, "cannot use soon"},
		{"", []string{"-onetime", "-confdir", r.path("conf/conf.d")}, "conf.d is missing"},
	} {
		code, _, stderr := run(t, r, c.file, nil, c.args...)
		if code != program.ExitUsage || !strings.Contains(stderr, c.want) {
			t.Errorf("%q with file %q: exit code %d, %s; want %q", c.args, c.file, code, stderr, c.want)
		}
	}
}

func TestSingleDashesAreUnderstood(t *testing.T) {
	given := []string{"-watch", "-interval=5", "--noop", "-u", "name", "-node", "-", "-5", "-password", "-x-y", "-basic-auth", "-password=-z", "--prefix", "-noop", "--", "-watch"}
	want := []string{"--watch", "--interval=5", "--noop", "-u", "name", "--node", "-", "-5", "--password", "-x-y", "--basic-auth", "--password=-z", "--prefix", "-noop", "--", "-watch"}
	if got := doubleDashes(given); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if given[0] != "-watch" {
		t.Error("the caller's arguments were changed")
	}
}

func TestVersionIsPrinted(t *testing.T) {
	code, stdout, _ := run(t, newRig(t, nil), "", nil, "-version")
	if code != 0 || !strings.HasPrefix(stdout, "kvconfd version ") {
		t.Errorf("exit code %d, %q", code, stdout)
	}
}

func TestAnSRVDomainNamesARecordOfTheBackend(t *testing.T) {
	for want, o := range map[string]options{
		"_etcd._tcp.example.com.": {Config: Config{Backend: keys.BackendEtcd}, srvDomain: "example.com"},
		"_kvd._tcp.example.com.":  {Config: Config{Backend: keys.BackendKvd}, srvDomain: "example.com."},
		"_x._tcp.example.com":     {Config: Config{Backend: keys.BackendKvd}, srvDomain: "unused", srvRecord: "_x._tcp.example.com"},
		"":                        {},
	} {
		if got := o.config().SRV; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestTheReferenceNamesEveryCommandAndFlag(t *testing.T) {
	data, err := os.ReadFile("../docs/reference/kvconfd.md")
	if err != nil {
		t.Fatal(err)
	}
	root := Program().Command()
	ownFlags(root).VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		if !strings.Contains(string(data), "`-"+f.Name+"`") && !strings.Contains(string(data), "`--"+f.Name+"`") {
			t.Errorf("docs/reference/kvconfd.md does not name -%s", f.Name)
		}
	})
	for _, cmd := range root.Commands() {
		if use := strings.ReplaceAll(cmd.Use, "|", `\|`); cmd.IsAvailableCommand() && !strings.Contains(string(data), "| `"+use+"` |") {
			t.Errorf("docs/reference/kvconfd.md does not name %s", cmd.Use)
		}
	}
}
