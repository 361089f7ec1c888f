package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

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

// Template builds a configured Debian for containers and returns its path.
func (b *Builder) Template(ctx context.Context, name string) (string, error) {
	if name != "debian" {
		return "", fmt.Errorf("build template %q: only debian is known", name)
	}
	path, err := b.template(ctx)
	return path, explainFull(err, b.o.Out, b.cache)
}

func (b *Builder) template(ctx context.Context) (string, error) {
	if err := b.loadLock(ctx); err != nil {
		return "", err
	}
	if err := b.prepare(ctx, setGuest); err != nil {
		return "", err
	}
	root := filepath.Join(b.work, "template")
	if err := b.unpackTemplate(ctx, root); err != nil {
		return "", err
	}
	err := b.o.Sink.Do("configure template", func(func(n, of int64)) error { return b.configureTemplate(ctx, root) })
	if err != nil {
		return "", err
	}
	out := fmt.Sprintf("debian-13-standard_%s-1_amd64.tar.zst", b.cfg.Version)
	err = b.o.Sink.Do("compress template", func(func(n, of int64)) error {
		if err := compress(filepath.Join(b.work, "template.tar"), filepath.Join(b.work, "template.tar.zst")); err != nil {
			return err
		}
		_, err := b.out.publish(map[string]string{out: "template.tar.zst"}, b.key)
		return err
	})
	return filepath.Join(b.o.Out, out), err
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
		t, fl, err := unpack.Tree(ctx, essential, unpack.Options{Accept: acceptAll(essential)})
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
		z, err := zstd.NewWriter(f, zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
		if err != nil {
			return err
		}
		_, err = io.Copy(z, r)
		return errors.Join(err, z.Close())
	})
}
