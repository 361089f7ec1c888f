package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"joist/internal/run"
	"joist/rootfs/sandbox"
	"joist/rootfs/unpack"
)

func asRun(err error, e **run.Error) bool { return errors.As(err, e) }

// tools unpacks the sandbox's packages, once for each set of hashes, into the
// cache.
func (b *Builder) tools(ctx context.Context) error {
	h := sha256.New()
	for _, p := range b.lock.Set(setTools) {
		fmt.Fprintln(h, p.Name, p.SHA256)
	}
	dir := filepath.Join(b.cache, "sandbox", hex.EncodeToString(h.Sum(nil))[:16])
	b.box = sandbox.Sandbox{Root: dir, Binds: []sandbox.Bind{{Host: b.work, Inside: "/host/work"}}}
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	return b.o.Sink.Do("unpack build tools", func(func(n, of int64)) error {
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
		if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
			return err
		}
		tmp, err := os.MkdirTemp(filepath.Dir(dir), ".new-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		if err := os.Chmod(tmp, 0o755); err != nil {
			return err
		}
		if err := root.WriteDir(tmp); err != nil {
			return err
		}
		if err := sandbox.Prepare(tmp); err != nil {
			return err
		}
		if err := os.Rename(tmp, dir); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		return nil
	})
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

// compile builds Joist's own programs.
func (b *Builder) compile(ctx context.Context) error {
	return b.o.Sink.Do("compile programs", func(func(n, of int64)) error {
		var pure []string
		dir := filepath.Join(b.work, "bin")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for _, p := range programs {
			if !p.cgo {
				pure = append(pure, p.pkg)
			}
		}
		if err := b.gotool.compile(ctx, b.o.Source, dir, pure); err != nil {
			return err
		}
		for _, p := range programs {
			name := filepath.Base(p.pkg)
			if p.cgo {
				if err := b.compileC(ctx, p.pkg, filepath.Join(dir, name)); err != nil {
					return err
				}
			}
			c, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				return err
			}
			b.bins[name] = c
		}
		return nil
	})
}

// compileC keeps Go's build cache for the sandbox beside the sandbox itself.
func (b *Builder) compileC(ctx context.Context, pkg, out string) error {
	dir := filepath.Join(b.cache, "cgo-"+filepath.Base(b.box.Root))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tmp := filepath.Join(dir, filepath.Base(out))
	if err := b.gotool.compileC(ctx, b.box, b.o.Source, tmp, pkg); err != nil {
		return err
	}
	c, err := os.ReadFile(tmp)
	if err != nil {
		return err
	}
	return os.WriteFile(out, c, 0o755)
}

// inBox runs a program of the sandbox in the work folder.
func (b *Builder) inBox(ctx context.Context, path string, args ...string) ([]byte, error) {
	out, err := b.box.Run(ctx, run.Cmd{Path: path, Args: args, Dir: "/host/work"})
	if err != nil {
		return out, explain(err)
	}
	return out, nil
}
