package plan

import (
	"bytes"
	"crypto/rand"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"joist/api/node"
	"joist/installer/answer"
)

// The address of the first-boot program may let in whoever knows it: it goes to
// the request and nowhere else.
func TestFirstBootRequest(t *testing.T) {
	a := ans()
	a.FirstBoot = answer.FirstBoot{Source: "from-url", URL: "https://example.com/p?signature=topsecret"}
	p, fs := Make(facts(64e9), a, image(), identity(t))
	if fs.Stops() {
		t.Fatal(fs)
	}
	files, err := p.Seed("u", "$y$hash")
	if err != nil {
		t.Fatal(err)
	}
	var holds []string
	for _, f := range files {
		if bytes.Contains(f.Data, []byte("topsecret")) {
			holds = append(holds, f.Path)
		}
	}
	if !slices.Equal(holds, []string{node.FirstBootFile}) || strings.Contains(p.Describe(), "topsecret") {
		t.Errorf("%q hold the address\n%s", holds, p.Describe())
	}
}

// What the installer has already is left with the request, and needs no address
// on the node: the medium's program, and one that runs before the network.
func TestFirstBootProgram(t *testing.T) {
	img := image()
	img.Program, img.Fetched = []byte("#!/bin/iso\n"), []byte("#!/bin/url\n")
	for name, c := range map[string]struct {
		first         answer.FirstBoot
		program, asks string
	}{
		"medium":         {answer.FirstBoot{Source: answer.FromISO, Ordering: "network-online"}, "#!/bin/iso\n", `{ "ordering": "network-online" }`},
		"before network": {answer.FirstBoot{Source: answer.FromURL, URL: "https://example.com", Ordering: "before-network"}, "#!/bin/url\n", `{ "ordering": "before-network" }`},
		"both":           {answer.FirstBoot{Source: answer.FromISO, Ordering: "before-network"}, "#!/bin/iso\n", `{ "ordering": "before-network" }`},
		"the node":       {answer.FirstBoot{Source: answer.FromURL, URL: "https://example.com"}, "", `{ "url": "https://example.com", "ordering": "fully-up" }`},
	} {
		a := ans()
		a.FirstBoot = c.first
		p, fs := Make(facts(64e9), a, img, identity(t))
		files, err := p.Seed("u", "$y$hash")
		if err != nil || fs.Stops() {
			t.Fatal(name, err, fs)
		}
		program, asks := "", ""
		for _, f := range files {
			switch f.Path {
			case node.ProgramFile:
				if program = string(f.Data); f.Mode != 0o700 {
					t.Errorf("%s: mode %o", name, f.Mode)
				}
			case node.FirstBootFile:
				asks = strings.Join(strings.Fields(string(f.Data)), " ")
			}
		}
		if program != c.program || asks != c.asks || strings.Contains(p.Describe(), "#!") {
			t.Errorf("%s: %q %s", name, program, asks)
		}
	}
}

// Three host keys, two of them from the identity alone; the third is made beside
// it and has a file of a size that is known before.
func TestHostKeys(t *testing.T) {
	id := identity(t)
	kinds := func() (out, public []string) {
		t.Helper()
		p, _ := made(facts(64e9), ans(), image(), id)
		files, err := p.Seed("u", "$y$hash")
		if err != nil {
			t.Fatal(err)
		}
		listed, err := p.seedFiles()
		if err != nil {
			t.Fatal(err)
		}
		size := map[string]int64{}
		for _, f := range listed {
			size[f.Path] = f.Bytes
		}
		if size[node.RSAKeyFile] != RSAKeySize {
			t.Errorf("the RSA key is listed with %d bytes", size[node.RSAKeyFile])
		}
		for _, f := range files {
			if !strings.Contains(f.Path, "ssh_host_") {
				continue
			}
			key, err := ssh.ParsePrivateKey(f.Data)
			if err != nil || f.Mode != 0o600 || int64(len(f.Data)) != size[f.Path] {
				t.Fatalf("%s: %v, mode %o, %d bytes", f.Path, err, f.Mode, len(f.Data))
			}
			out, public = append(out, key.PublicKey().Type()), append(public, string(key.PublicKey().Marshal()))
		}
		return out, public
	}
	two, public := kinds()
	if s := strings.Join(two, " "); s != "ssh-ed25519 ecdsa-sha2-nistp256" {
		t.Error(s)
	}
	if _, again := kinds(); !slices.Equal(public, again) {
		t.Error("one identity gives different keys")
	}
	id.HostKey[0] ^= 1
	if _, other := kinds(); public[0] == other[0] || public[1] == other[1] {
		t.Error("two identities give the same key")
	}
	var err error
	if id.RSAKey, err = NewRSAKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	if three, _ := kinds(); strings.Join(three, " ") != "ssh-ed25519 ecdsa-sha2-nistp256 ssh-rsa" {
		t.Error(three)
	}
}
