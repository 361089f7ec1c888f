package apply

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"joist/image/boot"
	"joist/image/disk"
	"joist/internal/host"
)

// System is an installed slot, ready for kexec: its kernel and initrd as
// files in memory and its command line.
type System struct {
	Slot           boot.Slot
	Kernel, Initrd []byte
	Args           string
}

// maxBootFile bounds kernel and initrd read into memory.
const maxBootFile = 512 << 20

// ReadInstalled finds what the menu of an installed disk would start, by
// reading the boot partition (no mount, no write). A slot on trial is taken
// without trial: only GRUB may count tries.
func ReadInstalled(h *host.Host, esp string) (System, error) {
	var s System
	f, err := os.Open(h.Path("/dev", esp))
	if err != nil {
		return s, fmt.Errorf("read boot partition: %w", err)
	}
	defer f.Close()
	read := func(path string) []byte {
		var b []byte
		var e disk.Extent
		if err != nil {
			return nil
		}
		if e, err = disk.LocateFAT(f, path); err != nil {
			return nil
		}
		if e.Size > maxBootFile {
			err = fmt.Errorf("%s has %d bytes", path, e.Size)
			return nil
		}
		b = make([]byte, e.Size)
		_, err = io.ReadFull(io.NewSectionReader(f, e.Offset, e.Size), b)
		return b
	}
	env, envErr := boot.DecodeEnv(read(boot.PathEnv))
	if err == nil {
		err = envErr
	}
	if err != nil {
		return s, fmt.Errorf("read boot partition: %w", err)
	}
	s.Slot = boot.Choose(boot.DecodeState(env)).Slot
	conf := read(boot.PathSlotConfig(s.Slot))
	s.Kernel = read(boot.PathSlotFile(s.Slot, boot.FileKernel))
	s.Initrd = read(boot.PathSlotFile(s.Slot, boot.FileInitrd))
	if err != nil {
		return s, fmt.Errorf("read slot %s: %w", s.Slot, err)
	}
	args, err := boot.SlotArgs(conf, s.Slot)
	if err != nil {
		return s, err
	}
	s.Args = "joist.mode=node " + args
	return s, nil
}

// Kexec starts s in place of the running kernel; it returns only on failure.
// kexec_file_load(2) takes descriptors and, under Secure Boot, checks the
// kernel's signature. The caller has synced and unmounted.
func (s System) Kexec() error {
	kernel, err := memoryFile("kernel", s.Kernel)
	if err != nil {
		return err
	}
	defer kernel.Close()
	initrd, err := memoryFile("initrd", s.Initrd)
	if err != nil {
		return err
	}
	defer initrd.Close()
	if err := unix.KexecFileLoad(int(kernel.Fd()), int(initrd.Fd()), s.Args, 0); err != nil {
		return fmt.Errorf("load the installed kernel: %w", err)
	}
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_KEXEC); err != nil {
		return fmt.Errorf("start the installed kernel: %w", err)
	}
	return nil
}

func memoryFile(name string, b []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("hold %s in memory: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(b); err != nil {
		f.Close()
		return nil, fmt.Errorf("hold %s in memory: %w", name, err)
	}
	return f, nil
}
