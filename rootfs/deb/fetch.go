package deb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/errgroup"

	"joist/internal/finding"
	"joist/internal/progress"
	"joist/rootfs/lock"
)

// parallel is how many files are fetched at once: enough to hide the
// mirror's latency, few enough to be a polite guest.
const parallel = 4

// ErrGone means that a locked package is on the mirror no more, as happens
// when a point release or a security update replaces it. The cure is to
// resolve the whole lock anew.
var ErrGone = errors.New("package has left the mirror")

// errDamaged is content that is not what its hash says.
var errDamaged = errors.New("content does not have the hash the index gives")

// blob is a file known by its hash, and where it may be had.
type blob struct {
	name   string // for people
	urls   []string
	pool   func() (io.ReadCloser, error) // instead of urls
	size   int64
	sha256 string
}

// Fetch brings packages into the cache and returns their files by name. Each
// is checked by size and hash, the cached ones too. Several processes may
// share a cache.
func (c *Client) Fetch(ctx context.Context, ps []lock.Package, sink progress.Sink) (map[string]string, error) {
	var total, have atomic.Int64
	for _, p := range ps {
		if err := p.Validate(); err != nil {
			return nil, err
		}
		total.Add(p.Size)
	}
	paths := make([]string, len(ps))
	err := sink.Do("fetch packages", func(advance func(n, of int64)) error {
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(parallel)
		for i, p := range ps {
			g.Go(func() (err error) {
				paths[i], err = c.fetchPackage(gctx, p, func(n int64) { advance(have.Add(n), total.Load()) })
				return err
			})
		}
		return g.Wait()
	})
	if err != nil {
		return nil, err
	}
	out := make(map[string]string, len(ps))
	for i, p := range ps {
		out[p.Name] = paths[i]
	}
	return out, nil
}

func (c *Client) fetchPackage(ctx context.Context, p lock.Package, advance func(int64)) (string, error) {
	b := blob{name: p.Name + " " + p.Version, size: p.Size, sha256: p.SHA256}
	if path, ok := c.store.cached(b); ok {
		advance(p.Size)
		return path, ctx.Err()
	}
	if c.cfg.Pool != nil {
		b.pool = func() (io.ReadCloser, error) { return c.cfg.Pool.Open(p) }
	} else {
		c.mu.Lock()
		base, err := c.base(ctx, p.Suite)
		c.mu.Unlock()
		if err != nil {
			return "", fmt.Errorf("fetch package %s: %w", p.Name, err)
		}
		b.urls = []string{base + "/" + escape(p.Path)}
	}
	path, err := c.fetch(ctx, b, advance)
	if isGone(err) {
		return "", fmt.Errorf("fetch package %s %s: %w", p.Name, p.Version, ErrGone)
	}
	return path, err
}

// escape keeps a pool path one path: "+" and "~" are fine in a URL's path,
// "%" (an escaped epoch colon) is not.
func escape(path string) string { return strings.ReplaceAll(path, "%", "%25") }

// fetch brings a blob into the store and returns its file.
func (c *Client) fetch(ctx context.Context, b blob, advance func(int64)) (string, error) {
	if path, ok := c.store.cached(b); ok {
		advance(b.size)
		return path, nil
	}
	p, err := c.store.begin(b)
	if err != nil {
		return "", fmt.Errorf("fetch %s: %w", b.name, storeError(err, c.store.dir))
	}
	defer p.close()
	p.advance = advance
	advance(p.n) // what an interrupted fetch left
	if b.pool != nil {
		err = p.fill(0, b.pool)
	} else {
		err = c.download(ctx, b, p)
	}
	var path string
	if err == nil {
		path, err = p.commit()
	}
	if err != nil {
		advance(-p.n)
		err = storeError(err, c.store.dir)
		var full *finding.Error
		if errors.As(err, &full) {
			p.discard() // give the space back; nothing can resume on a full disk
		}
		return "", fmt.Errorf("fetch %s: %w", b.name, err)
	}
	return path, nil
}

// download tries the addresses in turn; a later one is for a file that the
// earlier one does not have.
func (c *Client) download(ctx context.Context, b blob, p *part) (err error) {
	for _, u := range b.urls {
		// A connection that breaks again and again still brings the file, as long
		// as each round brings a worthwhile piece.
		for {
			before := p.n
			err = c.retry(ctx, func() error { return c.transfer(ctx, u, p) })
			if err == nil || ctx.Err() != nil || !passing(err) || p.n-before < max(1, b.size/100) {
				break
			}
		}
		if !isGone(err) {
			return err
		}
	}
	return err
}

// transfer is one request: the rest of the file, or all of it where the
// server does not know ranges.
func (c *Client) transfer(ctx context.Context, address string, p *part) error {
	if p.n == p.b.size && p.complete() == nil {
		return nil
	}
	rctx, watched, stop := watch(ctx)
	defer stop()
	resp, err := c.get(rctx, address, p.n)
	var status *statusError
	if errors.As(err, &status) && status.code == http.StatusRequestedRangeNotSatisfiable {
		if err := p.reset(); err != nil {
			return err
		}
		resp, err = c.get(rctx, address, 0)
	}
	if err != nil {
		return cause(rctx, err)
	}
	defer resp.Body.Close()
	offset := int64(0)
	if resp.StatusCode == http.StatusPartialContent {
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &offset); err != nil {
			offset = -1
		}
	}
	if offset != 0 && offset != p.n {
		if err := p.reset(); err != nil {
			return err
		}
		return fmt.Errorf("fetch %s: the server answered another range: %w", redact(address), io.ErrUnexpectedEOF)
	}
	err = p.fill(offset, func() (io.ReadCloser, error) { return io.NopCloser(watched(resp.Body)), nil })
	return cause(rctx, err)
}

// storeError turns what a cache folder does to a person into a finding.
func storeError(err error, dir string) error {
	var fs finding.List
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		fs.Stopf("cache-full", dir, "free some space there, or set XDG_CACHE_HOME to a larger file system", "no space left for packages")
	case errors.Is(err, os.ErrPermission), errors.Is(err, syscall.EROFS):
		fs.Stopf("cache-denied", dir, "make the folder writable for you, or set XDG_CACHE_HOME", "cannot write packages: %v", plain(err))
	default:
		return err
	}
	return fs.Err()
}
