package build

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// newEntry begins the names of folders of the cache that are being filled.
const newEntry = ".new-"

// cached returns a folder of the cache. Its key names all that fill makes it
// from; fill is called with an empty folder where there is none of that key,
// and only what it completes is kept. Builds that share the cache wait for
// each other here.
func (b *Builder) cached(ctx context.Context, kind, key string, fill func(tmp string) error) (dir string, err error) {
	parent := filepath.Join(b.cache, kind)
	dir = filepath.Join(parent, key)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return dir, fmt.Errorf("make the cache: %w", err)
	}
	lock, err := lockFile(ctx, parent+".lock", nil)
	if err != nil {
		return dir, fmt.Errorf("lock the cache: %w", err)
	}
	defer lock.Close()
	if err := pruneCache(parent, key, time.Now().Add(-keepFor)); err != nil {
		return dir, fmt.Errorf("prune the cache: %w", err)
	}
	now := time.Now()
	if os.Chtimes(dir, now, now) == nil { // the time of last use
		return dir, nil
	}
	tmp, err := os.MkdirTemp(parent, newEntry)
	if err != nil {
		return dir, err
	}
	defer removeAll(tmp) // after the rename there is none of that name
	if err := os.Chmod(tmp, 0o755); err != nil {
		return dir, err
	}
	if err := fill(tmp); err != nil {
		return dir, err
	}
	return dir, os.Rename(tmp, dir)
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
