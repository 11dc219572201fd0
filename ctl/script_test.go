package ctl_test

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kvd-io/kvd/ctl"
	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/kvclient/etcdtest"
	"github.com/kvd-io/kvd/pkg/program"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"kvctl": func() { os.Exit(program.Main(ctl.Program())) },
	})
}

// TestScriptsRunAlikeOnEveryServer plays sessions of a shell user, kvctl being a process.
func TestScriptsRunAlikeOnEveryServer(t *testing.T) {
	for name, start := range map[string]func(t *testing.T) string{
		"kvd":  func(t *testing.T) string { return daemontest.Start(t, 1).URL() },
		"etcd": func(t *testing.T) string { return etcdtest.Start(t).URL },
	} {
		t.Run(name, func(t *testing.T) {
			url := start(t)
			testscript.Run(t, testscript.Params{
				Dir: "testdata/script",
				Setup: func(env *testscript.Env) error {
					env.Setenv("KVCTL_ENDPOINTS", url)
					return nil
				},
				RequireExplicitExec: true,
			})
		})
	}
}

// TestScriptsOfWhatEtcdHasNot plays sessions with what kvd alone serves.
func TestScriptsOfWhatEtcdHasNot(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/kvd",
		Setup: func(env *testscript.Env) error { // each has a store of its own
			env.Setenv("KVCTL_ENDPOINTS", daemontest.Start(t, 1).URL())
			return nil
		},
		RequireExplicitExec: true,
	})
}
