package main

import (
	"crypto/ed25519"
	"fmt"

	"github.com/spf13/cobra"

	"joist/internal/progress"
	"joist/iso/build"
)

func (c *cli) verifyCommand() *cobra.Command {
	var key string
	var o buildFlags
	var sums bool
	cmd := &cobra.Command{
		Use:   "verify ARTEFACT",
		Short: "Check an artefact's hash and signature, build it again and compare",
		Long: `Compares an artefact with SHA256SUMS beside it and, with --key, that with its
signature. It is then built again, from the sources in this folder with the
configuration and time of its manifest and without any cache but that of
packages, and compared byte for byte: the first file that differs is named. No
key is needed for that: signatures are in the manifest.`,
		Example: "  joist verify build/joist-0.1.0-amd64.iso\n  joist verify build/netboot\n  joist verify --sums-only --key release.pub build/joist-0.1.0-amd64.iso",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			pub, err := publicKey(key)
			if err != nil {
				return err
			}
			a, err := build.CheckSums(args[0], pub)
			if err != nil {
				return err
			}
			if len(a.Differs) == 0 {
				fmt.Fprintf(c.out, "%s: what SHA256SUMS lists\n", a.Name)
			}
			if a.Signed {
				fmt.Fprintln(c.out, "SHA256SUMS was signed with the key")
			} else {
				fmt.Fprintln(c.out, "signature not checked: no --key was given")
			}
			if sums {
				return a.Differs.Err()
			}
			if err := o.prepare(cmd, progress.Lines(c.out)); err != nil {
				return err
			}
			if err := build.Rebuild(cmd.Context(), a, o.Options); err != nil {
				return err
			}
			fmt.Fprintf(c.out, "%s was built again: the same bytes\n", a.Name)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&key, "key", "", "Ed25519 public key (PEM `FILE`) that the signature must be of")
	f.BoolVar(&sums, "sums-only", false, "do not build it again")
	f.StringVar(&o.Config, "config", "", "joist.toml in the folder of the files that the image was made with (default: beside go.mod)")
	o.sources(cmd)
	return cmd
}

// publicKey loads the key of --key, if one was given.
func publicKey(name string) (ed25519.PublicKey, error) {
	if name == "" {
		return nil, nil
	}
	return build.LoadPublicKey(name)
}
