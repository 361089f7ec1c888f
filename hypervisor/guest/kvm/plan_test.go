package kvm

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"joist/hypervisor/guest"
)

var update = flag.Bool("update", false, "write the golden files anew")

func lv(key string) guest.Volume {
	return guest.Volume{ID: "local-lvm:vm-100-" + key, Path: "/dev/joist/vm-100-" + key, Format: "raw", Size: 1 << 30}
}

var uuid = "12345678-1234-1234-1234-123456789abc"

var plans = map[string]struct {
	spec guest.Spec
	host Host
}{
	"empty": {guest.Spec{VMID: 100}, Host{}},
	"spine": {guest.Spec{VMID: 100, Name: "web", Config: map[string]string{
		"memory": "2048", "cores": "2", "scsihw": "virtio-scsi-single", "scsi0": "local-lvm:vm-100-scsi0,iothread=1,size=8G,discard=on,ssd=1",
		"ide2": "local:iso/x.iso,media=cdrom", "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0", "boot": "order=scsi0;ide2;net0",
		"serial0": "socket", "agent": "1", "smbios1": "uuid=" + uuid, "vmgenid": uuid, "cpulimit": "1.5", "cpuunits": "200",
	}, Volumes: map[string]guest.Volume{"scsi0": lv("scsi0"),
		"ide2": {ID: "local:iso/x.iso", Path: "/var/lib/vz/template/iso/x.iso", Format: "raw", ReadOnly: true}}},
		Host{KVM: true, VHost: true}},
	"q35-uefi": {guest.Spec{VMID: 101, Config: map[string]string{
		"machine": "q35", "bios": "ovmf", "efidisk0": "local-lvm:vm-100-efidisk0,size=4M", "cpu": "host,flags=+aes", "vga": "virtio",
		"virtio0": "local-lvm:vm-100-virtio0,cache=writeback", "virtio7": "local:101/vm-101-disk-1.qcow2,aio=threads",
		"ide2": "none,media=cdrom", "sata0": "local-lvm:vm-100-sata0,cache=unsafe,serial=abc",
		"net0": "e1000=BC:24:11:00:00:01,bridge=vmbr0,link_down=1", "net8": "virtio=BC:24:11:00:00:02,bridge=vmbr0,mtu=9000",
	}, Volumes: map[string]guest.Volume{"efidisk0": lv("efidisk0"), "virtio0": lv("virtio0"), "sata0": lv("sata0"),
		"virtio7": {ID: "x", Path: "/var/lib/vz/images/101/vm-101-disk-1.qcow2", Format: "qcow2"}}},
		Host{KVM: true, Firmware: "/usr/share/OVMF"}},
	"scsi-kinds": {guest.Spec{VMID: 102, Config: map[string]string{
		"kvm": "0", "cpu": "host", "vga": "serial0", "serial0": "socket", "ostype": "win10", "reboot": "0", "acpi": "0", "freeze": "1",
		"scsi0": "a:vm-100-disk-0", "scsi8": "a:vm-100-disk-1", "boot": "dc", "scsi1": "none,media=cdrom",
		"smbios1": "base64=1,manufacturer=QSwgQg==",
	}, Volumes: map[string]guest.Volume{"scsi0": lv("scsi0"), "scsi8": lv("scsi8")}}, Host{KVM: true}},
}

func TestPlans(t *testing.T) {
	for name, c := range plans {
		p, err := Make(c.spec, c.host)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var b strings.Builder
		for i := 0; i < len(p.Args); i++ {
			b.WriteString(p.Args[i])
			if strings.HasPrefix(p.Args[i], "-") && i+1 < len(p.Args) && !strings.HasPrefix(p.Args[i+1], "-") {
				i++
				b.WriteString(" " + p.Args[i])
			}
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "\nlimits %+v\nvnc %v, frozen %v, links %v, down %v\n", p.Limits, p.VNC, p.Frozen, p.Links, p.LinkDown)
		for i, f := range p.files {
			fmt.Fprintf(&b, "fd %d: %+v\n", firstFD+i, f)
		}
		file := filepath.Join("testdata", name+".txt")
		if *update {
			if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil || string(want) != b.String() {
			t.Errorf("%s: %v; got\n%s", name, err, b.String())
		}
	}
}

func TestRefusals(t *testing.T) {
	for text, conf := range map[string]map[string]string{
		"was not activated":   {"scsi0": "a:vm-100-disk-0"},
		"VLANs":               {"net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0,tag=5"},
		"no MAC":              {"net0": "virtio,bridge=vmbr0"},
		"no bridge":           {"net0": "virtio=BC:24:11:00:00:01"},
		"host's own CD drive": {"ide2": "cdrom,media=cdrom"},
		"is raw":              {"virtio0": "a:b,format=qcow2"},
		"cannot be a CD":      {"virtio1": "none,media=cdrom"},
		"aio=native":          {"virtio0": "a:b,aio=native,cache=writeback"},
		"serial port":         {"serial0": "/dev/ttyS0"},
		"up to scsi13":        {"scsi14": "none,media=cdrom"},
		"DNS name":            {"name": "x,-y"},
		"UEFI variables":      {"bios": "ovmf", "efidisk0": "a:b"},
		"not defined":         {"nonsense": "1"},
	} {
		vols := map[string]guest.Volume{"virtio0": lv("virtio0"), "efidisk0": {Path: "/x", Format: "qcow2"}}
		if _, err := Make(guest.Spec{VMID: 100, Config: conf, Volumes: vols}, Host{}); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v: error %v, want one with %q", conf, err, text)
		}
	}
}

func TestCPU(t *testing.T) {
	for _, c := range []struct{ option, accel, want string }{
		{"", "kvm", "qemu64," + flagsV2 + ",+aes,+kvm_pv_eoi,+kvm_pv_unhalt"},
		{"", "tcg", "max"}, {"host", "tcg", "max"}, {"host", "kvm", "host,+kvm_pv_eoi,+kvm_pv_unhalt"},
		{"Skylake-Server,flags=+pcid;-aes,hidden=1", "kvm", "Skylake-Server,kvm=off,+pcid,-aes"},
	} {
		if got, err := cpuModel(c.option, c.accel); err != nil || got != c.want {
			t.Errorf("%q on %s: %q %v", c.option, c.accel, got, err)
		}
	}
}

func TestQcow2(t *testing.T) {
	for _, c := range []struct {
		h    qcow2Header
		want string
	}{
		{qcow2Header{Magic: qcow2Magic, Version: 3}, ""},
		{qcow2Header{Magic: qcow2Magic, Version: 2}, ""},
		{qcow2Header{Magic: 1, Version: 3}, "is not"},
		{qcow2Header{Magic: qcow2Magic, Version: 4}, "version"},
		{qcow2Header{Magic: qcow2Magic, Version: 3, BackingOffset: 512}, "backing"},
		{qcow2Header{Magic: qcow2Magic, Version: 3, Incompatible: 4}, "another file"},
		{qcow2Header{Magic: qcow2Magic, Version: 3, CryptMethod: 2}, "encrypted"},
	} {
		var b bytes.Buffer
		binary.Write(&b, binary.BigEndian, c.h)
		err := checkQcow2(bytes.NewReader(b.Bytes()))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v", c.h, err)
		}
	}
	if err := checkQcow2(strings.NewReader("QFI")); err == nil {
		t.Error("a short header passed")
	}
}
