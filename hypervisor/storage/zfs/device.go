package zfs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// nameLen is the longest name of a dataset with its end, and blkzName asks a
// device for it: _IOR(0x12, 125, char[256]) (include/sys/fs/zfs.h).
const (
	nameLen  = 256
	blkzName = 2<<30 | nameLen<<16 | 0x12<<8 | 125
)

// volumeName is the volume behind a device.
func volumeName(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var b [nameLen]byte
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), blkzName, uintptr(unsafe.Pointer(&b))); e != 0 {
		return "", fmt.Errorf("ask %s for its volume: %w", file, e)
	}
	name, _, _ := bytes.Cut(b[:], []byte{0})
	return string(name), nil
}

// device waits for the link that udev makes. It may still be that of a volume
// which had the name before, on a device that another one has now: the device
// itself tells.
func (p *Pool) device(ctx context.Context, full string) (string, error) {
	link := filepath.Join(p.dev, full)
	for end := time.Now().Add(p.wait); ; {
		name, err := p.name(link)
		if err == nil && name == full {
			return link, nil
		}
		if err == nil {
			err = fmt.Errorf("it is the device of %q", name)
		}
		if time.Now().After(end) {
			return "", fmt.Errorf("no device %s after %s: %w", link, p.wait, err)
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}
