// Package build is the toolchain's pipeline: configuration → lock → tree →
// bytes → media. Each arrow is a function of its inputs; the order of the
// whole is that of Builder's method make.
package build

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"joist/internal/finding"
	"joist/rootfs/lock"
	"joist/rootfs/policy"
)

// Config is joist.toml.
type Config struct {
	Version string   `toml:"version" json:"version"` // of the system that is built
	Suites  []string `toml:"suites" json:"suites"`   // in the order of precedence, lowest first
	Image   struct {
		Compression int      `toml:"compression" json:"compression"`           // zstd level of system.sqfs, 1 to 22
		KernelArgs  string   `toml:"kernel-args" json:"kernel-args,omitempty"` // added to every boot
		Consoles    []string `toml:"consoles" json:"consoles"`                 // kernel console= values, the last one is /dev/console
		ZFS         bool     `toml:"zfs" json:"zfs"`                           // OpenZFS's module and programs
	} `toml:"image" json:"image"`
	Packages struct {
		Add  []string `toml:"add" json:"add,omitempty"`
		Drop []string `toml:"drop" json:"drop,omitempty"`
	} `toml:"packages" json:"packages"`
	AcceptScripts []string `toml:"accept-scripts" json:"accept-scripts,omitempty"` // "package:script" and the like without a rule in rootfs/policy
}

// Defaults are the values of a joist.toml that says nothing.
func Defaults() Config {
	var c Config
	c.Version = "0.1.0"
	c.Suites = []string{"trixie", "trixie-updates", "trixie-security"}
	c.Image.Compression = 11
	c.Image.Consoles = []string{"tty0", "ttyS0,115200"}
	c.Image.ZFS = true
	return c
}

var (
	versionRE = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+(?:-[a-z0-9.]+)?$`)
	packageRE = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)
	consoleRE = regexp.MustCompile(`^tty[A-Za-z]*[0-9]+(?:,[0-9]+[a-z0-9]*)?$`)
	suiteRE   = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	acceptRE  = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+:(?:preinst|postinst|config|(?:trigger|unit):[^ ]+)$`)
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
	switch { // a StrictMissingError holds a DecodeError for each key
	case errors.As(err, &strict):
		for _, e := range strict.Errors {
			f := located("config-unknown-key", name, b, &e, "remove it, or correct its name (docs/build.md lists all)")
			f.Text = fmt.Sprintf("%q is no key of joist.toml", strings.Join(e.Key(), "."))
			fl.Add(f)
		}
	case errors.As(err, &syntax):
		fl.Add(located("config-syntax", name, b, syntax, "correct the line"))
	case err != nil:
		fl.Stopf("config-syntax", name, "correct the file", "%v", err)
	}
	c.check(&fl, source{name: name, text: b, at: positions(b)})
	return c, fl
}

func located(code, name string, src []byte, e *toml.DecodeError, hint string) finding.Finding {
	row, col := e.Position()
	f := finding.Finding{Level: finding.Stop, Code: code, Path: name, Line: row, Column: col, Text: strings.TrimPrefix(e.Error(), "toml: "), Hint: hint}
	f.Source = lineOf(src, row)
	if m := typeRE.FindStringSubmatch(f.Text); m != nil {
		f.Text = fmt.Sprintf("a %s stands where a %s must be", m[1], map[string]string{"int": "number", "string": "string", "[]string": "list of strings"}[m[2]])
	}
	return f
}

// typeRE is what the decoder says of a value of another type, in words of Go.
var typeRE = regexp.MustCompile(`(?s)^cannot decode TOML (\w+) into .* of type (int|string|\[\]string)$`)

func lineOf(src []byte, row int) string {
	if lines := bytes.Split(src, []byte("\n")); row >= 1 && row <= len(lines) {
		return string(lines[row-1])
	}
	return ""
}

// source is where a configuration came from, to show the line of a finding.
type source struct {
	name string
	text []byte
	at   map[string]unstable.Position // key ("image.compression") → its place
}

// positions finds the keys of a TOML document. It stops at the first mistake,
// which is a finding of its own.
func positions(text []byte) map[string]unstable.Position {
	at := map[string]unstable.Position{}
	var p unstable.Parser
	p.Reset(text)
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.Table && e.Kind != unstable.KeyValue {
			continue
		}
		var keys []string
		var first unstable.Position
		for it := e.Key(); it.Next(); {
			if len(keys) == 0 {
				first = p.Shape(it.Node().Raw).Start
			}
			keys = append(keys, string(it.Node().Data))
		}
		key := strings.Join(keys, ".")
		if e.Kind == unstable.Table {
			table = key + "."
			continue
		}
		at[table+key] = first
	}
	return at
}

// stop adds a finding about a key, with its line if the file has one.
func (s source) stop(fl *finding.List, code, key, hint, format string, args ...any) {
	pos := s.at[key]
	fl.Add(finding.Finding{Level: finding.Stop, Code: code, Path: s.name, Line: pos.Line, Column: pos.Column,
		Source: lineOf(s.text, pos.Line), Text: fmt.Sprintf(format, args...), Hint: hint})
}

func (c Config) check(fl *finding.List, src source) {
	if !versionRE.MatchString(c.Version) {
		src.stop(fl, "config-version", "version", `write it as "1.2.3"`, "version %q is not a version", c.Version)
	}
	if len(c.Suites) == 0 {
		src.stop(fl, "config-suites", "suites", `suites = ["trixie", "trixie-updates", "trixie-security"]`, "suites is empty")
	}
	for _, s := range c.Suites {
		if !suiteRE.MatchString(s) {
			src.stop(fl, "config-suites", "suites", `suites = ["trixie", "trixie-updates", "trixie-security"]`, "%q is not the name of a suite", s)
		}
	}
	if c.Image.Compression < 1 || c.Image.Compression > 22 {
		src.stop(fl, "config-compression", "image.compression", "choose a zstd level from 1 (fast) to 22 (small)", "image.compression is %d", c.Image.Compression)
	}
	if !argsRE.MatchString(c.Image.KernelArgs) {
		src.stop(fl, "config-kernel-args", "image.kernel-args", "leave quotes and special characters out", "image.kernel-args %q cannot be put on a kernel command line", c.Image.KernelArgs)
	}
	for a := range strings.FieldsSeq(c.Image.KernelArgs) {
		if strings.HasPrefix(a, "joist.") {
			src.stop(fl, "config-kernel-args", "image.kernel-args", "leave it out: the boot menu sets what begins with joist.", "image.kernel-args sets %q", a)
		}
	}
	for _, s := range c.Image.Consoles {
		if !consoleRE.MatchString(s) {
			src.stop(fl, "config-console", "image.consoles", `write it as "ttyS0,115200"`, "image.consoles: %q is not a console", s)
		}
	}
	for key, list := range map[string][]string{"packages.add": c.Packages.Add, "packages.drop": c.Packages.Drop} {
		for _, p := range list {
			if !packageRE.MatchString(p) {
				src.stop(fl, "config-package", key, "use the name of a Debian package", "%s: %q is not a package name", key, p)
			}
		}
	}
	for _, p := range c.Packages.Drop {
		if slices.Contains(c.Packages.Add, p) {
			src.stop(fl, "config-package", "packages.drop", "decide for one of the two", "%q is added and dropped", p)
		}
	}
	for _, a := range c.AcceptScripts {
		if !acceptRE.MatchString(a) {
			src.stop(fl, "config-accept", "accept-scripts", `write it as "package:postinst", "package:trigger:NAME" or "package:unit:NAME"`, "accept-scripts: %q names no script, trigger or unit", a)
		}
	}
	slices.SortStableFunc(*fl, func(a, b finding.Finding) int { return a.Line - b.Line })
}

// wants returns the packages of the image, and what stays out with reasons.
func (c Config) wants() (wants []string, excluded map[string]string) {
	excluded = policy.Excluded()
	for _, p := range c.Packages.Drop {
		excluded[p] = "dropped in joist.toml"
	}
	base := policy.Wanted()
	if c.Image.ZFS {
		base = append(base, policy.ZFS()...)
	}
	for _, p := range append(base, c.Packages.Add...) {
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
	text := fmt.Appendf(nil, "%q %q %q %q %q %q", c.Suites, wants, excluded, policy.Tools(), policy.ToolsExcluded(), policy.Template())
	if c.Image.ZFS {
		text = fmt.Appendf(text, " %q %q", policy.ZFSModule("KERNEL"), policy.ZFSModuleExcluded("KERNEL"))
	}
	return lock.Digest(text)
}
