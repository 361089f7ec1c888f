package main

import "github.com/spf13/cobra"

func root() *cobra.Command {
	c := &cobra.Command{
		Use:   "joist",
		Short: "Build, install and run Joist hypervisor nodes",
		Long: `joist is the tool behind a Joist installation:

  1. joist build iso          make the installable image
  2. boot a machine from it   wizard, or unattended with an answer file
  3. joist api get /nodes     talk to what was installed`,
		SilenceUsage: true, SilenceErrors: true,
	}
	c.AddCommand(buildCommand())
	return c
}
