// Package loop attaches files to loop devices, read-only (loop(4)).
package loop

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Attach makes a read-only loop device of the file and returns its node. The
// block is the device's logical sector in bytes: no file system with smaller
// blocks can be mounted from it, and the smaller it is the more reads are split.
func Attach(file string, block uint32) (node string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("attach image: %w", err)
	}
	defer f.Close()
	c, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("open loop control: %w", err)
	}
	defer c.Close()
	// Between asking for a free device and taking it somebody else may have
	// taken it: ask again.
	for range 10 {
		n, err := unix.IoctlRetInt(int(c.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return "", fmt.Errorf("find a free loop device: %w", err)
		}
		node = fmt.Sprintf("/dev/loop%d", n)
		switch err = configure(node, f, block); err {
		case nil:
			return node, nil
		case unix.EBUSY, unix.ENOENT, unix.ENXIO:
			time.Sleep(20 * time.Millisecond)
		default:
			return "", fmt.Errorf("attach %s to %s: %w", file, node, err)
		}
	}
	return "", fmt.Errorf("attach %s: every free loop device was taken meanwhile", file)
}

func configure(node string, f *os.File, block uint32) error {
	l, err := unix.Open(node, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(l)
	// loop_config.block_size sits in Size of x/sys' type.
	c := unix.LoopConfig{Fd: uint32(f.Fd()), Size: block, Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY}}
	copy(c.Info.File_name[:63], f.Name())
	return unix.IoctlLoopConfigure(l, &c)
}

// Detach lets go of the file behind a loop device.
func Detach(node string) error {
	l, err := unix.Open(node, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("detach %s: %w", node, err)
	}
	defer unix.Close(l)
	if err := unix.IoctlSetInt(l, unix.LOOP_CLR_FD, 0); err != nil {
		return fmt.Errorf("detach %s: %w", node, err)
	}
	return nil
}
