package build

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"time"
)

// bounds are how much each part of the cache that nothing else bounds may hold:
// some five locks of different packages, or compilers of as many versions. What
// was longest unused goes first.
var bounds = []struct {
	dir   string
	bytes int64
}{
	{"pool", 4 << 30},
	{"unpacked", 4 << 30},
	{"programs", 1 << 30},
	{"cgo", 1 << 30},
}

// inUse is how long a file that was used is left alone, whatever the bound says:
// another build may be about to read it.
const inUse = time.Hour

// boundCache removes what is beyond the bounds. That it cannot is told, and no
// reason to fail.
func (b *Builder) boundCache(ctx context.Context) {
	for _, x := range bounds {
		if ctx.Err() != nil {
			return
		}
		b.cacheFailed(x.dir, boundFiles(filepath.Join(b.cache, x.dir), x.bytes, time.Now().Add(-inUse)))
	}
}

// boundFiles removes the files longest unused until the folder holds no more
// than so many bytes, but none that was used since the given time.
func boundFiles(dir string, limit int64, since time.Time) error {
	type file struct {
		name string
		size int64
		used time.Time
	}
	var all []file
	var total int64
	err := walkFiles(dir, func(name string, st fs.FileInfo) error {
		all = append(all, file{name, st.Size(), st.ModTime()})
		total += st.Size()
		return nil
	})
	if err != nil || total <= limit {
		return err
	}
	slices.SortFunc(all, func(a, b file) int { return a.used.Compare(b.used) })
	var errs []error
	for _, f := range all {
		if total <= limit || f.used.After(since) {
			break
		}
		errs = append(errs, remove(f.name))
		total -= f.size
	}
	return errors.Join(errs...)
}
