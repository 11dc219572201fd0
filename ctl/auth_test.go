package ctl_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/kvclient/etcdtest"
)

// What etcdctl ends with 1 kvctl ends as the refusal of a key, and begins the message as such.
const asDocumented = "refusals have codes of their own, as documented"

var authSession = []step{
	{line: "user|list"},
	{line: "role|list"},
	{line: "auth|enable", differs: asDocumented, want: outcome{4, "", "No root user available, please create one"}},
	{line: "user|add|root:secret"},
	{line: "user|add|ann:first"},
	{line: "user|add|ann:first", differs: "etcdctl changes the password and says that it has created the user",
		want: outcome{4, "", "auth: User ann already exists."}},
	{line: "user|passwd|ann:second", differs: "etcdctl takes the password from a terminal only", want: outcome{0, "Password updated\n", ""}},
	{line: "user|get|ann"},
	{line: "user|list"},
	{line: "user|get|bob", differs: asDocumented, want: outcome{4, "", "auth: User bob does not exist."}},

	{line: "role|add|web"},
	{line: "role|add|web", differs: asDocumented, want: outcome{4, "", "auth: Role web already exists."}},
	{line: "role|add|db"},
	{line: "role|get|web"},
	{line: "role|list"},
	{line: "role|get|none", differs: asDocumented, want: outcome{4, "", "auth: Role none does not exist."}},
	{line: "role|grant|--path|/web/*|--readwrite|web"},
	{line: "role|grant|--path|/all|--rw|web"},
	{line: "role|grant|--path|/config|--read|web"},
	{line: "role|grant|--path|/log|--write|web"},
	{line: "role|get|web"},
	{line: "role|grant|--path|/web/*|--read|web", differs: asDocumented, want: outcome{4, "", "auth: Granting duplicate read permission /web/*"}},
	{line: "role|revoke|--path|/web/*|--write|web"},
	{line: "role|revoke|--path|/web/*|--write|web", differs: asDocumented, want: outcome{4, "", "auth: Role not updated."}},
	{line: "role|revoke|--path|/all|--rw|web"},
	{line: "role|get|web"},
	{line: "role|grant|--path|web/*|--read|web", differs: "stderr begins as all errors do", want: outcome{1, "", "Not canonical path; please use `--path=/web/*`"}},
	{line: "role|grant|--path|/a|--read|--write|web", differs: "stderr begins as all errors do", want: outcome{1, "", "exactly one of --read, --write or --readwrite"}},
	{line: "role|grant|--path|/a|--read|root", differs: asDocumented, want: outcome{4, "", "auth: Cannot modify role root: is root role."}},

	{line: "user|grant|--roles|web|--roles|db|ann"},
	{line: "user|get|ann", differs: "etcdctl puts a space for each role before them", want: outcome{0, "User: ann\nRoles: db web\n", ""}},
	{line: "user|grant|--roles|web|ann", differs: asDocumented, want: outcome{4, "", "auth: Granting duplicate role web for user ann"}},
	{line: "user|revoke|--roles|db|ann"},
	{line: "user|revoke|--roles|db|ann", differs: asDocumented, want: outcome{4, "", "auth: Revoking ungranted role db for user ann"}},
	{line: "user|get|ann", differs: "etcdctl puts a space for each role before them", want: outcome{0, "User: ann\nRoles: web\n", ""}},

	{line: "auth|enable"},
	{line: "user|list", differs: asDocumented, want: outcome{3, "", "not permitted"}},
	{line: "-u|root:secret|auth|enable", differs: asDocumented, want: outcome{4, "", "auth: already enabled"}},
	{line: "-u|root:secret|user|list"},
	{line: "-u|root:secret|role|list"},
	{line: "-u|root:secret|set|/web/a|1"},
	{line: "-u|ann:second|get|/web/a", differs: "the password of etcdctl's ann was not changed", want: outcome{0, "1\n", ""}},
	{line: "-u|ann:wrong|get|/web/a", differs: asDocumented, want: outcome{3, "", "110: The request requires user authentication"}},
	{line: "-u|root:secret|user|remove|root", differs: asDocumented, want: outcome{4, "", "auth: Cannot delete root user while auth is enabled."}},
	{line: "-u|root:secret|role|remove|db"},
	{line: "-u|root:secret|role|remove|db", differs: asDocumented, want: outcome{4, "", "auth: Role db doesn't exist."}},
	{line: "-u|root:secret|user|remove|ann"},
	{line: "-u|root:secret|user|remove|ann", differs: asDocumented, want: outcome{4, "", "auth: User ann does not exist"}},
	{line: "-u|root:secret|auth|disable"},
	{line: "auth|disable", differs: asDocumented, want: outcome{4, "", "auth: already disabled"}},
}

func TestUsersAndRolesAreManagedAsWithEtcdctl(t *testing.T) {
	for name, ours := range map[string]func() string{
		"on etcd": func() string { return etcdtest.Start(t).URL },
		"on kvd":  func() string { return daemontest.Start(t, 1).URL() },
	} {
		t.Run(name, func(t *testing.T) { compare(t, authSession, etcdtest.Start(t).URL, ours()) })
	}
}

func TestANewPasswordComesFromStdinOrAFile(t *testing.T) {
	url := etcdtest.Start(t).URL
	ask := func(stdin string, args ...string) outcome {
		t.Helper()
		return call{endpoint: url, stdin: strings.NewReader(stdin), args: args}.run(t)
	}
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("from file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := func(got outcome, code int, stdout, stderr string) {
		t.Helper()
		if got.code != code || got.stdout != stdout || !strings.Contains(got.stderr, stderr) {
			t.Errorf("got %+v, want %d, %q, %q", got, code, stdout, stderr)
		}
	}
	want(ask("typed\nnot this\n", "user", "add", "root"), 0, "User root created\n", "")
	want(ask("", "user", "add", "ann"), 1, "", "new password required")
	want(ask("", "user", "add", "--new-password-file", file, "ann"), 0, "User ann created\n", "")
	want(ask("", "user", "add", "--new-password-file", file+"no", "bob"), 1, "", "cannot read the new password")
	want(ask("", "user", "passwd", "--new-password-file", file, "ann:too"), 1, "", "given twice")
	want(ask("", "user", "add", ":x"), 1, "", "user required")
	want(ask("x", "user", "passwd", "bob"), 4, "", "auth: User bob does not exist.")
	want(ask("", "auth", "enable"), 0, "Authentication Enabled\n", "")
	want(ask("", "auth", "status"), 0, "Authentication Enabled\n", "")
	want(ask("", "-u", "root:typed", "user", "list"), 0, "ann\nroot\n", "")
	want(ask("", "-u", "root", "--password-file", file, "user", "list"), 3, "", "not permitted")
	want(ask("new\r\n", "-u", "root:typed", "user", "passwd", "root"), 0, "Password updated\n", "")
	want(ask("", "-u", "root:new", "user", "get", "root"), 0, "User: root\nRoles: root\n", "")
	debugged := ask("hidden-in-debug", "--debug", "-u", "root:new", "user", "add", "eve")
	want(debugged, 0, "User eve created\n", "/v2/auth/users/eve")
	if strings.Contains(debugged.stderr, "hidden-in-debug") {
		t.Errorf("the password is shown: %s", debugged.stderr)
	}
}

func TestAccessControlSpeaksJSONToo(t *testing.T) {
	url := etcdtest.Start(t).URL
	for _, c := range []struct{ line, want string }{
		{"user list", `{"users":[]}`},
		{"user add root:secret", `{"done":"created","user":"root"}`},
		{"role add web", `{"done":"created","role":"web"}`},
		{"role grant --path /web/* --read web", `{"done":"updated","role":"web"}`},
		{"role get web", `{"role":"web","permissions":{"kv":{"read":["/web/*"],"write":[]}}}`},
		{"user grant --roles web root", `{"done":"updated","user":"root"}`},
		{"user get root", `{"user":"root","roles":["root","web"]}`},
		{"auth status", `{"enabled":false}`},
		{"auth enable", `{"enabled":true}`},
		{"-u root:secret auth disable", `{"enabled":false}`},
		{"role remove web", `{"done":"removed","role":"web"}`},
	} {
		got := kvctl(t, url, append([]string{"-o", "json"}, strings.Fields(c.line)...)...)
		if got.code != 0 || got.stdout != c.want+"\n" {
			t.Errorf("%s: %+v, want %s", c.line, got, c.want)
		}
	}
	got := kvctl(t, url, "-o", "json", "user", "get", "nobody")
	var told struct {
		Exit    int
		Message string
	}
	if err := json.Unmarshal([]byte(got.stderr), &told); err != nil || told.Exit != 4 || told.Message != "auth: User nobody does not exist." {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestAWordThatIsNoCommandOfANounIsRefused(t *testing.T) {
	for _, noun := range []string{"user", "role", "auth"} {
		if got := kvctl(t, "", noun, "bogus"); got.code != 1 || got.stdout != "" || !strings.Contains(got.stderr, `unknown command "bogus"`) {
			t.Errorf("%s: %+v", noun, got)
		}
	}
}
