// Command kvsidekick keeps one service registered for as long as it runs and answers.
package main

import (
	"os"

	"github.com/kvd-io/kvd/pkg/program"
	"github.com/kvd-io/kvd/sidekick"
)

func main() { os.Exit(program.Main(sidekick.Program())) }
