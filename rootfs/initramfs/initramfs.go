// Package initramfs packs what the kernel starts first: microcode for the
// processor, stage 1, and the modules that find the system image. It is two
// cpio archives behind each other, the first uncompressed because the kernel
// reads microcode from it before it can decompress anything (kernel document
// x86/microcode.rst).
package initramfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"

	"joist/rootfs/tree"
)

// Spec is what goes in.
type Spec struct {
	System *tree.Node // the system's tree: modules (after depmod) and microcode are taken from it
	Kernel string     // uname -r
	Init   []byte     // the joist-init binary
	Build  []byte     // build.json
}

// Parts says how the bytes of an initrd are shared, and what it lacks, for
// reports. All but Total are counted before compression.
type Parts struct {
	Microcode, Modules, Firmware, Init, Total int64
	// Firmware that a module names and the system does not have:
	// "module: file", sorted.
	NoFirmware []string
}

// Write packs the initrd.
func Write(w io.Writer, s Spec) (Parts, error) {
	var parts Parts
	early, err := microcode(s.System)
	if err != nil {
		return parts, fmt.Errorf("pack microcode: %w", err)
	}
	parts.Microcode = int64(len(early))
	main, err := files(s, &parts)
	if err != nil {
		return parts, err
	}
	parts.Init = int64(len(s.Init))
	var archive bytes.Buffer
	if err := writeCPIO(&archive, main); err != nil {
		return parts, err
	}
	parts.Modules = int64(archive.Len()) - parts.Init - parts.Firmware
	cw := &counter{w: w}
	if _, err := cw.Write(early); err != nil {
		return parts, err
	}
	err = compress(cw, archive.Bytes())
	parts.Total = cw.n
	return parts, err
}

// compress writes an archive as the kernel unpacks it.
func compress(w io.Writer, archive []byte) error {
	// The kernel unpacks zstd several times quicker than the xz that Debian's
	// modules come in, at every level alike. A higher one makes the initrd some
	// per cent smaller and each build seconds longer. Nothing that the bytes may
	// come from follows the number of CPUs.
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false), zstd.WithEncoderConcurrency(2))
	if err != nil {
		return err
	}
	_, err = z.Write(archive)
	return errors.Join(err, z.Close())
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// microcode joins the vendors' files to the two the kernel looks for.
func microcode(sys *tree.Node) ([]byte, error) {
	out := tree.New()
	for _, v := range []struct{ dir, file, suffix string }{
		{"/usr/lib/firmware/amd-ucode", "AuthenticAMD.bin", ".bin"},
		{"/usr/lib/firmware/intel-ucode", "GenuineIntel.bin", ""},
	} {
		d := sys.Resolve(v.dir)
		if d == nil {
			continue
		}
		var b []byte
		for _, c := range d.Children {
			if !c.Mode.IsRegular() || !strings.HasSuffix(c.Name, v.suffix) || (v.suffix == "" && strings.Contains(c.Name, ".")) {
				continue
			}
			f, err := sys.Read(path.Join(v.dir, c.Name))
			if err != nil {
				return nil, err
			}
			b = append(b, f...)
		}
		if len(b) == 0 {
			return nil, fmt.Errorf("%s holds no microcode", v.dir)
		}
		if err := out.AddFile("/kernel/x86/microcode/"+v.file, 0o644, tree.Bytes(b)); err != nil {
			return nil, err
		}
	}
	if len(out.Children) == 0 {
		return nil, nil
	}
	var buf bytes.Buffer
	if err := writeCPIO(&buf, out); err != nil {
		return nil, err
	}
	// The next archive must begin at a multiple of 4 (kernel document
	// driver-api/early-userspace/buffer-format.rst); cpio pads to 512.
	for buf.Len()%512 != 0 {
		buf.WriteByte(0)
	}
	return buf.Bytes(), nil
}

// files is the tree of the second archive.
func files(s Spec, parts *Parts) (*tree.Node, error) {
	out := tree.New()
	for _, d := range []string{"/dev", "/proc", "/sys", "/run", "/newroot", "/tmp"} {
		if _, err := out.Dir(d); err != nil {
			return nil, err
		}
	}
	// The kernel opens /dev/console for init before anything mounts devtmpfs.
	if err := out.Set("/dev/console", &tree.Node{Mode: fs.ModeDevice | fs.ModeCharDevice | 0o600, Major: 5, Minor: 1}); err != nil {
		return nil, err
	}
	if err := out.AddFile("/init", 0o755, tree.Bytes(s.Init)); err != nil {
		return nil, err
	}
	for _, p := range []string{"/build.json", "/usr/lib/joist/build.json"} {
		if err := out.AddFile(p, 0o644, tree.Bytes(s.Build)); err != nil {
			return nil, err
		}
	}
	if err := modules(out, s.System, s.Kernel, Wanted, nil); err != nil {
		return nil, err
	}
	return out, firmware(out, s.System, parts)
}

// modules copies the wanted modules, what they depend on and the indexes cut
// down to them. Files of those that another archive has are left out.
func modules(out, sys *tree.Node, kernel string, wanted, there func(file string) bool) error {
	dir := "/usr/lib/modules/" + kernel
	dep, err := sys.Read(dir + "/modules.dep")
	if err != nil {
		return fmt.Errorf("read the modules' dependencies (was depmod run?): %w", err)
	}
	deps := parseDep(string(dep))
	take := closure(deps, wanted)
	var have map[string]bool
	if there != nil {
		have = closure(deps, there)
	}
	to := "/lib/modules/" + kernel
	names := map[string]bool{}
	for file := range take {
		names[moduleName(file)] = true
		if have[file] {
			continue
		}
		n := sys.Resolve(path.Join(dir, file))
		if n == nil {
			return fmt.Errorf("module %s is named in modules.dep and missing", file)
		}
		if err := out.AddFile(path.Join(to, file), 0o644, n.Data); err != nil {
			return err
		}
	}
	for ix, keep := range map[string]func(f []string) bool{
		"modules.dep":             func(f []string) bool { return take[strings.TrimSuffix(f[0], ":")] },
		"modules.order":           func(f []string) bool { return names[moduleName(f[0])] },
		"modules.alias":           func(f []string) bool { return len(f) == 3 && names[f[2]] },
		"modules.softdep":         func(f []string) bool { return len(f) > 1 && names[strings.ReplaceAll(f[1], "-", "_")] },
		"modules.builtin":         nil, // whole
		"modules.builtin.modinfo": nil,
	} {
		b, err := sys.Read(dir + "/" + ix)
		if err != nil {
			return fmt.Errorf("read the modules' index: %w", err)
		}
		if keep != nil {
			b = keepLines(b, keep)
		}
		if err := out.AddFile(to+"/"+ix, 0o644, tree.Bytes(b)); err != nil {
			return err
		}
	}
	return nil
}

// closure is the wanted modules and all that they depend on.
func closure(deps map[string][]string, wanted func(file string) bool) map[string]bool {
	take := map[string]bool{}
	var add func(file string)
	add = func(file string) {
		if take[file] {
			return
		}
		take[file] = true
		for _, d := range deps[file] {
			add(d)
		}
	}
	for file := range deps {
		if wanted(file) {
			add(file)
		}
	}
	return take
}

func keepLines(b []byte, keep func(fields []string) bool) []byte {
	var out bytes.Buffer
	for line := range bytes.Lines(b) {
		if f := strings.Fields(string(line)); len(f) > 0 && f[0] != "#" && keep(f) {
			out.Write(line)
		}
	}
	return out.Bytes()
}

// moduleName is the kernel's name of a module file: kernel/fs/isofs/isofs.ko → isofs.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

func parseDep(s string) map[string][]string {
	m := map[string][]string{}
	for line := range strings.Lines(s) {
		file, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		if ok {
			m[file] = strings.Fields(rest)
		}
	}
	return m
}

// Wanted reports whether the module file belongs into the initrd.
func Wanted(file string) bool { return listed(file, names, dirs) }

func listed(file string, names, dirs []string) bool {
	if slices.Contains(names, moduleName(file)) {
		return true
	}
	return slices.ContainsFunc(dirs, func(d string) bool { return strings.HasPrefix(file, "kernel/"+d+"/") })
}

func writeCPIO(w io.Writer, root *tree.Node) error {
	// Inodes are numbered in the order of records and times are 0, so that the
	// same tree gives the same bytes.
	rw := cpio.Newc.Writer(w)
	var ino uint64
	err := root.Walk(func(p string, n *tree.Node) error {
		ino++
		rec, err := record(strings.TrimPrefix(p, "/"), n, ino)
		if err != nil {
			return fmt.Errorf("pack %s: %w", p, err)
		}
		return rw.WriteRecord(rec)
	})
	if err != nil {
		return err
	}
	return cpio.WriteTrailer(rw)
}

func record(name string, n *tree.Node, ino uint64) (cpio.Record, error) {
	info := cpio.Info{Ino: ino, Name: name, NLink: 1, Mode: uint64(n.Mode.Perm()), UID: uint64(n.UID), GID: uint64(n.GID)}
	switch {
	case n.Mode.IsDir():
		info.Mode |= cpio.S_IFDIR
		return cpio.Record{Info: info}, nil
	case n.Mode&fs.ModeSymlink != 0:
		r := cpio.Symlink(name, n.Target)
		r.Ino = ino
		return r, nil
	case n.Mode&fs.ModeCharDevice != 0:
		info.Mode |= cpio.S_IFCHR
		info.Rmajor, info.Rminor = uint64(n.Major), uint64(n.Minor)
		return cpio.Record{Info: info}, nil
	case n.Mode.IsRegular():
		b, err := content(n.Data)
		if err != nil {
			return cpio.Record{}, err
		}
		info.Mode |= cpio.S_IFREG
		info.FileSize = uint64(len(b))
		return cpio.Record{Info: info, ReaderAt: bytes.NewReader(b)}, nil
	}
	return cpio.Record{}, fmt.Errorf("type %v does not belong into an initrd", n.Mode.Type())
}

func content(s tree.Source) ([]byte, error) {
	if s == nil {
		return nil, nil
	}
	r, err := s.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}
