package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"joist/installer/answer"
	"joist/internal/finding"
	"joist/internal/progress"
	"joist/iso/build"
)

// buildFlags is what the build commands share.
type buildFlags struct {
	build.Options
	times   build.Times
	verbose bool
	tell    func(func(io.Writer)) // writes to a person, nil for standard error
	token   string                // file
}

// sources are the flags of everything that needs packages.
func (o *buildFlags) sources(c *cobra.Command) {
	f := c.PersistentFlags()
	f.StringVar(&o.Mirror, "mirror", "", "base `URL` of a Debian mirror (default: from this machine's apt configuration)")
	f.StringVar(&o.Proxy, "proxy", "", "`URL` of a proxy for packages and modules (default: from this machine's apt configuration, else HTTP_PROXY and HTTPS_PROXY)")
	f.StringVar(&o.Pool, "pool", "", "take all packages and modules from a `FILE` of --save-pool, nothing from the network")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "also say notes")
}

func buildCommand() *cobra.Command {
	var o buildFlags
	var what, old string
	c := &cobra.Command{
		Use:   "build [KIND …]",
		Short: "Build images from the sources in this folder",
		Long: `Builds artefacts of the kinds that are named; what they share is made once.

  iso               the installable image for CD and USB stick
  netboot           the folder for machines that start from the network
  disk              the images of a disk that becomes a node's when it starts
  update            the bundle that brings a node to this version
  template [debian] a configured Debian 13 for containers; "template debian-12"
                    is one of the release before, "template debian debian-12" both
  all               iso, netboot, disk, update and template debian`,
		Example: "  joist build iso\n  joist build iso netboot\n  joist build all --sign-key release.key\n  joist build --explain lvm2    # why it is in the image, and what it weighs\n" +
			"  joist build --diff old.lock   # what joist.lock has that old.lock has not",
		Args: func(cmd *cobra.Command, args []string) error { return o.checkKinds(cmd, args) },
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case what != "":
				return o.explain(cmd, what)
			case old != "":
				return o.with(cmd, progress.Discard, func(b *build.Builder) error { return b.DiffLock(cmd.OutOrStdout(), old) })
			case len(args) == 0:
				return cmd.Help()
			}
			return o.artefacts(cmd, args)
		},
	}
	c.Flags().StringVar(&what, "explain", "", "say why a `PACKAGE` is in the image and what it weighs")
	c.Flags().StringVar(&old, "diff", "", "compare joist.lock with an older `FILE`")
	f := c.PersistentFlags()
	f.StringVar(&o.Config, "config", "", "build configuration (default: joist.toml beside go.mod)")
	f.StringVar(&o.Out, "out", "build", "folder for the artefacts")
	o.sources(c)
	f.BoolVar(&o.Locked, "locked", false, "fail if joist.lock does not fit instead of resolving anew")
	f.StringVar(&o.SavePool, "save-pool", "", "also put all that was fetched into a tar `FILE` for --pool")
	f.StringVar(&o.Key, "sign-key", "", "Ed25519 private key (PEM `FILE`) that signs SHA256SUMS")

	f.StringVar(&o.ModuleKey, "module-key", "", "RSA private key and its certificate (PEM `FILE`) that sign OpenZFS's modules for Secure Boot")
	f.IntVar(&o.SectorSize, "sector-size", 0, "`BYTES` in a sector of disk images: 512, or 4096 for 4Kn (default: from joist.toml)")
	f.StringVar(&o.Answer, "answer", "", "answer `FILE` to put inside ISO and disk images: they then install unattended")
	f.StringVar(&o.Program, "first-boot", "", "program `FILE` to put inside ISO and disk images: nodes run it once, where the answer says [first-boot] source = \"from-iso\"")
	f.StringVar(&o.From.URL, "answer-url", "", "`URL` of a server that gives their answer: they then install unattended")
	f.StringVar(&o.From.Fingerprint, "answer-fingerprint", "", "`SHA-256` of that server's certificate, which is then the only one trusted")
	f.StringVar(&o.token, "answer-token-file", "", "`FILE` with the token for that server; it lies readable on the medium")
	return c
}

// checkKinds finds mistakes on the command line.
func (o *buildFlags) checkKinds(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil // help, or a question
	}
	kinds, err := build.ParseKinds(args)
	if err != nil {
		for _, a := range args {
			for _, k := range append(build.Kinds(), "all") {
				if near(a, string(k)) {
					return fmt.Errorf("%w; did you mean %s?", err, k)
				}
			}
		}
		return err
	}
	for _, name := range []string{"explain", "diff"} {
		if cmd.Flags().Changed(name) {
			return fmt.Errorf("--%s asks a question and builds nothing: leave %q out", name, args[0])
		}
	}
	for _, name := range []string{"answer", "answer-url", "answer-fingerprint", "answer-token-file", "first-boot"} {
		if cmd.Flags().Changed(name) && !slices.Contains(kinds, build.ISO) && !slices.Contains(kinds, build.Disk) {
			return fmt.Errorf("--%s is for the ISO and disk images, which are not among %v", name, kinds)
		}
	}
	if cmd.Flags().Changed("sector-size") && !slices.Contains(kinds, build.Disk) {
		return fmt.Errorf("--sector-size is for disk images, which are not among %v", kinds)
	}
	return nil
}

// readToken reads the answer server's token; an argument would show it to every
// user of this machine.
func (o *buildFlags) readToken() error {
	if o.token == "" {
		return nil
	}
	b, err := os.ReadFile(o.token)
	if err != nil {
		return fmt.Errorf("read the token of the answer server: %w", err)
	}
	o.From.Token = answer.Secret(strings.TrimSpace(string(b)))
	return nil
}

// near reports whether a word is another one with a slip of the finger: a letter
// too many, too few, or wrong, or two of them swapped.
func near(a, b string) bool {
	if a == b || len(a) < 2 {
		return false
	}
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	x, y := a[i:], b[i:]
	return x != "" && x[1:] == y || y != "" && x == y[1:] || x != "" && y != "" && x[1:] == y[1:] ||
		len(x) > 1 && len(y) > 1 && x[0] == y[1] && x[1] == y[0] && x[2:] == y[2:]
}

// artefacts runs one build and prints the steps' times and the artefacts'
// paths.
func (o *buildFlags) artefacts(cmd *cobra.Command, args []string) error {
	kinds, err := build.ParseKinds(args)
	if err == nil {
		err = o.readToken()
	}
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	w := newWatcher(out, cmd.ErrOrStderr(), os.Getenv)
	o.tell = w.say
	var paths []string
	err = o.with(cmd, progress.Tee(w.sink(), o.times.Sink), func(b *build.Builder) (err error) {
		if paths, err = b.Make(cmd.Context(), kinds...); err != nil {
			return err
		}
		return b.SavePool(cmd.Context())
	})
	w.close()
	if err != nil {
		return err
	}
	if w.bars == nil {
		o.times.Write(out)
	} else { // each step has its time already
		fmt.Fprintf(out, "   %-26s %8s\n", "total", fmt.Sprintf("%.1f s", o.times.Total().Seconds()))
	}
	for _, p := range paths {
		fmt.Fprintln(out, p)
	}
	return nil
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
	o.Sink, o.Log = sink, slog.New(slog.DiscardHandler)
	if o.tell == nil {
		o.tell = func(f func(io.Writer)) { f(cmd.ErrOrStderr()) }
	}
	o.Say = func(l finding.List) {
		for _, x := range l {
			if x.Level == finding.Warn || o.verbose && x.Level == finding.Note {
				o.tell(func(w io.Writer) { fmt.Fprintln(w, x) })
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
