package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"joist/internal/finding"
	"joist/internal/progress"
	"joist/iso/build"
)

// buildFlags is what the build commands share.
type buildFlags struct {
	build.Options
	times   build.Times
	verbose bool
}

func buildCommand() *cobra.Command {
	var o buildFlags
	c := &cobra.Command{
		Use:   "build",
		Short: "Build images from the sources in this folder",
	}
	f := c.PersistentFlags()
	f.StringVar(&o.Config, "config", "", "build configuration (default: joist.toml beside go.mod)")
	f.StringVar(&o.Out, "out", "build", "folder for the artefacts")
	f.StringVar(&o.Mirror, "mirror", "", "base `URL` of a Debian mirror (default: from this machine's apt configuration)")
	f.BoolVar(&o.Locked, "locked", false, "fail if joist.lock does not fit instead of resolving anew")
	f.StringVar(&o.Key, "sign-key", "", "Ed25519 private key (PEM `FILE`) that signs SHA256SUMS")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "also say notes")

	iso := &cobra.Command{
		Use:   "iso",
		Short: "Build the installable image for CD and USB stick",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.artefact(cmd, func(b *build.Builder) (string, error) { return b.ISO(cmd.Context()) })
		},
	}
	iso.Flags().StringVar(&o.Answer, "answer", "", "answer `FILE` to put inside: the image then installs unattended")
	netboot := &cobra.Command{
		Use:   "netboot",
		Short: "Build the folder for machines that start from the network",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.artefact(cmd, func(b *build.Builder) (string, error) { return b.Netboot(cmd.Context()) })
		},
	}
	template := &cobra.Command{
		Use:   "template debian",
		Short: "Build a configured Debian for containers",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.artefact(cmd, func(b *build.Builder) (string, error) { return b.Template(cmd.Context(), args[0]) })
		},
	}
	c.AddCommand(iso, netboot, template)
	return c
}

// artefact runs one build and prints the steps' times and the artefact's path.
func (o *buildFlags) artefact(cmd *cobra.Command, make func(*build.Builder) (string, error)) (err error) {
	if o.Source, err = findSource(); err != nil {
		return err
	}
	if o.Out, err = filepath.Abs(o.Out); err != nil {
		return err
	}
	out, say := cmd.OutOrStdout(), cmd.ErrOrStderr()
	o.Sink = progress.Tee(progress.Lines(out), o.times.Sink)
	o.Log = slog.New(slog.DiscardHandler)
	o.Say = func(l finding.List) {
		for _, x := range l {
			if x.Level == finding.Warn || o.verbose && x.Level == finding.Note {
				fmt.Fprintln(say, x)
			}
		}
	}
	b, err := build.New(cmd.Context(), o.Options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	path, err := make(b)
	if err != nil {
		return err
	}
	o.times.Write(out)
	fmt.Fprintln(out, path)
	return nil
}

// findSource walks up to the folder whose go.mod is Joist's.
func findSource() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "cmd", "joist-init")); err == nil {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("find the sources: %s is not inside a checkout of Joist; change into one", dir)
		}
	}
}
