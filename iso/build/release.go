package build

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"joist/image/boot"
	"joist/image/sbom"
	"joist/internal/finding"
	"joist/rootfs/tree"
)

// Manifest accounts for a build: what boot.Manifest says of its files, and all
// that they were made from.
type Manifest struct {
	boot.Manifest
	Inputs Inputs `json:"inputs"`
}

// Inputs are what one build was made from. The same inputs give the same bytes.
type Inputs struct {
	Epoch    int64             `json:"source_date_epoch"`
	Config   Config            `json:"config"`      // joist.toml with its defaults
	Lock     string            `json:"lock_sha256"` // of joist.lock
	Go       string            `json:"go"`          // the tool chain
	Sources  map[string]string `json:"sources"`     // program → hash of its sources down to the standard library
	Programs map[string]string `json:"programs"`    // program → hash of its bytes
	Packages []Input           `json:"packages"`    // of the image and of the tools that made it
}

// Input is one package.
type Input struct {
	Name    string   `json:"name"`
	Version string   `json:"version"`
	SHA256  string   `json:"sha256"`
	Sets    []string `json:"sets"`
}

// manifest is that of this build.
func (b *Builder) manifest(m boot.Manifest) ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	m.Built = m.Built.UTC().Truncate(time.Second)
	lock := sha256.Sum256(b.lockText)
	out := Manifest{Manifest: m, Inputs: Inputs{Epoch: b.built.Unix(), Config: b.cfg, Lock: hex.EncodeToString(lock[:]), Go: b.gotool.version, Sources: b.keys, Programs: map[string]string{}}}
	for name, c := range b.bins {
		sum := sha256.Sum256(c)
		out.Inputs.Programs[name] = hex.EncodeToString(sum[:])
	}
	for _, p := range b.lock.Packages {
		if slices.Contains(p.Sets, setImage) || slices.Contains(p.Sets, setTools) {
			out.Inputs.Packages = append(out.Inputs.Packages, Input{p.Name, p.Version, p.SHA256, p.Sets})
		}
	}
	text, err := json.MarshalIndent(out, "", "  ")
	return append(text, '\n'), err
}

// billFile is where an image holds its own bill of materials.
const billFile = "/usr/lib/joist/sbom.spdx.json"

// bill is the bill of materials: Debian's packages, and the Go modules that the
// programs say they are made of.
func (b *Builder) bill(root *tree.Node) ([]byte, error) {
	d := sbom.Document{Name: b.base(), BuildID: b.id, Version: b.cfg.Version, Created: b.built}
	for _, p := range b.lock.Set(setImage) {
		text, err := root.Read("/usr/share/doc/" + p.Name + "/copyright")
		if err != nil {
			text = nil // the package has none, or one of a package that stays out
		}
		d.Packages = append(d.Packages, sbom.Package{Kind: sbom.Debian, Name: p.Name, Version: p.Version, Arch: p.Arch, SHA256: p.SHA256, Copyright: text})
	}
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

// release publishes artefacts (name → file in the work folder) with what
// accounts for them: manifest and bill are the names of these two. The result
// is noted under a kind, "" for not at all.
func (b *Builder) release(kind string, s System, manifest, bill string, files map[string]string) error {
	text, err := b.manifest(s.Manifest)
	if err != nil {
		return err
	}
	for name, text := range map[string][]byte{manifest: text, bill: s.Bill} {
		local := "release-" + filepath.Base(name)
		if err := os.WriteFile(filepath.Join(b.work, local), text, 0o644); err != nil {
			return err
		}
		files[name] = local
	}
	sums, err := b.out.publish(files, b.key)
	if err == nil && kind != "" && b.o.Again == nil {
		b.cacheFailed("results", b.noteResult(kind, sums))
	}
	return err
}

// result is what a build of certain inputs gave.
type result struct {
	Sums map[string]string // file in the output folder → hash
	Said finding.List
}

func (b *Builder) results() blobs { return blobs{filepath.Join(b.cache, "results")} }

func (b *Builder) resultKey(kind string) (string, error) {
	system, err := b.systemKey()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %q", system, kind))
	return hex.EncodeToString(sum[:]), nil
}

func (b *Builder) noteResult(kind string, sums map[string]string) error {
	key, err := b.resultKey(kind)
	if err != nil {
		return err
	}
	text, err := json.Marshal(result{sums, b.said})
	if err != nil {
		return err
	}
	return b.results().put(key, text)
}

// unchanged reports whether the output folder holds, byte for byte, what this
// build would make.
func (b *Builder) unchanged(kind string) (bool, error) {
	if b.id == "" || b.key != nil {
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
	if err != nil {
		return false, nil
	}
	err = b.o.Sink.Do("compare with the last build", func(func(n, of int64)) error {
		for name, sum := range r.Sums {
			d, err := describe(filepath.Join(b.o.Out, name))
			if ok = err == nil && d.SHA256 == sum && strings.Contains("\n"+string(list), "\n"+sum+"  "+name+"\n"); !ok {
				return nil
			}
		}
		return nil
	})
	if ok {
		b.o.Say(r.Said)
	}
	return ok, err
}
