package dm

import (
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	control  = "/dev/mapper/control"
	readOnly = 1 << 0 // DM_READONLY_FLAG, include/uapi/linux/dm-ioctl.h
	head     = int(unsafe.Sizeof(unix.DmIoctl{}))
	spec     = int(unsafe.Sizeof(unix.DmTargetSpec{}))
)

// Create makes the read-only device name with one target and returns its node
// ("/dev/dm-0", made by devtmpfs). A device that could not be set up is
// removed again.
func Create(name, uuid string, t Target) (node string, err error) {
	c, err := os.OpenFile(control, os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("open device mapper: %w", err)
	}
	defer c.Close()
	h, err := call(c, unix.DM_DEV_CREATE, header(name, uuid, 0), nil)
	if err != nil {
		return "", fmt.Errorf("create device %q: %w", name, err)
	}
	defer func() {
		if err != nil {
			call(c, unix.DM_DEV_REMOVE, header(name, "", 0), nil)
		}
	}()
	load := header(name, "", readOnly)
	load.Target_count = 1
	if _, err = call(c, unix.DM_TABLE_LOAD, load, t.encode()); err != nil {
		return "", fmt.Errorf("load table of %q (%s): %w", name, t.Params, err)
	}
	// Suspending without the suspend flag is resuming: the table goes live.
	if _, err = call(c, unix.DM_DEV_SUSPEND, header(name, "", 0), nil); err != nil {
		return "", fmt.Errorf("start device %q: %w", name, err)
	}
	return fmt.Sprintf("/dev/dm-%d", unix.Minor(h.Dev)), nil
}

func header(name, uuid string, flags uint32) unix.DmIoctl {
	h := unix.DmIoctl{Version: [3]uint32{4, 0, 0}, Flags: flags, Data_start: uint32(head)}
	copy(h.Name[:127], name)
	copy(h.Uuid[:128], uuid)
	return h
}

// encode lays out struct dm_target_spec and the parameters behind it, ended
// by a zero and padded to eight bytes.
func (t Target) encode() []byte {
	n := (spec + len(t.Params) + 1 + 7) &^ 7
	b := make([]byte, n)
	le := binary.LittleEndian
	le.PutUint64(b, t.Start)
	le.PutUint64(b[8:], t.Sectors)
	le.PutUint32(b[20:], uint32(n)) // offset of the next spec
	copy(b[24:39], t.Type)
	copy(b[spec:], t.Params)
	return b
}

func call(c *os.File, req uintptr, h unix.DmIoctl, payload []byte) (unix.DmIoctl, error) {
	// The kernel answers in the same buffer and wants room for it.
	buf := make([]uint64, (head+max(len(payload), 1024)+7)/8)
	b := unsafe.Slice((*byte)(unsafe.Pointer(&buf[0])), len(buf)*8)
	h.Data_size = uint32(len(b))
	*(*unix.DmIoctl)(unsafe.Pointer(&buf[0])) = h
	copy(b[head:], payload)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, c.Fd(), req, uintptr(unsafe.Pointer(&buf[0])))
	if errno != 0 {
		return h, errno
	}
	return *(*unix.DmIoctl)(unsafe.Pointer(&buf[0])), nil
}
