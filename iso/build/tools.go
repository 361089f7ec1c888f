package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"joist/internal/run"
	"joist/rootfs/lock"
	"joist/rootfs/sandbox"
	"joist/rootfs/unpack"
)

// tools unpacks the sandbox's packages, once for each set of hashes, into the
// cache.
func (b *Builder) tools(ctx context.Context) error {
	return b.o.Sink.Do("unpack build tools", func(func(n, of int64)) error {
		dir, err := b.cached(ctx, "sandbox", b.sandboxKey(), func(tmp string) error { return b.unpackTools(ctx, setTools, tmp) })
		b.box = sandbox.Sandbox{Root: dir, Binds: []sandbox.Bind{{Host: b.work, Inside: "/host/work"}}}
		return err
	})
}

// unpackTools writes the tree of a set of tools to dir.
func (b *Builder) unpackTools(ctx context.Context, set, dir string) error {
	if slices.ContainsFunc(b.lock.Set(set), func(p lock.Package) bool { return b.files[p.Name] == "" }) {
		if err := b.fetch(ctx, set); err != nil {
			return err
		}
	}
	pkgs, err := b.open(set)
	if err != nil {
		return err
	}
	// What scripts of tools would do (alternatives, caches) no tool needs.
	root, fl, err := unpack.Tree(ctx, pkgs, unpack.Options{Drop: false, Accept: acceptAll(pkgs)})
	if err != nil {
		return err
	}
	if err := fl.Err(); err != nil {
		return err
	}
	if err := root.WriteDir(dir); err != nil {
		return fmt.Errorf("write the tools: %w", err)
	}
	return sandbox.Prepare(dir)
}

func acceptAll(pkgs []unpack.Package) map[string]bool {
	m := map[string]bool{}
	for _, p := range pkgs {
		name := p.Control.Get("Package")
		for s := range p.Scripts {
			m[name+":"+s] = true
		}
		for _, t := range p.Triggers {
			m[name+":trigger:"+t.Name] = true
		}
	}
	return m
}

// sandboxKey names the packages that the tree of tools is made of.
func (b *Builder) sandboxKey() string { return b.setKey(setTools) }

// setKey names the packages of a set.
func (b *Builder) setKey(set string) string {
	h := sha256.New()
	for _, p := range b.lock.Set(set) {
		fmt.Fprintln(h, p.Name, p.SHA256)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// programCache holds Joist's compiled programs by what they are made of.
func (b *Builder) programCache() blobs { return blobs{filepath.Join(b.cache, "programs")} }

// lookUp takes the programs that an earlier build compiled of the same sources.
func (b *Builder) lookUp(ctx context.Context) error {
	if err := b.nameSources(ctx); err != nil {
		return err
	}
	for name, key := range b.keys {
		if c, ok := b.programCache().get(key); ok {
			b.bins[name] = c
		}
	}
	return nil
}

// nameSources names what each program is made of. The lock must be loaded: the
// compiler and the libraries of programs in C are packages.
func (b *Builder) nameSources(ctx context.Context) error {
	b.keys, b.modules = map[string]string{}, map[string]bool{}
	lists := map[bool][]string{}
	for _, p := range programs {
		lists[p.cgo] = append(lists[p.cgo], p.pkg)
	}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	for cgo, pkgs := range lists {
		g.Go(func() error {
			sums, modules, err := b.gotool.sourceDigests(ctx, b.o.Source, cgo, pkgs)
			mu.Lock()
			defer mu.Unlock()
			for _, m := range modules {
				b.modules[m] = true
			}
			for pkg, key := range sums {
				if cgo {
					sum := sha256.Sum256([]byte(key + " " + b.sandboxKey()))
					key = hex.EncodeToString(sum[:])
				}
				b.keys[filepath.Base(pkg)] = key
			}
			return err
		})
	}
	return g.Wait()
}

// missing are the programs that must be compiled.
func (b *Builder) missing(cgo bool) []string {
	var out []string
	for _, p := range programs {
		if p.cgo == cgo && b.bins[filepath.Base(p.pkg)] == nil {
			out = append(out, p.pkg)
		}
	}
	return out
}

// compile builds those of Joist's own programs that need no C.
func (b *Builder) compile(ctx context.Context) error {
	pkgs := b.missing(false)
	if len(pkgs) == 0 {
		return nil
	}
	return b.o.Sink.Do("compile programs", func(func(n, of int64)) error {
		dir := filepath.Join(b.work, "bin")
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := b.gotool.compile(ctx, b.o.Source, dir, pkgs); err != nil {
			return err
		}
		return b.collect(dir, pkgs)
	})
}

// compileC builds the others with the compiler of the sandbox.
func (b *Builder) compileC(ctx context.Context) error {
	pkgs := b.missing(true)
	if len(pkgs) == 0 {
		return nil
	}
	return b.o.Sink.Do("compile C programs", func(func(n, of int64)) error {
		dir := filepath.Join(b.work, "cbin")
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		cache := filepath.Join(b.cache, "cgo")
		for _, p := range pkgs {
			if err := b.gotool.compileC(ctx, b.box, b.o.Source, cache, "/host/work/cbin/"+filepath.Base(p), p); err != nil {
				return err
			}
		}
		return b.collect(dir, pkgs)
	})
}

// collect reads the compiled programs.
func (b *Builder) collect(dir string, pkgs []string) error {
	for _, p := range pkgs {
		name := filepath.Base(p)
		c, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		b.bins[name] = c
		b.compiled = append(b.compiled, name)
	}
	return nil
}

// keepPrograms keeps what was compiled for the next build. A program whose
// sources were changed meanwhile is not kept: it may be made of either state.
func (b *Builder) keepPrograms(ctx context.Context) error {
	if len(b.compiled) == 0 {
		return nil
	}
	before := b.keys
	if err := b.nameSources(ctx); err != nil {
		return err
	}
	for _, name := range b.compiled {
		if b.keys[name] != before[name] {
			continue
		}
		b.cacheFailed("programs", b.programCache().put(b.keys[name], b.bins[name]))
	}
	return nil
}

// inBox runs a program of the sandbox in the work folder.
func (b *Builder) inBox(ctx context.Context, path string, args ...string) ([]byte, error) {
	out, err := b.box.Run(ctx, run.Cmd{Path: path, Args: args, Dir: "/host/work"})
	if err != nil {
		return out, explain(err)
	}
	return out, nil
}
