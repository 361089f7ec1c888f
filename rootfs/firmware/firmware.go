// Package firmware finds the files that kernel modules ask for: a module names
// them with MODULE_FIRMWARE(), packages bring many times as many.
package firmware

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"joist/rootfs/tree"
)

// Dir is where the kernel's loader looks (kernel document
// driver-api/firmware/fw_search_path.rst).
const Dir = "/usr/lib/firmware"

// Spellings under which the loader finds a file, in its order (kernel,
// drivers/base/firmware_loader/main.c).
var spellings = []string{"", ".zst", ".xz"}

// Names returns what a module says it asks for: paths below Dir, or patterns
// where a driver makes up names as it runs.
func Names(module io.ReaderAt) ([]string, error) {
	f, err := elf.NewFile(module)
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, nil
	}
	text, err := s.Data()
	if err != nil {
		return nil, err
	}
	var out []string
	// "key=value" stand one after the other, each ended by a zero byte.
	for word := range strings.SplitSeq(string(text), "\x00") {
		if v, ok := strings.CutPrefix(word, "firmware="); ok && !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out, nil
}

// Declared returns what the modules below base ask for, sorted, each once. Of
// interest are those whose path below base wanted says yes to.
func Declared(sys *tree.Node, base string, wanted func(file string) bool) ([]string, error) {
	dir := sys.Resolve(base)
	if dir == nil {
		return nil, &fs.PathError{Op: "read", Path: base, Err: fs.ErrNotExist}
	}
	var mu sync.Mutex
	all := map[string]bool{}
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	err := dir.Walk(func(p string, n *tree.Node) error {
		if !n.Mode.IsRegular() || path.Ext(p) != ".ko" || !wanted(strings.TrimPrefix(p, "/")) {
			return nil
		}
		g.Go(func() error {
			names, err := namesOf(n.Data)
			if err != nil {
				return fmt.Errorf("read what module %s says of itself: %w", p, err)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, name := range names {
				all[name] = true
			}
			return nil
		})
		return nil
	})
	if err2 := g.Wait(); err == nil {
		err = err2
	}
	out := make([]string, 0, len(all))
	for name := range all {
		out = append(out, name)
	}
	slices.Sort(out)
	return out, err
}

// namesOf reads as little of a module as it can: its headers and one section.
func namesOf(s tree.Source) ([]string, error) {
	r, err := s.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if at, ok := r.(io.ReaderAt); ok {
		return Names(at)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	return Names(bytes.NewReader(b))
}

// Match returns the system's firmware files that a module means, as paths below
// Dir.
func Match(sys *tree.Node, pattern string) ([]string, error) {
	if !fs.ValidPath(pattern) {
		return nil, fmt.Errorf("%q is no path below %s", pattern, Dir)
	}
	if !strings.ContainsAny(pattern, `*?[\`) {
		for _, s := range spellings {
			if n := sys.Resolve(path.Join(Dir, pattern+s)); n != nil && n.Mode.IsRegular() {
				return []string{pattern + s}, nil
			}
		}
		return nil, nil
	}
	dir := sys.Resolve(Dir)
	if dir == nil || !dir.Mode.IsDir() {
		_, err := path.Match(pattern, "")
		return nil, err
	}
	var names []string
	err := dir.Walk(func(p string, n *tree.Node) error {
		p = strings.TrimPrefix(p, "/")
		target := sys.Resolve(path.Join(Dir, p))
		if target == nil || !target.Mode.IsRegular() {
			return nil
		}
		for _, s := range spellings {
			switch ok, err := path.Match(pattern+s, p); {
			case err != nil:
				return err
			case ok:
				names = append(names, p)
				return nil
			}
		}
		return nil
	})
	return names, err
}

// Prune takes from the system the firmware of the named packages that no
// pattern means, and returns the bytes that stay. Links that lead to a file
// stay with it.
func Prune(sys *tree.Node, packages map[string]bool, patterns []string) (int64, error) {
	keep := map[string]bool{}
	for _, pattern := range patterns {
		names, err := Match(sys, pattern)
		if err != nil {
			return 0, err
		}
		for _, name := range names {
			follow(sys, path.Join(Dir, name), keep)
		}
	}
	dir := sys.Resolve(Dir)
	if dir == nil {
		return 0, nil
	}
	var bytes int64
	prune(dir, Dir, packages, keep, &bytes)
	return bytes, nil
}

// follow marks what lies on the way to a file: links, and the file itself.
func follow(sys *tree.Node, name string, keep map[string]bool) {
	for range 40 { // as many links as the kernel follows
		link := ""
		for at := range prefixes(name) {
			if n := sys.Lookup(at); n != nil && n.Mode&fs.ModeSymlink != 0 {
				link = at
				keep[at] = true
				to := n.Target
				if !path.IsAbs(to) {
					to = path.Join(path.Dir(at), to)
				}
				name = path.Join(to, strings.TrimPrefix(name, at))
				break
			}
		}
		if link == "" {
			keep[name] = true
			return
		}
	}
}

// prefixes are the paths from the first folder down to name itself.
func prefixes(name string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for i := 1; i <= len(name); i++ {
			if (i == len(name) || name[i] == '/') && !yield(name[:i]) {
				return
			}
		}
	}
}

// prune reports whether anything is left below n.
func prune(n *tree.Node, at string, packages, keep map[string]bool, bytes *int64) bool {
	n.Children = slices.DeleteFunc(n.Children, func(c *tree.Node) bool {
		p := path.Join(at, c.Name)
		switch {
		case c.Mode.IsDir():
			return !prune(c, p, packages, keep, bytes) && packages[c.Origin]
		case !packages[c.Origin]:
			return false
		case !keep[p]:
			return true
		}
		if c.Data != nil {
			*bytes += c.Data.Size()
		}
		return false
	})
	return len(n.Children) > 0
}
