package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"joist/image/squashfs"
	"joist/rootfs/deb"
)

// newEntry begins the names of folders of the cache that are being filled.
const newEntry = ".new-"

// cached returns a folder of the cache. Its key names all that fill makes it
// from; fill is called with an empty folder where there is none of that key,
// and only what it completes is kept. Builds that share the cache wait for
// each other here.
func (b *Builder) cached(ctx context.Context, kind, key string, fill func(tmp string) error) (dir string, err error) {
	dir = filepath.Join(b.cache, kind, key)
	return dir, b.withCache(ctx, kind, func(parent string) error {
		if err := pruneCache(parent, key, time.Now().Add(-keepFor)); err != nil {
			return fmt.Errorf("prune the cache: %w", err)
		}
		now := time.Now()
		if os.Chtimes(dir, now, now) == nil { // the time of last use
			return nil
		}
		return fillEntry(parent, dir, fill)
	})
}

// fillEntry makes a folder of the cache, whole or not at all. The cache must be
// locked.
func fillEntry(parent, dir string, fill func(tmp string) error) error {
	tmp, err := os.MkdirTemp(parent, newEntry)
	if err != nil {
		return err
	}
	defer removeAll(tmp) // after the rename there is none of that name
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if err := fill(tmp); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

// withCache calls f with a folder of the cache that no other build touches
// meanwhile.
func (b *Builder) withCache(ctx context.Context, kind string, f func(parent string) error) error {
	parent := filepath.Join(b.cache, kind)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return fmt.Errorf("make the cache: %w", err)
	}
	lock, err := lockFile(ctx, parent+".lock", nil)
	if err != nil {
		return fmt.Errorf("lock the cache: %w", err)
	}
	return errors.Join(f(parent), lock.Close())
}

// pruneCache removes the folders that no build used since the given time, and
// those that a killed build left unfinished. The cache must be locked.
func pruneCache(parent, keep string, since time.Time) error {
	list, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	for _, e := range list {
		st, err := e.Info()
		if err != nil || e.Name() == keep || !strings.HasPrefix(e.Name(), newEntry) && st.ModTime().After(since) {
			continue
		}
		if err := removeAll(filepath.Join(parent, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// pruneOldest removes what killed builds left unfinished, and the folders
// longest unused beyond the given number. The cache must be locked.
func pruneOldest(parent string, keep int) error {
	list, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	type entry struct {
		name string
		used time.Time
	}
	var whole []entry
	for _, e := range list {
		st, err := e.Info()
		if err != nil {
			return err
		}
		if strings.HasPrefix(e.Name(), newEntry) {
			err = removeAll(filepath.Join(parent, e.Name()))
		} else {
			whole = append(whole, entry{e.Name(), st.ModTime()})
		}
		if err != nil {
			return err
		}
	}
	slices.SortFunc(whole, func(a, b entry) int { return b.used.Compare(a.used) })
	for _, e := range whole[min(keep, len(whole)):] {
		if err := removeAll(filepath.Join(parent, e.name)); err != nil {
			return err
		}
	}
	return nil
}

// pruneKinds goes through everything the cache holds.
func (b *Builder) pruneKinds(ctx context.Context, all bool) error {
	since := time.Now().Add(-keepFor)
	systems, templates, blocks := keepSystems, keepTemplates, int64(maxBlocks)
	if all {
		since, systems, templates, blocks = time.Now().Add(time.Hour), 0, 0, 0
	}
	var errs []error
	for _, kind := range []string{"sandbox", "modules", "zfs"} {
		errs = append(errs, b.withCache(ctx, kind, func(parent string) error { return pruneCache(parent, "", since) }))
	}
	errs = append(errs, b.withCache(ctx, "system", func(parent string) error { return pruneOldest(parent, systems) }))
	errs = append(errs, b.withCache(ctx, "template", func(parent string) error { return pruneOldest(parent, templates) }))
	for _, dir := range []string{b.keptDir(), b.programCache().dir, b.results().dir} {
		errs = append(errs, deb.PruneKept(dir, since))
	}
	c, err := squashfs.OpenCache(b.blocksDir())
	if err == nil {
		err = errors.Join(c.Prune(blocks), c.Close())
	}
	errs = append(errs, err, prunePool(filepath.Join(b.cache, "pool"), since))
	if all {
		errs = append(errs, removeAll(filepath.Join(b.cache, "cgo")))
	}
	b.boundCache(ctx)
	return errors.Join(errs...)
}

// prunePool removes packages that were fetched or handed out before the given
// time: those of a lock in use are touched at each build.
func prunePool(dir string, since time.Time) error {
	return walkFiles(dir, func(name string, st fs.FileInfo) error {
		if st.ModTime().After(since) {
			return nil
		}
		return remove(name)
	})
}

// sizeBelow is what the files below a folder take.
func sizeBelow(dir string) (n int64, err error) {
	err = walkFiles(dir, func(_ string, st fs.FileInfo) error {
		n += st.Size()
		return nil
	})
	return n, err
}

// walkFiles calls f for each regular file below a folder that need not exist.
func walkFiles(dir string, f func(name string, st fs.FileInfo) error) error {
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone meanwhile
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		st, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return f(p, st)
	})
}
