package build

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"joist/internal/finding"
	"joist/internal/run"
	"joist/rootfs/deb"
	"joist/rootfs/tree"
)

// A pool is a tar archive with all that a build fetches: the lock, the packages
// of all sets, and the Go modules in the form of a module proxy
// (go.dev/ref/mod#goproxy-protocol). Go itself is not in it.
const (
	poolLock = "joist.lock"
	poolGo   = "go"
)

// SavePool writes the pool of this build's inputs where one is wanted. The same
// inputs give the same bytes.
func (b *Builder) SavePool(ctx context.Context) error {
	name := b.o.SavePool
	if name == "" {
		return nil
	}
	return explainFull(b.o.Sink.Do("save pool", func(func(n, of int64)) error { return b.savePool(ctx, name) }), filepath.Dir(name), b.cache)
}

func (b *Builder) savePool(ctx context.Context, name string) (err error) {
	if b.lockText == nil {
		if err := b.loadLock(ctx); err != nil {
			return err
		}
	}
	sets := []string{setImage, setTools, setGuest, setZFS, setFirmware}
	for _, x := range b.cfg.lockedExtensions() {
		sets = append(sets, extensionSet(x.Name))
	}
	if err := b.fetch(ctx, sets...); err != nil {
		return err
	}
	files, err := b.poolModules(ctx)
	if err != nil {
		return err
	}
	if err := b.poolPackages(files); err != nil {
		return err
	}
	if b.older != nil {
		if err := b.older.fetch(ctx, setTools, setGuest); err != nil {
			return err
		}
		if err := b.older.poolPackages(files); err != nil {
			return err
		}
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // after the rename there is none of that name
	if err := errors.Join(writePool(ctx, tmp, files), tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}

// poolPackages adds the lock and its packages.
func (b *Builder) poolPackages(files map[string]tree.Source) (err error) {
	files[b.lockName()] = tree.Bytes(b.lockText)
	for _, p := range b.lock.Packages {
		if files[deb.PoolName(p)], err = tree.FromFile(b.files[p.Name]); err != nil {
			return err
		}
	}
	return nil
}

func writePool(ctx context.Context, w io.Writer, files map[string]tree.Source) error {
	tw := tar.NewWriter(w)
	for _, name := range sortedNames(files) {
		if err := ctx.Err(); err != nil {
			return err
		}
		s := files[name]
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: s.Size(), ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
		r, err := s.Open()
		if err != nil {
			return err
		}
		_, err = io.Copy(tw, r)
		if err := errors.Join(err, r.Close()); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return tw.Close()
}

func sortedNames(files map[string]tree.Source) []string {
	var names []string
	for n := range files {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// poolModules are the files of a module proxy: of all modules what they depend
// on, and of those that the programs are made of the sources.
func (b *Builder) poolModules(ctx context.Context) (map[string]tree.Source, error) {
	if b.keys == nil {
		if err := b.nameSources(ctx); err != nil {
			return nil, err
		}
	}
	out, err := run.OS{}.Run(ctx, run.Cmd{Path: b.gotool.path, Args: []string{"list", "-m", "-f", "{{if not .Main}}{{with .Replace}}{{.Path}} {{.Version}}{{else}}{{.Path}} {{.Version}}{{end}}{{end}}", "all"}, Env: b.gotool.env, Dir: b.o.Source})
	if err != nil {
		return nil, fmt.Errorf("list the modules: %w", explain(err))
	}
	files := map[string]tree.Source{}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) != 2 {
			continue
		}
		at := path.Join(escapeModule(f[0]), "@v", escapeModule(f[1]))
		from := filepath.Join(b.gotool.modCache, "cache", "download", filepath.FromSlash(at))
		mod, err := os.ReadFile(from + ".mod")
		if errors.Is(err, os.ErrNotExist) {
			continue // Go did not need it: another module's requirement is newer
		}
		if err != nil {
			return nil, err
		}
		files[path.Join(poolGo, at+".mod")] = tree.Bytes(mod)
		// The rest of what Go keeps here says where it was fetched from.
		files[path.Join(poolGo, at+".info")] = tree.Bytes(fmt.Sprintf("{\"Version\":%q}", f[1]))
		if b.modules[f[0]+"@"+f[1]] {
			if files[path.Join(poolGo, at+".zip")], err = tree.FromFile(from + ".zip"); err != nil {
				return nil, err
			}
		}
	}
	return files, nil
}

// escapeModule writes capitals as "!" and the small letter, as a module proxy
// has them.
func escapeModule(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r >= 'A' && r <= 'Z' {
			b.WriteByte('!')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// usePool lets the build take everything from the pool. It must be the pool of
// this lock.
func (b *Builder) usePool() error {
	for _, g := range guestReleases() {
		r, err := b.pool.File(g.lock)
		if errors.Is(err, fs.ErrNotExist) && g.suites != nil {
			continue // it was saved without that template
		}
		if err != nil {
			return fmt.Errorf("read pool %s: %w", b.o.Pool, err)
		}
		theirs, err := io.ReadAll(r)
		if err != nil {
			return fmt.Errorf("read pool %s: %w", b.o.Pool, err)
		}
		ours, err := os.ReadFile(filepath.Join(b.o.Source, g.lock))
		if err != nil || !bytes.Equal(theirs, ours) {
			var fl finding.List
			fl.Stopf("pool-differs", b.o.Pool, "build from the checkout that it was saved from, or save one again with --save-pool", "the pool was saved for another %s", g.lock)
			return fl.Err()
		}
	}
	dir := filepath.Join(b.work, "goproxy")
	var g errgroup.Group
	g.SetLimit(4)
	for _, name := range b.pool.Names(poolGo) {
		g.Go(func() error {
			to := filepath.Join(dir, strings.TrimPrefix(name, poolGo+"/"))
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				return err
			}
			r, err := b.pool.File(name)
			if err != nil {
				return err
			}
			return writeFile(to, func(f *os.File) error {
				_, err := io.Copy(f, r)
				return err
			})
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("unpack pool %s: %w", b.o.Pool, err)
	}
	// go.sum has the hash of every module; no other list is asked.
	b.gotool.env = append(b.gotool.env, "GOPROXY=file://"+filepath.ToSlash(dir), "GOSUMDB=off", "GONOPROXY=", "GONOSUMDB=", "GOPRIVATE=", "GOTOOLCHAIN=local")
	return nil
}
