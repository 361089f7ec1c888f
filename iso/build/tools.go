package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

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
	dir := filepath.Join(b.cache, "sandbox", hex.EncodeToString(h.Sum(nil))[:16])
	b.box = sandbox.Sandbox{Root: dir, Binds: []sandbox.Bind{{Host: b.work, Inside: "/host/work"}}}
	return b.o.Sink.Do("unpack build tools", func(func(n, of int64)) error {
		if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
			return err
		}
		lock, err := lockFile(ctx, filepath.Join(b.cache, "sandbox.lock"), nil)
		if err != nil {
			return fmt.Errorf("lock the cache: %w", err)
		}
		defer lock.Close()
		if err := pruneTools(filepath.Dir(dir), filepath.Base(dir), time.Now().Add(-keepFor)); err != nil {
			return fmt.Errorf("remove old build tools: %w", err)
		}
		now := time.Now()
		if os.Chtimes(dir, now, now) == nil {
			return nil // it is there
		}
		return b.unpackTools(ctx, dir)
	})
}

// pruneTools removes sandboxes that no build used since the given time, and
// those that a killed build left unfinished. The cache must be locked.
func pruneTools(dir, keep string, since time.Time) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		st, err := e.Info()
		if err != nil || e.Name() == keep || !strings.HasPrefix(e.Name(), newTools) && st.ModTime().After(since) {
			continue
		}
		if err := removeAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

const newTools = ".new-"

// unpackTools writes the tools' tree to dir, which appears when it is whole.
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
	tmp, err := os.MkdirTemp(filepath.Dir(dir), newTools)
	if err != nil {
		return err
	}
	defer removeAll(tmp) // after the rename there is none of that name
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if err := root.WriteDir(tmp); err != nil {
		return fmt.Errorf("write the tools: %w", err)
	}
	if err := sandbox.Prepare(tmp); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
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
