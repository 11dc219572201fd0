package ctl_test

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/ctl"
	"github.com/kvd-io/kvd/pkg/program"
)

// patience bounds every wait of the tests; nothing that works takes as long.
const patience = 20 * time.Second

// outcome is what a run of kvctl leaves.
type outcome struct {
	code           int
	stdout, stderr string
}

// call is one run of kvctl.
type call struct {
	endpoint string // "" leaves the default
	env      map[string]string
	stdin    io.Reader // nil is empty
	args     []string
}

// run runs kvctl in this process.
func (c call) run(t testing.TB) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var stdout, stderr output
	code := c.start(ctx, &stdout, &stderr)
	if ctx.Err() != nil {
		t.Fatalf("kvctl %q does not end", c.args)
	}
	return outcome{code, stdout.String(), stderr.String()}
}

func (c call) start(ctx context.Context, stdout, stderr io.Writer) int {
	env := &program.Env{Stdin: c.stdin, Stdout: stdout, Stderr: stderr}
	if env.Stdin == nil {
		env.Stdin = strings.NewReader("")
	}
	lookup := func(name string) (string, bool) {
		if value, ok := c.env[name]; ok {
			return value, true
		}
		return c.endpoint, name == "KVCTL_ENDPOINTS" && c.endpoint != ""
	}
	return program.Run(ctx, ctl.Program(), c.args, lookup, env)
}

// kvctl runs kvctl with words as arguments.
func kvctl(t testing.TB, endpoint string, words ...string) outcome {
	t.Helper()
	return call{endpoint: endpoint, args: words}.run(t)
}

// output is a buffer that may be read while it is written.
type output struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// waitFor waits until o holds text.
func (o *output) waitFor(t testing.TB, text string) {
	t.Helper()
	for deadline := time.Now().Add(patience); !strings.Contains(o.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %q in:\n%s", text, o)
		}
	}
}
