package deb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	"joist/internal/finding"
	"joist/internal/progress"
	"joist/rootfs/lock"
	"joist/test/archive"
)

var day = archive.Day()

func newKey(t *testing.T) *openpgp.Entity { return archive.NewKey(t) }

func sum(b []byte) string { return archive.Sum(b) }

// mirror is an archive with a few packages.
type mirror struct {
	*archive.Mirror
	t *testing.T
}

func newMirror(t *testing.T) *mirror {
	m := &mirror{archive.New(t), t}
	m.Suite("debian", "trixie", m.Main, "", m.stanza("aa", "1", []byte(strings.Repeat("content of aa ", 5000)), "Depends: bb"),
		m.stanza("bb", "1", []byte("old bb"), ""))
	m.Suite("debian", "trixie-updates", m.Main, "Valid-Until: Fri, 27 Nov 2026 02:11:10 UTC\n")
	m.Suite("debian-security", "trixie-security", m.Security, "Valid-Until: Fri, 27 Nov 2026 02:11:10 UTC\n", m.stanza("bb", "2", []byte("new bb"), ""))
	return m
}

// stanza is a package's; version 2 is in the security archive.
func (m *mirror) stanza(name, version string, content []byte, more string) string {
	in := "debian"
	if version == "2" {
		in = "debian-security"
	}
	return m.Stanza(in, name, version, content, more)
}

// client of a machine whose apt has the sources given; "MIRROR" stands for
// the mirror's URL.
func (m *mirror) client(sources string, change func(*Config)) *Client {
	m.t.Helper()
	root := m.t.TempDir()
	write(m.t, filepath.Join(root, "etc/apt/sources.list.d/debian.sources"), strings.ReplaceAll(sources, "MIRROR", m.URL))
	cfg := Config{Root: root, Cache: m.t.TempDir(), Components: []string{"main"}, Now: func() time.Time { return day },
		Pause: time.Millisecond,
		Keys:  NewKeyring(map[Archive]openpgp.EntityList{Main: {m.Main}, Security: {m.Security}})}
	if change != nil {
		change(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	return c
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

const twoSources = `Types: deb deb-src
URIs: MIRROR/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: MIRROR/debian-security/
Suites: bookworm-security
Components: main
`

func suites() []string { return []string{"trixie", "trixie-updates", "trixie-security"} }

func TestResolveAndFetch(t *testing.T) {
	for name, c := range map[string]struct {
		sources string
		mirror  string
	}{
		"apt":                       {sources: twoSources},
		"security beside":           {sources: strings.Split(twoSources, "\n\n")[0]},
		"mirror above":              {mirror: "MIRROR"},
		"mirror with slash":         {mirror: "MIRROR/"},
		"mirror is the archive":     {mirror: "MIRROR/debian"},
		"mirror wins over sources":  {sources: "Types: deb\nURIs: http://nowhere.invalid/debian\nSuites: sid\n", mirror: "MIRROR"},
		"foreign and wrong sources": {sources: "Types: deb\nURIs: MIRROR/other\nSuites: x\nSigned-By: /etc/other.gpg\n\nTypes: deb\nURIs: MIRROR/none cdrom:x\nSuites: x\n\n" + twoSources},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMirror(t)
			cl := m.client(c.sources, func(cfg *Config) { cfg.Mirror = strings.ReplaceAll(c.mirror, "MIRROR", m.URL) })
			l, fs, err := Resolve(context.Background(), cl, suites(), []string{"aa"}, nil)
			if err != nil || len(fs) != 0 {
				t.Fatal(err, fs)
			}
			if bb, _ := l.Package("bb"); len(l.Packages) != 2 || bb.Version != "2" || bb.Suite != "trixie-security" {
				t.Fatal(l)
			}
			text, err := lock.Encode(l)
			if err != nil || bytes.Contains(text, []byte("127.0.0.1")) {
				t.Fatal(err, string(text))
			}
			var last progress.Event
			var mu sync.Mutex
			paths, err := cl.Fetch(context.Background(), l.Packages, func(e progress.Event) {
				mu.Lock()
				defer mu.Unlock()
				if e.State == progress.Running && e.N >= last.N {
					last = e
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(paths["bb"]); err != nil || string(got) != "new bb" {
				t.Fatal(string(got), err)
			}
			if last.N != last.Of || last.N != l.Packages[0].Size+l.Packages[1].Size {
				t.Fatal(last)
			}
			m.Close() // everything cached: no network needed
			fresh := m.client(c.sources, func(cfg *Config) { cfg.Cache = cl.cfg.Cache })
			if _, err := fresh.Fetch(context.Background(), l.Packages, progress.Discard); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestNotesSayWhatWasIgnored(t *testing.T) {
	m := newMirror(t)
	c := m.client("Types: deb\nURIs: MIRROR/other\nSuites: x\nSigned-By: /etc/other.gpg\n\n"+twoSources, nil)
	if _, _, err := c.Index(context.Background(), suites()); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range c.Notes() {
		got = append(got, n.Code+" "+n.Path)
	}
	f := "/etc/apt/sources.list.d/debian.sources:"
	want := []string{"source-ignored " + f + "1", "source-taken " + f + "6", "source-ignored " + f + "1", "source-taken " + f + "12"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Fatal(strings.Join(got, "\n"))
	}
}

func TestIndexRefused(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(m *mirror)
		text   string // in the error or finding
	}{
		"other key":                        {func(m *mirror) { m.Suite("debian", "trixie", newKey(m.t), "") }, "no signature by a key"},
		"security key on the main archive": {func(m *mirror) { m.Suite("debian", "trixie", m.Security, "") }, "no signature by a key"},
		"tampered": {func(m *mirror) {
			f := "/debian/dists/trixie/InRelease"
			m.Files[f] = bytes.Replace(m.Files[f], []byte("2026"), []byte("2027"), 1)
		}, "no signature by a key"},
		"not signed": {func(m *mirror) { m.Files["/debian/dists/trixie/InRelease"] = []byte("Codename: trixie\n") }, "not a signed index"},
		"another suite": {func(m *mirror) {
			m.Files["/debian/dists/trixie-updates/InRelease"] = m.Files["/debian/dists/trixie/InRelease"]
		}, `index of "trixie"`},
		"text around the signed part": {func(m *mirror) {
			f := "/debian/dists/trixie/InRelease"
			other := m.Sign(newKey(m.t), "Codename: trixie\n")
			m.Files[f] = append(other, m.Files[f]...)
		}, "no signature by a key"},
		"web page": {func(m *mirror) { m.Files["/debian/dists/trixie/InRelease"] = []byte("\n<!DOCTYPE HTML><html>log in") }, "web page"},
		"web page by type": {func(m *mirror) {
			m.Handler = func(w http.ResponseWriter, r *http.Request) bool { fmt.Fprint(w, "<html>"); return true }
		}, "web page"},
		"no component": {func(m *mirror) {
			m.Files["/debian/dists/trixie/InRelease"] = m.Sign(m.Main, "Codename: trixie\nDate: Fri, 20 Nov 2026 02:11:10 UTC\n")
		}, `no component "main"`},
		"index swapped": {func(m *mirror) {
			m.Files["/debian/dists/trixie/main/binary-amd64/Packages.xz"] = m.Files["/debian-security/dists/trixie-security/main/binary-amd64/Packages.xz"]
		}, "index of trixie/main"},
		"expired": {func(m *mirror) {
			m.Suite("debian", "trixie-updates", m.Main, "Valid-Until: Fri, 20 Nov 2026 02:11:10 UTC\n")
		}, "valid until 2026-11-20"},
		"no answer": {func(m *mirror) { m.Close() }, "--mirror"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMirror(t)
			c.damage(m)
			_, fs, err := Resolve(context.Background(), m.client(twoSources, nil), suites(), []string{"aa"}, nil)
			said := fmt.Sprint(err, fs)
			if err == nil && !fs.Stops() || !strings.Contains(said, c.text) {
				t.Fatal(said)
			}
			if name == "expired" && (err != nil || fs[0].Code != "index-expired" || fs[0].Hint == "") {
				t.Fatal(said)
			}
		})
	}
}

func TestNoSource(t *testing.T) {
	m := newMirror(t)
	_, _, err := m.client("", nil).Index(context.Background(), suites())
	var fe *finding.Error
	if !errors.As(err, &fe) || fe.List[0].Code != "source-none" || !strings.Contains(fe.List[0].Hint, "--mirror") {
		t.Fatal(err)
	}
}

// locked resolves aa (70 kB) and bb.
func (m *mirror) locked(c *Client) []lock.Package {
	m.t.Helper()
	l, fs, err := Resolve(context.Background(), c, suites(), []string{"aa"}, nil)
	if err != nil || len(fs) > 0 {
		m.t.Fatal(err, fs)
	}
	return l.Packages
}

func TestFetchGone(t *testing.T) {
	m := newMirror(t)
	c := m.client(twoSources, nil)
	ps := m.locked(c)
	delete(m.Files, "/debian/"+ps[0].Path)
	if _, err := c.Fetch(context.Background(), ps, progress.Discard); !errors.Is(err, ErrGone) || !strings.Contains(err.Error(), "aa 1") {
		t.Fatal(err)
	}
}

// TestFetchResumes: the server breaks off three times; each time the rest is
// asked for. A first piece is left from an earlier run.
func TestFetchResumes(t *testing.T) {
	m := newMirror(t)
	c := m.client(twoSources, nil)
	ps := m.locked(c)
	body := m.Files["/debian/"+ps[0].Path]
	write(t, filepath.Join(c.cfg.Cache, "partial", ps[0].SHA256), string(body[:1000]))
	var ranges []string
	m.Handler = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, ps[0].Path) || len(ranges) == 3 {
			return false
		}
		ranges = append(ranges, r.Header.Get("Range"))
		var from int
		fmt.Sscanf(ranges[len(ranges)-1], "bytes=%d-", &from)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(body)-1, len(body)))
		w.Header().Set("Content-Length", fmt.Sprint(len(body)-from))
		w.WriteHeader(http.StatusPartialContent)
		w.Write(body[from : from+1000])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	paths, err := c.Fetch(context.Background(), ps, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(paths["aa"]); !bytes.Equal(got, body) {
		t.Fatal("content differs")
	}
	if strings.Join(ranges, " ") != "bytes=1000- bytes=2000- bytes=3000-" {
		t.Fatal(ranges)
	}
}

func TestFetchRepairs(t *testing.T) {
	for name, prepare := range map[string]func(m *mirror, c *Client, p lock.Package){
		"damaged cache": func(m *mirror, c *Client, p lock.Package) {
			write(m.t, c.store.path(p.SHA256), strings.Repeat("x", int(p.Size)))
		},
		"damaged partial": func(m *mirror, c *Client, p lock.Package) {
			write(m.t, filepath.Join(c.cfg.Cache, "partial", p.SHA256), "something else")
		},
		"partial too long": func(m *mirror, c *Client, p lock.Package) {
			write(m.t, filepath.Join(c.cfg.Cache, "partial", p.SHA256), strings.Repeat("x", int(p.Size)+1))
		},
		"partial complete": func(m *mirror, c *Client, p lock.Package) {
			write(m.t, filepath.Join(c.cfg.Cache, "partial", p.SHA256), string(m.Files["/debian/"+p.Path]))
		},
		"partial of the right length, wrong content": func(m *mirror, c *Client, p lock.Package) {
			write(m.t, filepath.Join(c.cfg.Cache, "partial", p.SHA256), strings.Repeat("x", int(p.Size)))
		},
		"server without ranges": func(m *mirror, c *Client, p lock.Package) {
			body := m.Files["/debian/"+p.Path]
			write(m.t, filepath.Join(c.cfg.Cache, "partial", p.SHA256), string(body[:500]))
			m.Handler = func(w http.ResponseWriter, r *http.Request) bool { w.Write(body); return true }
		},
		"overloaded once": func(m *mirror, c *Client, p lock.Package) {
			n := 0
			m.Handler = func(w http.ResponseWriter, r *http.Request) bool {
				if n++; n == 1 {
					w.WriteHeader(http.StatusServiceUnavailable)
				}
				return n == 1
			}
		},
		"damaged once": func(m *mirror, c *Client, p lock.Package) {
			n := 0
			m.Handler = func(w http.ResponseWriter, r *http.Request) bool {
				if n++; n == 1 {
					w.Write(bytes.Repeat([]byte("x"), int(p.Size)))
				}
				return n == 1
			}
		},
		"locked by another process": func(m *mirror, c *Client, p lock.Package) {
			other, err := c.store.begin(blob{sha256: p.SHA256, size: p.Size})
			if err != nil {
				m.t.Fatal(err)
			}
			m.t.Cleanup(other.close)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMirror(t)
			c := m.client(twoSources, nil)
			p := m.locked(c)[0]
			prepare(m, c, p)
			paths, err := c.Fetch(context.Background(), []lock.Package{p}, progress.Discard)
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := os.ReadFile(paths["aa"]); sum(got) != p.SHA256 {
				t.Fatal("content differs")
			}
		})
	}
}

// TestFetchCancelled: nothing under the final name, the piece is kept.
func TestFetchCancelled(t *testing.T) {
	m := newMirror(t)
	c := m.client(twoSources, nil)
	p := m.locked(c)[0]
	ctx, cancel := context.WithCancel(context.Background())
	m.Handler = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", fmt.Sprint(p.Size))
		w.Write(m.Files[r.URL.Path][:5000])
		w.(http.Flusher).Flush()
		time.Sleep(50 * time.Millisecond)
		cancel()
		<-r.Context().Done()
		return true
	}
	if _, err := c.Fetch(ctx, []lock.Package{p}, progress.Discard); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if _, err := os.Stat(c.store.path(p.SHA256)); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("half a file has the final name")
	}
	if st, err := os.Stat(filepath.Join(c.cfg.Cache, "partial", p.SHA256)); err != nil || st.Size() != 5000 {
		t.Fatal(st, err)
	}
}

func TestCacheNotWritable(t *testing.T) {
	m := newMirror(t)
	file := filepath.Join(t.TempDir(), "x")
	write(t, file, "")
	c := m.client(twoSources, func(cfg *Config) { cfg.Cache = "/proc/joist" })
	_, _, err := c.Index(context.Background(), suites())
	if err == nil {
		t.Fatal("wrote into /proc")
	}
	c = m.client(twoSources, func(cfg *Config) { cfg.Cache = filepath.Join(file, "below") })
	if _, _, err = c.Index(context.Background(), suites()); err == nil {
		t.Fatal("made a folder below a file")
	}
}

func TestFileMirror(t *testing.T) {
	m := newMirror(t)
	dir := t.TempDir()
	for name, text := range m.Files {
		write(t, filepath.Join(dir, name), string(text))
	}
	for _, c := range []*Client{
		m.client("", func(cfg *Config) { cfg.Mirror = dir }),
		m.client(strings.ReplaceAll(twoSources, "MIRROR", "file:"+dir), nil),
		m.client(strings.ReplaceAll(twoSources, "MIRROR", "file://"+dir), nil),
	} {
		if _, err := c.Fetch(context.Background(), m.locked(c), progress.Discard); err != nil {
			t.Fatal(err)
		}
	}
	if len(m.Asked()) > 0 {
		t.Fatal("went over the network")
	}
}
