package kvm

import (
	"os"

	"golang.org/x/sys/unix"
)

// ioctls of /dev/kvm, linux/kvm.h.
const (
	kvmGetAPIVersion = 0xae00
	kvmCreateVM      = 0xae01
	kvmAPIVersion    = 12
)

// KVMWorks reports whether the device makes virtual machines: under some
// hypervisors it is there and refuses, and only trying tells.
func KVMWorks(device string) bool {
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	if v, err := unix.IoctlRetInt(fd, kvmGetAPIVersion); err != nil || v != kvmAPIVersion {
		return false
	}
	vm, err := unix.IoctlRetInt(fd, kvmCreateVM)
	if err != nil {
		return false
	}
	unix.Close(vm)
	return true
}

// probe looks at the machine. That /dev/kvm makes machines is tried until it
// has worked once: each try has the kernel make a machine and take it down
// again, which is more than all else that a start does besides QEMU.
func (d *Driver) probe() Host {
	if d.KVM != "" && !d.kvm.Load() && KVMWorks(d.KVM) {
		d.kvm.Store(true)
	}
	h := Host{Firmware: d.Firmware, KVM: d.kvm.Load()}
	if d.VHost != "" {
		if f, err := os.OpenFile(d.VHost, os.O_RDWR, 0); err == nil {
			f.Close()
			h.VHost = true
		}
	}
	return h
}
