package build

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"text/tabwriter"
	"time"

	"joist/image/boot"
	"joist/image/sbom"
	"joist/image/verity"
	"joist/installer/answer"
	"joist/internal/finding"
	"joist/rootfs/tree"
)

// Report is what a finished artefact says of itself.
type Report struct {
	Version    string       `json:"version"`
	BuildID    string       `json:"build_id"`
	Built      time.Time    `json:"built"`
	Kernel     string       `json:"kernel"`
	VerityRoot string       `json:"verity_root"`
	Modules    int          `json:"modules"` // of the kernel
	Packages   []sbom.Brief `json:"packages"`
	Answer     string       `json:"answer,omitempty"` // the file as TOML, secrets hidden
	Findings   finding.List `json:"findings,omitempty"`
}

// Inspect looks into an ISO file or a system.sqfs and checks the hash tree
// behind the system.
func Inspect(name string) (Report, error) {
	a, err := openArtefact(name)
	if err != nil {
		return Report{}, err
	}
	defer a.f.Close()
	r, err := a.report()
	if err != nil {
		return r, fmt.Errorf("look into %s: %w", name, err)
	}
	return r, nil
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
	}
	if a.medium == nil {
		return r, nil
	}
	return r, a.reportMedium(&r)
}

// verityRoot takes the root hash out of the tree behind the image, where its
// topmost block comes first, and checks all blocks against it.
func (a artefact) verityRoot() (string, error) {
	s, at, err := verity.Locate(a.image)
	if err != nil {
		return "", err
	}
	top := make([]byte, verity.Block)
	if _, err := a.image.ReadAt(top, at+verity.Block); err != nil {
		return "", fmt.Errorf("read the hash tree: %w", err)
	}
	sum := sha256.Sum256(append(bytes.Clone(s.Salt), top...))
	root := hex.EncodeToString(sum[:])
	return root, verity.Verify(a.image, at, root)
}

// reportMedium adds what only a medium has, and what in it does not fit.
func (a artefact) reportMedium(r *Report) error {
	dir := "/joist/" + r.BuildID
	text, err := a.medium.Read(dir + "/manifest.json")
	if err != nil {
		return err
	}
	m, err := boot.DecodeManifest(text)
	if err != nil {
		return err
	}
	if m.VerityRoot != r.VerityRoot || m.Kernel != r.Kernel {
		r.Findings.Stopf("manifest-differs", dir+"/manifest.json", "build or fetch the artefact again", "it speaks of another system than the one beside it")
	}
	for at, name := range map[string]string{"/boot/" + boot.FileKernel: boot.FileKernel, "/boot/" + boot.FileInitrd: boot.FileInitrd, dir + "/" + boot.FileSystem: boot.FileSystem} {
		n := a.medium.Lookup(at)
		if n == nil {
			return &fs.PathError{Op: "read", Path: at, Err: fs.ErrNotExist}
		}
		d, err := digestSource(n.Data)
		if err != nil {
			return err
		}
		if d != m.Files[name] {
			r.Findings.Stopf("file-differs", at, "build or fetch the artefact again", "it is not what the manifest lists")
		}
	}
	if text, err := a.medium.Read(answerFile); err == nil {
		x, fl := answer.Load(bytes.NewReader(text), answerFile)
		r.Findings = append(r.Findings, fl...)
		r.Findings = append(r.Findings, secretsInside(x, answerFile)...)
		r.Answer = x.String()
	}
	return nil
}

// answerFile is where the medium has an answer.
const answerFile = "/joist/answer.toml"

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

// Write shows the report to a person; all adds the packages one by one.
func (r Report) Write(w io.Writer, all bool) error {
	count := map[sbom.Kind]int{}
	for _, p := range r.Packages {
		count[p.Kind]++
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "version\t%s\nbuild\t%s\nbuilt\t%s\nkernel\t%s\nmodules\t%d\npackages\t%d of Debian, %d of Go\nverity root\t%s\n",
		r.Version, r.BuildID, r.Built.Format(time.RFC3339), r.Kernel, r.Modules, count[sbom.Debian], count[sbom.GoModule], r.VerityRoot)
	if all {
		fmt.Fprintln(tw)
		for _, p := range r.Packages {
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", p.Kind, p.Name, p.Version, p.Licence)
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if r.Answer != "" {
		fmt.Fprintf(w, "\nanswer:\n  %s\n", strings.ReplaceAll(strings.TrimSpace(r.Answer), "\n", "\n  "))
	}
	return nil
}
