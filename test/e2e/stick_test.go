package e2e

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"joist/image/disk"
	"joist/rootfs/tree"
	"joist/test/node"
	"joist/test/vm"
)

// fatStick makes a stick with one FAT volume of these files: path → file here.
func fatStick(t *testing.T, files map[string]string) string {
	t.Helper()
	f := disk.FAT{Size: 512 << 20, SectorSize: 512, Label: "STICK", Serial: 7, Time: time.Unix(1, 0)}
	for at, from := range files {
		data, err := tree.FromFile(from)
		if err != nil {
			t.Fatal(err)
		}
		f.Files = append(f.Files, disk.File{Path: at, Data: data})
	}
	v, err := disk.PlanFAT(f)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "stick.img")
	w, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Truncate(f.Size); err != nil {
		t.Fatal(err)
	}
	if err := v.Write(w); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestStickWithFiles: the medium's files were copied to a stick. A machine with
// Secure Boot and 4 GiB starts from it, and needs it no longer when its menu has
// gone: it is pulled before the installer begins.
func TestStickWithFiles(t *testing.T) {
	t.Parallel()
	img := medium(t)
	dir := filepath.Join(t.TempDir(), "files")
	if err := vm.ExtractFile(within(t, time.Minute), img.path, "/", dir); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files["/"+filepath.ToSlash(p[len(dir)+1:])] = p
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	m := vm.Run(t, vm.Config{Firmware: vm.OVMFSecureBoot, Memory: 4096, Accel: img.accel,
		Media: []vm.Medium{{Path: fatStick(t, files), Kind: vm.USBStick}}})
	ctx := within(t, node.InstallTime)
	if _, err := m.WaitFor(ctx, `in memory \(\d+ MB\) and can be taken out`); err != nil {
		t.Fatal(err)
	}
	if err := m.Eject(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := m.WaitFor(ctx, node.InstallerLine); err != nil {
		t.Fatal(err)
	}
}

// TestStickWithISO: the image lies as a file on a stick with exFAT or NTFS, as
// Ventoy has it, and a loader of that stick has started kernel and initrd out of
// it. Nothing is written to it.
func TestStickWithISO(t *testing.T) {
	t.Parallel()
	img := medium(t)
	dir := t.TempDir()
	kernel, initrd, list := filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "initrd"), filepath.Join(dir, "joist")
	for name, to := range map[string]string{"/boot/vmlinuz": kernel, "/boot/initrd": initrd, "/joist": list} {
		if err := vm.ExtractFile(within(t, time.Minute), img.path, name, to); err != nil {
			t.Fatal(err)
		}
	}
	builds, err := filepath.Glob(filepath.Join(list, "*", "system.sqfs"))
	if err != nil || len(builds) != 1 {
		t.Fatal(builds, err)
	}
	build := filepath.Base(filepath.Dir(builds[0]))
	const name = "Joist for the rack.iso"
	for kind, stick := range map[string]string{"exfat": exfatStick(t, name, img.path), "ntfs3": ntfsStick(t, name, img.path)} {
		before := sumOf(t, stick)
		m := vm.Run(t, vm.Config{Memory: node.Memory, Accel: img.accel, Kernel: kernel, Initrd: initrd,
			Append: "console=ttyS0,115200 joist.mode=install joist.build=" + build, Media: []vm.Medium{{Path: stick, Kind: vm.USBStick}}})
		ctx := within(t, node.InstallTime)
		for _, text := range []string{`medium is /dev/sda \(` + name + " on " + kind + `\)`, "runs from the medium, which must stay", node.InstallerLine} {
			if _, err := m.WaitFor(ctx, text); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.Kill(); err != nil {
			t.Fatal(err)
		}
		if sumOf(t, stick) != before {
			t.Errorf("the stick with %s was written to", kind)
		}
	}
}

// ntfsStick makes a stick with one NTFS volume that holds one file.
func ntfsStick(t *testing.T, name, from string) string {
	t.Helper()
	vm.Need(t, "mkntfs", "ntfscp")
	path := filepath.Join(t.TempDir(), "ntfs.img")
	ctx := within(t, time.Minute)
	for _, argv := range [][]string{{"truncate", "-s", "512M", path}, {"mkntfs", "-q", "-Q", "-F", path}, {"ntfscp", "-q", path, from, name}} {
		if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", argv, err, out)
		}
	}
	return path
}
