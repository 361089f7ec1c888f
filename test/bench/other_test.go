package bench

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"joist/internal/progress"
	"joist/rootfs/deb"
	"joist/rootfs/lock"
	"joist/rootfs/policy"
)

// otherLevel is the zstd level of mksquashfs in the whole comparison.
const otherLevel = "9"

// other builds an ISO with the usual programs: mmdebstrap, mksquashfs, xorriso.
// It makes less of it than joist does: kernel and initrd are joist's of build/,
// there is no verity tree, no bill of materials and no program of Joist's, and
// kernel modules stay compressed as Debian has them.
type other struct {
	b       *bench
	repo    string // a local archive of exactly these packages
	names   []string
	variant string // of mmdebstrap

	whole, boot, squash []usage
}

// extracted are the locked packages of the image, unpacked and no more: no
// script of a package runs, as with joist, and nothing stands in for them. Their
// dependencies stay out of the archive, because joist leaves some of them out.
func extracted(t *testing.T, b *bench) *other {
	o := &other{b: b, repo: filepath.Join(b.dir, "repo"), variant: "extract"}
	text, err := os.ReadFile(filepath.Join(b.root, "joist.lock"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := lock.Decode("joist.lock", text)
	if err != nil {
		t.Fatal(err)
	}
	o.archive(t, l.Set("image"), "Package", "Version", "Architecture", "Maintainer", "Description")
	return o
}

// installed is what Debian makes of the same list: with all they depend on, and
// each package's scripts run. What the mirror has is fetched before.
func installed(t *testing.T, b *bench) *other {
	o := &other{b: b, repo: filepath.Join(b.dir, "repo-installed"), variant: "custom"}
	c, err := deb.New(deb.Config{Cache: filepath.Join(b.cache, "joist", "pool")})
	if err != nil {
		t.Fatal(err)
	}
	suites := []string{"trixie", "trixie-updates", "trixie-security"}
	ix, _, err := c.Index(t.Context(), suites)
	if err != nil {
		t.Fatal(err)
	}
	wants := append(policy.Wanted(), ix.Select(func(r *deb.Record) bool { return r.Essential })...)
	l, fl, err := deb.Resolve(t.Context(), c, suites, wants, nil)
	if err != nil || fl.Stops() {
		t.Fatal(err, fl)
	}
	if _, err := c.Fetch(t.Context(), l.Packages, progress.Discard); err != nil {
		t.Fatal(err)
	}
	o.archive(t, l.Packages, "Package", "Version", "Architecture", "Maintainer", "Description", "Essential", "Priority", "Multi-Arch", "Source",
		"Pre-Depends", "Depends", "Provides", "Conflicts", "Breaks", "Replaces", "Installed-Size", "Protected", "Important")
	return o
}

// archive makes a local one that apt reads, with the given fields of control.
func (o *other) archive(t *testing.T, packages []lock.Package, fields ...string) {
	t.Helper()
	if err := os.MkdirAll(o.repo, 0o755); err != nil {
		t.Fatal(err)
	}
	var index strings.Builder
	for _, p := range packages {
		from := filepath.Join(o.b.cache, "joist", "pool", p.SHA256[:2], p.SHA256)
		d, err := deb.Open(from)
		if err != nil {
			t.Fatalf("%v: build the image once before", err)
		}
		name := fmt.Sprintf("%s_%s.deb", p.Name, p.Arch)
		if err := os.Symlink(from, filepath.Join(o.repo, name)); err != nil {
			t.Fatal(err)
		}
		for _, f := range fields {
			if v := d.Control.Get(f); v != "" {
				first, _, _ := strings.Cut(v, "\n")
				if f != "Description" {
					first = strings.ReplaceAll(v, "\n", " ")
				}
				fmt.Fprintf(&index, "%s: %s\n", f, first)
			}
		}
		fmt.Fprintf(&index, "Filename: ./%s\nSize: %d\nSHA256: %s\n\n", name, p.Size, p.SHA256)
		o.names = append(o.names, p.Name)
	}
	if err := os.WriteFile(filepath.Join(o.repo, "Packages"), []byte(index.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// build is one round.
func (o *other) build(t *testing.T) usage {
	t.Helper()
	dir := filepath.Join(o.b.dir, "theirs")
	root, medium := filepath.Join(dir, "root"), filepath.Join(dir, "medium")
	for _, d := range []string{dir, medium} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	}()
	boot := o.b.must(t, command{name: "mmdebstrap", args: []string{"--quiet", "--variant=" + o.variant, "--format=directory", "--include=" + strings.Join(o.names, ","),
		"trixie", root, "deb [trusted=yes] copy:" + o.repo + " ./"}})
	whole := boot.plus(o.drop(t, root))
	sqfs := filepath.Join(medium, "system.sqfs")
	squash := o.b.must(t, mksquashfs(root, sqfs, otherLevel))
	whole = whole.plus(squash)
	iso := filepath.Join(dir, "image.iso")
	whole = whole.plus(o.b.must(t, command{name: "sh", args: []string{"-ec",
		`cd "$1"; xorriso -osirrox on -indev "$2" -extract /boot boot >/dev/null 2>&1; xorriso -as mkisofs -quiet -R -V OTHER -b boot/bios.img -no-emul-boot -boot-load-size 4 -o "$3" .`,
		"sh", medium, filepath.Join(o.b.root, "build", "joist-0.1.0-amd64.iso"), iso}, out: iso}))
	o.whole, o.boot, o.squash = append(o.whole, whole), append(o.boot, boot), append(o.squash, squash)
	return whole
}

// drop takes away what the image of ours does not have either.
func (o *other) drop(t *testing.T, root string) usage {
	t.Helper()
	begin, used := time.Now(), selfTime(t)
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		at := strings.TrimPrefix(p, root)
		_, drop := policy.Drop(at)
		if !drop && d.IsDir() {
			_, drop = policy.Drop(at + "/")
		}
		if file, ok := strings.CutPrefix(at, "/usr/lib/modules/"); ok && !drop && !d.IsDir() {
			_, file, _ = strings.Cut(file, "/")
			drop = policy.DropModule(file)
		}
		if !drop || d.IsDir() && at == "" {
			return nil
		}
		if err := os.RemoveAll(p); err != nil {
			return err
		}
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return usage{wall: time.Since(begin), cpu: selfTime(t) - used}
}
