package unpack

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io/fs"
	"testing"

	"github.com/google/go-cmp/cmp"

	"joist/rootfs/tree"
)

// program makes the smallest ELF file that has a dynamic section: what
// debug/elf reads of it are sections, the loader's name is a segment.
func program(t *testing.T, machine elf.Machine, interp string, tags map[elf.DynTag][]string) tree.Bytes {
	t.Helper()
	strs := []byte{0}
	var dyn bytes.Buffer
	put := func(tag elf.DynTag, val uint64) {
		binary.Write(&dyn, binary.LittleEndian, elf.Dyn64{Tag: int64(tag), Val: val})
	}
	for _, tag := range []elf.DynTag{elf.DT_NEEDED, elf.DT_RUNPATH} {
		for _, s := range tags[tag] {
			put(tag, uint64(len(strs)))
			strs = append(append(strs, s...), 0)
		}
	}
	put(elf.DT_NULL, 0)
	const head = 64 + 56
	iOff := uint64(head)
	sOff := iOff + uint64(len(interp)) + 1
	dOff := (sOff + uint64(len(strs)) + 7) &^ 7
	shOff := dOff + uint64(dyn.Len())
	var b bytes.Buffer
	w := func(v any) {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	h := elf.Header64{Type: uint16(elf.ET_DYN), Machine: uint16(machine), Version: 1, Phoff: 64, Shoff: shOff, Ehsize: 64, Phentsize: 56, Phnum: 1, Shentsize: 64, Shnum: 3, Shstrndx: 1}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	w(h)
	kind := elf.PT_INTERP
	if interp == "" {
		kind = elf.PT_NULL
	}
	w(elf.Prog64{Type: uint32(kind), Off: iOff, Filesz: uint64(len(interp)) + 1})
	b.WriteString(interp + "\x00")
	b.Write(strs)
	b.Write(make([]byte, int(dOff)-b.Len()))
	b.Write(dyn.Bytes())
	w(elf.Section64{})
	w(elf.Section64{Type: uint32(elf.SHT_STRTAB), Off: sOff, Size: uint64(len(strs))})
	w(elf.Section64{Type: uint32(elf.SHT_DYNAMIC), Off: dOff, Size: uint64(dyn.Len()), Link: 1, Entsize: 16})
	return b.Bytes()
}

func add(t *testing.T, root *tree.Node, p string, mode fs.FileMode, data tree.Bytes) *tree.Node {
	t.Helper()
	n := &tree.Node{Mode: mode, Data: data, Origin: "aa"}
	if err := root.Set(p, n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCheckLibraries(t *testing.T) {
	const loader = "/lib64/ld.so"
	needs := func(libs ...string) map[elf.DynTag][]string { return map[elf.DynTag][]string{elf.DT_NEEDED: libs} }
	root := tree.New()
	add(t, root, loader, 0o755, program(t, elf.EM_X86_64, "", nil))
	add(t, root, "/usr/lib/x86_64-linux-gnu/libc.so.6", 0o644, program(t, elf.EM_X86_64, "", nil))
	add(t, root, "/usr/lib/aa/libown.so", 0o644, program(t, elf.EM_X86_64, "", needs("libc.so.6")))
	own := needs("libown.so")
	own[elf.DT_RUNPATH] = []string{"/nowhere:$ORIGIN/../lib/aa"}
	add(t, root, "/usr/bin/good", 0o755, program(t, elf.EM_X86_64, loader, own))
	add(t, root, "/usr/bin/lacking", 0o755, program(t, elf.EM_X86_64, loader, needs("libc.so.6", "libgone.so.1", "libown.so")))
	add(t, root, "/usr/bin/loaderless", 0o755, program(t, elf.EM_X86_64, "/lib/ld-musl.so", nil))
	add(t, root, "/usr/lib/firmware/arm.elf", 0o644, program(t, elf.EM_AARCH64, "/lib/ld-arm.so", needs("libarm.so")))
	add(t, root, "/usr/lib/firmware/broken", 0o644, tree.Bytes(elf.ELFMAG+"not really"))
	add(t, root, "/usr/bin/text", 0o755, tree.Bytes("#!/bin/sh\n"))
	var got []string
	for _, f := range CheckLibraries(root) {
		got = append(got, f.Text)
	}
	want := []string{
		"/usr/bin/lacking (package aa) needs libgone.so.1, which no package of the image brings",
		"/usr/bin/lacking (package aa) needs libown.so, which no package of the image brings",
		"/usr/bin/loaderless (package aa) needs /lib/ld-musl.so, which no package of the image brings",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPruneScripts(t *testing.T) {
	root := tree.New()
	add(t, root, "/usr/bin/sh", 0o755, nil)
	for name, line := range map[string]string{
		"a-sh": "#!/usr/bin/sh -e\n", "b-perl": "#! /usr/bin/perl -w\n", "c-env": "#!/usr/bin/env sh\n", "d-env": "#!/usr/bin/env -S A=1 python3 -u\n",
		"e-empty": "#!\n", "f-noend": "#!/usr/bin/tclsh", "g-text": "text",
	} {
		add(t, root, "/usr/bin/"+name, 0o755, tree.Bytes(line))
	}
	add(t, root, "/usr/share/example.pl", 0o644, tree.Bytes("#!/usr/bin/perl\n"))
	want := []string{"note script-pruned /usr/bin/b-perl", "note script-pruned /usr/bin/d-env", "note script-pruned /usr/bin/f-noend"}
	if diff := cmp.Diff(want, codes(PruneScripts(root))); diff != "" {
		t.Error(diff)
	}
	if root.Lookup("/usr/bin/b-perl") != nil || root.Lookup("/usr/bin/a-sh") == nil || root.Lookup("/usr/share/example.pl") == nil {
		t.Error("the wrong scripts are gone")
	}
}

func TestDanglingLinks(t *testing.T) {
	root := tree.New()
	for link, target := range map[string]string{"/a": "absent", "/b": "/run/later", "/c": "/proc/self/mounts", "/d": "/b", "/e": "f"} {
		if err := root.AddLink(link, target); err != nil {
			t.Fatal(err)
		}
	}
	add(t, root, "/f", 0o644, nil)
	root.Put(&tree.Node{Name: "g", Mode: fs.ModeSymlink, Target: "package's own", Origin: "aa"})
	if diff := cmp.Diff([]string{"error link-dangling /a", "error link-dangling /d"}, codes(DanglingLinks(root))); diff != "" {
		t.Error(diff)
	}
}

func TestPrivileges(t *testing.T) {
	root := tree.New()
	mount := add(t, root, "/usr/bin/mount", fs.ModeSetuid|0o755, nil)
	mount.Xattrs = map[string]string{"security.capability": "x", "user.other": "y"}
	add(t, root, "/usr/bin/evil", fs.ModeSetgid|0o755, nil)
	add(t, root, "/usr/bin/capable", 0o755, nil).Xattrs = map[string]string{"security.capability": "x"}
	add(t, root, "/usr/bin/plain", 0o755, nil).Xattrs = map[string]string{"user.x": "x"}
	add(t, root, "/var/mail", fs.ModeDir|fs.ModeSetgid|0o775, nil)
	if diff := cmp.Diff([]string{"error unknown-privilege /usr/bin/capable", "error unknown-privilege /usr/bin/evil"}, codes(Privileges(root))); diff != "" {
		t.Error(diff)
	}
	if mount.Mode != 0o755 || len(mount.Xattrs) != 1 {
		t.Errorf("mount keeps %v %v", mount.Mode, mount.Xattrs)
	}
}

func TestAccounts(t *testing.T) {
	root := tree.New()
	add(t, root, "/usr/lib/sysusers.d/aa.conf", 0o644, tree.Bytes(
		"# comment\n\nu sshd -:nogroup \"text\" /run/sshd\nu! mallory - \"text\"\ng kvm -\ng unheard -\nr - 500-900\nm sshd kvm\n"))
	add(t, root, "/usr/lib/sysusers.d/README", 0o644, tree.Bytes("u other -\n"))
	fl := Accounts(root)
	var lines []int
	for _, f := range fl {
		lines = append(lines, f.Line)
	}
	// Membership of groups is in no table, so it is reported.
	if diff := cmp.Diff([]int{4, 6, 8}, lines); diff != "" || !fl.Stops() {
		t.Errorf("%s\n%v", diff, fl)
	}
}

func TestUdevRules(t *testing.T) {
	root := tree.New()
	for _, p := range []string{"/usr/bin/udevadm", "/usr/lib/udev/scsi_id"} {
		add(t, root, p, 0o755, nil)
	}
	add(t, root, "/usr/lib/udev/rules.d/64-btrfs.rules", 0o644, tree.Bytes(`ENV{SYSTEMD_READY}=="0", GOTO="end"
ENV{ID_BTRFS_READY}=="0", ENV{SYSTEMD_READY}="0"
RUN+="/usr/bin/udevadm trigger", IMPORT{program}="scsi_id -g", RUN{builtin}+="kmod load x"
`))
	add(t, root, "/usr/lib/udev/rules.d/99-new.rules", 0o644, tree.Bytes(`# ENV{SYSTEMD_WANTS}="commented.service"
ACTION=="add", \
  ENV{SYSTEMD_WANTS}+="new.service", \
  RUN+="/usr/bin/systemctl start x"
PROGRAM=="absent_id $devnode", RUN+="$env{CMD}"
ENV{SYSTEMD_ALIAS} := "/sys/x"
`))
	var got []string
	for _, f := range UdevRules(root) {
		got = append(got, f.String())
	}
	const cure = " [unknown-udev]\n    cure: say in the table of udev rules in rootfs/policy what replaces it, or drop the file there"
	const at, says = "/usr/lib/udev/rules.d/99-new.rules:", ": error: a udev rule of package aa asks for "
	want := []string{
		at + "2" + says + "SYSTEMD_WANTS=new.service, and nothing of ours answers" + cure,
		at + "2" + says + "RUN /usr/bin/systemctl, and nothing of ours answers" + cure,
		at + "5" + says + "RUN absent_id, and nothing of ours answers" + cure,
		at + "6" + says + "SYSTEMD_ALIAS=/sys/x, and nothing of ours answers" + cure,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
