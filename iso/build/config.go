// Package build is the toolchain's pipeline: configuration → lock → tree →
// bytes → media. Each arrow is a function of its inputs; the order of the
// whole build is the list in Run.
package build

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"

	"github.com/pelletier/go-toml/v2"

	"joist/internal/finding"
	"joist/rootfs/lock"
	"joist/rootfs/policy"
)

// Config is joist.toml.
type Config struct {
	Version string   `toml:"version"` // of the system that is built
	Suites  []string `toml:"suites"`  // in the order of precedence, lowest first
	Image   struct {
		Compression int      `toml:"compression"` // zstd level of system.sqfs, 1 to 22
		KernelArgs  string   `toml:"kernel-args"` // added to every boot
		Consoles    []string `toml:"consoles"`    // kernel console= values, the last one is /dev/console
	} `toml:"image"`
	Packages struct {
		Add  []string `toml:"add"`
		Drop []string `toml:"drop"`
	} `toml:"packages"`
	AcceptScripts []string `toml:"accept-scripts"` // "package:script" without a rule in rootfs/policy
}

// Defaults are the values of a joist.toml that says nothing.
func Defaults() Config {
	var c Config
	c.Version = "0.1.0"
	c.Suites = []string{"trixie", "trixie-updates", "trixie-security"}
	c.Image.Compression = 9
	c.Image.Consoles = []string{"tty0", "ttyS0,115200"}
	return c
}

var (
	versionRE = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+(?:-[a-z0-9.]+)?$`)
	packageRE = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)
	consoleRE = regexp.MustCompile(`^tty[A-Za-z]*[0-9]+(?:,[0-9]+[a-z0-9]*)?$`)
	argsRE    = regexp.MustCompile(`^[A-Za-z0-9_.,:=/@+ -]*$`)
)

// LoadConfig reads and checks joist.toml; every mistake is a finding. A file
// that does not exist means the defaults.
func LoadConfig(name string) (Config, finding.List) {
	c := Defaults()
	var fl finding.List
	b, err := os.ReadFile(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return c, nil
	case err != nil:
		fl.Stopf("config-unreadable", name, "make the file readable", "%v", err)
		return c, fl
	}
	err = toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields().Decode(&c)
	var strict *toml.StrictMissingError
	var syntax *toml.DecodeError
	switch {
	case errors.As(err, &strict):
		for _, e := range strict.Errors {
			fl.Add(located("config-unknown-key", name, b, &e, "remove the key, or correct its name (docs/build.md lists all)"))
		}
	case errors.As(err, &syntax):
		fl.Add(located("config-syntax", name, b, syntax, "correct the line"))
	case err != nil:
		fl.Stopf("config-syntax", name, "correct the file", "%v", err)
	}
	c.check(name, &fl)
	return c, fl
}

func located(code, name string, src []byte, e *toml.DecodeError, hint string) finding.Finding {
	row, col := e.Position()
	f := finding.Finding{Level: finding.Stop, Code: code, Path: name, Line: row, Column: col, Text: e.Error(), Hint: hint}
	if lines := bytes.Split(src, []byte("\n")); row >= 1 && row <= len(lines) {
		f.Source = string(lines[row-1])
	}
	return f
}

func (c Config) check(name string, fl *finding.List) {
	if !versionRE.MatchString(c.Version) {
		fl.Stopf("config-version", name, `write it as "1.2.3"`, "version %q is not a version", c.Version)
	}
	if len(c.Suites) == 0 {
		fl.Stopf("config-suites", name, `suites = ["trixie", "trixie-updates", "trixie-security"]`, "suites is empty")
	}
	if c.Image.Compression < 1 || c.Image.Compression > 22 {
		fl.Stopf("config-compression", name, "choose a zstd level from 1 (fast) to 22 (small)", "image.compression is %d", c.Image.Compression)
	}
	if !argsRE.MatchString(c.Image.KernelArgs) {
		fl.Stopf("config-kernel-args", name, "leave quotes and special characters out", "image.kernel-args %q cannot be put on a kernel command line", c.Image.KernelArgs)
	}
	for _, s := range c.Image.Consoles {
		if !consoleRE.MatchString(s) {
			fl.Stopf("config-console", name, `write it as "ttyS0,115200"`, "image.consoles: %q is not a console", s)
		}
	}
	for _, p := range append(c.Packages.Add, c.Packages.Drop...) {
		if !packageRE.MatchString(p) {
			fl.Stopf("config-package", name, "use the name of a Debian package", "%q is not a package name", p)
		}
	}
}

// wants returns the packages of the image, and what stays out with reasons.
func (c Config) wants() (wants []string, excluded map[string]string) {
	excluded = policy.Excluded()
	for _, p := range c.Packages.Drop {
		excluded[p] = "dropped in joist.toml"
	}
	for _, p := range append(policy.Wanted(), c.Packages.Add...) {
		if _, out := excluded[p]; !out {
			wants = append(wants, p)
		}
	}
	return wants, excluded
}

// resolveDigest names everything the lock was resolved from, so that a stale
// lock is noticed.
func (c Config) resolveDigest() string {
	wants, excluded := c.wants()
	return lock.Digest(fmt.Appendf(nil, "%q %q %q %q %q %q", c.Suites, wants, excluded, policy.Tools(), policy.ToolsExcluded(), policy.Template()))
}
