package confd

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/kvd-io/kvd/confd/report"
	"github.com/kvd-io/kvd/confd/resource"
	"github.com/kvd-io/kvd/pkg/program"
)

// command calls a command of kvconfd with the rig's configuration and keys.
func (r *rig) command(words ...string) (code int, stdout, stderr string) {
	r.t.Helper()
	words = append(words, "-confdir", r.path("conf"), "-socket", r.path("none.sock"))
	return run(r.t, r, "", nil, words...)
}

func TestDiffShowsWhatWouldChangeAndWhichCommandsWouldRun(t *testing.T) {
	r := fileRig(t, "x: one\ny: two\n")
	keys := r.path("keys.yaml")
	r.resource("a", `{{getv "/x"}}`, "keys = [\"/\"]\ncheck_cmd = \"touch $DIR/checked\"\nreload_cmd = \"touch $DIR/reloaded\"")
	r.resource("b", `{{getv "/y"}}`, `keys = ["/"]`)
	r.write("b.out", "two")
	r.write("a.out", "zero\n")

	code, stdout, stderr := r.command("diff", "--keys", keys)
	if code != 1 || !strings.Contains(stdout, "-zero\n+one") || !strings.Contains(stdout, "a: would run: touch "+r.path("reloaded")) || strings.Contains(stdout, "b.out") {
		t.Errorf("exit code %d:\n%s%s", code, stdout, stderr)
	}
	if code, stdout, _ := r.command("diff", "b", "--keys", keys); code != 0 || stdout != "" {
		t.Errorf("exit code %d:\n%s", code, stdout)
	}
	if code, _, stderr := r.command("diff", "c", "--keys", keys); code != exitNotFound || !strings.Contains(stderr, "there are a, b") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if r.exists("checked") || r.exists("reloaded") || r.read("a.out") != "zero\n" {
		t.Error("something was changed, or run")
	}
	var answer struct {
		Files []struct {
			Name, Diff string
			Differs    bool
			Commands   []string
		}
	}
	_, stdout, _ = r.command("diff", "--keys", keys, "-o", "json")
	if err := json.Unmarshal([]byte(stdout), &answer); err != nil || len(answer.Files) != 2 || !answer.Files[0].Differs || len(answer.Files[0].Commands) != 2 || answer.Files[1].Differs {
		t.Errorf("%v: %s", err, stdout)
	}
}

func TestDiffSaysThatModeOrOwnerDiffersOrAReloadIsDue(t *testing.T) {
	r := fileRig(t, "x: one\n")
	r.resource("a", `{{getv "/x"}}`, "keys = [\"/\"]\nmode = \"0640\"\ncheck_cmd = \"true\"\nreload_cmd = \"echo reload\"")
	r.write("a.out", "one")
	if err := os.Chmod(r.path("a.out"), 0o600); err != nil {
		t.Fatal(err)
	}
	diff := func() (int, string) {
		code, stdout, stderr := r.command("diff", "--keys", r.path("keys.yaml"))
		return code, stdout + stderr
	}
	if code, output := diff(); code != 1 || output != "a: "+r.path("a.out")+": mode 0600 -> 0640\na: would run: true\na: would run: echo reload\n" {
		t.Errorf("exit code %d:\n%s", code, output)
	}
	if err := os.Chmod(r.path("a.out"), 0o640); err != nil {
		t.Fatal(err)
	}
	if code, output := diff(); code != 0 || output != "" {
		t.Errorf("exit code %d:\n%s", code, output)
	}
	r.write(".a.out.reload-pending", "")
	if code, output := diff(); code != 1 || output != "a: "+r.path("a.out")+": a reload is due\na: would run: echo reload\n" {
		t.Errorf("exit code %d:\n%s", code, output)
	}
	if os.Geteuid() != 0 {
		return
	}
	if err := os.Remove(r.path(".a.out.reload-pending")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(r.path("a.out"), 0, 1234); err != nil {
		t.Fatal(err)
	}
	if code, output := diff(); code != 1 || !strings.Contains(output, "a.out: owner 0:1234 -> 0:0\n") {
		t.Errorf("exit code %d:\n%s", code, output)
	}
}

func TestDiffShowsNoContentOfASensitiveResource(t *testing.T) {
	r := fileRig(t, "password: hunter2\n")
	r.resource("a", `{{getv "/password"}}`, "keys = [\"/\"]\nsensitive = true")
	r.resource("bad", `{{atoi (getv "/password")}}`, "keys = [\"/\"]\nsensitive = true")
	for _, format := range []string{"text", "json"} {
		code, stdout, stderr := r.command("diff", "--keys", r.path("keys.yaml"), "-o", format)
		if code != exitTrouble || strings.Contains(stdout+stderr, "hunter2") {
			t.Errorf("exit code %d:\n%s%s", code, stdout, stderr)
		}
	}
}

func TestWhatATerminalWouldActUponIsNotPrinted(t *testing.T) {
	r := fileRig(t, "\"a\\e[2J\\nb\": \"x\\e[2J\"\n")
	r.resource("a", "{{range gets \"/*\"}}{{getv .Key}}\n{{end}}", `keys = ["/"]`)
	r.resource("fails", `{{range gets "/*"}}{{getv (printf "%s/none" .Key)}}{{end}}`, `keys = ["/"]`)
	for _, words := range [][]string{{"diff"}, {"explain", r.path("a.out") + ":1"}, {"explain", r.path("fails.out")}, {"render", "fails"}} {
		_, stdout, stderr := r.command(append(words, "--keys", r.path("keys.yaml"))...)
		if strings.ContainsRune(stdout+stderr, '\x1b') || !strings.Contains(stdout+stderr, `\x1b[2J`) {
			t.Errorf("%q:\n%q\n%q", words, stdout, stderr)
		}
	}
	if got := colour("+a\n b\n", true); got != "\x1b[32m+a\x1b[0m\n b\n" {
		t.Errorf("%q", got)
	}
}

func TestRenderPrintsAResourceOrATemplateOffline(t *testing.T) {
	r := fileRig(t, "x: one\nitems: {b: 2, a: 1}\n")
	keys := r.path("keys.yaml")
	r.resource("a", `{{getv "/x"}}`, `keys = ["/x"]`)
	r.write("loose.tmpl", `{{range gets "/items/*"}}{{base .Key}}={{.Value}} {{end}}`)
	if code, stdout, stderr := r.command("render", "a", "--keys", keys); code != 0 || stdout != "one" {
		t.Errorf("exit code %d, %q: %s", code, stdout, stderr)
	}
	if code, stdout, stderr := r.command("render", r.path("loose.tmpl"), "--keys", keys); code != 0 || stdout != "a=1 b=2 " {
		t.Errorf("exit code %d, %q: %s", code, stdout, stderr)
	}
	r.resource("broken", `{{getv "/nothing"}}`, `keys = ["/"]`)
	if code, stdout, stderr := r.command("render", "broken", "--keys", keys); code != exitTrouble || stdout != "" || !strings.Contains(stderr, "/nothing") {
		t.Errorf("exit code %d, %q: %s", code, stdout, stderr)
	}
}

func TestRenderPrintsASensitiveResourceOnlyIfThatIsSaid(t *testing.T) {
	r := fileRig(t, "password: hunter2\n")
	r.resource("a", `{{getv "/password"}}`, "keys = [\"/\"]\nsensitive = true")
	keys := r.path("keys.yaml")
	if code, stdout, stderr := r.command("render", "a", "--keys", keys); code != exitTrouble || stdout != "" || strings.Contains(stderr, "hunter2") || !strings.Contains(stderr, "--show-sensitive") {
		t.Errorf("exit code %d, %q: %s", code, stdout, stderr)
	}
	if code, stdout, stderr := r.command("render", "a", "--keys", keys, "-show-sensitive"); code != 0 || stdout != "hunter2" {
		t.Errorf("exit code %d, %q: %s", code, stdout, stderr)
	}
}

func TestNamesOfKeysThatAreMadeOfSecretsAreNotExplained(t *testing.T) {
	r := fileRig(t, "which: S3CR3T\nsec: {S3CR3T: x}\n")
	r.resource("a", `{{getv "/which" | printf "/sec/%s" | getv}}{{getv "/dir/none" "d"}}`, "keys = [\"/\"]\nsensitive = true")
	for _, words := range [][]string{{"explain", r.path("a.out")}, {"explain", r.path("a.out") + ":1"}, {"explain", r.path("a.out") + ":1", "-o", "json"}} {
		code, stdout, stderr := r.command(append(words, "--keys", r.path("keys.yaml"))...)
		if code != 0 || strings.Contains(stdout+stderr, "S3CR3T") || !strings.Contains(stdout, "/which") || !strings.Contains(stdout, "1 key by names that do not stand in the template") {
			t.Errorf("%q: exit code %d\n%s%s", words, code, stdout, stderr)
		}
	}
	src := r.path("conf/templates/a.tmpl")
	if code, stdout, stderr := r.command("render", src, "--keys", r.path("keys.yaml")); code != exitTrouble || stdout != "" || !strings.Contains(stderr, "--show-sensitive") {
		t.Errorf("exit code %d, %q: %s", code, stdout, stderr)
	}
	if code, stdout, stderr := r.command("render", src, "--show-sensitive", "--keys", r.path("keys.yaml")); code != 0 || stdout != "xd" {
		t.Errorf("exit code %d, %q: %s", code, stdout, stderr)
	}
}

func TestALineThatAnAbsentKeyWouldChangeIsExplainedByIt(t *testing.T) {
	r := fileRig(t, "x: one\n")
	r.resource("a", "static\n{{getv \"/m/x\" \"dflt\"}}\n{{if not (exists \"/m/y\")}}no y\n{{end}}{{if ne (getv \"/m/z\" \"on\") \"off\"}}z\n{{end}}", `keys = ["/"]`)
	for line, want := range map[string]string{"1": "no key that was found", "2": "/m/x: there is no such key", "3": "/m/y: there is no such key", "4": "/m/z: there is no such key"} {
		code, stdout, stderr := r.command("explain", r.path("a.out")+":"+line, "--keys", r.path("keys.yaml"))
		_, causes, _ := strings.Cut(stdout, "depends on:")
		if code != 0 || !strings.Contains(causes, want) || strings.Count(causes, "/m/") > 1 {
			t.Errorf("line %s, exit code %d:\n%s%s", line, code, stdout, stderr)
		}
	}
}

func TestCheckFindsWhatCannotWork(t *testing.T) {
	r := fileRig(t, "x: 1")
	r.resource("good", `{{getv "/x"}}`, "keys = [\"/x\"]\nreload_cmd = \"true\"")
	if code, stdout, _ := r.command("check"); code != 0 || !strings.Contains(stdout, "1 resource, 0 errors, 0 warnings") {
		t.Errorf("exit code %d: %s", code, stdout)
	}
	r.resource("typo", `x`, "keys = [\"/x\"]\nreload_command = \"true\"\n")
	r.resource("unparsed", "a\n{{getw \"/x\"}}", `keys = ["/x"]`)
	r.resource("program", `x`, "keys = [\"/x\"]\nreload_cmd = \"no-such-program --now\"")
	code, stdout, _ := r.command("check")
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{"typo.toml", "did you mean reload_cmd", "unparsed.tmpl", `"getw" not defined`, "program.toml:5: warning: reload_cmd starts no-such-program, which is not found", "4 resources, 2 errors, 1 warning,"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("not found: %s\n%s", want, stdout)
		}
	}
	var answer struct {
		Errors   int
		Findings []resource.Finding
	}
	_, stdout, _ = r.command("check", "-o", "json")
	if err := json.Unmarshal([]byte(stdout), &answer); err != nil || answer.Errors != 2 || len(answer.Findings) != 3 {
		t.Errorf("%v: %s", err, stdout)
	}
}

func TestExplainSaysWhichResourceMakesAFileWithoutAnAgent(t *testing.T) {
	r := fileRig(t, "x: secret-value\n")
	keys := r.path("keys.yaml")
	r.resource("a", `{{getv "/x"}}{{range gets "/more/*"}}{{end}}`, "keys = [\"/x\", \"/more\"]\ncheck_cmd = \"true\"")
	code, stdout, stderr := r.command("explain", r.path("a.out"), "--keys", keys)
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	for _, want := range []string{"a.toml", "a.tmpl", "/more/*", "/x", "check      true"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("not said: %s\n%s", want, stdout)
		}
	}
	if strings.Contains(stdout, "secret-value") {
		t.Errorf("a value is shown: %s", stdout)
	}
	if code, _, stderr := r.command("explain", r.path("b.out"), "--keys", keys); code != exitNotFound || !strings.Contains(stderr, "no resource in") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

func TestCheckNamesTheFileOfATemplateThatOneInASubdirectoryIncludes(t *testing.T) {
	r := fileRig(t, "x: 1")
	if err := os.Mkdir(r.path("conf/templates/sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.write("conf/conf.d/a.toml", fmt.Sprintf("[template]\nsrc = \"sub/a.tmpl\"\ndest = %q\nkeys = [\"/x\"]\n", r.path("a.out")))
	r.write("conf/templates/sub/a.tmpl", `{{getv "/main"}}{{include "sub/b.tmpl"}}{{include "c.tmpl"}}`)
	r.write("conf/templates/sub/b.tmpl", "\n{{getv \"/b\"}}")
	r.write("conf/templates/c.tmpl", "\n\n{{getv \"c\"}}")
	_, stdout, _ := r.command("check")
	for _, want := range []string{"sub/a.tmpl:1: error: getv reads /main", "sub/b.tmpl:2: error: getv reads /b", "c.tmpl:3: warning: getv"} {
		if !strings.Contains(stdout, r.path("conf/templates")+"/"+want) {
			t.Errorf("not found: %s\n%s", want, stdout)
		}
	}
}

func TestLinesThatAFileDoesNotHaveAreExplainedAsThat(t *testing.T) {
	r := fileRig(t, "x: one\n")
	r.resource("a", `{{getv "/x"}}`, `keys = ["/x"]`)
	r.resource("broken", `{{getv "/y"}}`, `keys = ["/"]`)
	explain := func(line string) (code int, stdout, stderr string) {
		return r.command("explain", r.path(line), "--keys", r.path("keys.yaml"))
	}
	for line, want := range map[string]string{
		"a.out:0":                    "no file has a line 0",
		"a.out:-1":                   "no file has a line -1",
		"a.out:99999999999999999999": "no file has a line 99999999999999999999",
	} {
		if code, _, stderr := explain(line); code != program.ExitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit code %d: %s", line, code, stderr)
		}
	}
	if code, _, stderr := explain("a.out:9"); code != exitTrouble || !strings.Contains(stderr, "there is no line 9") || !strings.HasSuffix(stderr, "has 1 line\n") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	r.write("a.out", "1\n2\n3\n")
	if code, _, stderr := explain("a.out:2"); code != exitTrouble || !strings.Contains(stderr, "has 1 line; what is there is another version") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if code, stdout, _ := explain("broken.out:2"); code != 0 || strings.Contains(stdout, "no key") || !strings.Contains(stdout, "line 2 cannot be explained") {
		t.Errorf("exit code %d: %s", code, stdout)
	}
}

func TestCommandsThatAskAnAgentSayThatThereIsNone(t *testing.T) {
	r := newRig(t, nil)
	for _, words := range [][]string{{"status"}, {"release", "a"}} {
		if code, _, stderr := r.command(words...); code != exitTrouble || !strings.Contains(stderr, "nobody serves it") {
			t.Errorf("%q: exit code %d: %s", words, code, stderr)
		}
	}
}

func TestByTheNameConfdThereAreNoCommandsAndConfdsArgumentsWork(t *testing.T) {
	r := fileRig(t, "x: 1")
	r.resource("a", `{{getv "/x"}}`, `keys = ["/"]`)
	var out, log strings.Builder
	args := []string{"-onetime", "-backend", "file", "-file", r.path("keys.yaml"), "-confdir", r.path("conf"), "-config-file", r.path("none.toml"), "check"}
	r.write("none.toml", "")
	code := program.Run(t.Context(), ProgramAs("/usr/bin/confd"), args, os.LookupEnv, &program.Env{Stdout: &out, Stderr: &log})
	if code != 0 || r.read("a.out") != "1" || !strings.Contains(log.String(), "have no effect; called as confd there are no commands: use kvconfd check") {
		t.Errorf("exit code %d: %s", code, log.String())
	}
	command := ProgramAs("confd").Command()
	if len(command.Commands()) > 0 || command.Name() != "confd" {
		t.Errorf("%s has commands", command.Name())
	}
	out.Reset()
	program.Run(t.Context(), ProgramAs("/usr/bin/confd"), []string{"-help"}, os.LookupEnv, &program.Env{Stdout: &out, Stderr: &log})
	for _, command := range commands(&options{}) {
		if strings.Contains(out.String(), "confd "+command.Name()+" ") {
			t.Errorf("the help has %s:\n%s", command.Name(), out.String())
		}
	}
	for name, want := range map[string]string{"status-prefix": "", "socket": ""} {
		if got := ownFlags(command).Lookup(name).DefValue; got != want {
			t.Errorf("--%s is %q", name, got)
		}
	}
}

func TestAFileWhoseNameEndsInANumberIsNotTakenForALine(t *testing.T) {
	dir := t.TempDir()
	odd := filepath.Join(dir, "a:3")
	if err := os.WriteFile(odd, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{odd: odd, odd + ":4": odd, "/a:b": "/a:b", "/a:": "/a:", "/a:12": "/a"} {
		if file, _, err := splitLine(text, isFile); file != want || err != nil {
			t.Errorf("%s is taken for %s", text, file)
		}
	}
}

func TestAStatusSpellsOutWhatATerminalWouldActUpon(t *testing.T) {
	hostile := "a\x1b[2J\nb"
	var out strings.Builder
	err := printStatus(&out, report.Status{
		Targets:  []report.TargetStatus{{Name: hostile, Dest: hostile, State: report.Failed, Err: hostile}},
		Stores:   []report.Store{{Name: hostile, Err: hostile}},
		Problems: []report.Problem{{Err: hostile}},
	})
	if err != nil || strings.ContainsRune(out.String(), '\x1b') || strings.Count(out.String(), `a\x1b[2J\nb`) != 6 || strings.Count(out.String(), "\n") != 4 {
		t.Errorf("%v: %q", err, out.String())
	}
}

func TestWithAKeyringAllContentIsSensitiveAndWhoeverAsksTheAgentNeedsNone(t *testing.T) {
	key, err := openpgp.NewEntity("kvd", "", "kvd@example.com", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	var ring, message bytes.Buffer
	armored, err := armor.Encode(&ring, openpgp.PrivateKeyType, nil)
	if err := errors.Join(err, key.SerializePrivateWithoutSigning(armored, nil), armored.Close()); err != nil {
		t.Fatal(err)
	}
	encrypted, err := openpgp.Encrypt(&message, []*openpgp.Entity{key}, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	zipped := gzip.NewWriter(encrypted)
	_, err = zipped.Write([]byte("s3cret"))
	if err := errors.Join(err, zipped.Close(), encrypted.Close()); err != nil {
		t.Fatal(err)
	}

	r := newRig(t, nil)
	r.write("keyring.asc", ring.String())
	r.write("keys.yaml", "password: "+base64.StdEncoding.EncodeToString(message.Bytes()))
	r.resource("a", `{{cgetv "/password"}}`, `keys = ["/password"]`)
	r.write("other.tmpl", `{{json (cgetv "/password")}}`)
	r.write("good.tmpl", `{{cgetv "/password"}}`)
	with := func(ring string, words ...string) (int, string) {
		code, stdout, stderr := r.command(append(words, "--secret-keyring", r.path(ring))...)
		return code, stdout + stderr
	}
	for _, name := range []string{"a", r.path("good.tmpl"), r.path("other.tmpl")} {
		if code, text := with("keyring.asc", "render", name, "--keys", r.path("keys.yaml")); code == 0 || strings.Contains(text, "s3") || strings.Contains(text, "'s'") {
			t.Errorf("render %s: %d, %s", name, code, text)
		}
	}
	for _, name := range []string{"a", r.path("good.tmpl")} {
		if code, text := with("keyring.asc", "render", name, "--keys", r.path("keys.yaml"), "--show-sensitive"); code != 0 || !strings.Contains(text, "s3cret") {
			t.Errorf("render %s --show-sensitive: %d, %s", name, code, text)
		}
	}
	if code, text := with("none", "render", "a", "--keys", r.path("keys.yaml")); code == 0 || !strings.Contains(text, "secret keyring") {
		t.Errorf("without the file: %d, %s", code, text)
	}
	if code, text := with("none", "status"); !strings.Contains(text, "nobody serves it") {
		t.Errorf("status without the file: %d, %s", code, text)
	}
}
