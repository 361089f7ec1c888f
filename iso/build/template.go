package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"joist/image/sbom"
	"joist/internal/run"
	"joist/rootfs/sandbox"
	"joist/rootfs/tree"
	"joist/rootfs/unpack"
)

// configure installs the packages as dpkg does, maintainer scripts included.
// It runs as uid 0 of a user namespace that knows no other uid, under
// fakeroot, which remembers the owners the scripts and dpkg ask for; the
// archive at the end is made under the same fakeroot and so carries them.
// Nothing that must differ between two containers stays inside: machine ids
// are made at a container's first boot.
const configure = `set -e
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
: > /var/lib/dpkg/status
# dpkg leaves folders that are there as they are.
sh /host/work/folders
opts='--force-depends --force-confnew --force-unsafe-io --log=/dev/null'
cd /host/debs
dpkg $opts --install $(cat /host/work/essential)
dpkg $opts --install $(cat /host/work/others)
dpkg --configure -a
audit=$(dpkg --audit)
[ -z "$audit" ] || { echo "dpkg --audit: $audit" >&2; exit 1; }
systemctl enable systemd-networkd.service >/dev/null
printf '[Match]\nName=eth*\n\n[Network]\nDHCP=yes\n' > /etc/systemd/network/99-default.network
ln -sf /usr/share/zoneinfo/Etc/UTC /etc/localtime
printf 'LANG=C.UTF-8\n' > /etc/default/locale
passwd -l root >/dev/null
rm -f /usr/sbin/policy-rc.d /etc/hostname /etc/resolv.conf /var/lib/dbus/machine-id /var/cache/debconf/*-old /var/lib/dpkg/*-old /etc/apt/sources.list.d/*
rm -rf /var/log/* /var/cache/apt/* /var/lib/apt/lists/* /var/cache/ldconfig/* /tmp/* /run/*
: > /etc/machine-id
: > /etc/apt/sources.list
mkdir -p /var/lib/apt/lists/partial /var/cache/apt/archives/partial /var/log
tar --create --file=/host/work/template.tar --numeric-owner --sort=name --mtime="@$EPOCH" --pax-option=delete=atime,delete=ctime \
  --exclude=./host --exclude=./proc/* --exclude=./sys/* --exclude=./dev/* --exclude=./run/* --exclude=./tmp/* --directory=/ .
`

const templateSuffix = ".tar.zst"

func (b *Builder) templateName() string {
	return fmt.Sprintf("%s-standard_%s-1_amd64", guestOf(b.guest.kind).name, b.cfg.Version)
}

// keepTemplates is how many built templates are kept.
const keepTemplates = 4

// templateKey names all that the template's bytes depend on.
func (b *Builder) templateKey() (string, error) {
	self, err := b.self()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(b.templateID() + " " + self))
	return hex.EncodeToString(sum[:])[:16], nil
}

// template brings the template into the work folder: from the cache, or built.
// Its name there is told from folder on, the work folder of the whole build.
func (b *Builder) template(ctx context.Context, folder string) (files map[string]string, bill []byte, err error) {
	const local, billLocal = "template" + templateSuffix, "template" + billSuffix
	at, err := filepath.Rel(folder, filepath.Join(b.work, local))
	if err != nil {
		return nil, nil, err
	}
	files = map[string]string{b.templateName() + templateSuffix: at}
	if b.o.Again != nil {
		bill, err = b.buildTemplate(ctx, filepath.Join(b.work, local))
		return files, bill, err
	}
	key, err := b.templateKey()
	if err != nil {
		return nil, nil, err
	}
	dir := filepath.Join(b.cache, "template", key)
	if bill, err = b.keptTemplate(dir, local, billLocal); err == nil {
		return files, bill, nil
	}
	if bill, err = b.buildTemplate(ctx, filepath.Join(b.work, local)); err != nil {
		return nil, nil, err
	}
	err = b.withCache(ctx, "template", func(parent string) error {
		if err := errors.Join(removeAll(dir), pruneOldest(parent, keepTemplates-1)); err != nil {
			return err
		}
		return fillEntry(parent, dir, func(tmp string) error {
			d, err := describe(filepath.Join(b.work, local))
			if err != nil {
				return err
			}
			return errors.Join(linkOrCopy(filepath.Join(b.work, local), filepath.Join(tmp, local)),
				os.WriteFile(filepath.Join(tmp, billLocal), bill, 0o644), os.WriteFile(filepath.Join(tmp, recordFile), []byte(d.SHA256), 0o644))
		})
	})
	b.cacheFailed("template", err)
	return files, bill, nil
}

// keptTemplate links a kept template into the work folder. A damaged one is as
// if it were not there.
func (b *Builder) keptTemplate(dir, local, billLocal string) (bill []byte, err error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	return bill, b.o.Sink.Do("reuse template", func(func(n, of int64)) error {
		sum, err := os.ReadFile(filepath.Join(dir, recordFile))
		if err != nil {
			return err
		}
		d, err := describe(filepath.Join(dir, local))
		if err == nil && d.SHA256 != string(sum) {
			err = errors.New("it is damaged")
		}
		if err != nil {
			return err
		}
		if bill, err = os.ReadFile(filepath.Join(dir, billLocal)); err != nil {
			return err
		}
		now := time.Now()
		_ = os.Chtimes(dir, now, now) // the time of last use
		return linkOrCopy(filepath.Join(dir, local), filepath.Join(b.work, local))
	})
}

// buildTemplate makes the archive and returns its bill of materials.
func (b *Builder) buildTemplate(ctx context.Context, to string) ([]byte, error) {
	if err := b.prepare(ctx, setGuest); err != nil {
		return nil, err
	}
	root := filepath.Join(b.work, "template")
	if err := b.unpackTemplate(ctx, root); err != nil {
		return nil, err
	}
	err := b.o.Sink.Do("configure template", func(func(n, of int64)) error { return b.configureTemplate(ctx, root) })
	if err != nil {
		return nil, err
	}
	err = b.o.Sink.Do("compress template", func(func(n, of int64)) error { return compress(filepath.Join(b.work, "template.tar"), to) })
	if err != nil {
		return nil, err
	}
	in, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	d := sbom.Document{Name: b.templateName(), BuildID: b.templateID(), Version: b.cfg.Version, Created: b.built,
		Packages: b.debianBill(setGuest, func(p string) ([]byte, error) { return in.ReadFile(strings.TrimPrefix(p, "/")) })}
	return d.Encode()
}

// templateID names the template's inputs, but not the builder.
func (b *Builder) templateID() string {
	h := sha256.New()
	fmt.Fprintln(h, b.cfg.Version, b.built.Unix(), b.sandboxKey())
	for _, p := range b.lock.Set(setGuest) {
		fmt.Fprintln(h, p.Name, p.SHA256)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// TemplateManifest accounts for a template.
type TemplateManifest struct {
	Name    string    `json:"name"`
	BuildID string    `json:"build_id"`
	Version string    `json:"version"`
	Built   time.Time `json:"built"`
	Inputs  Inputs    `json:"inputs"`
}

func (b *Builder) templateManifest() ([]byte, error) {
	return encode(TemplateManifest{Name: b.templateName(), BuildID: b.templateID(), Version: b.cfg.Version, Built: b.built, Inputs: b.inputsOf(setGuest)})
}

// unpackTemplate lays the files out so that dpkg and a shell can run; dpkg
// then unpacks them again, as itself.
func (b *Builder) unpackTemplate(ctx context.Context, root string) error {
	return b.o.Sink.Do("unpack template", func(func(n, of int64)) error {
		pkgs, err := b.open(setGuest)
		if err != nil {
			return err
		}
		essential, others := split(pkgs)
		t, fl, err := unpack.Tree(ctx, essential, unpack.Options{Accept: acceptAll(essential), MergeUsr: b.guest.mergeUsr})
		if err != nil {
			return err
		}
		if err := fl.Err(); err != nil {
			return err
		}
		if err := os.Mkdir(root, 0o755); err != nil {
			return err
		}
		if err := os.Chmod(root, 0o755); err != nil { // whatever the umask is
			return err
		}
		if err := t.WriteDir(root); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(b.work, "folders"), []byte(folders(t)), 0o644); err != nil {
			return err
		}
		if err := sandbox.Prepare(root); err != nil {
			return err
		}
		debs := filepath.Join(b.work, "debs")
		if err := os.Mkdir(debs, 0o755); err != nil {
			return err
		}
		for _, p := range pkgs {
			if err := linkOrCopy(p.Path, filepath.Join(debs, p.Control.Get("Package")+".deb")); err != nil {
				return err
			}
		}
		return writeLists(b.work, essential, others)
	})
}

// folders is a script that gives the tree's folders their owners, and modes
// that only their owners may set.
func folders(t *tree.Node) string {
	var s strings.Builder
	_ = t.Walk(func(p string, n *tree.Node) error {
		if !n.Mode.IsDir() {
			return nil
		}
		mode, quoted := n.Mode.Perm(), "'"+strings.ReplaceAll(p, "'", `'\''`)+"'"
		if n.UID != 0 || n.GID != 0 {
			fmt.Fprintf(&s, "chown %d:%d %s\n", n.UID, n.GID, quoted)
		}
		for bit, set := range map[fs.FileMode]fs.FileMode{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
			if n.Mode&bit != 0 {
				mode |= set
			}
		}
		if mode != 0o755 {
			fmt.Fprintf(&s, "chmod %04o %s\n", mode, quoted)
		}
		return nil
	})
	return s.String()
}

func writeLists(dir string, essential, others []unpack.Package) error {
	for name, l := range map[string][]unpack.Package{"essential": essential, "others": others} {
		var names []string
		for _, p := range l {
			names = append(names, p.Control.Get("Package")+".deb")
		}
		slices.Sort(names)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Join(names, " ")+"\n"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// split parts what dpkg needs to run at all (essential packages and what they
// depend on) from the rest.
func split(pkgs []unpack.Package) (essential, others []unpack.Package) {
	need := map[string]bool{}
	byName := map[string]unpack.Package{}
	for _, p := range pkgs {
		for v := range strings.SplitSeq(p.Control.Get("Provides"), ",") {
			if name, _, _ := strings.Cut(strings.TrimSpace(v), " "); name != "" && byName[name] == nil {
				byName[name] = p
			}
		}
	}
	for _, p := range pkgs {
		byName[p.Control.Get("Package")] = p
	}
	var add func(name string)
	add = func(name string) {
		p := byName[name]
		if p == nil || need[p.Control.Get("Package")] {
			return
		}
		need[p.Control.Get("Package")] = true
		for _, f := range []string{"Pre-Depends", "Depends"} {
			for w := range strings.FieldsFuncSeq(p.Control.Get(f), func(r rune) bool { return r == ',' || r == '|' }) {
				w = strings.TrimSpace(w)
				if i := strings.IndexAny(w, " (:"); i >= 0 {
					w = w[:i]
				}
				add(w)
			}
		}
	}
	for _, p := range pkgs {
		if p.Control.Get("Essential") == "yes" {
			add(p.Control.Get("Package"))
		}
	}
	for _, p := range pkgs {
		if need[p.Control.Get("Package")] {
			essential = append(essential, p)
		} else {
			others = append(others, p)
		}
	}
	return essential, others
}

func (b *Builder) configureTemplate(ctx context.Context, root string) error {
	const fake = "/host/tools/usr"
	box := sandbox.Sandbox{Root: root, Writable: true, Binds: []sandbox.Bind{
		{Host: b.work, Inside: "/host/work"},
		{Host: filepath.Join(b.work, "debs"), Inside: "/host/debs", ReadOnly: true},
		{Host: b.box.Root, Inside: "/host/tools", ReadOnly: true},
	}}
	_, err := box.Run(ctx, run.Cmd{
		Path: "/usr/bin/sh",
		Args: []string{fake + "/bin/fakeroot-sysv", "-l", fake + "/lib/x86_64-linux-gnu/libfakeroot/libfakeroot-sysv.so", "--faked", fake + "/bin/faked-sysv",
			"--", "/usr/bin/sh", "-c", configure},
		Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root", "TZ=UTC",
			// A real chown would fail with EINVAL, which fakeroot does not expect.
			"FAKEROOTDONTTRYCHOWN=1", fmt.Sprintf("EPOCH=%d", b.built.Unix()), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", b.built.Unix())},
	})
	return explain(err)
}

func linkOrCopy(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	return writeFile(to, func(f *os.File) error {
		_, err := io.Copy(f, r)
		return err
	})
}

func compress(from, to string) error {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	return writeFile(to, func(f *os.File) error {
		// Nothing that the bytes may come from follows the number of CPUs.
		z, err := zstd.NewWriter(f, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(2))
		if err != nil {
			return err
		}
		_, err = io.Copy(z, r)
		return errors.Join(err, z.Close())
	})
}
