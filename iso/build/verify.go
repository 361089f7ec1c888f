package build

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"joist/image/boot"
	"joist/internal/finding"
	"joist/rootfs/tree"
)

// Account is what an artefact's folder says of it.
type Account struct {
	Name     string // of the artefact below the folder
	Dir      string
	SHA256   string
	Signed   bool // the key that was given made the list's signature
	Manifest Manifest
}

// CheckSums compares an artefact with SHA256SUMS beside it, and that with its
// signature where a key is given.
func CheckSums(name string, key ed25519.PublicKey) (Account, error) {
	a := Account{Name: filepath.Base(name), Dir: filepath.Dir(name)}
	list, err := os.ReadFile(filepath.Join(a.Dir, sumsFile))
	if errors.Is(err, fs.ErrNotExist) { // a file of a folder that was published as a whole
		abs, e := filepath.Abs(a.Dir)
		if e != nil {
			return a, e
		}
		a.Dir, a.Name = filepath.Dir(abs), filepath.Base(abs)+"/"+a.Name
		list, err = os.ReadFile(filepath.Join(a.Dir, sumsFile))
	}
	if err != nil {
		return a, fmt.Errorf("verify %s: %w", name, err)
	}
	var fl finding.List
	if key != nil {
		sig, err := os.ReadFile(filepath.Join(a.Dir, sigFile))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			fl.Stopf("sums-unsigned", sumsFile, "fetch "+sigFile+" from whoever built the artefact", "it has no signature")
		case err != nil:
			return a, fmt.Errorf("verify %s: %w", name, err)
		case !ed25519.Verify(key, list, sig):
			fl.Stopf("sums-forged", sumsFile, "fetch both files again; if that does not help, do not trust the artefact", "its signature was not made with the key that was given")
		}
		a.Signed = !fl.Stops()
	}
	check := func(file string) (string, error) {
		d, err := describe(filepath.Join(a.Dir, file))
		if err != nil {
			return "", err
		}
		switch want := sumOf(string(list), file); want {
		case "":
			fl.Stopf("sum-missing", file, "verify it in the folder that it was built into, under its own name", "%s does not list it", sumsFile)
		case d.SHA256:
		default:
			fl.Stopf("sum-differs", file, "fetch or build it again", "it is not the file that %s lists", sumsFile)
		}
		return d.SHA256, nil
	}
	if a.SHA256, err = check(a.Name); err != nil {
		return a, fmt.Errorf("verify %s: %w", name, err)
	}
	base, isISO := strings.CutSuffix(a.Name, ".iso")
	if !isISO {
		return a, fl.Err()
	}
	if _, err := check(base + manifestSuffix); err != nil {
		return a, fmt.Errorf("verify %s: %w", name, err)
	}
	text, err := os.ReadFile(filepath.Join(a.Dir, base+manifestSuffix))
	if err == nil {
		err = json.Unmarshal(text, &a.Manifest)
	}
	if err != nil {
		return a, fmt.Errorf("read manifest of %s: %w", name, err)
	}
	return a, fl.Err()
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

// Rebuild makes an ISO again from the sources in o.Source and compares. Nothing
// that an earlier build made is taken, only packages by their hash. The first
// file that differs is a finding.
func Rebuild(ctx context.Context, a Account, o Options) error {
	name := filepath.Join(a.Dir, a.Name)
	old, err := openArtefact(name)
	if err != nil {
		return err
	}
	defer old.f.Close()
	if old.medium == nil {
		return fmt.Errorf("verify %s: only an ISO can be built again", name)
	}
	tmp, err := os.MkdirTemp("", "joist-verify-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if text, err := old.medium.Read(answerFile); err == nil {
		o.Answer = filepath.Join(tmp, "answer.toml")
		if err := os.WriteFile(o.Answer, text, 0o600); err != nil {
			return err
		}
	}
	o.Out, o.Again, o.Locked, o.Key = filepath.Join(tmp, "out"), &a.Manifest.Inputs, true, ""
	b, err := New(ctx, o)
	if err != nil {
		return err
	}
	path, err := b.ISO(ctx)
	if err == nil {
		err = compareMedia(old, path)
	}
	return errors.Join(err, b.Close())
}

// sameInputs stops a rebuild that could only differ, and says why.
func (b *Builder) sameInputs(ctx context.Context) error {
	if err := b.nameSources(ctx); err != nil {
		return err
	}
	want := b.o.Again
	var fl finding.List
	const hint = "change into a checkout of the commit that the artefact was built from"
	if sum := sha256.Sum256(b.lockText); hex.EncodeToString(sum[:]) != want.Lock {
		fl.Stopf("lock-differs", "joist.lock", hint, "the artefact was built from another one")
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
	return fl.Err()
}

// compareMedia names the first file in which two media differ.
func compareMedia(old artefact, name string) error {
	mine, err := openArtefact(name)
	if err != nil {
		return err
	}
	defer mine.f.Close()
	same, err := equalContent(section{io.NewSectionReader(old.f, 0, sizeOf(old.f))}, section{io.NewSectionReader(mine.f, 0, sizeOf(mine.f))})
	if same || err != nil {
		return err
	}
	var fl finding.List
	const hint = "if sources, lock and Go are the same, report this: an image must not depend on who builds it"
	at, err := firstDifference(old.system, mine.system)
	if err == nil && at != "" {
		at = boot.FileSystem + ": " + at
	}
	if err == nil && at == "" {
		at, err = firstDifference(old.medium, mine.medium)
	}
	if err != nil {
		return err
	}
	if at == "" {
		at = "what surrounds the files (boot records, partition table)"
	}
	fl.Stopf("rebuild-differs", at, hint, "it differs from what the same inputs give")
	return fl.Err()
}

func sizeOf(f *os.File) int64 {
	st, err := f.Stat()
	if err != nil {
		return 0
	}
	return st.Size()
}

// firstDifference returns the first path, in the order of the tree, at which
// two trees differ: "" when they do not.
func firstDifference(a, b *tree.Node) (string, error) {
	var first string
	note := func(p string) error {
		if first == "" || p < first {
			first = p
		}
		return nil
	}
	for _, pair := range [][2]*tree.Node{{a, b}, {b, a}} {
		err := pair[0].Walk(func(p string, x *tree.Node) error {
			y := pair[1].Lookup(p)
			if y == nil || x.Mode != y.Mode || x.UID != y.UID || x.GID != y.GID || x.Target != y.Target || x.Major != y.Major || x.Minor != y.Minor || !maps.Equal(x.Xattrs, y.Xattrs) {
				return note(p)
			}
			if x.Data == nil || y.Data == nil || first != "" {
				return nil
			}
			same, err := equalContent(x.Data, y.Data)
			if err != nil {
				return fmt.Errorf("compare %s: %w", p, err)
			}
			if !same {
				return note(p)
			}
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	return first, nil
}

func equalContent(a, b tree.Source) (same bool, err error) {
	if a.Size() != b.Size() {
		return false, nil
	}
	x, err := a.Open()
	if err != nil {
		return false, err
	}
	defer x.Close()
	y, err := b.Open()
	if err != nil {
		return false, err
	}
	defer y.Close()
	const step = 1 << 20
	p, q := make([]byte, step), make([]byte, step)
	for {
		n, err := io.ReadFull(x, p)
		m, err2 := io.ReadFull(y, q)
		if !bytes.Equal(p[:n], q[:m]) {
			return false, nil
		}
		if ended(err) && ended(err2) {
			return true, nil
		}
		if err := errors.Join(err, err2); err != nil {
			return false, err
		}
	}
}

func ended(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }
