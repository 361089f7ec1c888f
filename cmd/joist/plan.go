package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"
	"github.com/spf13/cobra"

	"joist/image/boot"
	"joist/installer/answer"
	"joist/installer/plan"
	"joist/installer/preflight"
	"joist/installer/probe"
)

func (c *cli) planCommand() *cobra.Command {
	var o planOptions
	cmd := &cobra.Command{
		Use:   "plan --answer FILE {--facts FILE | --disks FILE,…}",
		Short: "Show what an installation would do to a machine, without the machine",
		Long: `Makes the plan that the installer would make: every partition, volume and file
with its bytes, and the steps in order with the commands that they run. Nothing is
written anywhere.

The facts come from the machine itself: boot it from the medium, leave the
installer for a shell and run "joist-install check > facts.json". Or disks are
files: --disks takes raw images, read by their signatures only and called sda,
sdb, … in that order; the rest of the machine is then one that meets all checks.
Sizes come from an image that was built. Ids of disk and installation are drawn
anew each time, as an installation draws them.

Exit status 0: the installation would run (or boot what is there); 2: findings
stop it.`,
		Example: `  joist plan --answer answer.toml --facts facts.json
  joist plan --answer answer.toml --facts facts.json --image build/joist-0.1.0-amd64.iso --json
  joist plan --answer answer.toml --disks a.img,b.img`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.answer == "" || (o.facts == "") == (len(o.disks) == 0) {
				return usagef(cmd, "both --answer and --facts are needed, or --disks in place of --facts")
			}
			return c.plan(o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.answer, "answer", "", "answer `FILE`")
	f.StringVar(&o.facts, "facts", "", "`FILE` that joist-install check printed")
	f.StringSliceVar(&o.disks, "disks", nil, "raw disk images in place of facts, `FILE,…`")
	f.StringVar(&o.image, "image", "", "ISO `FILE` to install from (default: the newest in build/)")
	f.BoolVar(&o.json, "json", false, "the plan as JSON")
	return cmd
}

// planOptions is the command line of joist plan.
type planOptions struct {
	answer, facts, image string
	disks                []string
	json                 bool
}

func (c *cli) plan(o planOptions) error {
	a, found, err := c.readAnswer(o.answer)
	if err != nil {
		return err
	}
	var facts probe.Facts
	if len(o.disks) > 0 {
		facts, err = probe.Images(o.disks)
	} else {
		facts, err = readFacts(o.facts)
	}
	if err != nil {
		return err
	}
	wrong := found.Stops()
	img, err := readImage(o.image)
	if err != nil && wrong { // no plan comes of it anyway
		found = append(found, preflight.Check(facts)...)
		found.Write(c.err)
		return errShown
	}
	if err != nil {
		return err
	}
	id, err := plan.NewIdentity(rand.Reader)
	if err != nil {
		return err
	}
	p, more := plan.Make(facts, a, img, id)
	found = append(found, more...)
	found.Write(c.err)
	if found.Stops() && (wrong || p.Result != plan.BootExisting) {
		return errShown
	}
	if o.json {
		b, err := json.MarshalIndent(struct {
			plan.Plan
			Steps []plan.ShownStep `json:"steps"`
		}{p, p.Steps()}, "", "  ")
		if err != nil {
			return fmt.Errorf("encode plan: %w", err)
		}
		fmt.Fprintf(c.out, "%s\n", b)
		return nil
	}
	fmt.Fprint(c.out, p.Describe())
	return nil
}

func readFacts(name string) (probe.Facts, error) {
	var facts probe.Facts
	b, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(b, &facts)
	}
	if err != nil {
		return facts, fmt.Errorf("read facts %q: %w", name, err)
	}
	return facts, nil
}

// readImage reads manifest and loader sizes from an ISO.
func readImage(name string) (plan.Image, error) {
	if name == "" {
		var err error
		if name, err = newestImage("build"); err != nil {
			return plan.Image{}, err
		}
	}
	f, err := os.Open(name)
	if err != nil {
		return plan.Image{}, fmt.Errorf("read image: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return plan.Image{}, fmt.Errorf("read image: %w", err)
	}
	medium, err := iso9660.Read(file.New(f, true), st.Size(), 0, 2048)
	if err != nil {
		return plan.Image{}, fmt.Errorf("read image %q: %w", name, err)
	}
	img, err := imageOn(medium)
	if err != nil {
		return img, fmt.Errorf("read image %q: %w", name, err)
	}
	return img, nil
}

// newestImage finds what `joist build iso` wrote last.
func newestImage(dir string) (string, error) {
	found, err := filepath.Glob(filepath.Join(dir, "joist-*-amd64.iso"))
	if err != nil {
		return "", fmt.Errorf("find image: %w", err)
	}
	var newest string
	var at int64
	for _, p := range found {
		if st, err := os.Stat(p); err == nil && (newest == "" || st.ModTime().UnixNano() > at) {
			newest, at = p, st.ModTime().UnixNano()
		}
	}
	if newest == "" {
		return "", fmt.Errorf("find image: there is none in %s; run joist build iso, or name one with --image", dir)
	}
	return newest, nil
}

// imageOn reads the one build that a medium holds.
func imageOn(medium fs.FS) (plan.Image, error) {
	img := plan.Image{Loaders: map[string]int64{}}
	builds, err := fs.ReadDir(medium, "joist")
	if err != nil {
		return img, errors.New("it is no medium of Joist: the folder joist is missing")
	}
	for _, b := range builds {
		dir := path.Join("joist", b.Name())
		text, err := fs.ReadFile(medium, path.Join(dir, "manifest.json"))
		if err != nil {
			continue // answer.toml
		}
		if img.Manifest, err = boot.DecodeManifest(text); err != nil {
			return img, err
		}
		loaders, err := fs.ReadDir(medium, path.Join(dir, "boot"))
		if err != nil {
			return img, err
		}
		for _, l := range loaders {
			st, err := l.Info()
			if err != nil {
				return img, err
			}
			img.Loaders[l.Name()] = st.Size()
		}
		if key, err := fs.ReadFile(medium, path.Join(dir, "boot", plan.ModuleCert)); err == nil {
			img.ModuleKey = fmt.Sprintf("%x", sha256.Sum256(key))
		}
		if img.Program, err = fs.ReadFile(medium, path.Join("joist", answer.ProgramFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return img, err
		}
		return img, nil
	}
	return img, errors.New("it is no medium of Joist: it holds no manifest.json")
}
