// Command kvconfd keeps configuration files equal to keys in a store: see package confd.
package main

import (
	"os"

	"github.com/kvd-io/kvd/confd"
	"github.com/kvd-io/kvd/pkg/program"
)

func main() { os.Exit(program.Main(confd.ProgramAs(os.Args[0]))) }
