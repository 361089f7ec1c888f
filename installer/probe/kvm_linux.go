package probe

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// From <linux/kvm.h>, Documentation/virt/kvm/api.rst.
const (
	kvmGetAPIVersion = 0xae00
	kvmCreateVM      = 0xae01
	kvmAPIVersion    = 12
)

// tryKVM makes an empty virtual machine and lets it go. The device file alone
// proves little: firmware may have switched the extension off, which shows
// only when the first virtual machine is made.
func tryKVM(device string) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open /dev/kvm: %w", err)
	}
	defer f.Close()
	v, err := unix.IoctlRetInt(int(f.Fd()), kvmGetAPIVersion)
	if err != nil {
		return fmt.Errorf("ask KVM for its version: %w", err)
	}
	if v != kvmAPIVersion {
		return fmt.Errorf("KVM speaks version %d instead of %d", v, kvmAPIVersion)
	}
	fd, err := unix.IoctlRetInt(int(f.Fd()), kvmCreateVM)
	for errors.Is(err, unix.EINTR) { // any signal ends the wait for a memory notifier; Go's scheduler sends them
		fd, err = unix.IoctlRetInt(int(f.Fd()), kvmCreateVM)
	}
	if err != nil {
		return fmt.Errorf("create a virtual machine: %w", err)
	}
	return unix.Close(fd)
}
