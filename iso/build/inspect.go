package build

import (
	"bytes"
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
	"path"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"joist/image/boot"
	"joist/image/bundle"
	"joist/image/sbom"
	"joist/image/verity"
	"joist/installer/answer"
	"joist/internal/finding"
	"joist/rootfs/deb"
	"joist/rootfs/tree"
)

// Report is what a finished artefact says of itself.
type Report struct {
	Kind       string           `json:"kind"` // iso, netboot, disk, update, template, or system for a bare one
	Version    string           `json:"version"`
	BuildID    string           `json:"build_id"`
	Built      time.Time        `json:"built"`
	Kernel     string           `json:"kernel,omitempty"`
	VerityRoot string           `json:"verity_root,omitempty"`
	Extensions []boot.Extension `json:"extensions,omitempty"`
	Modules    int              `json:"modules,omitempty"`     // of the kernel
	Files      []string         `json:"files,omitempty"`       // of an update bundle; partitions of a disk image
	SectorSize int              `json:"sector_size,omitempty"` // of a disk image
	Packages   []sbom.Brief     `json:"packages"`
	Answer     string           `json:"answer,omitempty"`     // the file as TOML, secrets hidden
	FirstBoot  *boot.File       `json:"first_boot,omitempty"` // the program for the nodes' first start
	Findings   finding.List     `json:"findings,omitempty"`
}

// Inspect looks into an artefact of any kind, a netboot folder among them, and
// checks the hashes inside. With a key it also checks an update bundle's
// signature.
func Inspect(name string, key ed25519.PublicKey) (Report, error) {
	r, err := inspect(name, key)
	if err != nil {
		return r, fmt.Errorf("look into %s: %w", name, err)
	}
	return r, nil
}

func inspect(name string, key ed25519.PublicKey) (r Report, err error) {
	folder := ""
	if st, err := os.Stat(name); err == nil && st.IsDir() {
		folder, name = name, filepath.Join(name, boot.FileSystem)
	}
	a, err := openArtefact(name)
	if errors.Is(err, errNoArtefact) {
		if r, err := inspectTemplate(name); !errors.Is(err, errNoArtefact) {
			return r, err
		}
	}
	if err != nil {
		return r, err
	}
	defer a.close()
	if r, err = a.report(); err != nil {
		return r, err
	}
	switch {
	case folder != "":
		r.Kind = string(Netboot)
		text, err := os.ReadFile(filepath.Join(folder, "manifest.json"))
		if err != nil {
			return r, err
		}
		return r, r.compareManifest("manifest.json", text, func(file string) (tree.Source, string, error) {
			f, err := tree.FromFile(filepath.Join(folder, file))
			return f, file, err
		})
	case a.bundle != nil:
		r.Kind = string(Update)
		return r, a.reportBundle(&r, key)
	case a.medium != nil:
		r.Kind = string(ISO)
		return r, a.reportMedium(&r)
	case a.layout != nil:
		r.Kind = string(Disk)
		return r, a.reportDisk(&r)
	}
	r.Kind = "system"
	return r, nil
}

// reportBundle adds what only a bundle has.
func (a artefact) reportBundle(r *Report, key ed25519.PublicKey) error {
	in := io.NewSectionReader(a.f, 0, sizeOf(a.f))
	x, err := bundle.OpenUnchecked(in)
	if key != nil {
		if _, err := in.Seek(0, io.SeekStart); err != nil {
			return err
		}
		if x, err = bundle.Open(in, key); errors.Is(err, bundle.ErrForged) || errors.Is(err, bundle.ErrUnsigned) {
			r.Findings.Stopf("update-forged", a.f.Name(), "", "%v", err)
			return nil
		}
	}
	for err == nil {
		var f bundle.File
		if f, err = x.Next(); err == nil {
			r.Files = append(r.Files, fmt.Sprintf("%s %d bytes", f.Name, f.Size))
		}
	}
	if !errors.Is(err, io.EOF) {
		r.Findings.Stopf("file-differs", a.f.Name(), "build or fetch the artefact again", "%v", err)
	}
	if m := a.bundle.Head.Manifest; m.VerityRoot != r.VerityRoot || m.Kernel != r.Kernel || m.BuildID != r.BuildID {
		r.Findings.Stopf("manifest-differs", a.f.Name(), "build or fetch the artefact again", "its head speaks of another system than the one inside")
	}
	return nil
}

func sizeOf(f *os.File) int64 {
	st, err := f.Stat()
	if err != nil {
		return 0
	}
	return st.Size()
}

func (a artefact) report() (r Report, err error) {
	text, err := a.system.Read("/usr/lib/joist/build.json")
	if err != nil {
		return r, err
	}
	var id struct {
		Version string    `json:"version"`
		BuildID string    `json:"build_id"`
		Built   time.Time `json:"built"`
	}
	if err := json.Unmarshal(text, &id); err != nil {
		return r, fmt.Errorf("read build.json: %w", err)
	}
	r.Version, r.BuildID, r.Built = id.Version, id.BuildID, id.Built
	if r.Kernel, err = kernelRelease(a.system); err != nil {
		return r, err
	}
	err = a.system.Resolve("/usr/lib/modules").Walk(func(_ string, n *tree.Node) error {
		if n.Mode.IsRegular() && strings.Contains(path.Ext(n.Name), ".ko") {
			r.Modules++
		}
		return nil
	})
	if err != nil {
		return r, err
	}
	if bill, err := a.system.Read(billFile); err == nil { // older images have none
		if r.Packages, err = sbom.Decode(bill); err != nil {
			return r, err
		}
	}
	if r.VerityRoot, err = a.verityRoot(); err != nil {
		r.Findings.Stopf("verity-damaged", boot.FileSystem, "build or fetch the artefact again", "%v", err)
		return r, nil
	}
	return r, a.reportExtensions(&r)
}

// reportExtensions adds the extensions that the system names, and checks that
// they lie behind it as it says.
func (a artefact) reportExtensions(r *Report) error {
	text, err := a.system.Read(boot.ExtensionsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if r.Extensions, err = boot.DecodeExtensions(text); err != nil {
		return err
	}
	_, at, err := verity.Locate(a.image)
	if err != nil {
		return err
	}
	at += verity.TreeSize(at)
	for _, x := range r.Extensions {
		root, err := verityRoot(io.NewSectionReader(a.image, at, x.Size))
		if err == nil && root != x.VerityRoot {
			err = errors.New("its root hash is not the one that the system names")
		}
		if err != nil {
			r.Findings.Stopf("verity-damaged", boot.FileSystem, "build or fetch the artefact again", "extension %s: %v", x.Name, err)
		}
		at += x.Size
	}
	return nil
}

func (a artefact) verityRoot() (string, error) { return verityRoot(a.image) }

// verityRoot takes the root hash out of the tree behind an image, where its
// topmost block comes first, and checks all blocks against it.
func verityRoot(image io.ReaderAt) (string, error) {
	s, at, err := verity.Locate(image)
	if err != nil {
		return "", err
	}
	top := make([]byte, verity.Block)
	from := at + verity.Block
	if s.Blocks == 1 { // one block has no tree: its hash is the root
		from = 0
	}
	if _, err := image.ReadAt(top, from); err != nil {
		return "", fmt.Errorf("read the hash tree: %w", err)
	}
	sum := sha256.Sum256(append(bytes.Clone(s.Salt), top...))
	root := hex.EncodeToString(sum[:])
	return root, verity.Verify(image, at, root)
}

// reportMedium adds what only a medium has, and what in it does not fit.
func (a artefact) reportMedium(r *Report) error {
	dir := "/joist/" + r.BuildID
	text, err := a.medium.Read(dir + "/manifest.json")
	if err != nil {
		return err
	}
	err = r.compareManifest(dir+"/manifest.json", text, func(file string) (tree.Source, string, error) {
		at := dir + "/" + file
		if file == boot.FileKernel || file == boot.FileInitrd {
			at = "/boot/" + file
		}
		n := a.medium.Lookup(at)
		if n == nil || n.Data == nil {
			return nil, at, &fs.PathError{Op: "read", Path: at, Err: fs.ErrNotExist}
		}
		return n.Data, at, nil
	})
	if err != nil {
		return err
	}
	if text, err := a.parts.Read(programFile); err == nil {
		sum := sha256.Sum256(text)
		r.FirstBoot = &boot.File{Size: int64(len(text)), SHA256: hex.EncodeToString(sum[:])}
	}
	a.reportAnswer(r)
	return nil
}

// reportAnswer adds the answer that an artefact holds, or where it gets one.
func (a artefact) reportAnswer(r *Report) {
	if text, err := a.parts.Read(answerFile); err == nil && !boot.NoAnswer(text) {
		x, fl := answer.Load(bytes.NewReader(text), answerFile)
		r.Findings = append(r.Findings, fl...)
		r.Findings = append(r.Findings, secretsInside(x, answerFile)...)
		r.Answer = x.String()
	}
	if text, err := a.parts.Read(sourceFile); err == nil {
		x, fl := answer.DecodeSource(text)
		r.Findings = append(r.Findings, fl...)
		at, query, _ := strings.Cut(x.URL, "?")
		if r.Answer = "from " + at; query != "" { // which may be a secret
			r.Answer += "?***"
		}
		if x.Fingerprint != "" {
			r.Answer += "\nthe server's certificate must be " + x.Fingerprint
		}
		if x.Token != "" {
			r.Answer += "\nwith a token"
			r.Findings.Warnf("answer-secret", sourceFile, "keep the medium as you would keep the secret", "the token of the answer server lies readable on the medium")
		}
	}
}

// reportDisk adds what only a disk image has, and what in it does not fit.
func (a artefact) reportDisk(r *Report) error {
	for _, p := range a.layout.Partitions {
		r.Files = append(r.Files, fmt.Sprintf("partition %d %s %d bytes", p.Number, p.Name, p.Size))
	}
	r.SectorSize = a.layout.SectorSize
	text, err := a.parts.Read(boot.PathManifest(boot.A))
	if err != nil {
		return err
	}
	err = r.compareManifest(boot.PathManifest(boot.A), text, func(file string) (tree.Source, string, error) {
		at := boot.PathSlotFile(boot.A, file)
		if file == boot.FileSystem {
			return a.systemSource(), file, nil
		}
		n := a.parts.Lookup(at)
		if n == nil || n.Data == nil {
			return nil, at, &fs.PathError{Op: "read", Path: at, Err: fs.ErrNotExist}
		}
		return n.Data, at, nil
	})
	if err != nil {
		return err
	}
	a.reportAnswer(r)
	return nil
}

// compareManifest compares the files of a system with the manifest beside them;
// find says where each of them is.
func (r *Report) compareManifest(name string, text []byte, find func(file string) (tree.Source, string, error)) error {
	m, err := boot.DecodeManifest(text)
	if err != nil {
		return err
	}
	if m.VerityRoot != r.VerityRoot || m.Kernel != r.Kernel || m.BuildID != r.BuildID {
		r.Findings.Stopf("manifest-differs", name, "build or fetch the artefact again", "it speaks of another system than the one beside it")
	}
	for _, file := range slices.Sorted(maps.Keys(m.Files)) {
		s, at, err := find(file)
		if err != nil {
			return err
		}
		d, err := digestSource(s)
		if err != nil {
			return err
		}
		if d != m.Files[file] {
			r.Findings.Stopf("file-differs", at, "build or fetch the artefact again", "it is not what the manifest lists")
		}
	}
	return nil
}

// Where the medium has an answer, or the name of a server that gives one.
const (
	answerFile = "/joist/answer.toml"
	sourceFile = "/joist/" + answer.SourceFile
	// the first-boot program
	programFile = "/joist/" + answer.ProgramFile
)

// secretsInside names what whoever gets hold of the medium can read.
func secretsInside(a answer.Answer, name string) finding.List {
	var fl finding.List
	for _, s := range []struct {
		key, hint string
		value     answer.Secret
	}{
		{"global.root-password", "give root-password-hashed instead, as `openssl passwd -6` writes it", a.Global.RootPassword},
		{"global.subscription-key", "", a.Global.SubscriptionKey},
		{"post-installation-webhook.auth-token", "", a.Webhook.Token},
		{"joist.cluster.token", "", a.Cluster.Token},
	} {
		if s.value == "" {
			continue
		}
		if s.hint == "" {
			s.hint = "keep the medium as you would keep the secret, or give the answer on a volume of its own (docs/answer-file.md)"
		}
		fl.Warnf("answer-secret", name, s.hint, "%s lies readable on the medium", s.key)
	}
	return fl
}

func digestSource(s tree.Source) (boot.File, error) {
	r, err := s.Open()
	if err != nil {
		return boot.File{}, err
	}
	defer r.Close()
	h := sha256.New()
	n, err := io.Copy(h, r)
	return boot.File{Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}, err
}

// inspectTemplate looks into a template: Debian's own list says what is inside.
func inspectTemplate(name string) (r Report, err error) {
	in, done, err := openArchive(name)
	if err != nil {
		return r, err
	}
	defer done()
	r.Kind = string(Template)
	for {
		h, err := in.Next()
		switch {
		case errors.Is(err, io.EOF) && len(r.Packages) > 0:
			return r, nil
		case errors.Is(err, io.EOF) || err != nil && len(r.Packages)+len(r.Version) == 0:
			return r, errNoArtefact
		case err != nil:
			r.Findings.Stopf("file-differs", name, "build or fetch the artefact again", "it cannot be read to its end: %v", err)
			return r, nil
		}
		switch path.Clean(h.Name) {
		case "etc/debian_version":
			text, err := io.ReadAll(io.LimitReader(in, 64))
			if err != nil {
				return r, err
			}
			r.Version = "Debian " + strings.TrimSpace(string(text))
		case "var/lib/dpkg/status":
			text, err := io.ReadAll(io.LimitReader(in, 64<<20))
			if err != nil {
				return r, err
			}
			list, err := deb.ParseStanzas(string(text))
			if err != nil {
				return r, err
			}
			for _, s := range list {
				r.Packages = append(r.Packages, sbom.Brief{Kind: sbom.Debian, Name: s.Get("Package"), Version: s.Get("Version")})
			}
		}
	}
}

// Write shows the report to a person; all adds the packages one by one.
func (r Report) Write(w io.Writer, all bool) error {
	count := map[sbom.Kind]int{}
	for _, p := range r.Packages {
		count[p.Kind]++
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "kind\t%s\nversion\t%s\n", r.Kind, r.Version)
	if r.Kernel != "" {
		fmt.Fprintf(tw, "build\t%s\nbuilt\t%s\nkernel\t%s\nmodules\t%d\n", r.BuildID, r.Built.Format(time.RFC3339), r.Kernel, r.Modules)
	}
	fmt.Fprintf(tw, "packages\t%d of Debian, %d of Go\n", count[sbom.Debian], count[sbom.GoModule])
	if r.VerityRoot != "" {
		fmt.Fprintf(tw, "verity root\t%s\n", r.VerityRoot)
	}
	for _, x := range r.Extensions {
		fmt.Fprintf(tw, "extension\t%s, %.1f MB, %d packages\t%s\n", x.Name, float64(x.Size)/1e6, len(x.Packages), x.VerityRoot)
	}
	if r.SectorSize != 0 {
		fmt.Fprintf(tw, "sectors\t%d bytes\n", r.SectorSize)
	}
	for _, f := range r.Files {
		fmt.Fprintf(tw, "file\t%s\n", f)
	}
	if all {
		fmt.Fprintln(tw)
		for _, p := range r.Packages {
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", p.Kind, p.Name, p.Version, p.Licence)
		}
		for _, x := range r.Extensions {
			for _, p := range x.Packages {
				fmt.Fprintf(tw, "extension %s\t%s\n", x.Name, strings.ReplaceAll(p, " ", "\t"))
			}
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if r.FirstBoot != nil {
		fmt.Fprintf(w, "\nfirst-boot program: %d bytes, SHA-256 %s\n", r.FirstBoot.Size, r.FirstBoot.SHA256)
	}
	if r.Answer != "" {
		fmt.Fprintf(w, "\nanswer:\n  %s\n", strings.ReplaceAll(strings.TrimSpace(r.Answer), "\n", "\n  "))
	}
	return nil
}
