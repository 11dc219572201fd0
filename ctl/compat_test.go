package ctl_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/kvclient/etcdtest"
)

// etcdctl is the original, told to speak the v2 API.
type etcdctl struct{ program string }

func (e etcdctl) command(ctx context.Context, endpoint string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, e.program, args...)
	cmd.Env = append(os.Environ(), "ETCDCTL_API=2", "ETCDCTL_ENDPOINTS="+endpoint)
	return cmd
}

func (e etcdctl) run(t *testing.T, endpoint, stdin string, args []string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := e.command(ctx, endpoint, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// step is one command line of a session. Words are separated by "|", for values with spaces.
type step struct {
	line  string
	stdin string

	// differs says why kvctl does not do what etcdctl does; "" if it does.
	differs string
	want    outcome // of kvctl, when it differs; stderr is a part of what it says
	alike   string  // a line for kvctl to do what only etcdctl did
}

// session is played twice: by etcdctl on one server and by kvctl on another that is alike.
var session = []step{
	{line: "set|/a|1"},
	{line: "set|a|2"},
	{line: "-o|extended|set|a|3"},
	{line: "-o|json|set|a|4"},
	{line: "get|a"},
	{line: "get|--quorum|a"},
	{line: "get|-q|--sort|a"},
	{line: "-o|extended|get|a"},
	{line: "-o|json|get|/a"},
	{line: "--output|json|get|/a"},
	{line: "get|/none/x"},
	{line: "-o|extended|get|none"},
	{line: "set|odd é/<&>|a \"b\"\t<&>\u2028世"},
	{line: "-o|json|get|odd é/<&>"},
	{line: "set|piped", stdin: "two\nlines\n"},
	{line: "get|piped"},
	{line: "-o|json|get|piped"},
	{line: "set|a|"},
	{line: "get|a"},
	{line: "-o|extended|get|a"},
	{line: "set|--|dash|-1"},
	{line: "set|a|1|2", differs: "an argument too many is most often a value without quotes",
		want: outcome{1, "", `unexpected argument "2"`}, alike: "set|a|1"},

	{line: "mkdir|d"},
	{line: "mkdir|d"},
	{line: "-o|extended|mkdir|d2"},
	{line: "-o|json|mkdir|d3"},
	{line: "mkdir|--ttl|1000|d9"},
	{line: "setdir|d"},
	{line: "setdir|d5"},
	{line: "-o|json|setdir|d4"},
	{line: "-o|extended|setdir|d6"},
	{line: "get|d"},
	{line: "get|/"},
	{line: "set|d|x"},
	{line: "set|a/b|x"},

	{line: "set|d/x|y"},
	{line: "set|d/z/w|y"},
	{line: "set|d/_hidden|y"},
	{line: "mk|d/m|v"},
	{line: "mk|d/m|v"},
	{line: "-o|json|mk|d/m2|v"},
	{line: "-o|extended|mk|d/m3|v"},
	{line: "mk|d/m4", stdin: "from stdin"},
	{line: "mk|--in-order|d/q|v"},
	{line: "-o|json|mk|--in-order|d/q|v"},
	{line: "-o|extended|mk|--in-order|d/q|v"},

	{line: "ls|--sort"},
	{line: "ls|--sort|/"},
	{line: "ls|--sort|d"},
	{line: "ls|--sort|-r|d"},
	{line: "ls|--sort|-p|--recursive"},
	{line: "ls|--sort|-q|d/z"},
	{line: "ls|a"},
	{line: "ls|-p|a"},
	{line: "ls|d2"},
	{line: "ls|none"},
	{line: "-o|json|ls|d/z"},
	{line: "-o|json|ls|--sort|-r|d"},
	{line: "-o|extended|ls|--sort|d"},
	{line: "-o|extended|ls|a"},

	{line: "update|a|5"},
	{line: "update|none|5"},
	{line: "-o|json|update|a|6"},
	{line: "-o|extended|update|--ttl|1000|a|7"},
	{line: "-o|extended|get|a"},
	{line: "update|a", stdin: "8"},
	{line: "updatedir|d"},
	{line: "updatedir|--ttl|1000|d5"},
	{line: "updatedir|none"},
	{line: "-o|json|updatedir|d2"},
	{line: "-o|extended|updatedir|d2"},

	{line: "set|--swap-with-value|8|a|9"},
	{line: "set|--swap-with-value|8|a|9"},
	{line: "set|--swap-with-index|3|a|9"},
	{line: "set|--swap-with-value|x|--swap-with-index|3|a|9"},
	{line: "-o|extended|set|--swap-with-value|9|a|10"},
	{line: "-o|json|set|--swap-with-value|10|a|11"},
	{line: "set|--swap-with-value|x|none|11"},
	{line: "set|--ttl|0|a|12"},
	{line: "set|--ttl|-1|a|12", differs: "a negative time would make the key permanent",
		want: outcome{1, "", `invalid argument "-1" for "--ttl"`}, alike: "set|a|12"},
	{line: "set|--ttl|1000|a|12"},

	{line: "rm|a"},
	{line: "rm|a"},
	{line: "rm|d"},
	{line: "rm|--dir|d"},
	{line: "rmdir|d"},
	{line: "rmdir|d2"},
	{line: "-o|json|rmdir|d3"},
	{line: "-o|extended|rmdir|d4"},
	{line: "rm|--dir|d6"},
	{line: "rm|-r|d"},
	{line: "set|a|1"},
	{line: "-o|extended|rm|a"},
	{line: "set|a|1"},
	{line: "-o|json|rm|--recursive|a"},
	{line: "set|a|1"},
	{line: "rmdir|a"},
	{line: "set|a|1"},
	{line: "rm|--with-value|2|a"},
	{line: "rm|--with-value|1|a"},
	{line: "set|a|1"},
	{line: "-o|extended|rm|--with-value|1|a"},
	{line: "set|a|1"},
	{line: "-o|json|rm|--with-value|1|a"},
	{line: "rm|--with-index|3|a"},
	{line: "set|a|1"},
	{line: "rm|--with-index|3|a"},
	{line: "rm|-r|/"},
	{line: "mkdir|/"},

	{line: "set"},
	{line: "get"},
	{line: "mk"},
	{line: "update"},
	{line: "rm"},
	{line: "rmdir"},
	{line: "mkdir"},
	{line: "setdir"},
	{line: "updatedir"},
	{line: "watch"},
	{line: "exec-watch"},
	{line: "exec-watch|a"},
	{line: "set|a"},
	{line: "mk|b"},
	{line: "update|a"},

	{line: "watch|--after-index|3|/a"},
	{line: "watch|--after-index|4|/a"},
	{line: "-o|json|watch|--after-index|5|/a"},
	{line: "-o|extended|watch|--after-index|5|/a"},
	{line: "watch|--recursive|--after-index|3|/"},
	{line: "-o|extended|watch|-r|--after-index|3|/"},
	{line: "-o|json|watch|-r|--after-index|3|/"},

	{line: "bogus", differs: "3 is documented as failed authentication, 1 as bad arguments",
		want: outcome{1, "", `unknown command "bogus"`}},
	{line: "ls|--bogus", differs: "usage is for those who ask, and never on stdout",
		want: outcome{1, "", "unknown flag: --bogus"}},
	{line: "set|--ttl|x|a|1", differs: "usage is for those who ask, and never on stdout",
		want: outcome{1, "", `invalid argument "x" for "--ttl"`}},
	{line: "-o|foo|set|a|2", differs: "etcdctl does it, then complains and exits with 0",
		want: outcome{1, "", "use simple, extended or json"}, alike: "set|a|2"},
	{line: "-o|foo|get|a", differs: "etcdctl complains and exits with 0",
		want: outcome{1, "", "use simple, extended or json"}},
	{line: "-o|json|get|/", differs: "stdout and code are alike, but the error is JSON as documented",
		want: outcome{1, "", `"message":": is a directory"`}},
	{line: "-o|json|get|none", differs: "stdout and code are alike, but the error is JSON as documented",
		want: outcome{4, "", `"code":100,"message":"Key not found","cause":"/none"`}},
}

func TestSessionPrintsWhatEtcdctlPrints(t *testing.T) {
	compare(t, session, etcdtest.Start(t).URL, etcdtest.Start(t).URL)
}

// compare plays a session by etcdctl on theirs and by kvctl on ours.
func compare(t *testing.T, session []step, theirs, ours string) {
	t.Helper()
	original := etcdctl{parts.Path(t, "etcdctl")}
	for _, s := range session {
		args := strings.Split(s.line, "|")
		want := original.run(t, theirs, s.stdin, args)
		got := call{endpoint: ours, stdin: strings.NewReader(s.stdin), args: args}.run(t)
		if s.differs != "" {
			if got.code != s.want.code || got.stdout != s.want.stdout || !strings.Contains(got.stderr, s.want.stderr) {
				t.Errorf("%s: got %+v, want %+v: %s", s.line, got, s.want, s.differs)
			}
			if got.code == want.code && got.stdout == want.stdout && got.stderr == want.stderr {
				t.Errorf("%s: no difference from etcdctl any more", s.line)
			}
			if s.alike != "" { // what etcdctl has done all the same, so that the servers stay alike
				kvctl(t, ours, strings.Split(s.alike, "|")...)
			}
			continue
		}
		if got.code != want.code || got.stdout != want.stdout {
			t.Errorf("%s: code %d and\n%s\nwant %d and\n%s", s.line, got.code, got.stdout, want.code, want.stdout)
		}
		// etcdctl says the same on stderr, but adds no hint.
		first, _, _ := strings.Cut(got.stderr, "\n")
		if theirs, _, _ := strings.Cut(want.stderr, "\n"); first != theirs {
			t.Errorf("%s: stderr begins with %q, want %q", s.line, first, theirs)
		}
	}
}
