package deb

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"joist/internal/progress"
)

func TestDebianKeys(t *testing.T) {
	k, err := DebianKeys()
	if err != nil {
		t.Fatal(err)
	}
	if len(k.Fingerprints(Main)) != 4 || len(k.Fingerprints(Security)) != 2 {
		t.Fatal(k)
	}
}

func TestReadApt(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "etc/apt/sources.list"), `# comment
deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://a.example/debian bookworm main # tail
deb-src http://a.example/debian bookworm main
deb http://a.example/debian-security/ bookworm-security main
deb http://old.example/security buster/updates main
deb [signed-by=/etc/apt/keyrings/other.gpg] http://other.example/apt stable main
deb [broken http://x.example y z
deb cdrom:[Debian]/ bookworm main
`)
	write(t, filepath.Join(root, "etc/apt/sources.list.d/b.sources"), "Types: deb\nEnabled: no\nURIs: http://off.example/debian\nSuites: bookworm\n\n"+
		"Types: deb-src\nURIs: http://src.example/debian\nSuites: bookworm\n\n"+
		"Types: deb\nURIs: https://b.example/debian https://c.example/debian/\nSuites: bookworm bookworm-updates\nSigned-By: 04B54C3CDCA79751B16BC6B5225629DF75B188BD\n")
	write(t, filepath.Join(root, "etc/apt/sources.list.d/broken.sources"), "no colon\n")
	write(t, filepath.Join(root, "etc/apt/sources.list.d/off.sources.disabled"), "Types: deb\nURIs: http://z.example\nSuites: x\n")
	keys, err := DebianKeys()
	if err != nil {
		t.Fatal(err)
	}
	c := readApt(root)
	urls := func(a Archive) (out []string) {
		cs, _ := c.candidates(a, keys)
		for _, x := range cs {
			out = append(out, x.url)
		}
		return out
	}
	if d := cmp.Diff([]string{"http://a.example/debian", "https://b.example/debian", "https://c.example/debian"}, urls(Main)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"http://a.example/debian-security", "http://old.example/security",
		"https://b.example/debian-security", "https://c.example/debian-security"}, urls(Security)); d != "" {
		t.Error(d)
	}
	var notes []string
	for _, f := range c.findings {
		notes = append(notes, f.Path)
	}
	if d := cmp.Diff([]string{"/etc/apt/sources.list:7", "/etc/apt/sources.list.d/broken.sources"}, notes); d != "" {
		t.Error(d)
	}
}

func TestDebianSigned(t *testing.T) {
	keys, err := DebianKeys()
	if err != nil {
		t.Fatal(err)
	}
	armour, err := keyFiles.ReadFile("keys/trixie-release.asc")
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]bool{
		"": true,
		"/usr/share/keyrings/debian-archive-keyring.pgp":             true,
		"/etc/apt/keyrings/nodesource.gpg":                           false,
		"/etc/x.gpg, /usr/share/keyrings/debian-archive-keyring.gpg": true,
		"762F67A0B2C39DE4":                          true,
		"B8E5F13176D2A7A75220028078DBA3BC47EF2265!": true, // signing subkey
		"1234567890123456789012345678901234567890":  false,
		"E4": false,
		strings.ReplaceAll(string(armour), "\n\n", "\n.\n"): true,
		"-----BEGIN PGP PUBLIC KEY BLOCK-----\nx":           false,
	} {
		if got := debianSigned(in, keys); got != want {
			t.Errorf("%q: %v", in, got)
		}
	}
}

func TestProxy(t *testing.T) {
	o := aptOptions{}
	for _, text := range []string{
		"// a comment\n# another\nAcquire::http::Proxy \"http://old.example:1/\";\nDpkg::Post-Invoke { \"rm -f x || true\"; };\n",
		"Acquire { http { Proxy \"http://user:secret@p.example:3128\"; Proxy::inside.example \"DIRECT\"; }; /* { */ };\nAPT::List:: \"a\";",
		"Acquire::ftp::Proxy \"x\";\n#clear Acquire::ftp::Proxy;",
	} {
		if err := o.parseAptConf(text); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := o["acquire::ftp::proxy"]; ok {
		t.Error("#clear is ignored")
	}
	for raw, want := range map[string]string{
		"http://a.example/x":       "p.example:3128",
		"https://a.example/x":      "p.example:3128",
		"http://inside.example/x":  "direct",
		"https://INSIDE.example/x": "direct",
	} {
		u, _ := url.Parse(raw)
		p, known, err := o.proxy(u)
		got := "direct"
		if p != nil {
			got = p.Host
		}
		if err != nil || !known || got != want {
			t.Errorf("%s: %s %v %v", raw, got, known, err)
		}
	}
	u, _ := url.Parse("http://a.example")
	if _, known, _ := (aptOptions{}).proxy(u); known {
		t.Error("nothing set, but known")
	}
	if _, _, err := (aptOptions{"acquire::http::proxy": "http://user:secret@"}).proxy(u); err == nil || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
	for _, bad := range []string{"a { b", "}", "a \"b", "/* x"} {
		if err := (aptOptions{}).parseAptConf(bad); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}

func TestAuth(t *testing.T) {
	ls, err := parseAuth("# comment\nmachine a.example/deb login u password p\nmachine http://b.example:81\nlogin u2 password p2\n")
	if err != nil {
		t.Fatal(err)
	}
	for raw, want := range map[string]string{
		"https://a.example/debian/x":    "u",
		"https://a.example:444/debian/": "u",
		"http://a.example/debian/x":     "", // never in the clear unless asked for
		"https://a.example/other":       "",
		"http://b.example:81/x":         "u2",
		"http://b.example/x":            "",
		"https://xa.example/debian":     "",
	} {
		u, _ := url.Parse(raw)
		got := ""
		for _, l := range ls {
			if l.matches(u) {
				got = l.user
			}
		}
		if got != want {
			t.Errorf("%s: %q", raw, got)
		}
	}
	for _, bad := range []string{"login x", "machine", "machine a b c"} {
		if _, err := parseAuth(bad); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}

// TestProxyAndLoginAreUsed goes through a proxy to a host that does not
// exist, with a password that never shows up in an error.
func TestProxyAndLoginAreUsed(t *testing.T) {
	m := newMirror(t)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, pass, _ := r.BasicAuth(); r.URL.Host != "archive.invalid" || user != "me" || pass != "secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		m.Serve(w, r)
	}))
	defer proxy.Close()
	for password, ok := range map[string]bool{"secret": true, "hidden": false} {
		root := t.TempDir()
		write(t, filepath.Join(root, "etc/apt/sources.list"), "deb http://archive.invalid/debian bookworm main\n")
		write(t, filepath.Join(root, "etc/apt/apt.conf.d/10proxy"), "Acquire::http::Proxy \""+proxy.URL+"\";")
		write(t, filepath.Join(root, "etc/apt/auth.conf.d/a.conf"), "machine http://archive.invalid login me password "+password)
		c := m.client("", func(cfg *Config) { cfg.Root = root })
		ix, _, err := c.Index(context.Background(), suites())
		if ok != (err == nil) {
			t.Fatal(err)
		}
		if err != nil {
			if strings.Contains(err.Error(), password) || !strings.Contains(err.Error(), "401") {
				t.Fatal(err)
			}
			continue
		}
		ps, _ := Closure(ix, []string{"aa"}, nil)
		if _, err := c.Fetch(context.Background(), ps, progress.Discard); err != nil {
			t.Fatal(err)
		}
	}
}

// A proxy that is given wins over apt's, and its password stays out of errors.
func TestGivenProxy(t *testing.T) {
	m := newMirror(t)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Proxy-Authorization") != "Basic bWU6c2VjcmV0" || r.URL.Host != "archive.invalid" {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		m.Serve(w, r)
	}))
	defer proxy.Close()
	for login, ok := range map[string]bool{"me:secret@": true, "me:hidden@": false} {
		root := t.TempDir()
		write(t, filepath.Join(root, "etc/apt/sources.list"), "deb http://archive.invalid/debian bookworm main\n")
		write(t, filepath.Join(root, "etc/apt/apt.conf.d/10proxy"), "Acquire::http::Proxy \"http://127.0.0.1:1\";")
		c := m.client("", func(cfg *Config) {
			cfg.Root, cfg.Proxy = root, strings.Replace(proxy.URL, "://", "://"+login, 1)
		})
		if _, _, err := c.Index(context.Background(), suites()); ok != (err == nil) || err != nil && strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: %v", login, err)
		}
	}
	for _, bad := range []string{"proxy:3128", "ftp://proxy", "http://", "http://me:secret@", "http://p/?x", "://secret"} {
		if _, err := New(Config{Proxy: bad}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, good := range []string{"", "http://proxy:3128", "https://me:secret@proxy", "socks5://127.0.0.1:1080"} {
		if err := CheckProxy(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
}

func TestMirrorURL(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "/srv/debian mirror": "file:///srv/debian%20mirror", "http://x.example/": "http://x.example", "https://x.example/a/": "https://x.example/a",
	} {
		if got, err := mirrorURL(in); err != nil || got != want {
			t.Errorf("%q: %q %v", in, got, err)
		}
	}
	for _, bad := range []string{"x.example", "ftp://x.example", "http://", "relative/folder", "http://x.example/?a", "-o"} {
		if _, err := mirrorURL(bad); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}

func TestReleaseDate(t *testing.T) {
	want := time.Date(2026, 11, 1, 2, 3, 4, 0, time.UTC)
	for _, s := range []string{"Sun, 01 Nov 2026 02:03:04 UTC", "Sun, 1 Nov 2026 02:03:04 GMT", "Sun, 01 Nov 2026 02:03:04 +0000"} {
		if got, err := releaseDate(s); err != nil || !got.Equal(want) {
			t.Error(got, err)
		}
	}
}
