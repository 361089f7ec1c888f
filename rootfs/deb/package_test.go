package deb

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// ar writes members the way dpkg-deb does; pairs of name and content.
func ar(members ...string) []byte {
	var b bytes.Buffer
	b.WriteString(arMagic)
	for i := 0; i < len(members); i += 2 {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n%s", members[i], 0, 0, 0, "100644", len(members[i+1]), members[i+1])
		if len(members[i+1])%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

func tarball(t testing.TB, hs ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range hs {
		body := h.PAXRecords["body"]
		h.PAXRecords = nil
		h.Size = int64(len(body))
		h.Mode = 0o755
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, body)
	}
	w.Close()
	return b.Bytes()
}

func file(name, body string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, PAXRecords: map[string]string{"body": body}}
}

func link(kind byte, name, target string) tar.Header {
	return tar.Header{Name: name, Typeflag: kind, Linkname: target}
}

func pack(t testing.TB, ext string, b []byte) string {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch ext {
	case "":
		return string(b)
	case ".gz":
		w = gzip.NewWriter(&out)
	case ".xz":
		w, err = xz.NewWriter(&out)
	case ".zst":
		w, err = zstd.NewWriter(&out)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.Write(b)
	w.Close()
	return out.String()
}

func controlTar(t testing.TB) []byte {
	return tarball(t, tar.Header{Name: "./", Typeflag: tar.TypeDir},
		file("./control", "Package: aa\nVersion: 1:2-3\nArchitecture: all\nDescription: x\n long\n"),
		file("./postinst", "#!/bin/sh\nexit 0\n"), file("./config", "c"),
		file("./triggers", "# comment\ninterest-noawait /usr/share/icons\nactivate-noawait ldconfig\n"),
		file("./conffiles", "/etc/aa.conf\nremove-on-upgrade /etc/old.conf\n"), file("./md5sums", "d41d  usr/x\n"))
}

func debOf(t testing.TB, ext string, data ...tar.Header) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "aa.deb")
	text := ar("debian-binary", "2.0\n", "control.tar"+ext, pack(t, ext, controlTar(t)), "data.tar"+ext, pack(t, ext, tarball(t, data...)))
	if err := os.WriteFile(name, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func walk(p *Package) ([]string, error) {
	var out []string
	err := p.Walk(func(h *tar.Header, r io.Reader) error {
		body, err := io.ReadAll(r)
		out = append(out, fmt.Sprintf("%c %s %s%s", h.Typeflag, h.Name, h.Linkname, body))
		return err
	})
	return out, err
}

func TestOpenAndWalk(t *testing.T) {
	for _, ext := range []string{"", ".gz", ".xz", ".zst"} {
		t.Run("tar"+ext, func(t *testing.T) {
			p, err := Open(debOf(t, ext, tar.Header{Name: "./", Typeflag: tar.TypeDir}, tar.Header{Name: "./usr/", Typeflag: tar.TypeDir},
				file("./usr/x", "content"), link(tar.TypeLink, "./usr/y", "./usr/x"), link(tar.TypeLink, "./usr/yy", "./usr/y"),
				link(tar.TypeSymlink, "./usr/z", "../etc/z"), link(tar.TypeSymlink, "./usr/abs", "/etc/alternatives/x")))
			if err != nil {
				t.Fatal(err)
			}
			if p.Control.Get("Version") != "1:2-3" || string(p.Scripts["config"]) != "c" || len(p.Scripts) != 2 || len(p.Other) != 1 {
				t.Fatal(p)
			}
			if d := cmp.Diff([]Trigger{{"interest-noawait", "/usr/share/icons"}, {"activate-noawait", "ldconfig"}}, p.Triggers); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff([]string{"/etc/aa.conf"}, p.Conffiles); d != "" {
				t.Error(d)
			}
			want := []string{"5 usr ", "0 usr/x content", "1 usr/y usr/x", "1 usr/yy usr/y", "2 usr/z ../etc/z", "2 usr/abs /etc/alternatives/x"}
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					got, err := walk(p)
					if err != nil || cmp.Diff(want, got) != "" {
						t.Error(err, cmp.Diff(want, got))
					}
				})
			}
			wg.Wait()
			stop := errors.New("stop")
			if err := p.Walk(func(*tar.Header, io.Reader) error { return stop }); !errors.Is(err, stop) {
				t.Error(err)
			}
		})
	}
}

func TestWalkRefuses(t *testing.T) {
	dir := tar.Header{Name: "./usr/", Typeflag: tar.TypeDir}
	for name, hs := range map[string][]tar.Header{
		"climbing name":            {file("./../etc/passwd", "x")},
		"climbing inside":          {file("./usr/../../etc/passwd", "x")},
		"absolute name":            {file("/etc/passwd", "x")},
		"unclean name":             {file("./usr//x", "x")},
		"symlink out":              {dir, link(tar.TypeSymlink, "./usr/x", "../../etc")},
		"symlink out by absolute":  {link(tar.TypeSymlink, "./x", "/../etc")},
		"symlink out and back":     {link(tar.TypeSymlink, "./x", "../root/x")},
		"symlink to nothing":       {link(tar.TypeSymlink, "./x", "")},
		"through a symlink":        {link(tar.TypeSymlink, "./lib", "/etc"), file("./lib/passwd", "x")},
		"through a file":           {file("./lib", "x"), file("./lib/passwd", "x")},
		"hard link out":            {link(tar.TypeLink, "./x", "../etc/passwd")},
		"hard link to nothing":     {link(tar.TypeLink, "./x", "./y")},
		"hard link to a symlink":   {link(tar.TypeSymlink, "./y", "z"), link(tar.TypeLink, "./x", "./y")},
		"twice":                    {file("./x", "1"), file("./x", "2")},
		"folder becomes a symlink": {dir, link(tar.TypeSymlink, "./usr", "/etc")},
		"unknown type":             {{Name: "./x", Typeflag: tar.TypeCont}},
		"negative owner":           {{Name: "./x", Typeflag: tar.TypeFifo, Uid: -5}},
		"root becomes something":   {dir, link(tar.TypeSymlink, "./usr/..", "/etc")},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Open(debOf(t, ".gz", hs...))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := walk(p); err == nil {
				t.Fatal("accepted", got)
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	ok := string(controlTar(t))
	huge := ar("debian-binary", "2.0\n")
	huge = append(huge, bytes.Replace(ar("control.tar", ""), []byte(arMagic), nil, 1)...)
	huge = bytes.Replace(huge, []byte("0         `\n"), []byte("9999999999`\n"), 1)
	for name, text := range map[string][]byte{
		"empty":               {},
		"not ar":              []byte("PK\x03\x04 something else"),
		"short header":        append(ar("debian-binary", "2.0\n"), "control"...),
		"size beyond the end": huge,
		"wrong order":         ar("debian-binary", "2.0\n", "data.tar", "", "control.tar", ok),
		"format 3":            ar("debian-binary", "3.0\n", "control.tar", ok, "data.tar", ""),
		"unknown compression": ar("debian-binary", "2.0\n", "control.tar.lz4", ok, "data.tar", ""),
		"no control file":     ar("debian-binary", "2.0\n", "control.tar", string(tarball(t, file("./x", ""))), "data.tar", ""),
		"broken xz":           ar("debian-binary", "2.0\n", "control.tar.xz", ok, "data.tar", ""),
		"bad triggers":        ar("debian-binary", "2.0\n", "control.tar", string(tarball(t, file("./control", "Package: aa\n"), file("./triggers", "x\n"))), "data.tar", ""),
		"bad conffiles":       ar("debian-binary", "2.0\n", "control.tar", string(tarball(t, file("./control", "Package: aa\n"), file("./conffiles", "/etc/../x\n"))), "data.tar", ""),
	} {
		t.Run(name, func(t *testing.T) {
			f := filepath.Join(t.TempDir(), "x.deb")
			if err := os.WriteFile(f, text, 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(f); err == nil {
				t.Fatal("accepted")
			}
		})
	}
}

// TestWalkSeesDamage: a flipped byte at the very end of the compressed data,
// behind the last entry, is found through the checksum of the stream.
func TestWalkSeesDamage(t *testing.T) {
	for _, ext := range []string{".gz", ".xz", ".zst"} {
		name := debOf(t, ext, file("./x", strings.Repeat("content ", 1000)))
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		text[len(text)-6] ^= 1
		text = text[:len(text)-len(text)%2]
		if err := os.WriteFile(name, text, 0o644); err != nil {
			t.Fatal(err)
		}
		p, err := Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := walk(p); err == nil {
			t.Errorf("%s: damage not seen", ext)
		}
	}
}

func TestUnpackLimit(t *testing.T) {
	body := pack(t, ".gz", tarball(t, file("./control", strings.Repeat("x", 100000))))
	r := strings.NewReader(body)
	err := eachEntry(r, arMember{name: "control.tar.gz", size: int64(len(body))}, 50000, func(h *tar.Header, r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "more than 50000 bytes") {
		t.Fatal(err)
	}
}

func FuzzReadAr(f *testing.F) {
	f.Add(ar("debian-binary", "2.0\n", "control.tar", "x", "data.tar", ""))
	f.Fuzz(func(t *testing.T, text []byte) {
		ms, err := readAr(bytes.NewReader(text), int64(len(text)))
		if err != nil {
			return
		}
		for _, m := range ms {
			if m.offset < int64(len(arMagic)+arHeader) || m.size < 0 || m.offset+m.size > int64(len(text)) {
				t.Fatal(m)
			}
		}
	})
}

func FuzzOpen(f *testing.F) {
	ok := string(controlTar(f))
	f.Add(ar("debian-binary", "2.0\n", "control.tar", ok, "data.tar", string(tarball(f, file("./x", "y")))))
	f.Add(ar("debian-binary", "2.0\n", "control.tar.xz", pack(f, ".xz", []byte(ok)), "data.tar", ""))
	f.Fuzz(func(t *testing.T, text []byte) {
		p := &Package{Scripts: map[string][]byte{}, Other: map[string][]byte{}}
		r := bytes.NewReader(text)
		if p.open(r, int64(len(text))) != nil {
			return
		}
		c := checker{kinds: map[string]byte{}}
		eachEntry(r, p.data, 1<<20, func(h *tar.Header, r io.Reader) error {
			if strings.HasPrefix(h.Name, "/") || strings.HasPrefix(h.Name+"/", "../") || strings.Contains(h.Name, "/../") {
				t.Fatal(h.Name)
			}
			return c.check(h)
		})
	})
}
