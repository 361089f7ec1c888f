package unpack

import (
	"bytes"
	"debug/elf"
	"fmt"
	"path"
	"slices"
	"strings"

	"joist/internal/finding"
	"joist/rootfs/tree"
)

// libDirs are the directories the loader searches without a cache; see
// ld.so(8) and Debian's multiarch paths.
var libDirs = []string{"/usr/lib/x86_64-linux-gnu", "/usr/lib", "/usr/lib64"}

// CheckLibraries reports every program and library whose shared libraries are
// not all in the tree: an excluded package was needed after all.
func CheckLibraries(root *tree.Node) finding.List {
	var fl finding.List
	root.Walk(func(p string, n *tree.Node) error {
		b, ok := n.Data.(tree.Bytes)
		if !ok || !n.Mode.IsRegular() || !bytes.HasPrefix(b, []byte(elf.ELFMAG)) {
			return nil
		}
		f, err := elf.NewFile(bytes.NewReader(b))
		if err != nil {
			return nil // not for this machine: firmware in ELF clothes
		}
		defer f.Close()
		needed, err := f.ImportedLibraries()
		if err != nil || f.Machine != elf.EM_X86_64 {
			return nil
		}
		dirs := append(runPaths(f, path.Dir(p)), libDirs...)
		for _, lib := range needed {
			if !slices.ContainsFunc(dirs, func(d string) bool { return root.Resolve(path.Join(d, lib)) != nil }) {
				fl.Stopf("library-missing", p, "take its package off the exclusion list, or drop this file, in rootfs/policy",
					"%s (package %s) needs %s, which no package of the image brings", p, n.Origin, lib)
			}
		}
		return nil
	})
	return fl
}

func runPaths(f *elf.File, origin string) []string {
	var out []string
	for _, tag := range []elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		list, _ := f.DynString(tag)
		for _, s := range list {
			for d := range strings.SplitSeq(s, ":") {
				out = append(out, strings.NewReplacer("$ORIGIN", origin, "${ORIGIN}", origin).Replace(d))
			}
		}
	}
	return out
}

// PruneScripts removes scripts whose interpreter is not in the tree and says
// which: they could only fail.
func PruneScripts(root *tree.Node) finding.List {
	var fl finding.List
	var gone []string
	root.Walk(func(p string, n *tree.Node) error {
		b, ok := n.Data.(tree.Bytes)
		if !ok || n.Mode&0o111 == 0 || !bytes.HasPrefix(b, []byte("#!")) {
			return nil
		}
		line, _, _ := bytes.Cut(b[2:], []byte("\n"))
		f := strings.Fields(string(line))
		if len(f) == 0 {
			return nil
		}
		prog := f[0]
		if path.Base(prog) == "env" && len(f) > 1 {
			prog = "/usr/bin/" + f[len(f)-1]
		}
		if root.Resolve(prog) == nil {
			gone = append(gone, p)
			fl.Notef("script-pruned", p, "%s needs %s, which is not in the image", p, prog)
		}
		return nil
	})
	for _, p := range gone {
		root.Remove(p)
	}
	return fl
}

// DanglingLinks reports links that policy's own actions left without a target.
func DanglingLinks(root *tree.Node) finding.List {
	var fl finding.List
	root.Walk(func(p string, n *tree.Node) error {
		if n.Target != "" && n.Origin == "joist" && !strings.HasPrefix(n.Target, "/run/") && !strings.HasPrefix(n.Target, "/proc/") && root.Resolve(p) == nil {
			fl.Stopf("link-dangling", p, "correct the rule in rootfs/policy", "%s", fmt.Sprintf("the link leads to %s, which is not in the image", n.Target))
		}
		return nil
	})
	return fl
}
