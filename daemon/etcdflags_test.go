package daemon

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/pkg/program"
)

func TestThePageAboutEtcdHasTheTableOfItsFlags(t *testing.T) {
	page, err := os.ReadFile("../docs/how-to/move-from-etcd.md")
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	for _, group := range flagsOfEtcd {
		names := strings.Fields(group.names)
		for i, name := range names {
			names[i] = "`--" + name + "`"
		}
		fmt.Fprintf(&table, "| %s | %s |\n", strings.Join(names, ", "), group.advice)
	}
	if !strings.Contains(string(page), "\n| flag of etcd | |\n|---|---|\n"+table.String()+"\n") {
		t.Errorf("docs/how-to/move-from-etcd.md should have\n%s", &table)
	}
}

func TestAFlagOfEtcdIsToldOnceAndIsNoneOfKvd(t *testing.T) {
	flags := newCommand().Flags()
	var seen []string
	for _, group := range flagsOfEtcd {
		for name := range strings.FieldsSeq(group.names) {
			if flags.Lookup(name) != nil || slices.Contains(seen, name) {
				t.Errorf("--%s is a flag of kvd, or is there twice", name)
			}
			seen = append(seen, name)
		}
		for word := range strings.FieldsSeq(group.advice) {
			name, ok := strings.CutPrefix(strings.TrimRight(word, ",;:."), "--")
			if ok && flags.Lookup(name) == nil && name != "config" && name != "log-level" && name != "log-format" {
				t.Errorf("%s: there is no --%s", group.names, name)
			}
		}
	}
}

func TestTheFlagsOfAnOldUnitAreToldTogether(t *testing.T) {
	var said bytes.Buffer
	nothing := func(string) (string, bool) { return "", false }
	args := "--name n1 --heartbeat-interval=100 --enable-v2=true --snapshot-count 10000 --proxy off --quota-backend-bytes 0 --config-file /etc/etcd.yml"
	code := program.Run(t.Context(), Program(), strings.Fields(args), nothing, &program.Env{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: &said})
	want := "kvd: unknown flag: --enable-v2\n--enable-v2: leave it out: "
	if code != program.ExitUsage || !strings.HasPrefix(said.String(), want) {
		t.Errorf("code %d: %s", code, &said)
	}
	for _, line := range []string{"\n--snapshot-count: leave it out: ", "\n--proxy: leave it out: ", "\n--config-file: use --config, "} {
		if !strings.Contains(said.String(), line) {
			t.Errorf("%q is not in\n%s", line, &said)
		}
	}
}

func TestVariablesWithoutEffectAreToldInOneLine(t *testing.T) {
	var said bytes.Buffer
	tellUnused(slog.New(slog.NewTextHandler(&said, nil)), []program.UnusedVariable{
		{Name: "ETCD_ENABLE_V2", Flag: "enable-v2"}, {Name: "ETCD_PROXY", Flag: "proxy"}, {Name: "KVD_LISTEN_CLIENT_URL", Flag: "listen-client-url", Meant: "KVD_LISTEN_CLIENT_URLS"}, {Name: "KVD_X", Flag: "x"},
	})
	lines := strings.Split(strings.TrimSpace(said.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "level=WARN") || !strings.Contains(lines[0], "ETCD_PROXY (leave it out: ") ||
		!strings.Contains(lines[0], "KVD_LISTEN_CLIENT_URL (did you mean KVD_LISTEN_CLIENT_URLS?), KVD_X\"") {
		t.Error(said.String())
	}
	if len(lines) == 2 && (!strings.Contains(lines[1], "level=INFO") || !strings.Contains(lines[1], "variables=ETCD_ENABLE_V2")) {
		t.Error(lines[1])
	}
	said.Reset()
	if tellUnused(slog.New(slog.NewTextHandler(&said, nil)), nil); said.Len() > 0 {
		t.Error(said.String())
	}
}

func TestTheEnvironmentOfEtcdAndItsMistakesAreFound(t *testing.T) {
	var out bytes.Buffer
	variables := map[string]string{"ETCD_NAME": "n1", "ETCD_LOG_LEVEL": "warn", "KVD_LISTEN_CLIENT_URL": "http://127.0.0.1:1", "ETCD_SNAPSHOT_COUNT": "5"}
	env := &program.Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out, Environ: func() (all []string) {
		for name, value := range variables {
			all = append(all, name+"="+value)
		}
		return all
	}}
	lookup := func(name string) (string, bool) { value, ok := variables[name]; return value, ok }
	if code := program.Run(t.Context(), Program(), []string{"--print-config"}, lookup, env); code != 0 || !strings.Contains(out.String(), "environment ETCD_LOG_LEVEL") {
		t.Errorf("code %d\n%s", code, &out)
	}
	want := []program.UnusedVariable{{Name: "ETCD_SNAPSHOT_COUNT", Flag: "snapshot-count"}, {Name: "KVD_LISTEN_CLIENT_URL", Flag: "listen-client-url", Meant: "KVD_LISTEN_CLIENT_URLS"}}
	if !slices.Equal(env.Unused, want) {
		t.Errorf("%+v", env.Unused)
	}
}
