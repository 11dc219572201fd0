package clients

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/e2e/speaker"
	"github.com/kvd-io/kvd/pkg/kvclient/etcdtest"
)

// scriptMax bounds one run of a script; all of them bound each of their own waits.
const scriptMax = 3 * time.Minute

// check runs one client's script and returns what it prints.
func check(t *testing.T, url, program, script string, environment ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), scriptMax)
	defer cancel()
	command := exec.CommandContext(ctx, program, script, url)
	command.Env = append(os.Environ(), environment...)
	command.WaitDelay = time.Second
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", script, url, err, output)
	}
	return string(output)
}

// compare runs a client against etcd and then against kvd, and compares what it prints.
func compare(t *testing.T, program, script string, environment ...string) {
	t.Helper()
	etcd, kvd := etcdtest.Start(t).URL, daemontest.Start(t, 1).URL()
	level(t, etcd, kvd)
	want := strings.Split(normal(check(t, etcd, program, script, environment...)), "\n")
	got := strings.Split(normal(check(t, kvd, program, script, environment...)), "\n")
	for i := range want {
		if i >= len(got) || got[i] != want[i] {
			t.Fatalf("%s prints, from line %d on,\n%s\nwant, as with etcd,\n%s", script, i+1, excerpt(got, i), excerpt(want, i))
		}
	}
}

func TestEtcdctlPrintsWithKvdWhatItPrintsWithEtcd(t *testing.T) {
	parts.Need(t, "etcdctl")
	compare(t, parts.Path(t, "sh"), "etcdctl.sh")
}

func TestEtcdctlKeepsUsersAndRolesOfKvdAsOfEtcd(t *testing.T) {
	parts.Need(t, "etcdctl")
	compare(t, parts.Path(t, "sh"), "etcdctl-auth.sh")
}

func TestPythonEtcdDoesWithKvdWhatItDoesWithEtcd(t *testing.T) {
	parts.Need(t, "python3-etcd")
	compare(t, parts.SystemPython, "python.py")
}

func TestNodeEtcdDoesWithKvdWhatItDoesWithEtcd(t *testing.T) {
	parts.Need(t, "node-etcd")
	compare(t, parts.Path(t, "node"), "node/check.js", "NODE_PATH="+parts.NodeModules())
}

// level gives both servers the same index, so that the same number means the same.
func level(t *testing.T, etcd, kvd string) {
	t.Helper()
	var speakers []*speaker.Speaker
	for _, url := range []string{etcd, kvd} {
		s, err := speaker.New(url, "")
		if err != nil {
			t.Fatal(err)
		}
		defer s.HangUp()
		speakers = append(speakers, s)
	}
	if _, err := speaker.Level(speakers[0], speakers[1]); err != nil {
		t.Fatal(err)
	}
}

var (
	identifier = regexp.MustCompile(`\b[0-9a-f]{12,16}\b`)
	memberName = regexp.MustCompile(`name=\S+`)
	lifetime   = regexp.MustCompile(`TTL: \d+`)
)

// normal is what a script prints without addresses, ids and names of members, and moments.
func normal(text string) string {
	text = identifier.ReplaceAllString(speaker.NormalBody(text, 0), "ID")
	return lifetime.ReplaceAllString(memberName.ReplaceAllString(text, "name=NAME"), "TTL: SECONDS")
}

func excerpt(lines []string, from int) string {
	return strings.Join(lines[min(from, len(lines)):min(from+10, len(lines))], "\n")
}
