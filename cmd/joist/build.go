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
	times    build.Times
	verbose  bool
	savePool string
}

// sources are the flags of everything that needs packages.
func (o *buildFlags) sources(c *cobra.Command) {
	f := c.PersistentFlags()
	f.StringVar(&o.Mirror, "mirror", "", "base `URL` of a Debian mirror (default: from this machine's apt configuration)")
	f.StringVar(&o.Pool, "pool", "", "take all packages and modules from a `FILE` of --save-pool, nothing from the network")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "also say notes")
}

func buildCommand() *cobra.Command {
	var o buildFlags
	var what, old string
	c := &cobra.Command{
		Use:   "build",
		Short: "Build images from the sources in this folder",
		Example: "  joist build iso\n  joist build --explain lvm2    # why it is in the image, and what it weighs\n" +
			"  joist build --diff old.lock   # what joist.lock has that old.lock has not",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case what != "":
				return o.explain(cmd, what)
			case old != "":
				return o.with(cmd, progress.Discard, func(b *build.Builder) error { return b.DiffLock(cmd.OutOrStdout(), old) })
			}
			return cmd.Help()
		},
	}
	c.Flags().StringVar(&what, "explain", "", "say why a `PACKAGE` is in the image and what it weighs")
	c.Flags().StringVar(&old, "diff", "", "compare joist.lock with an older `FILE`")
	f := c.PersistentFlags()
	f.StringVar(&o.Config, "config", "", "build configuration (default: joist.toml beside go.mod)")
	f.StringVar(&o.Out, "out", "build", "folder for the artefacts")
	o.sources(c)
	f.BoolVar(&o.Locked, "locked", false, "fail if joist.lock does not fit instead of resolving anew")
	f.StringVar(&o.savePool, "save-pool", "", "also put all that was fetched into a tar `FILE` for --pool")
	f.StringVar(&o.Key, "sign-key", "", "Ed25519 private key (PEM `FILE`) that signs SHA256SUMS")

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
func (o *buildFlags) artefact(cmd *cobra.Command, make func(*build.Builder) (string, error)) error {
	out := cmd.OutOrStdout()
	return o.with(cmd, progress.Tee(progress.Lines(out), o.times.Sink), func(b *build.Builder) error {
		path, err := make(b)
		if err == nil && o.savePool != "" {
			err = b.SavePool(cmd.Context(), o.savePool)
		}
		if err != nil {
			return err
		}
		o.times.Write(out)
		fmt.Fprintln(out, path)
		return nil
	})
}

// explain prints why a package is in the image.
func (o *buildFlags) explain(cmd *cobra.Command, name string) error {
	return o.with(cmd, progress.Discard, func(b *build.Builder) error {
		e, err := b.Explain(cmd.Context(), name)
		if err != nil {
			return err
		}
		return e.Write(cmd.OutOrStdout())
	})
}

// with makes a builder for f.
func (o *buildFlags) with(cmd *cobra.Command, sink progress.Sink, f func(*build.Builder) error) error {
	if err := o.prepare(cmd, sink); err != nil {
		return err
	}
	b, err := build.New(cmd.Context(), o.Options)
	if err != nil {
		return err
	}
	return errors.Join(f(b), b.Close())
}

// prepare fills in what does not come from flags.
func (o *buildFlags) prepare(cmd *cobra.Command, sink progress.Sink) (err error) {
	if o.Source, err = findSource(); err != nil {
		return err
	}
	if o.Out, err = filepath.Abs(o.Out); err != nil {
		return err
	}
	say := cmd.ErrOrStderr()
	o.Sink, o.Log = sink, slog.New(slog.DiscardHandler)
	o.Say = func(l finding.List) {
		for _, x := range l {
			if x.Level == finding.Warn || o.verbose && x.Level == finding.Note {
				fmt.Fprintln(say, x)
			}
		}
	}
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
