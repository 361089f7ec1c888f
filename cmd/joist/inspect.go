package main

import (
	"encoding/json"

	"github.com/spf13/cobra"

	"joist/iso/build"
)

func (c *cli) inspectCommand() *cobra.Command {
	var asJSON, packages bool
	var key string
	cmd := &cobra.Command{
		Use:   "inspect ARTEFACT",
		Short: "Show what an image holds: version, kernel, packages, answer",
		Long: `Looks into an ISO file, a netboot folder, a disk image, an update bundle, a
template or a system.sqfs, checks the hashes inside, and shows what it is made of. Secrets of
an answer file are shown as ***. With --key, an update bundle must be signed
with it. Exit status 2: the artefact is damaged.`,
		Example: "  joist inspect build/joist-0.1.0-amd64.iso\n  joist inspect --packages build/netboot/system.sqfs\n  joist inspect --key release.pub build/joist-0.1.0-amd64.update",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			pub, err := publicKey(key)
			if err != nil {
				return err
			}
			r, err := build.Inspect(args[0], pub)
			if err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(c.out)
				e.SetIndent("", "  ")
				err = e.Encode(r)
			} else {
				err = r.Write(c.out, packages)
				r.Findings.Write(c.err)
			}
			if err == nil && r.Findings.Stops() {
				err = errShown
			}
			return err
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "Ed25519 public key (PEM `FILE`) that an update bundle must be signed with")
	cmd.Flags().BoolVar(&asJSON, "json", false, "everything as JSON")
	cmd.Flags().BoolVar(&packages, "packages", false, "list the packages with their licences")
	return cmd
}
