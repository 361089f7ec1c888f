package unpack

import (
	"bytes"
	"debug/elf"
	"path"
	"slices"
	"strings"

	"joist/internal/finding"
	"joist/rootfs/tree"
)

// libDirs are the directories the loader searches without a cache; see
// ld.so(8) and Debian's multiarch paths.
var libDirs = []string{"/usr/lib/x86_64-linux-gnu", "/usr/lib", "/usr/lib64"}

// CheckLibraries reports every program and library whose loader or shared
// libraries are not all in the tree: an excluded package was needed after all.
func CheckLibraries(root *tree.Node) finding.List {
	var fl finding.List
	root.Walk(func(p string, n *tree.Node) error {
		b, ok := n.Data.(tree.Bytes)
		if !ok || !n.Mode.IsRegular() || !bytes.HasPrefix(b, []byte(elf.ELFMAG)) {
			return nil
		}
		f, err := elf.NewFile(bytes.NewReader(b))
		if err != nil || f.Machine != elf.EM_X86_64 || f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
			return nil // not for this machine's loader: firmware in ELF clothes, kernel modules
		}
		missing := func(what string) {
			fl.Stopf("library-missing", p, "take its package off the exclusion list, or drop this file, in rootfs/policy",
				"%s (package %s) needs %s, which no package of the image brings", p, n.Origin, what)
		}
		if l := interpreter(f); l != "" && root.Resolve(l) == nil {
			missing(l)
		}
		needed, err := f.ImportedLibraries()
		if err != nil {
			fl.Stopf("library-unreadable", p, "look at the file with readelf -d", "%s (package %s) has no readable list of libraries: %v", p, n.Origin, err)
			return nil
		}
		dirs := append(runPaths(f, path.Dir(p)), libDirs...)
		for _, lib := range needed {
			if !slices.ContainsFunc(dirs, func(d string) bool { return root.Resolve(path.Join(d, lib)) != nil }) {
				missing(lib)
			}
		}
		return nil
	})
	return fl
}

// interpreter is the loader a program asks for, "" for libraries and static
// programs.
func interpreter(f *elf.File) string {
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP || p.Filesz > 4096 {
			continue
		}
		b := make([]byte, p.Filesz)
		if _, err := p.ReadAt(b, 0); err == nil {
			return string(bytes.TrimRight(b, "\x00"))
		}
	}
	return ""
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
		if prog := scriptProgram(strings.Fields(string(line))); prog != "" && !installed(root, prog) {
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

// scriptProgram is the program a script's first line asks for; behind env(1)
// it is the first word that is neither option nor assignment.
func scriptProgram(words []string) string {
	if len(words) == 0 {
		return ""
	}
	if path.Base(words[0]) == "env" {
		for _, w := range words[1:] {
			if !strings.HasPrefix(w, "-") && !strings.Contains(w, "=") {
				return w
			}
		}
	}
	return words[0]
}

func installed(root *tree.Node, prog string) bool {
	if path.IsAbs(prog) {
		return root.Resolve(prog) != nil
	}
	return slices.ContainsFunc([]string{"/usr/sbin/", "/usr/bin/"}, func(d string) bool { return root.Resolve(d+prog) != nil })
}

// DanglingLinks reports links that policy's own actions left without a target.
func DanglingLinks(root *tree.Node) finding.List {
	var fl finding.List
	root.Walk(func(p string, n *tree.Node) error {
		if n.Target != "" && n.Origin == "joist" && !strings.HasPrefix(n.Target, "/run/") && !strings.HasPrefix(n.Target, "/proc/") && root.Resolve(p) == nil {
			fl.Stopf("link-dangling", p, "correct the rule in rootfs/policy", "the link leads to %s, which is not in the image", n.Target)
		}
		return nil
	})
	return fl
}
