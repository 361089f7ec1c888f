package probe

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// imageTime returns the clock of a machine made of images: the same files give the
// same facts.
func imageTime() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

// Images makes facts of raw disk images, called sda, sdb, … in their order, in
// a machine that meets every check. The files are only read.
func Images(names []string) (Facts, error) {
	f := Facts{
		Time: imageTime(), Firmware: Firmware{Mode: UEFI, Bits: 64},
		CPU:    CPU{Vendor: "none", Model: "a machine made of disk images", Count: 1, Virtualisation: "vmx", KVM: true},
		Memory: Memory{Total: 4 << 30},
		NICs: []NIC{{Name: "eth0", MAC: "52:54:00:00:00:01", Carrier: "up", Speed: 1000,
			Udev: map[string]string{"INTERFACE": "eth0", "ID_NET_NAME_MAC": "enx525400000001"}}},
		Consoles: []string{"tty1"},
	}
	if len(names) > 26 {
		return f, fmt.Errorf("read disk images: %d are too many, 26 at most", len(names))
	}
	for i, name := range names {
		d, err := image(fmt.Sprintf("sd%c", 'a'+i), name)
		if err != nil {
			return f, fmt.Errorf("read disk image %q: %w", name, err)
		}
		f.Disks = append(f.Disks, d)
	}
	return f, nil
}

func image(disk, name string) (Disk, error) {
	d := Disk{Name: disk, Sector: 512, Bus: "virtio", Model: "image", Serial: filepath.Base(name), Udev: map[string]string{}}
	r, err := os.Open(name)
	if err != nil {
		return d, err
	}
	defer r.Close()
	st, err := r.Stat()
	if err != nil {
		return d, err
	}
	d.Size = st.Size() / 512 * 512
	if d.Size == 0 || !st.Mode().IsRegular() {
		return d, fmt.Errorf("it is empty or no file")
	}
	fillUdev(&d)
	Contents(r, &d)
	return d, nil
}
