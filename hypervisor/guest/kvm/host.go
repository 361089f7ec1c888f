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

func (d *Driver) probe() Host {
	h := Host{Firmware: d.Firmware, KVM: d.KVM != "" && KVMWorks(d.KVM)}
	if d.VHost != "" {
		if f, err := os.OpenFile(d.VHost, os.O_RDWR, 0); err == nil {
			f.Close()
			h.VHost = true
		}
	}
	return h
}
