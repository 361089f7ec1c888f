package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"joist/internal/run"
	"joist/rootfs/sandbox"
	"joist/rootfs/unpack"
)

// tools unpacks the sandbox's packages, once for each set of hashes, into the
// cache.
func (b *Builder) tools(ctx context.Context) error {
	h := sha256.New()
	for _, p := range b.lock.Set(setTools) {
		fmt.Fprintln(h, p.Name, p.SHA256)
	}
	return b.o.Sink.Do("unpack build tools", func(func(n, of int64)) error {
		dir, err := b.cached(ctx, "sandbox", hex.EncodeToString(h.Sum(nil))[:16], func(tmp string) error { return b.unpackTools(ctx, tmp) })
		b.box = sandbox.Sandbox{Root: dir, Binds: []sandbox.Bind{{Host: b.work, Inside: "/host/work"}}}
		return err
	})
}

// unpackTools writes the tools' tree to dir.
func (b *Builder) unpackTools(ctx context.Context, dir string) error {
	pkgs, err := b.open(setTools)
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

// compile builds those of Joist's own programs that need no C.
func (b *Builder) compile(ctx context.Context) error {
	return b.o.Sink.Do("compile programs", func(func(n, of int64)) error {
		var pkgs []string
		for _, p := range programs {
			if !p.cgo {
				pkgs = append(pkgs, p.pkg)
			}
		}
		dir := filepath.Join(b.work, "bin")
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := b.gotool.compile(ctx, b.o.Source, dir, pkgs); err != nil {
			return err
		}
		return b.collect(dir, false)
	})
}

// compileC builds the others with the compiler of the sandbox. Go
// itself knows which of its cached results belong to which compiler.
func (b *Builder) compileC(ctx context.Context) error {
	return b.o.Sink.Do("compile C programs", func(func(n, of int64)) error {
		dir := filepath.Join(b.work, "cbin")
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		cache := filepath.Join(b.cache, "cgo")
		for _, p := range programs {
			if !p.cgo {
				continue
			}
			if err := b.gotool.compileC(ctx, b.box, b.o.Source, cache, "/host/work/cbin/"+filepath.Base(p.pkg), p.pkg); err != nil {
				return err
			}
		}
		return b.collect(dir, true)
	})
}

// collect reads the compiled programs.
func (b *Builder) collect(dir string, cgo bool) error {
	for _, p := range programs {
		if p.cgo != cgo {
			continue
		}
		name := filepath.Base(p.pkg)
		c, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		b.bins[name] = c
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
