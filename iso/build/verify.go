package build

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"joist/image/boot"
	"joist/installer/answer"
	"joist/internal/finding"
)

// Account is what an artefact's folder says of it.
type Account struct {
	Name    string // of the artefact below the folder
	Dir     string
	Kind    Kind         // "" for a file that no build makes by itself
	Signed  bool         // the key that was given made the list's signature
	Differs finding.List // the artefact is not the one that the list names
	Inputs  Inputs
	Made    map[string]string // signatures inside artefacts, by artefact
}

// kindOf tells from an artefact's name what it is, and the name of the manifest
// that accounts for it.
func kindOf(name string) (k Kind, manifest string) {
	for suffix, k := range map[string]Kind{".iso": ISO, ".update": Update, templateSuffix: Template} {
		if base, ok := strings.CutSuffix(name, suffix); ok {
			if k == Template && strings.HasPrefix(base, guestOf(TemplateOld).name+"-") {
				k = TemplateOld
			}
			return k, base + manifestSuffix
		}
	}
	if base, _, ok := diskOf(name); ok {
		return Disk, base + manifestSuffix
	}
	manifest = netbootDir + "/manifest.json"
	if name != manifest && (name == netbootDir || strings.HasPrefix(name, netbootDir+"/")) {
		return Netboot, manifest
	}
	return "", ""
}

// sums is SHA256SUMS of a folder.
type sums struct{ dir, text string }

// openSums finds the list that an artefact is in: beside it, or, for a file of a
// folder that was published as a whole, beside that.
func openSums(name string) (s sums, artefact string, err error) {
	abs, err := filepath.Abs(name)
	if err != nil {
		return s, "", err
	}
	s.dir, artefact = filepath.Dir(abs), filepath.Base(abs)
	text, err := os.ReadFile(filepath.Join(s.dir, sumsFile))
	for up := 0; errors.Is(err, fs.ErrNotExist) && up < 2; up++ {
		s.dir, artefact = filepath.Dir(s.dir), filepath.Base(s.dir)+"/"+artefact
		text, err = os.ReadFile(filepath.Join(s.dir, sumsFile))
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("there is no %s beside it", sumsFile)
	}
	s.text = string(text)
	return s, artefact, err
}

// signed compares the list with its signature.
func (s sums) signed(key ed25519.PublicKey, fl *finding.List) error {
	sig, err := os.ReadFile(filepath.Join(s.dir, sigFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		fl.Stopf("sums-unsigned", sumsFile, "fetch "+sigFile+" from whoever built the artefact", "it has no signature")
	case err != nil:
		return err
	case !ed25519.Verify(key, []byte(s.text), sig):
		fl.Stopf("sums-forged", sumsFile, "fetch both files again; if that does not help, do not trust the artefact", "its signature was not made with the key that was given")
	}
	return nil
}

// check compares a file with the list.
func (s sums) check(file string, fl *finding.List) error {
	d, err := describe(filepath.Join(s.dir, file))
	if err != nil {
		return err
	}
	switch sumOf(s.text, file) {
	case "":
		fl.Stopf("sum-missing", file, "verify it in the folder that it was built into, under its own name", "%s does not list it", sumsFile)
	case d.SHA256:
	default:
		fl.Stopf("sum-differs", file, "fetch or build it again", "it is not the file that %s lists", sumsFile)
	}
	return nil
}

// files are those that the list has of an artefact: itself, or what is in it.
func (s sums) files(artefact string) []string {
	if st, err := os.Stat(filepath.Join(s.dir, artefact)); err != nil || !st.IsDir() {
		return []string{artefact}
	}
	var out []string
	for line := range strings.Lines(s.text) {
		if _, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  "); ok && strings.HasPrefix(name, artefact+"/") {
			out = append(out, name)
		}
	}
	return out
}

// CheckSums compares an artefact with SHA256SUMS beside it, and that with its
// signature where a key is given. An artefact that differs is no error yet: the
// account says so, and Rebuild finds out where.
func CheckSums(name string, key ed25519.PublicKey) (Account, error) {
	a, err := checkSums(name, key)
	var fe *finding.Error
	if err != nil && !errors.As(err, &fe) {
		err = fmt.Errorf("verify %s: %w", name, err)
	}
	return a, err
}

func checkSums(name string, key ed25519.PublicKey) (a Account, err error) {
	var s sums
	if s, a.Name, err = openSums(name); err != nil {
		return a, err
	}
	a.Dir = s.dir
	var fl finding.List
	if key != nil {
		if err := s.signed(key, &fl); err != nil {
			return a, err
		}
		if a.Signed = !fl.Stops(); !a.Signed {
			return a, fl.Err()
		}
	}
	files := s.files(a.Name)
	if len(files) == 0 {
		fl.Stopf("sum-missing", a.Name, "verify it in the folder that it was built into, under its own name", "%s lists nothing in it", sumsFile)
	}
	for _, f := range files {
		if err := s.check(f, &a.Differs); err != nil {
			return a, err
		}
	}
	var manifest string
	if a.Kind, manifest = kindOf(a.Name); a.Kind == "" {
		fl = append(fl, a.Differs...)
		return a, fl.Err()
	}
	// All else follows from the manifest: it must be the one that was listed.
	if err := s.check(manifest, &fl); err != nil {
		return a, err
	}
	if fl.Stops() {
		return a, append(fl, a.Differs...).Err()
	}
	var m struct {
		Inputs     Inputs            `json:"inputs"`
		Signatures map[string]string `json:"signatures"`
	}
	text, err := os.ReadFile(filepath.Join(a.Dir, manifest))
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		return a, fmt.Errorf("read %s: %w", manifest, err)
	}
	a.Inputs, a.Made = m.Inputs, m.Signatures
	return a, nil
}

// sumOf returns the hash that SHA256SUMS lists for a file, "" for none.
func sumOf(list, file string) string {
	for line := range strings.Lines(list) {
		if sum, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  "); ok && name == file {
			return sum
		}
	}
	return ""
}

// Rebuild makes an artefact again from the sources in o.Source and compares.
// Nothing that an earlier build made is taken, only packages by their hash. The
// first file that differs is a finding.
func Rebuild(ctx context.Context, a Account, o Options) error {
	if a.Kind == "" {
		return fmt.Errorf("verify %s: it is what %s lists, but no build makes it by itself; verify the artefact that it belongs to", a.Name, sumsFile)
	}
	tmp, err := os.MkdirTemp("", "joist-verify-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	o.Out, o.Again, o.Signed, o.Locked, o.Key = filepath.Join(tmp, "out"), &a.Inputs, a.Made, true, ""
	if a.Kind == Disk {
		_, o.SectorSize, _ = diskOf(a.Name)
	}
	if holdsAnswer(a.Kind) {
		if err := o.takeInside(filepath.Join(a.Dir, a.Name), tmp); err != nil {
			return err
		}
	}
	b, err := New(ctx, o)
	if err != nil {
		return err
	}
	_, err = b.Make(ctx, a.Kind)
	if err == nil {
		name := b.artefactPath(a.Kind)
		if a.Kind == Disk {
			name = a.Name // which of the two formats it is
		}
		err = a.compare(o.Out, name)
	}
	return errors.Join(err, b.Close())
}

// takeInside takes out of a medium what it holds beside a build: with it, the
// medium is made again. One that is too damaged to be looked into gives nothing.
func (o *Options) takeInside(medium, dir string) error {
	old, err := openArtefact(medium)
	if err != nil {
		return nil
	}
	defer old.close()
	if text, err := old.parts.Read(sourceFile); err == nil {
		o.From, _ = answer.DecodeSource(text)
		o.From.From = ""
	}
	for at, option := range map[string]*string{answerFile: &o.Answer, programFile: &o.Program} {
		text, err := old.parts.Read(at)
		if err != nil || boot.NoAnswer(text) {
			continue
		}
		*option = filepath.Join(dir, filepath.Base(at))
		if err := os.WriteFile(*option, text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// compare names the first file in which the artefact differs from the one in
// dir that was made again.
func (a Account) compare(dir, name string) error {
	var first string
	var err error
	if a.Kind == Netboot {
		first, err = a.compareFolder(dir)
	} else {
		first, err = compareFiles(filepath.Join(a.Dir, a.Name), filepath.Join(dir, name))
	}
	if err != nil {
		return fmt.Errorf("compare %s: %w", a.Name, err)
	}
	fl := slices.Clone(a.Differs)
	if first != "" {
		hint := "if sources, lock and Go are the same, report this: an image must not depend on who builds it"
		if len(fl) > 0 {
			hint = "" // it was changed after it was built
		}
		fl.Stopf("rebuild-differs", first, hint, "it differs from what the same inputs give")
	}
	return fl.Err()
}

// compareFolder compares what the list has of the folder; what else is made is
// missing.
func (a Account) compareFolder(dir string) (string, error) {
	s := sums{dir: a.Dir}
	made, err := os.ReadFile(filepath.Join(dir, sumsFile))
	if err != nil {
		return "", err
	}
	s.text = string(made)
	files := []string{a.Name}
	if a.Name == netbootDir {
		files = sums{dir, s.text}.files(netbootDir)
	}
	for _, f := range files {
		if strings.HasSuffix(f, "/manifest.json") {
			continue // compared with the list already; it names the inputs, not what they give
		}
		if _, err := os.Stat(filepath.Join(a.Dir, f)); errors.Is(err, fs.ErrNotExist) {
			return f, nil
		}
		at, err := compareFiles(filepath.Join(a.Dir, f), filepath.Join(dir, f))
		switch {
		case err != nil:
			return "", err
		case at != "" && filepath.Base(f) == boot.FileSystem:
			return netbootDir + "/" + at, nil
		case at != "":
			return f, nil
		}
	}
	return "", nil
}

// sameInputs stops a rebuild that could only differ, and says why. A system has
// programs, a template has none.
func (b *Builder) sameInputs(ctx context.Context, programs bool) error {
	if programs {
		if err := b.nameSources(ctx); err != nil {
			return err
		}
	}
	want := b.o.Again
	var fl finding.List
	const hint = "change into a checkout of the commit that the artefact was built from"
	if sum := sha256.Sum256(b.lockText); hex.EncodeToString(sum[:]) != want.Lock {
		fl.Stopf("lock-differs", b.lockName(), hint, "the artefact was built from another one")
	}
	if b.gotool.version != want.Go {
		fl.Stopf("go-differs", b.gotool.version, "build with "+want.Go+", for example GOTOOLCHAIN="+want.Go, "the artefact was built with %s", want.Go)
	} else {
		for _, name := range slices.Sorted(maps.Keys(b.keys)) {
			if b.keys[name] != want.Sources[name] {
				fl.Stopf("sources-differ", "cmd/"+name, hint, "the artefact was built from other sources of %s", name)
			}
		}
	}
	sums := b.extra.sums()
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		if want.Contents[name] != sums[name] {
			fl.Stopf("contents-differ", name, hint, "the artefact was built with another file")
		}
	}
	return fl.Err()
}
