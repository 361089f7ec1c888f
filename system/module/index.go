// Package module loads kernel modules the way kmod does, as far as a boot
// needs it: it reads the files that depmod(8) writes (modules.dep,
// modules.alias, modules.softdep), finds what a device's modalias asks for
// and hands compressed modules to the kernel unopened (finit_module(2) with
// MODULE_INIT_COMPRESSED_FILE).
package module

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Index is what depmod wrote about one kernel's modules. Aliases are read
// when they are first asked for: most callers know the names they want.
type Index struct {
	dir   string
	files map[string]string   // module name → path below dir
	deps  map[string][]string // module name → names it needs, from modules.dep
	pre   map[string][]string // soft dependencies, modprobe.d(5)
	post  map[string][]string
	built map[string]bool // compiled into the kernel, from modules.builtin

	aliases func() (map[string][]alias, error)
}

type alias struct{ pattern, module string }

// Open reads the index in dir ("/lib/modules/<release>").
func Open(dir string) (*Index, error) {
	x := &Index{dir: dir, files: map[string]string{}, deps: map[string][]string{},
		pre: map[string][]string{}, post: map[string][]string{}, built: map[string]bool{}}
	if err := lines(filepath.Join(dir, "modules.dep"), x.dep); err != nil {
		return nil, fmt.Errorf("read module index: %w", err)
	}
	if err := lines(filepath.Join(dir, "modules.softdep"), x.softdep); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("read module index: %w", err)
	}
	err := lines(filepath.Join(dir, "modules.builtin"), func(file string) { x.built[Name(file)] = true })
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("read module index: %w", err)
	}
	x.aliases = sync.OnceValues(func() (map[string][]alias, error) {
		m := map[string][]alias{}
		err := lines(filepath.Join(dir, "modules.alias"), func(line string) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == "alias" {
				bus := busOf(f[1])
				m[bus] = append(m[bus], alias{f[1], Name(f[2])})
			}
		})
		return m, err
	})
	return x, nil
}

func (x *Index) dep(line string) {
	file, needs, ok := strings.Cut(line, ":")
	if !ok {
		return
	}
	name := Name(file)
	x.files[name] = file
	for _, f := range strings.Fields(needs) {
		x.deps[name] = append(x.deps[name], Name(f))
	}
}

// softdep takes "softdep NAME pre: A B post: C".
func (x *Index) softdep(line string) {
	f := strings.Fields(line)
	if len(f) < 3 || f[0] != "softdep" {
		return
	}
	name := Name(f[1])
	var to map[string][]string
	for _, w := range f[2:] {
		switch {
		case w == "pre:":
			to = x.pre
		case w == "post:":
			to = x.post
		case to != nil:
			to[name] = append(to[name], w)
		}
	}
}

func lines(file string, each func(string)) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return scan(f, each)
}

func scan(r io.Reader, each func(string)) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		if l := strings.TrimSpace(sc.Text()); l != "" && l[0] != '#' {
			each(l)
		}
	}
	return sc.Err()
}

// Name turns a file or alias spelling into the module's name: no folder, no
// suffix, "-" and "_" alike.
func Name(file string) string {
	n := filepath.Base(file)
	for _, s := range []string{".xz", ".zst", ".gz", ".ko"} {
		n = strings.TrimSuffix(n, s)
	}
	return strings.ReplaceAll(n, "-", "_")
}

// busOf is the part of a modalias before its first colon, under which
// patterns are filed; "" when the pattern has a wildcard there.
func busOf(s string) string {
	bus, _, ok := strings.Cut(s, ":")
	if !ok || strings.ContainsAny(bus, "*?[") {
		return ""
	}
	return bus
}

// Match returns the modules for a modalias, or for a plain alias or name, in
// the order of the index.
func (x *Index) Match(modalias string) []string {
	var out []string
	if n := Name(modalias); x.files[n] != "" && !strings.Contains(modalias, ":") {
		out = append(out, n)
	}
	m, err := x.aliases()
	if err != nil {
		return out
	}
	wild := m[""]
	own := m[busOf(modalias)]
	if busOf(modalias) == "" {
		own = nil
	}
	for _, list := range [][]alias{own, wild} {
		for _, a := range list {
			if Glob(a.pattern, modalias) && !slices.Contains(out, a.module) {
				out = append(out, a.module)
			}
		}
	}
	return out
}

// Builtin reports whether the kernel has the module compiled in.
func (x *Index) Builtin(name string) bool { return x.built[Name(name)] }

// Order returns the modules to load for name, what it needs first. Soft
// dependencies that are not in the index are left out, as modprobe(8) does.
func (x *Index) Order(name string) []string {
	var out []string
	seen := map[string]bool{}
	var add func(string)
	soft := func(names []string) {
		for _, s := range names {
			for _, n := range x.Match(s) {
				add(n)
			}
		}
	}
	add = func(n string) {
		if seen[n] || x.files[n] == "" {
			return
		}
		seen[n] = true
		soft(x.pre[n])
		for _, d := range x.deps[n] {
			add(d)
		}
		out = append(out, n)
		soft(x.post[n])
	}
	add(Name(name))
	return out
}
