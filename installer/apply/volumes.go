package apply

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/go-crypt/x/yescrypt"
	"golang.org/x/sys/unix"

	"joist/api/node"
	"joist/installer/plan"
	"joist/internal/host"
	"joist/internal/run"
)

// lvmConfig confines a command to the partitions of the chosen disk
// (lvm.conf(5)): no other disk is read, no devices file and no udev database
// are asked, nodes are made by LVM itself and nothing waits for udev, which
// need not be running. /etc is not kept, so no backups of metadata go there.
func lvmConfig(disk string) string {
	part := "p?[0-9]+"
	return fmt.Sprintf(`devices{use_devicesfile=0 obtain_device_list_from_udev=0 filter=["a|^/dev/%s%s$|","r|.*|"]} `+
		`activation{udev_sync=0 udev_rules=0} backup{backup=0 archive=0}`, regexp.QuoteMeta(disk), part)
}

func (a *applier) lvm(ctx context.Context, args ...string) ([]byte, error) {
	args = append([]string{args[0], "--config", lvmConfig(a.p.Disk.Name)}, args[1:]...)
	return a.h.Run.Run(ctx, run.Cmd{Path: "lvm", Args: args})
}

func bytesArg(n int64) string { return strconv.FormatInt(n, 10) + "b" }

var vgUUID = regexp.MustCompile(`^[A-Za-z0-9]{6}(-[A-Za-z0-9]{4}){5}-[A-Za-z0-9]{6}$`)

func (a *applier) createLVM(ctx context.Context, act plan.CreateLVM, advance func(n, of int64)) error {
	total := int64(len(act.Volumes) + 2)
	// 250k of metadata end at 1 MiB, where data then begins (pvcreate(8))
	if _, err := a.lvm(ctx, "pvcreate", "-ff", "-y", "--metadatasize", "250k", act.Device); err != nil {
		return fmt.Errorf("create physical volume: %w", err)
	}
	advance(1, total)
	if _, err := a.lvm(ctx, "vgcreate", "-y", act.VG, act.Device); err != nil {
		return fmt.Errorf("create volume group: %w", err)
	}
	out, err := a.lvm(ctx, "vgs", "--noheadings", "-o", "vg_uuid", act.VG)
	if err != nil {
		return fmt.Errorf("read the volume group's UUID: %w", err)
	}
	a.vgUUID = strings.TrimSpace(string(out))
	if !vgUUID.MatchString(a.vgUUID) {
		return fmt.Errorf("read the volume group's UUID: lvm answered %q", a.vgUUID)
	}
	for i, v := range act.Volumes {
		advance(int64(i+2), total)
		args := []string{"lvcreate", "-y", "-W", "y", "-L", bytesArg(v.Bytes), "-n", v.Name, act.VG}
		if v.Use == "thin-pool" {
			args = []string{"lvcreate", "-y", "--type", "thin-pool", "-L", bytesArg(v.Bytes),
				"--poolmetadatasize", bytesArg(v.Meta), "-n", v.Name, act.VG}
		}
		if _, err := a.lvm(ctx, args...); err != nil {
			return fmt.Errorf("create volume %q: %w", v.Name, err)
		}
	}
	return nil
}

func (a *applier) mkfs(ctx context.Context, act plan.Mkfs) error {
	c := run.Cmd{Path: "mkfs.ext4", Args: []string{"-q", "-F", "-m", "0", "-L", act.Label, act.Device}}
	if act.Type == "swap" {
		c = run.Cmd{Path: "mkswap", Args: []string{"-L", act.Label, act.Device}}
	}
	_, err := a.h.Run.Run(ctx, c)
	return err
}

func (a *applier) mount(device, volume string) (string, error) {
	target := a.target(volume)
	if err := os.MkdirAll(a.h.Path(target), 0o755); err != nil {
		return "", fmt.Errorf("prepare mount point: %w", err)
	}
	if err := a.h.Sys.Mount(host.Mount{Source: device, Target: target, FSType: "ext4", Flags: unix.MS_NOSUID | unix.MS_NODEV}); err != nil {
		return "", fmt.Errorf("mount %s: %w", device, err)
	}
	a.mounted = append(a.mounted, target)
	return a.h.Path(target), nil
}

// seed writes the node's configuration. The state volume is /var on the node.
func (a *applier) seed(act plan.Seed) error {
	shadow, err := a.shadow()
	if err != nil {
		return err
	}
	state, err := a.mount(act.State, "state")
	if err != nil {
		return err
	}
	local, err := a.mount(act.Local, "local")
	if err != nil {
		return err
	}
	onState := func(p string) string { return filepath.Join(state, strings.TrimPrefix(p, "/var")) }
	for _, d := range []struct {
		path string
		mode os.FileMode
	}{{onState("/var/lib"), 0o755}, {onState(node.StateDir), 0o755}, {onState(node.NodeDir), 0o700}, {onState(node.TLSDir), 0o700}} {
		if err := makeDir(d.path, d.mode); err != nil {
			return err
		}
	}
	for _, d := range act.Dirs {
		if err := os.MkdirAll(filepath.Join(local, d), 0o755); err != nil {
			return fmt.Errorf("make folder %s: %w", d, err)
		}
	}
	files, err := a.p.Seed(a.vgUUID, shadow)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := node.WriteFile(onState(f.Path), os.FileMode(f.Mode), f.Data); err != nil {
			return fmt.Errorf("write %s: %w", f.Path, err)
		}
	}
	return nil
}

// makeDir makes a folder with exactly that mode, whatever the umask.
func makeDir(name string, mode os.FileMode) error {
	err := os.Mkdir(name, mode)
	if err == nil || os.IsExist(err) {
		err = os.Chmod(name, mode)
	}
	if err != nil {
		return fmt.Errorf("make folder %s: %w", name, err)
	}
	return nil
}

// shadow is root's password as crypt(5) hashes it.
func (a *applier) shadow() (string, error) {
	if h := a.p.Answer.Global.RootPasswordHashed.Reveal(); h != "" {
		return h, nil
	}
	return HashPassword(a.p.Answer.Global.RootPassword.Reveal())
}

// HashPassword makes a yescrypt hash with Debian's parameters ("j9T") and a
// salt of 128 random bits.
func HashPassword(password string) (string, error) {
	salt := make([]byte, 16)
	if _, err := rand.Read(salt); err != nil {
		return "", fmt.Errorf("make salt: %w", err)
	}
	h, err := yescrypt.Hash([]byte(password), append([]byte("$y$j9T$"), yescrypt.Encode64(salt)...))
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	return string(h), nil
}
