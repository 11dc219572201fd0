package confd

import (
	"context"
	"flag"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kvd-io/kvd/confd/keys"
	"github.com/kvd-io/kvd/confd/proxy"
	"github.com/kvd-io/kvd/confd/resource"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/program"
)

// asProgram makes the test binary be kvconfd, for tests that kill it.
const asProgram = "KVCONFD_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) == "1" {
		os.Exit(program.Main(Program()))
	}
	if step := os.Getenv(asMachine); step != "" {
		runMachine(step)
	}
	flag.Parse()
	if err := flag.Set("test.parallel", "6"); err != nil { // agents wait more than they work
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// runMachine is an agent with the settings of a rig, which kills itself before a step.
func runMachine(step string) {
	client, err := kvclient.New(kvclient.Config{Endpoints: []string{os.Args[1]}})
	if err != nil {
		panic(err)
	}
	dir := os.Args[2]
	cfg := Config{ConfDir: filepath.Join(dir, "conf"), Backend: keys.BackendEtcd, Watch: true, Interval: time.Hour, Filter: "*", Quiet: DefaultQuiet, QuietMax: DefaultQuietMax}
	deps := Deps{Store: client, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Step: func(_, at string) {
		if at == step {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}}
	if os.Args[3] != "" {
		deps.Applier = func(resource.Resource) proxy.Applier { return &engine{path: filepath.Join(dir, "live")} }
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	Run(ctx, cfg, deps)
	os.Exit(0)
}

// machine starts an agent in a process of its own, which kills itself before a step.
func (r *rig) machine(url, step, engine string) *exec.Cmd {
	r.t.Helper()
	self, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.Command(self, url, r.dir, engine)
	cmd.Env = append(os.Environ(), asMachine+"="+step)
	cmd.Stderr = &r.log
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	return cmd
}

// countingStore counts reads.
type countingStore struct {
	kv.Store
	reads atomic.Int32
}

func (c *countingStore) Read(ctx context.Context, read kv.Read) (kv.Result, error) {
	c.reads.Add(1)
	return c.Store.Read(ctx, read)
}
