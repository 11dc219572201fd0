// Command kvctl reads, writes and watches keys of a kvd or of an etcd with the v2 API.
package main

import (
	"os"

	"github.com/kvd-io/kvd/ctl"
	"github.com/kvd-io/kvd/pkg/program"
)

func main() { os.Exit(program.Main(ctl.Program())) }
