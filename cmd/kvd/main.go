// Command kvd is the daemon: a replicated tree of keys with an etcd-compatible HTTP API.
package main

import (
	"os"

	"github.com/kvd-io/kvd/daemon"
	"github.com/kvd-io/kvd/pkg/program"
)

func main() { os.Exit(program.Main(daemon.Program())) }
