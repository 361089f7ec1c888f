package kvm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Tapper makes the host's end of network cards; hypervisor/network is one.
type Tapper interface {
	// OpenTap makes a tap device with that name, plugs it into the bridge and
	// returns its open descriptor. mac is the guest's address.
	OpenTap(name, bridge string, mac net.HardwareAddr) (*os.File, error)
	// RemoveTap removes it; one that is not there is fine.
	RemoveTap(name string) error
}

// opened are the descriptors of one start, in the order of the plan.
type opened struct {
	files []*os.File
	vnc   *os.File // given to QEMU later
}

func (o *opened) close() {
	for _, f := range o.files {
		f.Close()
	}
	if o.vnc != nil {
		o.vnc.Close()
	}
}

// open opens what the plan names. folder is the guest's own.
func (d *Driver) open(p *Plan, folder string) (*opened, error) {
	o := &opened{}
	for _, want := range p.files {
		f, err := d.openOne(want, folder)
		if err != nil {
			o.close()
			return nil, err
		}
		o.files = append(o.files, f)
	}
	if p.VNC {
		f, err := listen(filepath.Join(folder, vncSocket))
		if err != nil {
			o.close()
			return nil, err
		}
		o.vnc = f
	}
	return o, nil
}

func (d *Driver) openOne(want file, folder string) (*os.File, error) {
	switch want.kind {
	case kvmFile:
		return os.OpenFile(d.KVM, os.O_RDWR, 0)
	case vhostFile:
		return os.OpenFile(d.VHost, os.O_RDWR, 0)
	case listenFile:
		return listen(filepath.Join(folder, want.key))
	case tapFile:
		if d.Tapper == nil {
			return nil, errors.New("there is no network on this node")
		}
		f, err := d.Tapper.OpenTap(want.path, want.bridge, want.mac)
		if err != nil {
			return nil, fmt.Errorf("plug network card %q into bridge %q: %w", want.key, want.bridge, err)
		}
		return f, nil
	case varsFile:
		return openVars(want, filepath.Join(d.Firmware, "OVMF_VARS_4M.fd"))
	default:
		return openVolume(want)
	}
}

// listen makes a listening unix socket and returns its descriptor; the name
// stays when the descriptor is closed here.
func listen(path string) (*os.File, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	f, err := l.File()
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	return f, nil
}

func openVolume(want file) (*os.File, error) {
	flags := os.O_RDWR
	if want.readOnly {
		flags = os.O_RDONLY
	}
	if want.direct {
		flags |= unix.O_DIRECT
	}
	// O_NONBLOCK keeps a fifo that took the file's place from blocking us; it
	// means nothing to files and disks.
	f, err := os.OpenFile(want.path, flags|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open drive %q: %w", want.key, err)
	}
	if err := checkVolume(f, want); err != nil {
		f.Close()
		return nil, fmt.Errorf("open drive %q: %w", want.key, err)
	}
	return f, nil
}

func checkVolume(f *os.File, want file) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	switch isBlock := st.Mode()&(os.ModeDevice|os.ModeCharDevice) == os.ModeDevice; {
	case want.block && !isBlock:
		return fmt.Errorf("%s is no block device", want.path)
	case !want.block && !st.Mode().IsRegular():
		return fmt.Errorf("%s is no regular file", want.path)
	}
	if want.format != "qcow2" {
		return nil
	}
	// O_DIRECT would want aligned memory; the header is read by another way.
	plain, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return err
	}
	defer plain.Close()
	return checkQcow2(plain)
}

// Header of a qcow2 image, QEMU: docs/interop/qcow2.txt.
type qcow2Header struct {
	Magic, Version          uint32
	BackingOffset           uint64
	BackingSize, ClusterLog uint32
	Size                    uint64
	CryptMethod, L1Size     uint32
	L1Offset, RefOffset     uint64
	RefClusters, Snapshots  uint32
	SnapshotsOffset         uint64
	Incompatible            uint64 // version 3
}

const (
	qcow2Magic       = 0x514649fb // "QFI\xfb"
	qcow2ExternalBit = 1 << 2     // incompatible feature: data in another file
)

// checkQcow2 refuses images that refer to other files: whoever made the image
// chose their names, and the guest would read what they name.
func checkQcow2(r io.ReaderAt) error {
	b := make([]byte, binary.Size(qcow2Header{}))
	if _, err := r.ReadAt(b, 0); err != nil {
		return fmt.Errorf("read qcow2 header: %w", err)
	}
	var h qcow2Header
	if err := binary.Read(bytes.NewReader(b), binary.BigEndian, &h); err != nil {
		return fmt.Errorf("read qcow2 header: %w", err)
	}
	switch {
	case h.Magic != qcow2Magic:
		return errors.New("the volume is declared qcow2, but is not")
	case h.Version != 2 && h.Version != 3:
		return fmt.Errorf("qcow2 version %d is not known", h.Version)
	case h.BackingOffset != 0:
		return errors.New("the qcow2 image has a backing file, which is not allowed")
	case h.Version == 3 && h.Incompatible&qcow2ExternalBit != 0:
		return errors.New("the qcow2 image keeps its data in another file, which is not allowed")
	case h.CryptMethod != 0:
		return errors.New("the qcow2 image is encrypted, which is not supported")
	}
	return nil
}

// openVars opens the volume of UEFI variables and fills a fresh one from the
// template. Without a volume the variables live in memory until the stop.
func openVars(want file, template string) (*os.File, error) {
	var f *os.File
	var err error
	if want.path != "" {
		f, err = openVolume(want)
	} else {
		var fd int
		if fd, err = unix.MemfdCreate("uefi-vars", unix.MFD_CLOEXEC); err == nil {
			f = os.NewFile(uintptr(fd), "uefi-vars")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open UEFI variables: %w", err)
	}
	// A firmware volume has its signature at byte 40 (UEFI PI specification,
	// volume 3, EFI_FIRMWARE_VOLUME_HEADER); without it the volume is new.
	sig := make([]byte, 4)
	if _, err := f.ReadAt(sig, 40); (err == nil || err == io.EOF) && string(sig) == "_FVH" {
		return f, nil
	}
	b, err := os.ReadFile(template)
	if err == nil && len(b) != varsSize {
		err = fmt.Errorf("%s has %d bytes, not %d", template, len(b), varsSize)
	}
	if err == nil {
		_, err = f.WriteAt(b, 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("write UEFI variables: %w", err)
	}
	return f, nil
}
