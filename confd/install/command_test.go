package install_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/confd/install"
)

func TestACommandRunsInAShellAndItsOutputIsKept(t *testing.T) {
	output, err := install.Run(t.Context(), install.Command{Shell: `echo "$((1+1))"; echo err >&2`, Timeout: time.Minute}, install.Vars{})
	if err != nil || output != "2\nerr" {
		t.Errorf("got %q, %v", output, err)
	}
}

func TestAFailingCommandSaysWhatItPrinted(t *testing.T) {
	_, err := install.Run(t.Context(), install.Command{Shell: `echo "bad line 7"; exit 3`, Timeout: time.Minute}, install.Vars{})
	if err == nil || !strings.Contains(err.Error(), "bad line 7") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("got %v", err)
	}
}

func TestOnlyTheEndOfLongOutputIsKept(t *testing.T) {
	output, err := install.Run(t.Context(), install.Command{Shell: `head -c 1000000 /dev/zero | tr '\0' x; echo END`, Timeout: time.Minute}, install.Vars{})
	if err != nil || len(output) > 10_000 || !strings.HasSuffix(output, "END") {
		t.Errorf("kept %d bytes, %v", len(output), err)
	}
}

func TestACommandThatTakesTooLongIsKilledWithItsChildren(t *testing.T) {
	t.Parallel()
	pid := filepath.Join(t.TempDir(), "pid")
	_, err := install.Run(t.Context(), install.Command{Shell: `sleep 600 & echo $! >` + pid + `; wait`, Timeout: 200 * time.Millisecond}, install.Vars{})
	if err == nil || !strings.Contains(err.Error(), "longer than 200ms") {
		t.Errorf("got %v", err)
	}
	waitGone(t, readPID(t, pid))
}

func TestADaemonThatHoldsTheOutputOpenIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	pid := filepath.Join(t.TempDir(), "pid")
	_, err := install.Run(t.Context(), install.Command{Shell: `sleep 600 & echo $! >` + pid, Timeout: time.Minute}, install.Vars{})
	if err != nil {
		t.Errorf("got %v", err)
	}
	daemon := readPID(t, pid)
	if err := syscall.Kill(daemon, 0); err != nil {
		t.Errorf("the daemon is gone: %v", err)
	}
	syscall.Kill(daemon, syscall.SIGKILL)
}

func TestACommandMayFinishAfterTheAgentWasToldToStop(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		for range 1000 { // 10 s
			if _, err := os.Stat(filepath.Join(dir, "started")); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		stop()
		os.WriteFile(filepath.Join(dir, "stopped"), nil, 0o600)
	}()
	_, err := install.Run(ctx, install.Command{Shell: `touch ` + dir + `/started; until test -e ` + dir + `/stopped; do sleep 0.01; done; touch ` + dir + `/finished`, Timeout: time.Minute}, install.Vars{})
	if _, missing := os.Stat(filepath.Join(dir, "finished")); err != nil || missing != nil {
		t.Errorf("got %v, %v", err, missing)
	}
}

func readPID(t *testing.T, path string) int {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func waitGone(t *testing.T, pid int) {
	t.Helper()
	for range 1000 { // 10 s
		if state, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat"); err != nil || strings.Contains(string(state), ") Z ") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %d is still there", pid)
}

func TestACheckIsATemplateUnlessItsBracesAreMeantForOthers(t *testing.T) {
	for line, want := range map[string]string{
		`nginx -t -c {{.src}}`:                         `nginx -t -c /s`,
		`cp {{printf "%q" .src}} {{ .dest }}`:          `cp "/s" /d`,
		`{{if .src}}test -f {{.src}}{{end}}`:           `test -f /s`,
		`{{$x := .src}}{{$x}} {{"{{"}}.ID}}`:           `/s {{.ID}}`,
		`{{.src}} {{ .dest }} {{.Names}} {{.source}}`:  `/s /d {{.Names}} {{.source}}`,
		`docker ps --format '{{json .}}' < {{ .src }}`: `docker ps --format '{{json .}}' < /s`,
		`echo {{`: `echo {{`,
	} {
		if got := (install.Command{Shell: line, Template: true}).With(install.Vars{Src: "/s", Dest: "/d"}); got.Shell != want {
			t.Errorf("%s\n got %s\nwant %s", line, got.Shell, want)
		}
	}
}

func TestAReloadKeepsAllBracesButThoseOfItsPlaceholders(t *testing.T) {
	c := install.Command{Shell: `docker kill {{.dest}} {{.src}} {{.ID}} {{"{{"}}`}
	if got, want := c.With(install.Vars{Dest: "/d"}).Shell, `docker kill /d {{.src}} {{.ID}} {{"{{"}}`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// fails runs a command that must fail, and wants its error to say each of the texts.
func fails(t *testing.T, c install.Command, texts ...string) {
	t.Helper()
	_, err := install.Run(t.Context(), c, install.Vars{})
	if err == nil {
		t.Fatalf("%s succeeded", c)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%s: got %q, want it to say %q", c, err, text)
		}
	}
}

func TestAListOfArgumentsSeesNoShell(t *testing.T) {
	dangerous := `/etc/x; touch /tmp/no $(id) "$HOME" * \n`
	output, err := install.Run(t.Context(), install.Command{Argv: []string{"printf", "%s|", "a b", "{{.src}}", "-{{ .dest }}-", "{{.dir}}", "{{.ID}}"}}, install.Vars{Src: dangerous, Dest: "/d"})
	if want := "a b|/d|-/d-|{{.dir}}|{{.ID}}|"; err != nil || output != want { // the output speaks of the destination
		t.Errorf("got %q, %v, want %q", output, err, want)
	}
}

func TestACommandThatIsNotThereIsNamed(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	fails(t, install.Command{Argv: []string{"no-such-proxy", "-t"}}, `["no-such-proxy","-t"] failed: not found: no-such-proxy; install it`)
	fails(t, install.Command{Argv: []string{dir + "/none"}}, "not found: "+dir+"/none")
	fails(t, install.Command{Argv: []string{script}}, "may not be executed")
	fails(t, install.Command{Argv: []string{dir}}, "may not be executed")
	fails(t, install.Command{Shell: "no-such-proxy -t"}, `"no-such-proxy -t" failed: not found: exit status 127`, "no-such-proxy: not found")
	fails(t, install.Command{Shell: script}, "exit status 126", "may not be executed")
	fails(t, install.Command{Shell: "exit 5"}, `"exit 5" failed: exit status 5`)
}

func TestACommandThatIsEndedFromOutsideSaysSo(t *testing.T) {
	fails(t, install.Command{Shell: "kill -SEGV $$"}, "ended from outside", "segmentation fault")
	fails(t, install.Command{Shell: "echo before; kill -9 $$"}, "ended from outside", "killed: before")
}

func TestACommandThatIgnoresSigtermIsKilled(t *testing.T) {
	t.Parallel()
	pid := filepath.Join(t.TempDir(), "pid")
	_, err := install.Run(t.Context(), install.Command{Shell: `trap "" TERM; (trap "" TERM; sleep 600) & echo $! >` + pid + `; wait; wait`, Timeout: 100 * time.Millisecond}, install.Vars{})
	if err == nil || !strings.Contains(err.Error(), "longer than 100ms") {
		t.Errorf("got %v", err)
	}
	waitGone(t, readPID(t, pid))
}

func TestACommandIsAskedToEndBeforeItIsKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fails(t, install.Command{Shell: `trap "echo cleaning up; touch ` + dir + `/cleaned; exit 0" TERM; touch ` + dir + `/up; while :; do sleep 0.01; done`, Timeout: 300 * time.Millisecond},
		"longer than 300ms", "cleaning up")
	if _, err := os.Stat(filepath.Join(dir, "cleaned")); err != nil {
		t.Error(err)
	}
}

func TestAChildWithASessionOfItsOwnIsLeftAlone(t *testing.T) {
	t.Parallel()
	pid := filepath.Join(t.TempDir(), "pid")
	fails(t, install.Command{Shell: `setsid sh -c 'echo $$ >` + pid + `; exec sleep 600' & until test -s ` + pid + `; do sleep 0.01; done; sleep 600`, Timeout: 2 * time.Second}, "longer than 2s")
	daemon := readPID(t, pid)
	if err := syscall.Kill(daemon, 0); err != nil {
		t.Errorf("the daemon is gone: %v", err)
	}
	syscall.Kill(daemon, syscall.SIGKILL)
}

func TestACommandThatFloodsItsOutputIsCutOff(t *testing.T) {
	t.Parallel()
	c := install.Command{Shell: "yes flood", Timeout: 300 * time.Millisecond}
	_, err := install.Run(t.Context(), c, install.Vars{})
	if err == nil || !strings.Contains(err.Error(), "longer than 300ms") || len(err.Error()) > 10_000 {
		t.Errorf("got %.100q", err)
	}
}

func TestACommandThatClosesItsOutputIsStillWaitedFor(t *testing.T) {
	marker := filepath.Join(t.TempDir(), "done")
	if _, err := install.Run(t.Context(), install.Command{Shell: "exec >&- 2>&-; sleep 0.2; : >" + marker}, install.Vars{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(marker); err != nil {
		t.Error(err)
	}
	fails(t, install.Command{Shell: "exec >&- 2>&-; exit 4"}, "exit status 4")
}

func TestACommandHasNoInputAndTheEnvironmentOfItsAgent(t *testing.T) {
	t.Setenv("KVCONFD_TEST_VARIABLE", "passed on")
	t.Setenv("NOTIFY_SOCKET", "not passed on")
	output, err := install.Run(t.Context(), install.Command{Shell: `echo "$KVCONFD_TEST_VARIABLE$NOTIFY_SOCKET"; cat`}, install.Vars{})
	if err != nil || output != "passed on" {
		t.Errorf("got %q, %v", output, err)
	}
}

func TestMessagesSpeakOfTheDestinationAndNotOfItsStandIn(t *testing.T) {
	vars := install.Vars{Src: "/tmp/kvconfd-check-1/etc/a.cfg", Dest: "/etc/a.cfg", Dir: "/tmp/kvconfd-check-1"}
	_, err := install.Run(t.Context(), install.Command{Shell: `echo "{{.src}}:7: bad; see {{.dir}}/etc/b.cfg"; false`}, vars)
	if want := `"echo \"{{.src}}:7: bad; see {{.dir}}/etc/b.cfg\"; false" failed: exit status 1: /etc/a.cfg:7: bad; see /etc/b.cfg`; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestWhatASensitiveCommandPrintsIsInNoMessage(t *testing.T) {
	c := install.Command{Shell: "echo password; exit 1", Sensitive: true}
	output, err := install.Run(t.Context(), install.Command{Argv: []string{"sh", "-c", "printf 'pass'; printf 'word'; exit 1"}, Sensitive: true}, install.Vars{})
	if err == nil || output != "" || strings.Contains(err.Error(), "password") || !strings.Contains(err.Error(), "not shown") {
		t.Errorf("got %q, %v", output, err)
	}
	c.Shell = "echo password"
	if output, err := install.Run(t.Context(), c, install.Vars{}); err != nil || output != "" {
		t.Errorf("got %q, %v", output, err)
	}
}

func TestBytesThatAreNoTextAreReplaced(t *testing.T) {
	output, err := install.Run(t.Context(), install.Command{Shell: `printf 'a\377b'`}, install.Vars{})
	if err != nil || output != "a?b" {
		t.Errorf("got %q, %v", output, err)
	}
}

func TestWhatACommandAsksForIsSeen(t *testing.T) {
	for _, c := range []struct {
		command install.Command
		want    string
	}{
		{install.Command{Shell: "nginx -t -c {{.src}}"}, "src"},
		{install.Command{Shell: "nginx -t -c {{ .dir }}/nginx.conf"}, "dir"},
		{install.Command{Argv: []string{"cp", "{{.src}}", "{{.dest}}"}}, "src dest"},
		{install.Command{Shell: `{{if .src}}x{{end}} {{printf "%q" .dest}}`}, "src dest"},
		{install.Command{Shell: "docker ps --format '{{.source}} {{.ID}}' .src"}, ""},
		{install.Command{}, ""},
	} {
		var got []string
		for _, name := range []string{"src", "dest", "dir"} {
			if c.command.Uses(name) {
				got = append(got, name)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: got %q, want %q", c.command, got, c.want)
		}
	}
}

func TestCommandsAreEqualIfTheyRunTheSame(t *testing.T) {
	one := install.Command{Argv: []string{"nginx", "-s", "reload"}, Timeout: time.Second}
	other := install.Command{Argv: []string{"nginx", "-s", "reload"}, Timeout: time.Minute}
	if !one.Equal(other) || one.String() != other.String() || one.String() != `["nginx","-s","reload"]` {
		t.Errorf("%s and %s", one, other)
	}
	if third := (install.Command{Shell: "nginx -s reload"}); one.Equal(third) || third.IsZero() || !(install.Command{}).IsZero() {
		t.Error("a line for the shell is not a list of arguments")
	}
}
