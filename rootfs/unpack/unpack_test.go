package unpack

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"joist/internal/finding"
	"joist/rootfs/deb"
	"joist/rootfs/policy"
	"joist/rootfs/tree"
)

func entryOf(name, body string) tar.Header {
	return tar.Header{Name: "./" + name, Typeflag: tar.TypeReg, Mode: 0o644, Linkname: body}
}

func dir(name string) tar.Header {
	return tar.Header{Name: "./" + name + "/", Typeflag: tar.TypeDir, Mode: 0o755}
}

func link(kind byte, name, target string) tar.Header {
	return tar.Header{Name: "./" + name, Typeflag: kind, Mode: 0o777, Linkname: target}
}

// tarball writes entries; a regular file's body is in its Linkname.
func tarball(t *testing.T, hs ...tar.Header) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range hs {
		body := ""
		if h.Typeflag == tar.TypeReg {
			body, h.Linkname = h.Linkname, ""
		}
		h.Size = int64(len(body))
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// pkg makes and opens a small .deb. control holds scripts and triggers.
func pkg(t *testing.T, name string, control map[string]string, data ...tar.Header) Package {
	t.Helper()
	cs := []tar.Header{entryOf("control", "Package: "+name+"\nVersion: 1\nArchitecture: all\nDescription: x\n")}
	for k, v := range control {
		cs = append(cs, entryOf(k, v))
	}
	var b strings.Builder
	b.WriteString("!<arch>\n")
	for _, m := range [][2]string{{"debian-binary", "2.0\n"}, {"control.tar", tarball(t, cs...)}, {"data.tar", tarball(t, data...)}} {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n%s", m[0], 0, 0, 0, "100644", len(m[1]), m[1])
	}
	file := filepath.Join(t.TempDir(), name+".deb")
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := deb.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func codes(fl finding.List) []string {
	out := []string{}
	for _, f := range fl {
		out = append(out, f.Level.String()+" "+f.Code+" "+f.Path)
	}
	return out
}

func TestTree(t *testing.T) {
	setuid := entryOf("usr/bin/tool", "tool")
	setuid.Mode, setuid.Uid, setuid.Gid = 0o4755, 3, 4
	setuid.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00"}
	a := pkg(t, "aa", nil, dir("lib"), entryOf("lib/moved", "through the link"), dir("usr"), dir("usr/bin"), setuid, link(tar.TypeLink, "usr/bin/again", "./usr/bin/tool"),
		dir("usr/share"), dir("usr/share/doc"), dir("usr/share/doc/aa"), entryOf("usr/share/doc/aa/copyright", "licence"), entryOf("usr/share/doc/aa/README", "long"), dir("usr/share/man"), entryOf("usr/share/man/x", "page"))
	base := pkg(t, "base-files", nil, dir("usr"), dir("usr/lib"), link(tar.TypeSymlink, "lib", "usr/lib"))
	root, fl, err := Tree(t.Context(), []Package{a, base}, Options{Drop: true})
	if err != nil || len(fl) != 0 {
		t.Fatal(err, fl)
	}
	var got []string
	root.Walk(func(p string, n *tree.Node) error {
		got = append(got, fmt.Sprintf("%v %s %s%s", n.Mode, p, n.Target, n.LinkTo))
		return nil
	})
	want := []string{
		"Lrwxrwxrwx /lib usr/lib", "drwxr-xr-x /usr ", "drwxr-xr-x /usr/bin ", "urwxr-xr-x /usr/bin/again /usr/bin/tool", "urwxr-xr-x /usr/bin/tool ",
		"drwxr-xr-x /usr/lib ", "-rw-r--r-- /usr/lib/moved ", "drwxr-xr-x /usr/share ", "drwxr-xr-x /usr/share/doc ", "drwxr-xr-x /usr/share/doc/aa ", "-rw-r--r-- /usr/share/doc/aa/copyright ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	n := root.Lookup("/usr/bin/tool")
	if n.UID != 3 || n.GID != 4 || n.Xattrs["security.capability"] != "\x01\x00" || n.Origin != "aa" {
		t.Errorf("owner, attributes or origin are lost: %+v", n)
	}
	if b, err := root.Read("/usr/bin/again"); err != nil || string(b) != "tool" {
		t.Errorf("the hard link reads %q, %v", b, err)
	}
}

func TestTreeConflicts(t *testing.T) {
	a := pkg(t, "aa", nil, entryOf("same", "x"), entryOf("other", "a"), dir("d"), entryOf("d/f", "x"), link(tar.TypeSymlink, "l", "same"))
	b := pkg(t, "bb", nil, entryOf("same", "x"), entryOf("other", "b"), link(tar.TypeSymlink, "d", "elsewhere"), link(tar.TypeSymlink, "l", "same"))
	_, fl, err := Tree(t.Context(), []Package{a, b}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"error file-in-two-packages /other", "error file-in-two-packages /d"}, codes(fl)); diff != "" {
		t.Error(diff)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := Tree(ctx, []Package{a, b}, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	device := tar.Header{Name: "./null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}
	if _, _, err := Tree(t.Context(), []Package{pkg(t, "cc", nil, device)}, Options{}); err == nil || !strings.Contains(err.Error(), "unpack cc") {
		t.Errorf("a device was unpacked: %v", err)
	}
}

// Whatever the tables do not name stops the build, with package and script.
func TestTreeScripts(t *testing.T) {
	control := map[string]string{
		"preinst": "#!/bin/sh\nexit 0\n", "postinst": "#!/bin/sh\nexit 0\n", "prerm": "#!/usr/bin/python3\n", "triggers": "interest unheard-of\nactivate-noawait ldconfig\n",
	}
	unknown := pkg(t, "aa", control)
	for _, c := range []struct {
		name   string
		pkg    Package
		accept []string
		want   []string
	}{
		{"unknown", unknown, nil, []string{"error unknown-script aa:postinst", "error unknown-script aa:preinst", "error unknown-trigger aa:triggers"}},
		{"accepted", unknown, []string{"aa:preinst", "aa:postinst", "aa:trigger:unheard-of"}, []string{}},
		{"known", pkg(t, "gawk", map[string]string{"postinst": "#!/bin/sh -e\nupdate-alternatives --install /usr/bin/awk awk /usr/bin/gawk 10 --slave /usr/share/man/man1/awk.1.gz awk.1.gz /usr/share/man/man1/gawk.1.gz\n"}), nil, []string{}},
		{"new alternative", pkg(t, "gawk", map[string]string{"postinst": "#!/bin/sh\nif true; then\n  update-alternatives \\\n --install /usr/bin/owk owk /usr/bin/gawk 10 --slave \"/usr/bin/igawk\" x y; fi\n"}), nil,
			[]string{"error unknown-alternative gawk:postinst", "error unknown-alternative gawk:postinst"}},
		{"new diversion", pkg(t, "nano", map[string]string{"postinst": "#!/bin/sh\ndpkg-divert --package nano --add --rename --divert /a.real /usr/bin/a\n"}), nil, []string{"error unknown-diversion nano:postinst"}},
		{"new statoverride", pkg(t, "nano", map[string]string{"postinst": "#!/bin/sh\ndpkg-statoverride --list /x || dpkg-statoverride --update --add root root 4755 /x\n"}), nil, []string{"error unknown-statoverride nano:postinst"}},
		{"new account", pkg(t, "nano", map[string]string{"postinst": "#!/bin/sh\nadduser --system nano\n"}), nil, []string{"error unknown-account nano:postinst"}},
		{"questions", pkg(t, "nano", map[string]string{"config": "#!/usr/bin/perl\n"}), nil, []string{"error unknown-script nano:config"}},
		{"known questions", pkg(t, "console-data", map[string]string{"config": "#!/usr/bin/perl\n"}), nil, []string{}},
		{"no shell", pkg(t, "nano", map[string]string{"postinst": "#!/usr/bin/perl\n"}), nil, []string{"error unreadable-script nano:postinst"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := Options{Accept: map[string]bool{}}
			for _, a := range c.accept {
				o.Accept[a] = true
			}
			_, fl, err := Tree(t.Context(), []Package{c.pkg}, o)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, codes(fl)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A unit that the table does not name stops the build of an image, with
// package and unit; links and drop-ins count for the unit they are about.
func TestTreeUnits(t *testing.T) {
	const units = "usr/lib/systemd/system/"
	known := pkg(t, "lxcfs", nil, entryOf(units+"lxcfs.service", ""), entryOf("etc/init.d/lxcfs", ""), dir(units+"x.target.wants"), link(tar.TypeSymlink, units+"x.target.wants/lxcfs.service", "../lxcfs.service"))
	fresh := pkg(t, "nano", nil, entryOf(units+"nanod.service", ""), entryOf("etc/cron.daily/nano", ""), dir(units+"nanod.service.d"), entryOf(units+"nanod.service.d/a.conf", ""), entryOf(units+"lxcfs.service", ""))
	all := []string{"error unknown-unit nano:unit:cron.daily/nano", "error unknown-unit nano:unit:lxcfs.service", "error unknown-unit nano:unit:nanod.service"}
	for _, c := range []struct {
		name string
		o    Options
		want []string
	}{
		{"image", Options{Drop: true}, all},
		{"accepted", Options{Drop: true, Accept: map[string]bool{"nano:unit:nanod.service": true, "nano:unit:lxcfs.service": true}}, all[:1]},
		{"tools", Options{}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			pkgs := []Package{known, fresh}
			if !c.o.Drop { // their files would be in the way of each other
				pkgs = pkgs[1:]
			}
			root, fl, err := Tree(t.Context(), pkgs, c.o)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, codes(fl), cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
			if there := root.Lookup("/"+units+"nanod.service") != nil; there == c.o.Drop {
				t.Errorf("the unit is in the tree: %v", there)
			}
		})
	}
}

func TestCalls(t *testing.T) {
	script := `#!/bin/sh
set -e
# dpkg-divert --add /commented
for f in a b; do dpkg-divert --package x --divert "/$f.old" --rename --add "/$f" || true; done
dpkg-divert --listpackage /asked; dpkg-divert --remove /undone
cat <<EOT
dpkg-divert --add /in-a-here-document
EOT
case "$1" in configure) DEBIAN=1 /usr/bin/update-alternatives --quiet --install '/usr/bin/pager' pager /bin/less 77 ;; esac
update-alternatives --remove pager /bin/less
x=$(dpkg-statoverride --add root root 0755 "${dir}/y")
command setcap cap_net_raw+ep /bin/ping
addgroup --system --quiet render && useradd -r "$user"
update-alternatives --install /usr/bin/lzma lzma /usr/bin/xz 20 $(for i in a; do echo --slave; done)
`
	got, err := calls([]byte(script))
	want := []policy.Call{
		{Kind: policy.Diversion, Subject: "/$f"}, {Kind: policy.Alternative, Subject: "/usr/bin/pager"}, {Kind: policy.Statoverride, Subject: "$dir/y"},
		{Kind: policy.Capability, Subject: "/bin/ping"}, {Kind: policy.Account, Subject: "render"}, {Kind: policy.Account, Subject: "$user"},
		{Kind: policy.Alternative, Subject: "/usr/bin/lzma"}, {Kind: policy.Alternative, Subject: "$(…)"},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	for _, bad := range []string{"", "exit 0", "#!/bin/sh\nif true; then\n", "#!/usr/bin/env bash\n", "\x7fELF"} {
		if _, err := calls([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func FuzzCalls(f *testing.F) {
	f.Add("#!/bin/sh\ndpkg-divert --package x --add /y\nupdate-alternatives --install\n")
	f.Fuzz(func(t *testing.T, script string) { calls([]byte(script)) })
}

func TestApply(t *testing.T) {
	root := tree.New()
	for _, p := range []string{"/usr/bin/ssh-agent", "/usr/share/base-files/profile"} {
		if err := root.AddFile(p, 0o755, tree.Bytes(p)); err != nil {
			t.Fatal(err)
		}
	}
	ssh := pkg(t, "openssh-client", map[string]string{"preinst": "#!/bin/sh\n", "postinst": "#!/bin/sh\n"})
	if err := Apply(root, []Package{ssh, pkg(t, "gawk", map[string]string{"postinst": "#!/bin/sh\n"}), pkg(t, "unknown", map[string]string{"postinst": ""})}); err != nil {
		t.Fatal(err)
	}
	if n := root.Lookup("/usr/bin/awk"); n == nil || n.Target != "gawk" {
		t.Errorf("awk is %+v", n)
	}
	for _, a := range []policy.Action{
		{Op: policy.Copy, Path: "/etc/profile", Arg: "/usr/share/base-files/profile", Perm: 0o644}, {Op: policy.Write, Path: "/etc/x", Arg: "text", Perm: 0o640, GID: 42},
		{Op: policy.Dir, Path: "/var/d", Perm: 0o700, UID: 7}, {Op: policy.Perm, Path: "/usr/bin/ssh-agent", Perm: 0o711, UID: 1},
	} {
		if err := act(root, a); err != nil {
			t.Fatal(err)
		}
		if n := root.Lookup(a.Path); n == nil || n.Mode.Perm() != a.Perm || n.UID != a.UID || n.GID != a.GID || n.Mode.IsDir() != (a.Op == policy.Dir) {
			t.Errorf("%+v made %+v", a, n)
		}
	}
	for _, a := range []policy.Action{{Op: policy.Copy, Path: "/y", Arg: "/absent"}, {Op: policy.Perm, Path: "/absent"}, {Op: 99, Path: "/y"}} {
		if err := act(root, a); err == nil {
			t.Errorf("%+v was done", a)
		}
	}
	if err := Apply(tree.New(), []Package{ssh}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "openssh-client") {
		t.Errorf("a rule without its file: %v", err)
	}
}
