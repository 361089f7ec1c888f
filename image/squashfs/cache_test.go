package squashfs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"joist/rootfs/tree"
)

func openCache(t testing.TB, dir string) *PackCache {
	t.Helper()
	c, err := OpenCache(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func closeCache(t testing.TB, c *PackCache) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func keyOfInt(i int) [32]byte { return sha256.Sum256(fmt.Append(nil, i)) }

func fill(c *PackCache, from, to int) {
	for i := from; i < to; i++ {
		c.Put(keyOfInt(i), noise(uint64(i), 1000+i%7))
	}
}

// have counts the entries that are right and fails on one that is not.
func have(t testing.TB, c *PackCache, from, to int) (n int) {
	t.Helper()
	for i := from; i < to; i++ {
		b, ok := c.Get(keyOfInt(i))
		if ok && !bytes.Equal(b, noise(uint64(i), 1000+i%7)) {
			t.Fatalf("entry %d is wrong", i)
		}
		if ok {
			n++
		}
	}
	return n
}

func packFiles(t testing.TB, dir string) (names []string, total int64) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+packSuffix))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		st, err := os.Stat(n)
		if err != nil {
			t.Fatal(err)
		}
		total += st.Size()
	}
	return names, total
}

func TestCacheSavesCompression(t *testing.T) {
	dir, root := t.TempDir(), everything(t)
	want := writeBytes(t, root, Options{})
	for build := range 3 {
		c := openCache(t, dir)
		name, st := write(t, root, Options{Cache: c})
		closeCache(t, c)
		got, err := os.ReadFile(name)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("build %d with a cache differs from one without (%v)", build, err)
		}
		if build > 0 && st.Cached != st.Blocks || build == 0 && st.Cached != 0 {
			t.Errorf("build %d took %d of %d blocks from the cache", build, st.Cached, st.Blocks)
		}
	}
	if names, _ := packFiles(t, dir); len(names) != 1 {
		t.Errorf("builds without anything new left packs: %v", names)
	}
	// One file changes: only its blocks are compressed.
	if err := root.AddFile("/size/text-393233", 0o644, text(4711, 3*DefaultBlockSize+17)); err != nil {
		t.Fatal(err)
	}
	c := openCache(t, dir)
	defer c.Close()
	if _, st := write(t, root, Options{Cache: c}); st.Blocks-st.Cached != 4 {
		t.Errorf("after a change of 4 blocks %d were compressed", st.Blocks-st.Cached)
	}
	// Another codec shares nothing.
	if _, st := write(t, root, Options{Cache: c, Level: 1}); st.Cached != 0 {
		t.Errorf("level 1 took %d blocks of another level", st.Cached)
	}
}

func TestCacheDamage(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, dir)
	fill(c, 0, 100)
	closeCache(t, c)
	names, _ := packFiles(t, dir)
	good, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []struct {
		name   string
		damage func([]byte) []byte
		want   int
	}{
		{"nothing", func(b []byte) []byte { return b }, 100},
		{"a block", func(b []byte) []byte { b[5000] ^= 1; return b }, 99},
		{"the index", func(b []byte) []byte { b[len(b)-100] ^= 1; return b }, 0},
		{"the end", func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, 0},
		{"the counts", func(b []byte) []byte { b[len(b)-20] ^= 0x80; return b }, 0},
		{"cut", func(b []byte) []byte { return b[:len(b)/2] }, 0},
		{"cut to nothing", func(b []byte) []byte { return nil }, 0},
	} {
		if err := os.WriteFile(names[0], d.damage(bytes.Clone(good)), 0o644); err != nil {
			t.Fatal(err)
		}
		c := openCache(t, dir)
		if n := have(t, c, 0, 100); n != d.want {
			t.Errorf("damage of %s leaves %d entries, want %d", d.name, n, d.want)
		}
		// What was lost can be put again.
		fill(c, 0, 100)
		closeCache(t, c)
		c = openCache(t, dir)
		if n := have(t, c, 0, 100); n != 100 {
			t.Errorf("after damage of %s and a repair there are %d entries", d.name, n)
		}
		closeCache(t, c)
		all, _ := packFiles(t, dir)
		for _, n := range all {
			os.Remove(n)
		}
	}
}

func TestCachePrune(t *testing.T) {
	dir := t.TempDir()
	for i := range 40 {
		c := openCache(t, dir)
		fill(c, i*10, i*10+10)
		closeCache(t, c)
		names, _ := packFiles(t, dir)
		for _, n := range names { // files of the same moment are pruned by name
			if st, err := os.Stat(n); err == nil && time.Since(st.ModTime()) < time.Hour {
				old := time.Now().Add(-100*24*time.Hour + time.Duration(i)*time.Hour)
				if err := os.Chtimes(n, old, old); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	stale := filepath.Join(dir, packNew+"killed")
	if err := os.WriteFile(stale, []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-48 * time.Hour)
	if err := os.Chtimes(stale, old, old); err != nil {
		t.Fatal(err)
	}
	c := openCache(t, dir)
	if err := c.Prune(1 << 30); err != nil {
		t.Fatal(err)
	}
	if n := have(t, c, 0, 400); n != 400 {
		t.Errorf("joining packs left %d of 400 entries", n)
	}
	closeCache(t, c)
	if names, _ := packFiles(t, dir); len(names) > maxPacks {
		t.Errorf("%d packs are left", len(names))
	}
	if _, err := os.Stat(stale); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pack of a killed build is still there: %v", err)
	}

	c = openCache(t, dir)
	if n := have(t, c, 100, 200); n != 100 {
		t.Fatalf("%d of 100 entries are there", n)
	}
	const limit = 150_000
	if err := c.Prune(limit); err != nil {
		t.Fatal(err)
	}
	closeCache(t, c)
	if _, total := packFiles(t, dir); total > limit {
		t.Errorf("%d bytes are left of %d allowed", total, limit)
	}
	c = openCache(t, dir)
	if n := have(t, c, 100, 200); n != 100 {
		t.Errorf("of what the build used %d of 100 entries stayed", n)
	}
	if err := c.Prune(0); err != nil {
		t.Fatal(err)
	}
	if n := have(t, c, 0, 400); n != 0 {
		t.Errorf("an empty cache has %d entries", n)
	}
	closeCache(t, c)
}

// TestCacheTogether has builds that read, write and prune at the same time.
func TestCacheTogether(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			for i := range 8 {
				c, err := OpenCache(dir)
				if err != nil {
					t.Error(err)
					return
				}
				have(t, c, 0, 200)
				fill(c, (g+i)*10, (g+i)*10+30)
				if i%3 == 2 {
					if err := c.Prune(100_000); err != nil {
						t.Error(err)
					}
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	c := openCache(t, dir)
	defer c.Close()
	if n := have(t, c, 0, 200); n == 0 {
		t.Error("nothing was kept")
	}
}

// TestCacheFullDisk: a cache that cannot write fails no build and says so.
func TestCacheFullDisk(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, dir)
	fill(c, 0, 3)
	c.next.file.Close() // every write fails from here
	root := tree.New()
	if err := root.AddFile("/a", 0o644, text(1, 300<<10)); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(context.Background(), nowhere{}, root, Options{Cache: c}); err != nil {
		t.Errorf("the build failed: %v", err)
	}
	if err := c.Close(); err == nil {
		t.Error("Close hides that nothing was kept")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

type nowhere struct{}

func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
