package lxc

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-crypt/crypt/algorithm/shacrypt"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: files get owners")
	}
}

const cap2 = "0100000200200000000000000000000000000000" // cap_net_raw=ep, revision 2

func archive(t *testing.T, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		body := ""
		if h.Typeflag == tar.TypeReg {
			body = "body of " + h.Name
			h.Size = int64(len(body))
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		h.Format = tar.FormatPAX
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1700000000, 0)
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(body))
	}
	w.Close()
	return b.Bytes()
}

// unpackInto unpacks into root/tree, beside a file that nothing may touch.
func unpackInto(t *testing.T, base int, data []byte) (dir string, u unpacked, err error) {
	t.Helper()
	root := t.TempDir()
	file := filepath.Join(root, "archive")
	os.WriteFile(file, data, 0o600)
	os.WriteFile(filepath.Join(root, "secret"), []byte("untouched"), 0o600)
	dir = filepath.Join(root, "tree")
	os.Mkdir(dir, 0o755)
	tr, err := openTree(dir, base)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.close()
	u, err = unpack(context.Background(), file, tr, nil)
	if b, _ := os.ReadFile(filepath.Join(root, "secret")); string(b) != "untouched" {
		t.Error("a file outside was changed")
	}
	if left, _ := os.ReadDir(root); len(left) != 3 {
		t.Errorf("something was made outside: %v", left)
	}
	return dir, u, err
}

func TestUnpack(t *testing.T) {
	needRoot(t)
	capability, _ := hex.DecodeString(cap2)
	data := archive(t,
		tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "./bin", Typeflag: tar.TypeSymlink, Linkname: "usr/bin"},
		tar.Header{Name: "./usr/bin/", Typeflag: tar.TypeDir},
		tar.Header{Name: "./bin/su", Typeflag: tar.TypeReg, Mode: 0o4755},
		tar.Header{Name: "./usr/bin/ping", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": string(capability)}},
		tar.Header{Name: "./usr/bin/ping6", Typeflag: tar.TypeLink, Linkname: "./usr/bin/ping"},
		tar.Header{Name: "./run", Typeflag: tar.TypeDir},
		tar.Header{Name: "./var/run", Typeflag: tar.TypeSymlink, Linkname: "/run"},
		tar.Header{Name: "./var/run/x", Typeflag: tar.TypeReg, Uid: 1000, Gid: 42, Mode: 0o640},
		tar.Header{Name: "./dev/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3},
		tar.Header{Name: "./pipe", Typeflag: tar.TypeFifo},
	)
	for name, pack := range map[string]func([]byte) []byte{
		"tar": func(b []byte) []byte { return b }, "gzip": gzipped,
		"zstd": func(b []byte) []byte { w, _ := zstd.NewWriter(nil); return w.EncodeAll(b, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, u, err := unpackInto(t, FirstID, pack(data))
			if err != nil {
				t.Fatal(err)
			}
			if u.Entries != 11 || u.Skipped["device nodes"] != 1 {
				t.Errorf("%+v", u)
			}
			check := func(name string, uid, gid uint32, mode uint32) {
				t.Helper()
				var st unix.Stat_t
				if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
					t.Error(err)
				} else if st.Uid != uid || st.Gid != gid || st.Mode&0o7777 != mode && mode != 0 {
					t.Errorf("%s: %d:%d %o", name, st.Uid, st.Gid, st.Mode)
				}
			}
			check("usr/bin/su", FirstID, FirstID, 0o4755)
			check("bin", FirstID, FirstID, 0)
			check("run/x", FirstID+1000, FirstID+42, 0o640)
			check("var", FirstID, FirstID, 0o755)
			check("pipe", FirstID, FirstID, 0o755)
			v := make([]byte, 100)
			n, err := unix.Getxattr(filepath.Join(dir, "usr/bin/ping6"), "security.capability", v)
			if err == nil && (n != 24 || v[3] != 3) { // a file system without attributes says so at unpacking
				t.Errorf("%x", v[:n])
			}
			if st, _ := os.Stat(filepath.Join(dir, "usr/bin")); !st.ModTime().Equal(time.Unix(1700000000, 0)) {
				t.Errorf("time of folder: %s", st.ModTime())
			}
		})
	}
}

func gzipped(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	w.Close()
	return out.Bytes()
}

func TestUnpackHostile(t *testing.T) {
	needRoot(t)
	for name, tc := range map[string]struct {
		entries []tar.Header
		want    string // error, "" for contained
	}{
		"dots":        {[]tar.Header{{Name: "../secret", Typeflag: tar.TypeReg}}, "not to be trusted"},
		"inner dots":  {[]tar.Header{{Name: "a/../../secret", Typeflag: tar.TypeReg}}, "not to be trusted"},
		"link dots":   {[]tar.Header{{Name: "x", Typeflag: tar.TypeLink, Linkname: "../secret"}}, "not to be trusted"},
		"absolute":    {[]tar.Header{{Name: "/secret", Typeflag: tar.TypeReg}}, ""},
		"link up":     {[]tar.Header{{Name: "up", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "up/secret", Typeflag: tar.TypeReg}}, ""},
		"link root":   {[]tar.Header{{Name: "r", Typeflag: tar.TypeSymlink, Linkname: "/"}, {Name: "r/etc/x", Typeflag: tar.TypeReg}}, ""},
		"over link":   {[]tar.Header{{Name: "f", Typeflag: tar.TypeSymlink, Linkname: "../secret"}, {Name: "f", Typeflag: tar.TypeReg}}, ""},
		"hard link":   {[]tar.Header{{Name: "up", Typeflag: tar.TypeSymlink, Linkname: "../.."}, {Name: "x", Typeflag: tar.TypeLink, Linkname: "up/secret"}}, "no such file"},
		"link as dir": {[]tar.Header{{Name: "d", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "d/", Typeflag: tar.TypeDir, Mode: 0o777}}, "not a directory"},
		"owner":       {[]tar.Header{{Name: "x", Typeflag: tar.TypeReg, Uid: 70000}}, "outside the container's ids"},
		"empty":       {nil, "empty"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := unpackInto(t, FirstID, archive(t, tc.entries...))
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Error(err)
			}
		})
	}
	if _, _, err := unpackInto(t, 0, []byte("this is no archive at all")); err == nil {
		t.Error("text was unpacked")
	}
}

func TestCapability(t *testing.T) {
	v2, _ := hex.DecodeString(cap2)
	v3, ok := capability(v2, 7553600)
	if !ok || len(v3) != 24 || v3[0] != 1 || v3[3] != 3 || v3[20] != 0x40 {
		t.Errorf("%x", v3)
	}
	if back, ok := capability(v3, 0); !ok || !bytes.Equal(back, v2) {
		t.Errorf("%x", back)
	}
	for _, bad := range [][]byte{nil, v2[:19], v3[:20], append(bytes.Clone(v2), 0, 0, 0, 0)} {
		if _, ok := capability(bad, 1); ok {
			t.Errorf("%x was taken", bad)
		}
	}
}

func TestTreeStaysInside(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	dir := filepath.Join(root, "tree")
	os.MkdirAll(filepath.Join(dir, "real"), 0o755)
	os.WriteFile(filepath.Join(root, "secret"), []byte("untouched"), 0o600)
	os.Symlink(root, filepath.Join(dir, "etc"))
	os.Symlink("../secret", filepath.Join(dir, "real/up"))
	unix.Mkfifo(filepath.Join(dir, "real/pipe"), 0o600)
	tr, err := openTree(dir, FirstID)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.close()
	if err := tr.write("etc/secret", 0o644, []byte("x")); err == nil {
		t.Error("wrote through an absolute link to a folder that is not inside")
	}
	for _, name := range []string{"etc/secret", "real/up", "real/pipe", "real"} {
		if b, err := tr.read(name); err == nil {
			t.Errorf("read %s: %q", name, b)
		}
	}
	if err := tr.write("real/up", 0o644, []byte("x")); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile(filepath.Join(root, "secret")); string(b) != "untouched" {
		t.Error("a file outside was changed")
	}
}

func TestPassword(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	os.Mkdir(filepath.Join(dir, "etc"), 0o755)
	old := "daemon:*:1:0:99999:7:::\nroot:!*:1:0:99999:7:::\n"
	os.WriteFile(filepath.Join(dir, "etc/shadow"), []byte(old), 0o640)
	tr, err := openTree(dir, FirstID)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.close()
	if err := setPassword(tr, hashLater("geheim"), time.Unix(86400*20000, 0)); err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(filepath.Join(dir, "etc/shadow"))
	f := strings.Split(strings.Split(string(b), "\n")[1], ":")
	d, err := shacrypt.Decode(f[1])
	if err != nil || !d.Match("geheim") || f[2] != "20000" || !strings.HasPrefix(string(b), "daemon:*:1:") {
		t.Errorf("%s %v", b, err)
	}
	if st, _ := os.Stat(filepath.Join(dir, "etc/shadow")); st.Mode().Perm() != 0o640 {
		t.Error(st.Mode())
	}
}

func FuzzClean(f *testing.F) {
	f.Add("../../x")
	f.Add("/a/./b//c/")
	f.Fuzz(func(t *testing.T, name string) {
		got, err := clean(name)
		if err == nil && (strings.HasPrefix(got, "/") || strings.Contains("/"+got+"/", "/../")) {
			t.Errorf("%q became %q", name, got)
		}
	})
}
