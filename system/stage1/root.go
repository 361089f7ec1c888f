package stage1

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"joist/system/dm"
	"joist/system/loop"
)

// early is what must be there before the first word can be said.
var early = [...]struct {
	fs, target string
	flags      uintptr
	data       string
}{
	{"devtmpfs", "/dev", unix.MS_NOSUID, "mode=0755"},
	{"proc", "/proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"sysfs", "/sys", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
}

func mountEarly() error {
	for _, m := range early {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		// The kernel may have mounted devtmpfs already (CONFIG_DEVTMPFS_MOUNT).
		if err := unix.Mount(m.fs, m.target, m.fs, m.flags, m.data); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	return os.MkdirAll(runDir, 0o755)
}

func (b *boot) verity(context.Context) error {
	f, err := os.Open(b.image)
	if err != nil {
		return err
	}
	v, err := dm.ReadVerity(f)
	f.Close()
	hint := b.damaged()
	if err != nil {
		return &problem{fmt.Errorf("%s: %w", b.image, err), hint}
	}
	t, err := v.Target(b.image, b.opt.Verity)
	if err != nil {
		return &problem{err, hint}
	}
	// not "joist-…": LVM would take it for a volume of a group joist
	node, err := dm.Create("joist_system", "JOIST-"+b.opt.Verity[:32], t)
	if err != nil {
		return &problem{err, hint}
	}
	b.device, b.image = b.image, node
	return nil
}

// mediumVerity checks what is read from the medium, where that was not done as
// a whole. Menus of other loaders may not know the root hash.
func (b *boot) mediumVerity(ctx context.Context) error {
	switch {
	case b.checked:
		b.log.Printf("          not needed: the image in memory was checked")
		return nil
	case b.opt.Verity == "":
		b.log.Printf("          the menu gives no root hash (joist.verity=): damage of the medium goes unnoticed until something fails")
		return nil
	}
	if err := b.mods.Load("dm_mod", "dm_verity"); err != nil {
		return err
	}
	return b.verity(ctx)
}

// damaged is the cure for an image that cannot be used.
func (b *boot) damaged() string {
	if b.opt.FromSlot() {
		return "start the other slot from the boot menu, or install again from the medium: the image in slot " + b.opt.Slot + " is damaged"
	}
	if b.opt.Image != "" {
		return "start again; if it stays so, test the memory: the image was whole when it was fetched"
	}
	return "write the medium again and check its SHA-256 sum: the image on it is damaged"
}

func (b *boot) attach(context.Context) (err error) {
	b.image, err = loop.Attach(b.imageFile(), 4096) // so that squashfs' reads are not split
	return err
}

func (b *boot) mountImage(context.Context) error {
	b.dog.Feed()
	if err := os.MkdirAll(newRoot, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(b.image, newRoot, "squashfs", unix.MS_RDONLY|unix.MS_NODEV, ""); err != nil {
		return &problem{fmt.Errorf("mount %s: %w", b.image, err), b.damaged()}
	}
	if st, err := os.Stat(filepath.Join(newRoot, "sbin/init")); err != nil || st.Mode()&0o111 == 0 {
		return fmt.Errorf("%s holds no /sbin/init", b.image)
	}
	if b.device == "" {
		b.device = b.image
	}
	return b.extend()
}

// switchRoot makes the image the root file system, frees the initramfs'
// memory and becomes PID 1 in it, in the order of switch_root(8).
func (b *boot) switchRoot(context.Context) error {
	for _, m := range early {
		if err := unix.Mount(m.target, newRoot+m.target, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", m.target, err)
		}
	}
	old, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	var st unix.Stat_t
	if unix.Fstat(old, &st) == nil {
		empty(old, st.Dev)
	}
	unix.Close(old)
	env := []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=linux"}
	if e, err := b.dog.Leave(); err == nil && e != "" {
		env = append(env, e)
	}
	b.dog.Feed()
	err = unix.Exec("/sbin/init", []string{"/sbin/init"}, env)
	return fmt.Errorf("run /sbin/init of the system image: %w", err)
}

// empty deletes everything below the open directory that lies on the file
// system dev: the initramfs stays in memory for as long as it has files.
func empty(dir int, dev uint64) {
	dup, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	f := os.NewFile(uintptr(dup), "initramfs")
	names, _ := f.Readdirnames(-1)
	f.Close()
	for _, n := range names {
		var st unix.Stat_t
		if unix.Fstatat(dir, n, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Dev != dev {
			continue
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			unix.Unlinkat(dir, n, 0)
			continue
		}
		if sub, err := unix.Openat(dir, n, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err == nil {
			empty(sub, dev)
			unix.Close(sub)
			unix.Unlinkat(dir, n, unix.AT_REMOVEDIR)
		}
	}
}
