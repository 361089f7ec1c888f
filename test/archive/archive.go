// Package archive is a Debian archive in memory behind an HTTP server, signed
// with keys of its own, for tests of what builds from one. Tests damage it as
// they like: its files and a first say on each request are theirs.
package archive

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/ulikunitz/xz"
)

// Day is when its indexes are current: clients get it as their clock.
func Day() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) }

// Signing makes small keys on the day before.
func Signing() *packet.Config {
	return &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return Day().AddDate(0, 0, -1) }}
}

// NewKey makes a key that signs indexes.
func NewKey(t testing.TB) *openpgp.Entity {
	t.Helper()
	e, err := openpgp.NewEntity("test", "", "test@archive.example", Signing())
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// Mirror is the archive: /debian and /debian-security.
type Mirror struct {
	*httptest.Server
	Main, Security *openpgp.Entity
	Files          map[string][]byte                                 // by path
	Handler        func(w http.ResponseWriter, r *http.Request) bool // first say: true if it answered

	t     testing.TB
	mu    sync.Mutex
	asked []string
}

// New starts an archive without any suite.
func New(t testing.TB) *Mirror {
	m := &Mirror{t: t, Main: NewKey(t), Security: NewKey(t), Files: map[string][]byte{}}
	m.Server = httptest.NewServer(http.HandlerFunc(m.Serve))
	t.Cleanup(m.Close)
	return m
}

// Serve answers a request.
func (m *Mirror) Serve(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	m.asked = append(m.asked, r.URL.Path)
	m.mu.Unlock()
	if m.Handler != nil && m.Handler(w, r) {
		return
	}
	body, ok := m.Files[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", Day(), bytes.NewReader(body))
}

// Asked returns the paths of all requests so far.
func (m *Mirror) Asked() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.asked...)
}

// Sum is a content's hash as indexes have it.
func Sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// Stanza puts a package into the pool of an archive ("debian" or
// "debian-security") and returns its stanza.
func (m *Mirror) Stanza(archive, name, version string, content []byte, more string) string {
	file := "pool/main/" + name + "/" + name + "_" + version + "_all.deb"
	m.Files["/"+archive+"/"+file] = content
	if more != "" {
		more += "\n"
	}
	return fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: all\nFilename: %s\nSize: %d\nSHA256: %s\n%s\n",
		name, version, file, len(content), Sum(content), more)
}

// Suite publishes an index of one component, main; more are fields of its head.
func (m *Mirror) Suite(archive, suite string, key *openpgp.Entity, more string, stanzas ...string) {
	m.t.Helper()
	dists := "/" + archive + "/dists/" + suite + "/"
	var sums strings.Builder
	for i, component := range []string{"main", "contrib", "non-free-firmware"} {
		text := []byte(strings.Join(stanzas, ""))
		if i > 0 {
			text = nil
		}
		var packed bytes.Buffer
		z, err := xz.NewWriter(&packed)
		if err != nil {
			m.t.Fatal(err)
		}
		z.Write(text)
		z.Close()
		name := component + "/binary-amd64/Packages"
		m.Files[dists+name+".xz"] = packed.Bytes()
		fmt.Fprintf(&sums, " %s %d %s\n %s %d %s.xz\n", Sum(text), len(text), name, Sum(packed.Bytes()), packed.Len(), name)
	}
	m.Files[dists+"InRelease"] = m.Sign(key, fmt.Sprintf("Codename: %s\nDate: Fri, 20 Nov 2026 02:11:10 UTC\n%sSHA256:\n%s", suite, more, sums.String()))
}

// Sign makes a clear-signed text.
func (m *Mirror) Sign(key *openpgp.Entity, text string) []byte {
	var out bytes.Buffer
	w, err := clearsign.Encode(&out, key.PrivateKey, Signing())
	if err != nil {
		m.t.Fatal(err)
	}
	w.Write([]byte(text))
	w.Close()
	return out.Bytes()
}
