package pid1

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"joist/api/node"
	"joist/system/etc"
	"joist/system/tmpfiles"
)

// baseline is what /var has whatever the packages bring, in tmpfiles.d(5)'s
// language.
const baseline = `
d /var/cache 0755
d /var/lib 0755
d /var/log 0755
d /var/log/joist 0755
d /var/spool 0755
d /var/tmp 1777
L+ /var/run - - - - /run
L+ /var/lock - - - - /run/lock
d /var/lib/joist 0755
d /var/lib/joist/node 0700
d /var/lib/joist/tasks 0750
d /var/lib/vz 0755
d /var/lib/lxcfs 0755
d /run/lock 1777
d /run/sshd 0755
`

// populate gives /var what the image says it should have. What is there
// already stays.
func populate() error {
	var errs []error
	if err := copyTree("/usr/share/factory/var", "/var"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	base, _ := tmpfiles.Parse(baseline)
	rules, _, err := tmpfiles.Read("/", "/etc/tmpfiles.d", "/usr/lib/tmpfiles.d")
	errs = append(errs, err)
	passwd, _ := os.ReadFile("/etc/passwd")
	group, _ := os.ReadFile("/etc/group")
	errs = append(errs, tmpfiles.Apply("/", append(base, rules...), tmpfiles.Table(string(passwd)), tmpfiles.Table(string(group))))
	return errors.Join(errs...)
}

// copyTree copies what is below from to to, with owners, modes and links;
// existing files are left as they are.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		return copyOne(p, filepath.Join(to, rel), st)
	})
}

func copyOne(from, to string, st fs.FileInfo) error {
	if _, err := os.Lstat(to); err == nil {
		return nil
	}
	switch {
	case st.IsDir():
		if err := os.Mkdir(to, 0o700); err != nil {
			return err
		}
	case st.Mode().IsRegular():
		if err := copyFile(from, to); err != nil {
			return err
		}
	case st.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		if err := os.Symlink(target, to); err != nil {
			return err
		}
	default:
		return nil // device nodes and sockets have no place there
	}
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		if err := os.Lchown(to, int(s.Uid), int(s.Gid)); err != nil {
			return err
		}
	}
	if st.Mode()&fs.ModeSymlink != 0 {
		return nil
	}
	return os.Chmod(to, st.Mode())
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err = io.Copy(out, in); err == nil {
		err = out.Close()
	} else {
		out.Close()
	}
	return err
}

// layerEtc lays a memory file system over the image's /etc at build: only
// what is written takes memory, and nothing is copied at boot.
func layerEtc(build string) error {
	const layer = "/run/joist/etc-layer"
	if err := os.MkdirAll(layer, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", layer, "tmpfs", quiet|unix.MS_NOEXEC, "mode=0700,size=64m"); err != nil {
		return fmt.Errorf("mount layer of /etc: %w", err)
	}
	for _, d := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(layer, d), 0o755); err != nil {
			return err
		}
	}
	options := "lowerdir=/etc,upperdir=" + layer + "/upper,workdir=" + layer + "/work"
	if err := unix.Mount("overlay", build, "overlay", quiet|unix.MS_NOEXEC, options); err != nil {
		return fmt.Errorf("mount new /etc: %w", err)
	}
	return nil
}

// makeEtc puts a layer in memory over the image's /etc and the rendered files
// into it.
func makeEtc(say func(string, ...any)) error {
	const build = "/run/joist/etc"
	if err := os.MkdirAll(build, 0o755); err != nil {
		return err
	}
	if err := layerEtc(build); err != nil {
		return err
	}
	in := gather(say)
	files, problems := etc.Render(in)
	for _, p := range problems {
		say("          node configuration: %s", p)
	}
	for _, f := range files {
		if err := writeEtc(build, f); err != nil {
			return fmt.Errorf("write /etc/%s: %w", f.Path, err)
		}
		if f.Path == "hostname" {
			if err := unix.Sethostname([]byte(strings.TrimSpace(f.Text))); err != nil {
				return fmt.Errorf("set host name: %w", err)
			}
		}
	}
	if err := unix.Mount(build, "/etc", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move new /etc: %w", err)
	}
	return os.Remove(build)
}

// writeEtc replaces one file and keeps the owner that the image gave it
// (shadow belongs to group shadow).
func writeEtc(root string, f etc.File) error {
	p := filepath.Join(root, f.Path)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	uid, gid := 0, 0
	if st, err := os.Lstat(p); err == nil {
		if s, ok := st.Sys().(*syscall.Stat_t); ok {
			uid, gid = int(s.Uid), int(s.Gid)
		}
		if err := os.RemoveAll(p); err != nil {
			return err
		}
	}
	if f.Link != "" {
		return os.Symlink(f.Link, p)
	}
	if err := os.WriteFile(p, []byte(f.Text), 0o600); err != nil {
		return err
	}
	if err := os.Chown(p, uid, gid); err != nil {
		return err
	}
	return os.Chmod(p, f.Mode)
}

// gather reads what the rendered files depend on. In install and rescue mode
// there is no node state and every part has its default.
func gather(say func(string, ...any)) etc.Input {
	in := etc.Input{Version: version()}
	cfg, err := node.Load("/")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		say("          %v; defaults are used", err)
	}
	in.Node = cfg
	text := func(name string) string {
		b, _ := os.ReadFile(name)
		return strings.TrimSpace(string(b))
	}
	in.MachineID = text(node.HostIDFile)
	if in.MachineID == "" {
		b := make([]byte, 16)
		rand.Read(b)
		in.MachineID = hex.EncodeToString(b)
	}
	in.RootHash = text(node.ShadowFile)
	in.HasKeys = text(neededKeys()) != ""
	b, _ := os.ReadFile("/etc/shadow")
	in.Shadow = string(b)
	return in
}

// neededKeys is the file without which root cannot log in by SSH: the node's,
// unless the image was built with keys.
func neededKeys() string {
	if st, err := os.Stat(node.ImageKeysFile); err == nil && st.Size() > 0 {
		return node.ImageKeysFile
	}
	return node.KeysFile
}

func version() string {
	var v struct {
		Version string `json:"version"`
	}
	b, err := os.ReadFile("/usr/lib/joist/build.json")
	if err != nil || json.Unmarshal(b, &v) != nil {
		return "unknown"
	}
	return v.Version
}
