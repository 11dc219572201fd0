package ctl

import (
	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/ctl/demo"
)

// newDemoCommand returns `kvctl demo`.
func newDemoCommand() *cobra.Command { return demo.Command() }
