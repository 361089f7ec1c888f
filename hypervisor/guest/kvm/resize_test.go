package kvm

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"joist/hypervisor/guest"
)

// TestResizeDisk grows the disks of a real QEMU: both kinds of files.
func TestResizeDisk(t *testing.T) {
	c := setUp(t)
	dir := t.TempDir()
	raw, qcow := filepath.Join(dir, "disk"), filepath.Join(dir, "disk.qcow2")
	if err := os.WriteFile(raw, make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", qcow, "4M").Run(); err != nil {
		t.Skip("no qemu-img: ", err)
	}
	s := small()
	s.Config["freeze"], s.Config["scsi0"], s.Config["virtio1"] = "1", "a:b,aio=threads,cache=writeback", "a:c,aio=threads,cache=writeback"
	s.Volumes = map[string]guest.Volume{"scsi0": {ID: "a:b", Path: raw, Format: "raw"}, "virtio1": {ID: "a:c", Path: qcow, Format: "qcow2"}}
	m := start(t, New(c), s)
	for _, key := range []string{"scsi0", "virtio1"} {
		if err := m.ResizeDisk(t.Context(), key, 8<<20); err != nil {
			t.Error(err)
		}
	}
	if err := m.ResizeDisk(t.Context(), "scsi9", 8<<20); err == nil {
		t.Error("a disk that is not there was resized")
	}
	if err := m.Stop(t.Context(), guest.Kill); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(raw); err != nil || st.Size() != 8<<20 {
		t.Errorf("raw file: %v %v", st, err)
	}
	b, err := os.ReadFile(qcow)
	if err != nil || binary.BigEndian.Uint64(b[24:]) != 8<<20 {
		t.Errorf("qcow2 image: %d %v", binary.BigEndian.Uint64(b[24:]), err)
	}
}
