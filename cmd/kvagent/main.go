// Command kvagent keeps the containers of its host registered.
package main

import (
	"os"

	"github.com/kvd-io/kvd/agent"
	"github.com/kvd-io/kvd/pkg/program"
)

func main() { os.Exit(program.Main(agent.Program())) }
