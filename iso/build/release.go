package build

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"joist/image/boot"
	"joist/image/sbom"
	"joist/internal/finding"
	"joist/rootfs/tree"
)

// Manifest accounts for a build: what boot.Manifest says of its files, and all
// that they were made from.
type Manifest struct {
	boot.Manifest
	Inputs     Inputs            `json:"inputs"`
	Signatures map[string]string `json:"signatures,omitempty"` // those inside artefacts, by artefact, in hexadecimal digits
}

// Inputs are what one build was made from. The same inputs give the same bytes.
type Inputs struct {
	Epoch    int64             `json:"source_date_epoch"`
	Config   Config            `json:"config"`             // joist.toml with its defaults
	Lock     string            `json:"lock_sha256"`        // of joist.lock
	Go       string            `json:"go"`                 // the tool chain
	Sources  map[string]string `json:"sources"`            // program → hash of its sources down to the standard library
	Programs map[string]string `json:"programs"`           // program → hash of its bytes
	Packages []Input           `json:"packages"`           // of the image and of the tools that made it
	Contents map[string]string `json:"contents,omitempty"` // what joist.toml puts into the system → hash

	ModuleCert       []byte            `json:"module_cert,omitempty"`       // DER, of the key that signed modules
	ModuleSignatures map[string][]byte `json:"module_signatures,omitempty"` // module → what was put behind it
}

// config is the configuration, with the defaults of what is no input.
func (in Inputs) config() Config {
	in.Config.Disk = Defaults().Disk
	return in.Config
}

// Input is one package.
type Input struct {
	Name    string   `json:"name"`
	Version string   `json:"version"`
	SHA256  string   `json:"sha256"`
	Sets    []string `json:"sets"`
}

// manifest is that of a system of this build.
func (b *Builder) manifest(s System, signatures map[string]string) ([]byte, error) {
	m := s.Manifest
	if err := m.Validate(); err != nil {
		return nil, err
	}
	m.Built = m.Built.UTC().Truncate(time.Second)
	in := b.inputsOf(append(b.extensionSets(), setImage, setZFS)...)
	in.Sources = b.keys
	for name, c := range b.bins {
		sum := sha256.Sum256(c)
		in.Programs[name] = hex.EncodeToString(sum[:])
	}
	if b.moduleKey != nil {
		in.ModuleCert, in.ModuleSignatures = b.moduleKey.cert, s.Signatures
	}
	return encode(Manifest{Manifest: m, Inputs: in, Signatures: signatures})
}

// inputsOf are those that every artefact has: of the packages, those of some
// sets and the tools.
func (b *Builder) inputsOf(sets ...string) Inputs {
	lock := sha256.Sum256(b.lockText)
	in := Inputs{Epoch: b.built.Unix(), Config: b.cfg.inputs(), Contents: b.extra.sums(), Lock: hex.EncodeToString(lock[:]), Go: b.gotool.version, Programs: map[string]string{}}
	for _, p := range b.lock.Packages {
		if b.belongs(p, setTools) || slices.ContainsFunc(sets, func(s string) bool { return b.belongs(p, s) }) {
			in.Packages = append(in.Packages, Input{p.Name, p.Version, p.SHA256, p.Sets})
		}
	}
	return in
}

func encode(v any) ([]byte, error) {
	text, err := json.MarshalIndent(v, "", "  ")
	return append(text, '\n'), err
}

// sign makes the signature inside an artefact: nil where there is no key. What
// is made again has the one it had.
func (b *Builder) sign(artefact string, message []byte) ([]byte, error) {
	if b.o.Again != nil {
		sig, err := hex.DecodeString(b.o.Signed[artefact])
		if err != nil || len(sig) == 0 {
			return nil, err
		}
		return sig, nil
	}
	if b.key == nil {
		return nil, nil
	}
	sig := ed25519.Sign(b.key, message)
	if b.signatures == nil {
		b.signatures = map[string]string{}
	}
	b.signatures[artefact] = hex.EncodeToString(sig)
	return sig, nil
}

// signaturesOf are those that a manifest lists: this build's, and those of other
// artefacts of the same system that an earlier build put beside it.
func (b *Builder) signaturesOf(manifest string) map[string]string {
	if manifest != b.base()+manifestSuffix {
		return nil
	}
	out := map[string]string{}
	var old Manifest
	text, err := os.ReadFile(filepath.Join(b.o.Out, manifest))
	if err == nil && json.Unmarshal(text, &old) == nil && old.BuildID == b.id {
		maps.Copy(out, old.Signatures)
	}
	maps.Copy(out, b.signatures)
	return out
}

// saveInWork writes a file of the work folder.
func (b *Builder) saveInWork(name string, content []byte) error {
	return os.WriteFile(filepath.Join(b.work, name), content, 0o644)
}

// billFile is where an image holds its own bill of materials.
const billFile = "/usr/lib/joist/sbom.spdx.json"

// debianBill lists Debian's packages of a set; read returns a file of the tree
// that they are in.
func (b *Builder) debianBill(set string, read func(path string) ([]byte, error)) []sbom.Package {
	var out []sbom.Package
	for _, p := range b.packagesOf(set) {
		text, err := read("/usr/share/doc/" + p.Name + "/copyright")
		if err != nil {
			text = nil // the package has none, or one of a package that stays out
		}
		out = append(out, sbom.Package{Kind: sbom.Debian, Name: p.Name, Version: p.Version, Arch: p.Arch, SHA256: p.SHA256, Copyright: text})
	}
	return out
}

// bill is the bill of materials: Debian's packages, and the Go modules that the
// programs say they are made of.
func (b *Builder) bill(root *tree.Node) ([]byte, error) {
	d := sbom.Document{Name: b.base(), BuildID: b.id, Version: b.cfg.Version, Created: b.built, Packages: b.debianBill(setImage, root.Read)}
	if p, ok := b.lock.Package("zfs-dkms"); ok && b.cfg.Image.ZFS {
		text, err := root.Read("/usr/share/doc/zfsutils-linux/copyright") // of the same source
		if err != nil {
			return nil, err
		}
		d.Packages = append(d.Packages, sbom.Package{Kind: sbom.Debian, Name: p.Name, Version: p.Version, Arch: p.Arch, SHA256: p.SHA256, Copyright: text})
	}
	d.Packages = append(d.Packages, b.billExtensions()...)
	modules := map[string]string{"stdlib": strings.TrimPrefix(b.gotool.version, "go")}
	for name, c := range b.bins {
		info, err := buildinfo.Read(bytes.NewReader(c))
		if err != nil {
			return nil, fmt.Errorf("list the modules of %s: %w", name, err)
		}
		for _, m := range info.Deps {
			if m.Replace != nil {
				m = m.Replace
			}
			modules[m.Path] = m.Version
		}
	}
	for _, path := range slices.Sorted(maps.Keys(modules)) {
		d.Packages = append(d.Packages, sbom.Package{Kind: sbom.GoModule, Name: path, Version: modules[path]})
	}
	return d.Encode()
}

// base begins the names of this version's artefacts.
func (b *Builder) base() string { return fmt.Sprintf("joist-%s-amd64", b.cfg.Version) }

// result is what a build of certain inputs gave.
type result struct {
	Sums map[string]string // file in the output folder → hash
	Said finding.List
}

func (b *Builder) results() blobs { return blobs{filepath.Join(b.cache, "results")} }

// resultKey names all that an artefact's bytes depend on.
func (b *Builder) resultKey(kind Kind) (string, error) {
	inputs := b.systemKey
	if isTemplate(kind) {
		inputs = b.forGuest(kind).templateKey
	}
	key, err := inputs()
	if err != nil {
		return "", err
	}
	var public []byte
	if b.key != nil {
		public, _ = b.key.Public().(ed25519.PublicKey)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %q %x", key, kind, public))
	if kind == Disk {
		sum = sha256.Sum256(fmt.Appendf(nil, "%x %d", sum, b.sectorSize()))
	}
	return hex.EncodeToString(sum[:]), nil
}

func (b *Builder) noteResult(kind Kind, sums map[string]string) error {
	key, err := b.resultKey(kind)
	if err != nil {
		return err
	}
	r := result{Sums: sums}
	if wraps(kind) {
		r.Said = b.said
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return b.results().put(key, text)
}

// unchanged reports whether the output folder holds, byte for byte, what this
// build would make.
func (b *Builder) unchanged(kind Kind) (bool, error) {
	if b.o.Again != nil || b.id == "" && wraps(kind) {
		return false, nil
	}
	key, err := b.resultKey(kind)
	if err != nil {
		return false, err
	}
	var r result
	text, ok := b.results().get(key)
	if !ok || json.Unmarshal(text, &r) != nil || len(r.Sums) == 0 {
		return false, nil
	}
	list, err := os.ReadFile(filepath.Join(b.o.Out, sumsFile))
	if err != nil || !b.signedWithKey(list) {
		return false, nil
	}
	err = b.o.Sink.Do("compare "+string(kind)+" with the last build", func(func(n, of int64)) error {
		ok, err = b.holds(r.Sums, string(list))
		return err
	})
	if ok {
		b.o.Say(r.Said)
	}
	return ok, err
}

// signedWithKey reports whether the list has the signature that this build
// would give it.
func (b *Builder) signedWithKey(list []byte) bool {
	if b.key == nil {
		return true
	}
	sig, err := os.ReadFile(filepath.Join(b.o.Out, sigFile))
	return err == nil && bytes.Equal(sig, ed25519.Sign(b.key, list))
}

// holds reports whether all files are in the output folder, and in its list.
func (b *Builder) holds(sums map[string]string, list string) (bool, error) {
	var differs atomic.Bool
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for name, sum := range sums {
		g.Go(func() error {
			if !strings.Contains("\n"+list, "\n"+sum+"  "+name+"\n") {
				differs.Store(true)
			}
			if differs.Load() {
				return nil
			}
			if d, err := describe(filepath.Join(b.o.Out, name)); err != nil || d.SHA256 != sum {
				differs.Store(true)
			}
			return nil
		})
	}
	err := g.Wait()
	return !differs.Load(), err
}
