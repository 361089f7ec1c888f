package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"joist/api/client"
	"joist/test/node"
	"joist/test/vm"
	"joist/test/vm/lan"
)

// uploadTime is what a file may take through the switch into an emulated node.
const uploadTime = 8 * time.Minute

// Images that we did not make, as Debian packages bring them.
const (
	memtestISO = "/usr/lib/memtest86+/memtest86+x64.iso"
	ipxeISO    = "/usr/lib/ipxe/ipxe.iso"
)

// foreign is a file of a Debian package: the installed one, else one out of
// the package as the machine's apt fetches it, without root.
func foreign(t testing.TB, pkg, path string) string {
	t.Helper()
	if _, err := os.Stat(path); err == nil {
		return path
	}
	making.Lock()
	defer making.Unlock()
	dir := cacheDir(t, "packages")
	unpacked := filepath.Join(dir, pkg, path)
	if _, err := os.Stat(unpacked); err == nil {
		return unpacked
	}
	vm.Need(t, "apt-get", "dpkg-deb")
	ctx := within(t, 5*time.Minute)
	cmd := exec.CommandContext(ctx, "sh", "-c", `rm -f "$1"_*.deb && apt-get -q download "$1" && dpkg-deb -x "$1"_*.deb "$1"`, "sh", pkg)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("fetch package %s: %v\n%s", pkg, err, out)
	}
	if _, err := os.Stat(unpacked); err != nil {
		t.Fatalf("package %s has no %s: %v", pkg, path, err)
	}
	return unpacked
}

// template is the container template that `joist build template debian` made:
// JOIST_TEMPLATE, or the newest in build/.
func template(t testing.TB) string {
	t.Helper()
	if p := os.Getenv("JOIST_TEMPLATE"); p != "" {
		return p
	}
	return templateOf(t, "debian-13", "debian")
}

// templateOf is the newest template of a release in build/, which `joist build
// template WORD` made.
func templateOf(t testing.TB, release, word string) string {
	t.Helper()
	root, err := vm.Root()
	if err != nil {
		t.Fatal(err)
	}
	pattern := filepath.Join(root, "build", release+"-standard_*_amd64.tar.zst")
	found, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Fatalf("no %s; run `build/bin/joist build template %s --out build`", pattern, word)
	}
	return found[len(found)-1]
}

// diskImage is a small qcow2 image and the SHA-256 of what a guest sees of it.
func diskImage(t testing.TB) (path, sum string) {
	t.Helper()
	const size, filled = 32 << 20, 2 << 20 // a multiple of a thin pool's extent; two islands of data
	content := make([]byte, size)
	for _, at := range []int{0, size / 2} {
		if _, err := rand.Read(content[at : at+filled]); err != nil {
			t.Fatal(err)
		}
	}
	content[510], content[511] = 0, 0 // no boot signature: firmware goes on to the CD
	raw := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(raw, content, 0o600); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "disk.qcow2")
	if err := vm.ConvertDisk(within(t, time.Minute), raw, path); err != nil {
		t.Fatal(err)
	}
	h := sha256.Sum256(content)
	return path, hex.EncodeToString(h[:])
}

// upload brings a file into storage local, checked by the node, and returns
// its volume id.
func (n *runningNode) upload(t testing.TB, content, name, path string) string {
	t.Helper()
	sum, err := node.FileSum(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	file := client.File{Content: content, Name: name, Size: st.Size(), Data: f, SHA256: sum}
	if err := n.API.Upload(within(t, uploadTime), n.Name, "local", file, nil); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %d bytes uploaded in %s", name, st.Size(), time.Since(start).Round(time.Second))
	id := "local:" + content + "/" + name
	for _, v := range n.content(t, "local") {
		if v.ID == id {
			return id
		}
	}
	t.Fatalf("uploaded %s, but it is not listed", id)
	return ""
}

// uploadZeros sends size zero bytes as an ISO image; progress may be nil.
func (n *runningNode) uploadZeros(ctx context.Context, name string, size int64, progress func(int64)) error {
	return n.API.Upload(ctx, n.Name, "local", client.File{Content: "iso", Name: name, Size: size, Data: zeros{}}, progress)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// spooled lists what unfinished uploads have left.
func (n *runningNode) spooled(t testing.TB) []string {
	t.Helper()
	return n.lines(t, "shopt -s nullglob; cd /var/lib/vz; for f in .joist-upload-*; do echo $f; done")
}

// Names that the segment's DNS knows.
const (
	webName    = "www.test.example"
	mirrorName = "mirror.test.example"
)

var (
	webAddress    = lan.Gateway
	mirrorAddress = lan.Gateway.Next() // 10.77.0.2
)

const webText = "served to the guests of the segment"

// serveWeb offers a page at http://webName/.
func (n *runningNode) serveWeb(t testing.TB) {
	t.Helper()
	n.LAN.DNS(webName, webAddress)
	n.serve(t, webAddress.String()+":80", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, webText+"\n")
	}))
}

func (n *runningNode) serve(t testing.TB, addr string, h http.Handler) {
	t.Helper()
	l, err := n.LAN.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
}

// serveMirror offers the mirrors of the machine's own apt as
// http://mirrorName/debian and …/debian-security.
func (n *runningNode) serveMirror(t testing.TB) {
	t.Helper()
	n.LAN.DNS(mirrorName, mirrorAddress)
	mirrors := aptMirrors(t)
	pass := &httputil.ReverseProxy{
		Transport: again{&http.Transport{Proxy: aptProxy(t), ResponseHeaderTimeout: 20 * time.Second}},
		Rewrite: func(r *httputil.ProxyRequest) {
			top, rest, _ := strings.Cut(strings.TrimPrefix(r.In.URL.Path, "/"), "/")
			to := mirrors[top] // known: the handler below looked
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = to.Scheme, to.Host, to.Host
			r.Out.URL.Path, r.Out.URL.RawPath = strings.TrimSuffix(to.Path, "/")+"/"+rest, ""
			if p, ok := to.User.Password(); ok {
				r.Out.SetBasicAuth(to.User.Username(), p)
			}
		},
	}
	n.serve(t, mirrorAddress.String()+":80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		top, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		if mirrors[top] == nil {
			http.NotFound(w, r)
			return
		}
		pass.ServeHTTP(w, r)
	}))
}

// again asks up to three times: a mirror that is slow for once is not what is
// tested here.
type again struct{ http.RoundTripper }

func (a again) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	for range 3 {
		resp, err = a.RoundTripper.RoundTrip(r)
		if err == nil && resp.StatusCode < http.StatusInternalServerError || r.Context().Err() != nil {
			return resp, err
		}
		if err == nil {
			resp.Body.Close()
			err = fmt.Errorf("fetch %s: %s", r.URL.Path, resp.Status)
		}
		time.Sleep(time.Second)
	}
	return nil, err
}

// aptMirrors asks apt where this machine gets Debian from, by archive.
func aptMirrors(t testing.TB) map[string]*url.URL {
	t.Helper()
	vm.Need(t, "apt-get")
	out, err := exec.CommandContext(within(t, time.Minute), "apt-get", "indextargets",
		"--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages", "Component: main").Output()
	if err != nil {
		t.Fatalf("ask apt for its sources: %v", err)
	}
	found := map[string]*url.URL{}
	for l := range strings.Lines(string(out)) {
		base, suite, _ := strings.Cut(strings.TrimSpace(l), " ")
		u, err := url.Parse(base)
		if err != nil || !strings.HasPrefix(u.Scheme, "http") {
			continue
		}
		archive := "debian"
		if strings.Contains(suite, "-security") {
			archive = "debian-security"
		}
		if found[archive] == nil {
			found[archive] = u
		}
	}
	if found["debian"] == nil {
		t.Fatal("apt on this machine has no source by http or https to pass on")
	}
	return found
}

// aptProxy is apt's own proxy, else the environment's.
func aptProxy(t testing.TB) func(*http.Request) (*url.URL, error) {
	t.Helper()
	out, err := exec.CommandContext(within(t, time.Minute), "apt-config", "dump", "--format", "%v", "Acquire::http::Proxy").Output()
	if p := string(bytes.TrimSpace(out)); err == nil && p != "" && p != "DIRECT" {
		u, err := url.Parse(p)
		if err != nil {
			t.Fatalf("parse apt's proxy: %v", errors.Unwrap(err))
		}
		return http.ProxyURL(u)
	}
	return http.ProxyFromEnvironment
}

// setMirror sets the node's own setting for containers' apt sources, as an
// administrator does, and lets the daemon read it.
func (n *runningNode) setMirror(t testing.TB, base string) {
	t.Helper()
	n.run(t, fmt.Sprintf(`set -e
cd /var/lib/joist/node
[[ $(<node.json) == *apt_mirror* ]] && exit 0
{ echo '{'; echo '  "apt_mirror": "%s",'; tail -n +2 node.json; } >node.json.new
chmod --reference=node.json node.json.new
mv node.json.new node.json`, base))
	n.restartsDaemon(t)
}
