package main

import (
	"fmt"
	"net/http"
	"os"

	"github.com/spf13/cobra"

	"joist/api/client"
)

func (c *cli) nodeReset(t *target) *cobra.Command {
	var keep, wipe, force bool
	var file string
	cmd := &cobra.Command{
		Use: "reset", Short: "Make a node anew on its own disks, with its data or without", Args: cobra.NoArgs,
		Long: `Restart the node into the installer of its own system: no medium is needed. With
--answer it installs unattended, else the wizard asks on the consoles. --keep-data
keeps guests, storage "local" and state; name, network, password and keys are new.
--wipe makes the data partitions anew: everything on them is lost.

A node that is a member of a cluster leaves it first. Guests that run stop the
command unless --force says that they are shut down. After a power cut it goes on
at the next start. A system on several disks is made anew on all of them.`,
		Example: `  joist node reset --keep-data --answer answer.toml
  joist node reset --wipe --force`,
	}
	at := onNode(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		p := client.Params{"data": map[bool]string{true: "keep", false: "wipe"}[keep]}
		if force {
			p["force"] = "1"
		}
		if file != "" {
			text, err := os.ReadFile(file)
			if err != nil {
				return fmt.Errorf("read the answer file: %w", err)
			}
			p["answer"] = string(text)
		}
		return c.call(cmd.Context(), *t, request{http.MethodPost, at() + "/reset", p, false}, output{})
	}
	f := cmd.Flags()
	f.BoolVar(&keep, "keep-data", false, "keep the data partition with the guests")
	f.BoolVar(&wipe, "wipe", false, "make the data partition anew")
	f.BoolVar(&force, "force", false, "shut down guests that run")
	f.StringVar(&file, "answer", "", "answer `FILE` that the installer takes")
	cmd.MarkFlagsOneRequired("keep-data", "wipe")
	cmd.MarkFlagsMutuallyExclusive("keep-data", "wipe")
	return cmd
}
