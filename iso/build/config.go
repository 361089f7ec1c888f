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

	"joist/image/boot"
	"joist/internal/finding"
	"joist/rootfs/deb"
	"joist/rootfs/lock"
	"joist/rootfs/policy"
)

// Config is joist.toml.
type Config struct {
	Version string   `toml:"version" json:"version"` // of the system that is built
	Suites  []string `toml:"suites" json:"suites"`   // in the order of precedence, lowest first
	Where            // not an input
	Image   struct {
		Compression int                `toml:"compression" json:"compression"`           // zstd level of system.sqfs, 1 to 22
		KernelArgs  string             `toml:"kernel-args" json:"kernel-args,omitempty"` // added to every boot
		Consoles    []string           `toml:"consoles" json:"consoles"`                 // kernel console= values, the last one is /dev/console
		ZFS         bool               `toml:"zfs" json:"zfs"`                           // OpenZFS's module and programs
		Firmware    policy.FirmwareSet `toml:"firmware" json:"firmware"`                 // of devices
	} `toml:"image" json:"image"`
	Disk struct {
		SectorSize int `toml:"sector-size"` // of disk images: 512 or 4096
	} `toml:"disk" json:"-"` // not an input of the system either; the image's name says it
	Packages struct {
		Add  []string `toml:"add" json:"add,omitempty"`
		Drop []string `toml:"drop" json:"drop,omitempty"`
	} `toml:"packages" json:"packages"`
	Extensions    []string       `toml:"extensions" json:"extensions,omitempty"`         // of those that the tree knows
	Own           []OwnExtension `toml:"extension" json:"extension,omitempty"`           // made of packages
	AcceptScripts []string       `toml:"accept-scripts" json:"accept-scripts,omitempty"` // "package:script" and the like without a rule in rootfs/policy
	Files         []ExtraFile    `toml:"files" json:"files,omitempty"`
	Certificates  []string       `toml:"certificates" json:"certificates,omitempty"` // PEM files of authorities the system trusts
	SSHKeys       []string       `toml:"ssh-keys" json:"ssh-keys,omitempty"`         // lines of root's authorized_keys
}

// Where is what joist.toml says of where things come from and go to: the same
// as the flags of these names, which win. None of it is in an artefact.
type Where struct {
	Mirror   string `toml:"mirror" json:"-"`
	Proxy    string `toml:"proxy" json:"-"`
	Pool     string `toml:"pool" json:"-"`
	SavePool string `toml:"save-pool" json:"-"`
	Answer   string `toml:"answer" json:"-"`
	Program  string `toml:"first-boot" json:"-"`
}

// inputs is the configuration without what the system does not depend on.
func (c Config) inputs() Config {
	c.Where, c.Disk = Where{}, Defaults().Disk
	return c
}

// Defaults are the values of a joist.toml that says nothing.
func Defaults() Config {
	var c Config
	c.Version = "0.1.0"
	c.Suites = []string{"trixie", "trixie-updates", "trixie-security"}
	c.Image.Compression = 11
	c.Image.Consoles = []string{"tty0", "ttyS0,115200"}
	c.Image.ZFS = true
	c.Image.Firmware = policy.FirmwareServer
	c.Disk.SectorSize = 512
	return c
}

var (
	versionRE = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+(?:-[a-z0-9.]+)?$`)
	packageRE = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)
	consoleRE = regexp.MustCompile(`^tty[A-Za-z]*[0-9]+(?:,[0-9]+(?:[noe][78]?r?)?)?$`)
	suiteRE   = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	acceptRE  = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+:(?:preinst|postinst|config|(?:trigger|unit):[^ ]+)$`)
	argsRE    = regexp.MustCompile(`^[A-Za-z0-9_.,:=/@+ -]*$`)
)

// LoadConfig reads and checks joist.toml and the files it names; every mistake
// is a finding. A file that does not exist means the defaults.
func LoadConfig(name string) (c Config, x Contents, fl finding.List) {
	c = Defaults()
	b, err := os.ReadFile(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return c, x, nil
	case err != nil:
		fl.Stopf("config-unreadable", name, "make the file readable", "%v", err)
		return c, x, fl
	}
	err = toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields().Decode(&c)
	var strict *toml.StrictMissingError
	var syntax *toml.DecodeError
	switch { // a StrictMissingError holds a DecodeError for each key
	case errors.As(err, &strict):
		for _, e := range strict.Errors {
			f := located("config-unknown-key", name, b, &e, "remove it, or correct its name (docs/customise.md lists all)")
			f.Text = fmt.Sprintf("%q is no key of joist.toml", strings.Join(e.Key(), "."))
			fl.Add(f)
		}
	case errors.As(err, &syntax):
		fl.Add(located("config-syntax", name, b, syntax, "correct the line"))
	case err != nil:
		fl.Stopf("config-syntax", name, "correct the file", "%v", err)
	}
	x = c.check(&fl, source{name: name, text: b, at: positions(b)})
	return c, x, fl
}

func located(code, name string, src []byte, e *toml.DecodeError, hint string) finding.Finding {
	row, col := e.Position()
	f := finding.Finding{Level: finding.Stop, Code: code, Path: name, Line: row, Column: col, Text: strings.TrimPrefix(e.Error(), "toml: "), Hint: hint}
	f.Source = lineOf(src, row)
	if m := typeRE.FindStringSubmatch(f.Text); m != nil {
		article := "a"
		if strings.ContainsAny(m[1][:1], "aeiou") {
			article = "an"
		}
		f.Text = fmt.Sprintf("%s %s stands where a %s must be", article, m[1], map[string]string{"int": "number", "string": "string", "policy.FirmwareSet": "string", "[]string": "list of strings"}[m[2]])
	}
	return f
}

// typeRE is what the decoder says of a value of another type, in words of Go.
var typeRE = regexp.MustCompile(`(?s)^cannot decode TOML (\w+) into .* of type (int|string|policy\.FirmwareSet|\[\]string)$`)

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

// positions finds the keys of a TOML document, and the elements of its lists:
// "packages.add[1]", "files[0].target". It stops at the first mistake, which is
// a finding of its own.
func positions(text []byte) map[string]unstable.Position {
	at := map[string]unstable.Position{}
	var p unstable.Parser
	p.Reset(text)
	table := ""
	tables := map[string]int{} // elements of arrays of tables so far
	for p.NextExpression() {
		e := p.Expression()
		key, first := "", unstable.Position{}
		switch e.Kind {
		case unstable.KeyValue:
			placeValue(&p, at, table, e)
			continue
		case unstable.Table:
			key, _ = keyOf(&p, e)
		case unstable.ArrayTable:
			key, first = keyOf(&p, e)
			n := tables[key]
			tables[key]++
			key = fmt.Sprintf("%s[%d]", key, n)
			at[key] = first
		default:
			continue
		}
		table = key + "."
	}
	return at
}

// keyOf joins a dotted key and says where it begins.
func keyOf(p *unstable.Parser, e *unstable.Node) (string, unstable.Position) {
	var keys []string
	var first unstable.Position
	for it := e.Key(); it.Next(); {
		if len(keys) == 0 {
			first = p.Shape(it.Node().Raw).Start
		}
		keys = append(keys, string(it.Node().Data))
	}
	return strings.Join(keys, "."), first
}

// placeValue notes where a key of a table stands, and what is in its value.
func placeValue(p *unstable.Parser, at map[string]unstable.Position, table string, e *unstable.Node) {
	key, first := keyOf(p, e)
	key = table + key
	at[key] = first
	list := e.Value()
	if list.Kind != unstable.Array {
		return
	}
	n := 0
	for it := list.Children(); it.Next(); {
		v := it.Node()
		if v.Kind == unstable.Comment {
			continue
		}
		element := fmt.Sprintf("%s[%d]", key, n)
		n++
		switch v.Kind {
		case unstable.String:
			at[element] = p.Shape(v.Raw).Start
		case unstable.InlineTable:
			for kv := v.Children(); kv.Next(); {
				if kv.Node().Kind == unstable.KeyValue {
					placeValue(p, at, element+".", kv.Node())
				}
			}
		}
	}
}

// find returns the place of a key or, where the file does not have it, of what
// it would be in.
func (s source) find(key string) unstable.Position {
	for key != "" {
		if pos, ok := s.at[key]; ok {
			return pos
		}
		key = key[:max(strings.LastIndexAny(key, ".["), 0)]
	}
	return unstable.Position{}
}

// add adds a finding about a key, with its line if the file has one.
func (s source) add(fl *finding.List, level finding.Level, code, key, hint, format string, args ...any) {
	pos := s.find(key)
	f := finding.Finding{Level: level, Code: code, Path: s.name, Line: pos.Line, Column: pos.Column, Text: fmt.Sprintf(format, args...), Hint: hint}
	if !secretKeys[key] {
		f.Source = lineOf(s.text, pos.Line)
	}
	fl.Add(f)
}

// secretKeys may hold a password, so that their lines are not shown.
var secretKeys = map[string]bool{"mirror": true, "proxy": true}

// stop adds a finding that stops the build.
func (s source) stop(fl *finding.List, code, key, hint, format string, args ...any) {
	s.add(fl, finding.Stop, code, key, hint, format, args...)
}

// check finds what is wrong, and reads what the configuration names.
func (c Config) check(fl *finding.List, src source) Contents {
	if !versionRE.MatchString(c.Version) {
		src.stop(fl, "config-version", "version", `write it as "1.2.3"`, "version %q is not a version", c.Version)
	}
	if len(c.Suites) == 0 {
		src.stop(fl, "config-suites", "suites", `suites = ["trixie", "trixie-updates", "trixie-security"]`, "suites is empty")
	}
	for i, s := range c.Suites {
		if !suiteRE.MatchString(s) {
			src.stop(fl, "config-suites", at("suites", i), `suites = ["trixie", "trixie-updates", "trixie-security"]`, "%q is not the name of a suite", s)
		}
	}
	c.checkWhere(fl, src)
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
	c.checkConsoles(fl, src)
	if c.Disk.SectorSize != 512 && c.Disk.SectorSize != 4096 {
		src.stop(fl, "config-sector-size", "disk.sector-size", "use 512, or 4096 for disks that have no smaller sectors (4Kn)", "disk.sector-size is %d", c.Disk.SectorSize)
	}
	if !slices.Contains(policy.FirmwareSets(), c.Image.Firmware) {
		src.stop(fl, "config-firmware", "image.firmware", fmt.Sprintf("choose one of %q", policy.FirmwareSets()), "image.firmware %q is no set of firmware", c.Image.Firmware)
	}
	for key, list := range map[string][]string{"packages.add": c.Packages.Add, "packages.drop": c.Packages.Drop} {
		for i, p := range list {
			if !packageRE.MatchString(p) {
				src.stop(fl, "config-package", at(key, i), "use the name of a Debian package", "%s: %q is not a package name", key, p)
			}
		}
	}
	for i, p := range c.Packages.Drop {
		if slices.Contains(c.Packages.Add, p) {
			src.stop(fl, "config-package", at("packages.drop", i), "decide for one of the two", "%q is added and dropped", p)
		}
	}
	for i, a := range c.AcceptScripts {
		if !acceptRE.MatchString(a) {
			src.stop(fl, "config-accept", at("accept-scripts", i), `write it as "package:postinst", "package:trigger:NAME" or "package:unit:NAME"`, "accept-scripts: %q names no script, trigger or unit", a)
		}
	}
	c.checkExtensions(fl, src)
	x := c.contents(fl, src)
	slices.SortStableFunc(*fl, func(a, b finding.Finding) int { return a.Line - b.Line })
	return x
}

// at is the key of a list's element.
func at(key string, i int) string { return fmt.Sprintf("%s[%d]", key, i) }

func (c Config) checkConsoles(fl *finding.List, src source) {
	for i, s := range c.Image.Consoles {
		if !consoleRE.MatchString(s) {
			src.stop(fl, "config-console", at("image.consoles", i), `write it as "ttyS0,115200"`, "image.consoles: %q is not a console", s)
		} else if err := boot.CheckSerial("console=" + s); err != nil {
			src.stop(fl, "config-console", at("image.consoles", i), "choose a speed from 2400 to 115200 that both kernel and boot menu know", "image.consoles: %v", err)
		}
	}
}

func (c Config) checkWhere(fl *finding.List, src source) {
	if err := deb.CheckMirror(c.Mirror); err != nil {
		src.stop(fl, "config-mirror", "mirror", `write it as "https://mirror.example" or as the path of a folder`, "mirror: %v", err)
	}
	if err := deb.CheckProxy(c.Proxy); err != nil {
		src.stop(fl, "config-proxy", "proxy", `write it as "http://proxy.example:3128"`, "proxy: %v", err)
	}
	if c.Pool != "" && c.Pool == c.SavePool {
		src.stop(fl, "config-pool", "save-pool", "decide for one of the two", "the pool is read and written")
	}
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
	text := fmt.Appendf(nil, "%q %q %q %q %q %q %q", c.Suites, wants, excluded, policy.Tools(), policy.ToolsExcluded(), policy.Template(), policy.Firmware(policy.FirmwareAll))
	for _, x := range c.lockedExtensions() {
		text = fmt.Appendf(text, " %q %q %q", x.Name, x.Packages, x.Out)
	}
	if c.Image.ZFS {
		text = fmt.Appendf(text, " %q %q", policy.ZFSModule("KERNEL"), policy.ZFSModuleExcluded("KERNEL"))
	}
	return lock.Digest(text)
}
