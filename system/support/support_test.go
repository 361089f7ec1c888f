package support

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"joist/api/node"
	"joist/internal/run"
)

const (
	hash  = "$y$j9T$abcdefghijklmnopqrstuv$0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHI"
	token = "joist-a1b2c3-0123456789abcdefghij"
)

// unpack is the archive as name → content.
func unpack(t *testing.T, b []byte) map[string]string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Mode != 0o600 || !strings.HasPrefix(h.Name, "joist-support/") {
			t.Errorf("%s has mode %o", h.Name, h.Mode)
		}
		out[strings.TrimPrefix(h.Name, "joist-support/")] = string(text)
	}
}

func newMachine(t *testing.T, files map[string]string) (Machine, *run.Script) {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		name = filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	s := &run.Script{Answer: func(c run.Cmd) ([]byte, error) {
		switch c.Path {
		case "lspci":
			return nil, &fs.PathError{Op: "start", Path: c.Path, Err: fs.ErrNotExist}
		case "/usr/sbin/joist-install":
			c.Line(`{"firmware": "uefi", "note": "password = \"hunter22hunter\""}`)
			return nil, errors.New("exit status 2")
		}
		c.Line("of " + c.Path)
		return nil, nil
	}}
	return Machine{Root: root, Run: s, Now: func() time.Time { return time.Unix(1.8e9, 0) },
		KernelLog: func() ([]byte, error) {
			return []byte("<6>kernel says joist.answer=https://me:hunter22hunter@host/a\n"), nil
		},
		Status: func() ([]byte, error) { return nil, errors.New("PID 1 does not answer, token=" + token) }}, s
}

// TestNoSecrets: files that hold secrets are not taken, and secrets that other
// files should not hold are not either.
func TestNoSecrets(t *testing.T) {
	secrets := []string{"hunter22hunter", hash, token, "c2VjcmV0a2V5", "Sess10nT1cket", "0123-4567-89ab"}
	leaks := strings.Join([]string{
		`level=INFO msg="set root-password=hunter22hunter done"`, `{"root_password": "hunter22hunter", "x": 1}`, `RootPassword:hunter22hunter`, `password = 'hunter22hunter'`,
		"root:" + hash + ":1::", "join with " + token, "-----BEGIN EC PRIVATE KEY-----\nc2VjcmV0a2V5\n-----END EC PRIVATE KEY-----",
		"Authorization: PVEAPIToken=a@pve!b=0123-4567-89ab", "curl -H PVEAPIToken=a@pve!b=0123-4567-89ab", "PVE:root@pam:65F::Sess10nT1cket", "Cookie: PVEAuthCookie=Sess10nT1cket",
		"https://u:hunter22hunter@host/x", "Bearer Sess10nT1cket", "token: hunter22hunter", `client_secret="hunter22hunter"`,
		"-----BEGIN PRIVATE KEY-----\nc2VjcmV0a2V5", // cut off
	}, "\n")
	files := map[string]string{
		node.ConfigFile: `{"name": "n1"}`, node.ReportFile: `{"answer": "` + leaks + `"}`, node.InstallLog: "installer log\n" + leaks, node.InstallJournal: `{"steps": []}`,
		node.CrashDir + "/20261129T010203-0-panic": "Panic#1 Part1\n", node.LogDir + "/joistd.log": "kept line\n" + leaks, node.TaskDir + "/index": "UPID:n1\n",
		node.ShadowFile: hash + "\n", node.KeysFile: "ssh-ed25519 AAAA", node.TLSDir + "/node.key": "c2VjcmV0a2V5", node.JoinFile: `{"token": "` + token + `"}`,
		node.EtcdDir + "/member/db": "hunter22hunter", node.ClusterDir + "/ca.key": "c2VjcmV0a2V5", "/proc/cmdline": "quiet token=hunter22hunter joist.answer=https://a.example/hunter22hunter?x=1 joist.answer-fingerprint=ab", "/etc/shadow": hash,
		"/mnt/state/log/joist/joistd.log": "rescued line\n" + leaks, "/mnt/state/lib/joist/node/root.shadow": hash,
	}
	m, _ := newMachine(t, files)
	var b bytes.Buffer
	if err := m.Write(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	got := unpack(t, b.Bytes())
	for name, text := range got {
		for _, s := range secrets {
			if strings.Contains(text, s) {
				t.Errorf("%s holds %q:\n%s", name, s, text)
			}
		}
	}
	for name, want := range map[string]string{
		"var/lib/joist/node/node.json": `{"name": "n1"}`, "var/lib/joist/install/installer.log": "installer log", "var/lib/joist/install/journal.json": "steps",
		"var/lib/joist/crash/20261129T010203-0-panic": "Panic#1", "var/log/joist/joistd.log": "kept line", "mnt/state/log/joist/joistd.log": "rescued line",
		"var/lib/joist/tasks/index": "UPID", "proc/cmdline": "quiet token=*** joist.answer=https://a.example/*** joist.answer-fingerprint=ab", "dmesg.txt": "https://***@host/***", "commands/lsblk.txt": "of lsblk",
		"commands/facts.txt": "(exit status 2)", "missing": "status.json: PID 1 does not answer", "var/lib/joist/node/install-report.json": "answer",
	} {
		if !strings.Contains(got[name], want) {
			t.Errorf("%s: %q, want %q in it", name, got[name], want)
		}
	}
	for name := range got {
		for _, no := range []string{"shadow", "tls", "etcd", "cluster", "authorized", "lspci"} {
			if strings.Contains(name, no) {
				t.Errorf("%s is in the bundle", name)
			}
		}
	}
	if name := m.Name(); name != "joist-support-n1-20270115T080000.tar.gz" {
		t.Error(name)
	}
}

// TestStays: what is no secret is not touched.
func TestStays(t *testing.T) {
	for _, s := range []string{
		"copy system image to slot A 12 % of 164.5 MB", "joist-0.1.0-amd64.iso", "money $5 and $1 more", "the password was changed", "https://192.0.2.1:8006/api2/json",
		"mount /dev/joist/state", `{"fingerprint": "AB:CD"}`, "a@b.example",
	} {
		if got := string((cleaner{}).text([]byte(s))); got != s {
			t.Errorf("%q became %q", s, got)
		}
	}
}

// TestBound: of a long file the end is taken, and links and folders are not.
func TestBound(t *testing.T) {
	m, _ := newMachine(t, map[string]string{node.LogDir + "/long.log": strings.Repeat("x", fileMax+10) + "end", node.LogDir + "/sub/a": "x", node.ShadowFile: hash})
	if err := os.Symlink("/dev/zero", filepath.Join(m.Root, node.LogDir, "zero.log")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(m.Root, node.ShadowFile), filepath.Join(m.Root, node.LogDir, "link.log")); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := m.Write(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	got := unpack(t, b.Bytes())
	if l := got["var/log/joist/long.log"]; len(l) != fileMax || !strings.HasSuffix(l, "end") {
		t.Errorf("%d bytes", len(l))
	}
	for _, name := range []string{"zero.log", "link.log"} {
		if _, ok := got["var/log/joist/"+name]; ok {
			t.Errorf("%s was read", name)
		}
	}
}
