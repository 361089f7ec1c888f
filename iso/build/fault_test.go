package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	"joist/internal/finding"
	"joist/internal/progress"
	"joist/rootfs/deb"
	"joist/rootfs/policy"
	"joist/rootfs/sandbox"
	"joist/test/archive"
)

// site is a folder with sources, and an archive that has every package a build
// asks for. Their content is no package: no fault here is found that late.
type site struct {
	*archive.Mirror
	source, cache, out string
}

const largest = "bash" // a package that is larger than the others

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{Mirror: archive.New(t), source: t.TempDir(), cache: t.TempDir(), out: filepath.Join(t.TempDir(), "out")}
	put(t, filepath.Join(s.source, "go.mod"), "module m\n")
	put(t, filepath.Join(s.source, "joist.toml"), "[image]\nzfs = false # its packages have the kernel's version in their names\n")
	var stanzas []string
	done := map[string]bool{}
	lists := [][]string{policy.Wanted(), policy.Tools(), policy.Template(), policy.Firmware(policy.FirmwareAll), {largest}}
	for _, x := range policy.Extensions() {
		lists = append(lists, x.Packages)
	}
	for _, list := range lists {
		for _, name := range list {
			if done[name] {
				continue
			}
			done[name] = true
			content := []byte("content of " + name)
			if name == largest {
				content = bytes.Repeat([]byte("0123456789abcdef"), 20000)
			}
			stanzas = append(stanzas, s.Stanza("debian", name, "1", content, "Essential: yes"))
		}
	}
	s.Suite("debian", "trixie", s.Main, "", stanzas...)
	s.Suite("debian", "trixie-updates", s.Main, "Valid-Until: Fri, 27 Nov 2026 02:11:10 UTC\n")
	s.Suite("debian-security", "trixie-security", s.Security, "Valid-Until: Fri, 27 Nov 2026 02:11:10 UTC\n")
	return s
}

// build begins a template: resolve, fetch, and no further than opening what was
// fetched.
func (s *site) build(ctx context.Context, t testing.TB) (said finding.List, err error) {
	t.Helper()
	t.Setenv("XDG_CACHE_HOME", s.cache)
	b, err := New(ctx, Options{Source: s.source, Out: s.out, Sink: progress.Discard, Say: func(fl finding.List) { said = append(said, fl...) }})
	if err != nil {
		return said, err
	}
	b.client, err = deb.New(deb.Config{Mirror: s.URL, Cache: filepath.Join(b.cache, "pool"), Now: archive.Day, Pause: time.Millisecond,
		Keys: deb.NewKeyring(map[deb.Archive]openpgp.EntityList{deb.Main: {s.Main}, deb.Security: {s.Security}})})
	if err != nil {
		return said, err
	}
	_, err = b.Make(ctx, Template)
	return said, errors.Join(err, b.Close())
}

// fetched is what the archive's part of the cache holds, by the hashes that its
// names promise. Pieces of interrupted fetches are not among them.
func (s *site) fetched(t *testing.T) (names []string) {
	t.Helper()
	pool := filepath.Join(s.cache, "joist", "pool")
	if err := walkFiles(pool, func(name string, _ fs.FileInfo) error {
		if rel, _ := filepath.Rel(pool, name); !strings.HasPrefix(rel, "partial") {
			names = append(names, name)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		text, err := os.ReadFile(n)
		if err != nil || !strings.Contains(n, archive.Sum(text)) {
			t.Errorf("the cache keeps %s, which it is not (%v)", n, err)
		}
	}
	return names
}

// clean fails the test if a build left something in the output folder.
func (s *site) clean(t *testing.T) {
	t.Helper()
	if got := names(t, s.out); !slices.Equal(got, []string{".lock"}) {
		t.Errorf("left in the output folder are %v", got)
	}
}

func (s *site) path(name string) string {
	return "/debian/pool/main/" + name + "/" + name + "_1_all.deb"
}

// An index that cannot be trusted: nothing is resolved, fetched or kept.
func TestBadIndex(t *testing.T) {
	const index = "/debian/dists/trixie/InRelease"
	const packages = "/debian/dists/trixie/main/binary-amd64/Packages.xz"
	for name, c := range map[string]struct {
		damage func(s *site)
		want   []string // in the error
	}{
		"tampered index": {func(s *site) {
			s.Files[index] = bytes.Replace(s.Files[index], []byte("Codename"), []byte("codename"), 1)
		},
			[]string{"no signature by a key of the debian archive", "--mirror URL"}},
		"tampered list": {func(s *site) { s.Files[packages] = bytes.Clone(s.Files[packages]); s.Files[packages][100] ^= 1 },
			[]string{"fetch index of trixie/main", "does not have the hash the index gives"}},
		"expired index": {func(s *site) {
			s.Suite("debian", "trixie-updates", s.Main, "Valid-Until: Fri, 20 Nov 2026 02:11:10 UTC\n")
		}, []string{"index of trixie-updates was valid until 2026-11-20", "check this machine's clock"}},
		"web page": {func(s *site) {
			s.Handler = func(w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("Content-Type", "text/html")
				fmt.Fprint(w, "<html>please log in")
				return true
			}
		}, []string{"web page (a log-in portal or a filtering proxy?)", "--mirror URL"}},
		"web page for the list": {func(s *site) { s.Files[packages] = []byte("<html>please log in") }, []string{"fetch index of trixie/main"}},
		"nobody there":          {func(s *site) { s.Close() }, []string{"connection refused", "--mirror URL"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			c.damage(s)
			_, err := s.build(t.Context(), t)
			for _, w := range c.want {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("error is %v, want %q in it", err, w)
				}
			}
			for _, f := range s.fetched(t) {
				if text, _ := os.ReadFile(f); !bytes.HasPrefix(text, []byte("\xfd7zXZ")) {
					t.Errorf("a package was fetched: %s", f)
				}
			}
			if _, err := os.Stat(filepath.Join(s.source, "joist.lock")); !errors.Is(err, fs.ErrNotExist) {
				t.Error("a lock was written")
			}
			s.clean(t)
		})
	}
}

// A package that is not what the index says, however often it is asked for.
func TestBadPackage(t *testing.T) {
	for name, bad := range map[string]func(good []byte) []byte{
		"tampered": func(good []byte) []byte { b := bytes.Clone(good); b[len(b)/2] ^= 1; return b },
		"longer":   func(good []byte) []byte { return append(bytes.Clone(good), 'x') },
		"shorter":  func(good []byte) []byte { return good[:len(good)-1] },
		"web page": func([]byte) []byte { return []byte("<!DOCTYPE html><html>") },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			good := s.Files[s.path(largest)]
			s.Files[s.path(largest)] = bad(good)
			_, err := s.build(t.Context(), t)
			if err == nil || !strings.Contains(err.Error(), "fetch "+largest+" 1: ") {
				t.Errorf("error is %v", err)
			}
			for _, f := range s.fetched(t) {
				if strings.Contains(f, archive.Sum(good)) {
					t.Error("the cache has the package")
				}
			}
			s.clean(t)
		})
	}
}

// A connection that is cut at every tenth of a file: once, and the build goes
// on where it was; always there, and it ends with a sentence. A connection that
// brings a tenth each time brings the file.
func TestCutConnection(t *testing.T) {
	s := newSite(t)
	body := s.Files[s.path(largest)]
	s.build(t.Context(), t) // the other packages are there then
	forget := func() {
		for _, f := range s.fetched(t) {
			if strings.Contains(f, archive.Sum(body)) {
				os.Remove(f)
			}
		}
		os.RemoveAll(filepath.Join(s.cache, "joist", "pool", "partial"))
	}
	for tenth := range 10 {
		for _, always := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d0 %% always %v", tenth, always), func(t *testing.T) {
				forget()
				cut := 0
				s.cutAt(func(from int) int {
					if cut++; !always && cut > 1 {
						return len(body)
					}
					return max(from, len(body)*tenth/10)
				})
				_, err := s.build(t.Context(), t)
				have := slices.ContainsFunc(s.fetched(t), func(f string) bool { return strings.Contains(f, archive.Sum(body)) })
				if want := "fetch " + largest + " 1: "; always != strings.Contains(fmt.Sprint(err), want) {
					t.Errorf("error is %v, want %q in it: %v", err, want, always)
				}
				if always && !strings.Contains(fmt.Sprint(err), "EOF") {
					t.Errorf("error is %v", err)
				}
				if have == always {
					t.Errorf("the cache has the package: %v", have)
				}
				s.clean(t)
			})
		}
	}
	t.Run("at each tenth", func(t *testing.T) {
		forget()
		cuts := 0
		s.cutAt(func(from int) int { cuts++; return from + len(body)/10 })
		s.build(t.Context(), t)
		if !slices.ContainsFunc(s.fetched(t), func(f string) bool { return strings.Contains(f, archive.Sum(body)) }) || cuts < 10 {
			t.Errorf("not fetched after %d cuts", cuts)
		}
	})
}

// cutAt serves the large package up to a byte that f tells from where the
// request begins, and then drops the connection.
func (s *site) cutAt(f func(from int) int) {
	body := s.Files[s.path(largest)]
	s.Handler = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != s.path(largest) {
			return false
		}
		from, status := 0, http.StatusOK
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil {
			status = http.StatusPartialContent
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(body)-1, len(body)))
		}
		to := min(f(from), len(body))
		w.Header().Set("Content-Length", fmt.Sprint(len(body)-from))
		w.WriteHeader(status)
		w.Write(body[from:to])
		if to < len(body) {
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		return true
	}
}

// A machine without user namespaces says so before it fetches anything. The
// test makes such a machine of a namespace of its own (namespaces(7)).
func TestNoNamespaces(t *testing.T) {
	if os.Getenv("BUILD_TEST_LIMITED") == "" {
		if err := sandbox.Check(t.Context(), t.TempDir()); errors.Is(err, sandbox.ErrNoNamespaces) {
			t.Skip("this is one, so that none can be made")
		}
		x := exec.Command("/proc/self/exe", "-test.run=^TestNoNamespaces$", "-test.v")
		x.Env = append(os.Environ(), "BUILD_TEST_LIMITED=1")
		x.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}}
		if out, err := x.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	s := newSite(t)
	_, err := s.build(t.Context(), t)
	if !errors.Is(err, sandbox.ErrNoNamespaces) || !strings.Contains(err.Error(), "sysctl") {
		t.Errorf("error is %v", err)
	}
	if slices.Contains(s.Asked(), s.path(largest)) {
		t.Error("packages were fetched first")
	}
	s.clean(t)
}
