// Package deb is a client of Debian's archive that needs no apt and no dpkg:
// it finds a mirror through the building machine's apt configuration, checks
// the signature of each index against the keys in the tree, resolves
// dependencies into a lock, fetches packages by hash and opens them. Nothing
// here ever runs a maintainer script.
package deb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/therootcompany/xz"
	"golang.org/x/sync/errgroup"

	"joist/internal/finding"
	"joist/rootfs/lock"
)

// Pool is a source of packages beside the network, for example an archive
// written by --save-pool. Open returns an error that is fs.ErrNotExist when it
// does not hold the package; what it returns is checked like any download.
type Pool interface {
	Open(p lock.Package) (io.ReadCloser, error)
}

// Config is what a client works with. The zero value of each field has a
// meaning.
type Config struct {
	Mirror     string            // --mirror: a base URL or an absolute folder; "" means apt's sources
	Proxy      string            // URL of a proxy for all, instead of apt's and the environment's
	Root       string            // where etc/apt is found, "" means "/"
	Cache      string            // content-addressed files, "" means DefaultCache
	Components []string          // nil means main, contrib, non-free-firmware
	Pool       Pool              // if set, the only source: nothing goes over the network
	Keys       *Keyring          // nil means DebianKeys
	Transport  http.RoundTripper // nil means one with apt's proxy
	Now        func() time.Time  // nil means time.Now
	Log        *slog.Logger      // nil means silence
	Pause      time.Duration     // before the first retry, then doubled; 0 means half a second
}

// DefaultCache is the folder packages are kept in between builds.
func DefaultCache() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache folder: %w", err)
	}
	return filepath.Join(dir, "joist", "pool"), nil
}

// Client talks to Debian's archive. Nothing goes over the network before it
// is needed, so that a build whose packages are all cached works offline. It
// is safe for concurrent use.
type Client struct {
	cfg   Config
	apt   aptConfig
	http  *http.Client
	store store

	mu       sync.Mutex // guards the rest; held while a mirror is being found
	bases    map[Archive]string
	releases map[string]*Release
	indexes  map[string]*Index
	notes    finding.List
}

// New makes a client from the configuration and the machine's apt settings.
func New(cfg Config) (*Client, error) {
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	if cfg.Components == nil {
		cfg.Components = []string{"main", "contrib", "non-free-firmware"}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	var err error
	if cfg.Mirror, err = mirrorURL(cfg.Mirror); err != nil {
		return nil, fmt.Errorf("check --mirror: %w", err)
	}
	if err := CheckProxy(cfg.Proxy); err != nil {
		return nil, fmt.Errorf("check --proxy: %w", err)
	}
	if cfg.Cache == "" {
		if cfg.Cache, err = DefaultCache(); err != nil {
			return nil, err
		}
	}
	if cfg.Keys == nil {
		if cfg.Keys, err = DebianKeys(); err != nil {
			return nil, err
		}
	}
	if cfg.Pause == 0 {
		cfg.Pause = firstPause
	}
	c := &Client{cfg: cfg, apt: readApt(cfg.Root), store: store{dir: cfg.Cache},
		bases: map[Archive]string{}, releases: map[string]*Release{}, indexes: map[string]*Index{}}
	c.notes = slices.Clone(c.apt.findings)
	if cfg.Transport == nil {
		var proxy *url.URL
		if cfg.Proxy != "" {
			if proxy, err = url.Parse(cfg.Proxy); err != nil {
				return nil, errors.New("check --proxy: it is no URL") // the error would show its password
			}
		}
		c.cfg.Transport = transport(c.apt.options, proxy)
	}
	c.http = &http.Client{Transport: c.cfg.Transport}
	return c, nil
}

// Notes says which sources were taken and which ignored so far, and why. It
// names mirrors, so it is for the person's eyes, never for an artefact.
func (c *Client) Notes() finding.List {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.notes)
}

const mirrorHint = "give a mirror with --mirror URL (a base below which debian/ and debian-security/ lie, or the archive itself) and check this machine's clock"

// base returns the URL of the archive that holds a suite. The first candidate
// whose index of that suite bears our keys' signature is taken and kept.
// c.mu must be held.
func (c *Client) base(ctx context.Context, suite string) (string, error) {
	a := archiveOf(suite)
	if b, ok := c.bases[a]; ok {
		return b, nil
	}
	var list []candidate
	var said finding.List
	if c.cfg.Mirror != "" {
		list = mirrorCandidates(c.cfg.Mirror, a)
	} else {
		list, said = c.apt.candidates(a, c.cfg.Keys)
	}
	for _, x := range list {
		rel, err := c.fetchRelease(ctx, x.url, suite)
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if err != nil {
			c.cfg.Log.Debug("source refused", "archive", a.String(), "source", x.from, "error", err)
			said.Notef("source-ignored", x.from, "%v", err)
			continue
		}
		said.Notef("source-taken", x.from, "%s archive from %s", a, redact(x.url))
		c.bases[a], c.releases[suite] = x.url, rel
		c.notes = append(c.notes, said...)
		return x.url, nil
	}
	if len(list) == 0 {
		said.Notef("source-ignored", "/etc/apt", "no source of the %s archive is configured", a)
	}
	c.notes = append(c.notes, said...)
	reasons := make([]string, 0, len(said))
	for _, f := range said {
		reasons = append(reasons, f.Path+": "+f.Text)
	}
	var stop finding.List
	stop.Stopf("source-none", suite, mirrorHint, "no usable source of the %s archive (%s)", a, strings.Join(reasons, "; "))
	return "", stop.Err()
}

// release returns the verified head of a suite. c.mu must be held.
func (c *Client) release(ctx context.Context, suite string) (*Release, error) {
	base, err := c.base(ctx, suite)
	if err != nil {
		return nil, err
	}
	if r, ok := c.releases[suite]; ok {
		return r, nil
	}
	r, err := c.fetchRelease(ctx, base, suite)
	if err != nil {
		return nil, err
	}
	c.releases[suite] = r
	return r, nil
}

// maxRelease bounds an InRelease file; trixie's has 140 kB.
const maxRelease = 8 << 20

func (c *Client) fetchRelease(ctx context.Context, base, suite string) (*Release, error) {
	url := base + "/dists/" + suite + "/InRelease"
	text, err := c.getSmall(ctx, url, maxRelease)
	if err != nil {
		return nil, err
	}
	if looksLikeHTML(text) {
		return nil, fmt.Errorf("read %s: %w", redact(url), errHTML)
	}
	signed, signer, err := c.cfg.Keys.Verify(text, suite, c.cfg.Now())
	if err != nil {
		return nil, fmt.Errorf("verify %s: %w", redact(url), err)
	}
	r, err := ParseRelease(signed)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", redact(url), err)
	}
	// The keys sign more than one suite: one must not pass for another.
	if r.Codename != suite {
		return nil, fmt.Errorf("verify %s: it is the index of %q, not of %q", redact(url), r.Codename, suite)
	}
	c.cfg.Log.Debug("index verified", "suite", suite, "signer", signer, "date", r.Date)
	return r, nil
}

// Index loads what the suites offer, once per list of suites. An index whose
// validity has run out is a finding that stops, but is loaded all the same, so
// that the person may waive it.
func (c *Client) Index(ctx context.Context, suites []string) (*Index, finding.List, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var fs finding.List
	if c.cfg.Pool != nil {
		fs.Stopf("pool-resolve", "joist.lock", "build without --pool once, so that the lock is written",
			"a pool holds packages but no index: nothing can be resolved from it")
		return nil, fs, fs.Err()
	}
	for _, s := range suites {
		r, err := c.release(ctx, s)
		if err != nil {
			return nil, fs, fmt.Errorf("load index of %s: %w", s, err)
		}
		if now := c.cfg.Now(); r.Expired(now) {
			fs.Stopf("index-expired", s,
				"check this machine's clock, or use a mirror that is kept up to date: --mirror URL",
				"index of %s was valid until %s, it is now %s", s, r.ValidUntil.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
		}
	}
	key := strings.Join(suites, " ")
	if ix, ok := c.indexes[key]; ok {
		return ix, fs, nil
	}
	ix, err := c.loadIndexes(ctx, suites)
	if err != nil {
		return nil, fs, err
	}
	c.indexes[key] = ix
	return ix, fs, nil
}

// loadIndexes fetches and parses all indexes at once. c.mu must be held and
// the releases be loaded.
func (c *Client) loadIndexes(ctx context.Context, suites []string) (*Index, error) {
	lists := make([][]Record, len(suites)*len(c.cfg.Components))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, suite := range suites {
		base, rel := c.bases[archiveOf(suite)], c.releases[suite]
		for j, comp := range c.cfg.Components {
			g.Go(func() (err error) {
				lists[i*len(c.cfg.Components)+j], err = c.loadIndex(gctx, base, rel, suite, comp)
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return NewIndex(lists...)
}

// maxIndex bounds an unpacked Packages file; trixie main has 57 MB.
const maxIndex = 512 << 20

func (c *Client) loadIndex(ctx context.Context, base string, rel *Release, suite, comp string) ([]Record, error) {
	name := comp + "/binary-amd64/Packages.xz"
	packed, ok := rel.Files[name]
	if !ok {
		return nil, fmt.Errorf("load index of %s: it has no component %q", suite, comp)
	}
	if packed.Size > maxIndex {
		return nil, fmt.Errorf("load index of %s/%s: %d bytes are absurd", suite, comp, packed.Size)
	}
	dists := base + "/dists/" + suite + "/"
	urls := []string{dists + name}
	if rel.ByHash {
		// By hash, an index stays consistent with its InRelease while the
		// mirror is being updated.
		urls = append([]string{dists + comp + "/binary-amd64/by-hash/SHA256/" + packed.SHA256}, urls...)
	}
	path, err := c.fetch(ctx, blob{name: "index of " + suite + "/" + comp, urls: urls, size: packed.Size, sha256: packed.SHA256}, func(int64) {})
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := xz.NewReader(f, 0)
	if err != nil {
		return nil, fmt.Errorf("unpack index of %s/%s: %w", suite, comp, err)
	}
	list, err := ReadIndex(z, maxIndex, suite, comp)
	if err != nil {
		return nil, fmt.Errorf("unpack index of %s/%s: %w", suite, comp, err)
	}
	return list, nil
}

// Resolve turns wanted packages into a lock: they and everything they depend
// on, from the newest versions in the suites. Findings say what does not fit;
// the lock is complete only when none of them stops. The caller sets
// lock.Lock.Config.
func Resolve(ctx context.Context, c *Client, suites, wants []string, excludes map[string]string) (lock.Lock, finding.List, error) {
	ix, fs, err := c.Index(ctx, suites)
	if err != nil {
		return lock.Lock{}, fs, fmt.Errorf("resolve packages: %w", err)
	}
	ps, more := Closure(ix, wants, excludes)
	return lock.Lock{Suites: slices.Clone(suites), Packages: ps}, append(fs, more...), nil
}
