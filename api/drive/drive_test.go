package drive

import (
	"reflect"
	"slices"
	"testing"
)

func TestDrives(t *testing.T) {
	for _, c := range []struct{ in, out string }{
		{"local-lvm:vm-100-disk-0,size=32G,iothread=1,discard=on,ssd=1", "local-lvm:vm-100-disk-0,discard=on,iothread=1,size=32G,ssd=1"},
		{"file=local:iso/x.iso,media=cdrom", "local:iso/x.iso,media=cdrom"},
		{"none,media=cdrom", "none,media=cdrom"},
		{"none", "none,media=cdrom"},
		{"local-lvm:8,iothread=false,backup=0", "local-lvm:8,backup=0,iothread=0"},
		{"local:100/vm-100-disk-0.qcow2,cache=writeback,format=qcow2,size=2252M", "local:100/vm-100-disk-0.qcow2,cache=writeback,format=qcow2,size=2252M"},
		{"local-lvm:0,import-from=local:import/a.qcow2", "local-lvm:0,import-from=local:import/a.qcow2"},
	} {
		d, err := Parse(c.in)
		if err != nil {
			t.Fatalf("%q: %v", c.in, err)
		}
		if d.String() != c.out {
			t.Errorf("%q: got %q, want %q", c.in, d, c.out)
		}
	}
	for _, bad := range []string{"", "size=1G", "a:b,size=x", "a:b,foo=1", "a:b,cache=fast", "a b:c", "-x:y", "none,media=disk", "a:b,serial=a b", "a:b,iothread=2"} {
		if d, err := Parse(bad); err == nil {
			t.Errorf("%q was accepted: %+v", bad, d)
		}
	}
}

func TestKeys(t *testing.T) {
	for key, want := range map[string]bool{"scsi0": true, "scsi30": true, "scsi31": false, "virtio15": true, "virtio16": false,
		"ide2": true, "ide4": false, "sata5": true, "sata6": false, "efidisk0": true, "scsi01": false, "net0": false, "scsi": false} {
		if _, _, ok := ParseKey(key); ok != want {
			t.Errorf("%s: %v", key, ok)
		}
	}
	for key, want := range map[string]bool{"rootfs": true, "mp0": true, "mp255": true, "mp256": false, "mp01": false, "mpx": false} {
		if IsMount(key) != want {
			t.Errorf("%s", key)
		}
	}
}

func TestRequests(t *testing.T) {
	for in, want := range map[string]Request{
		"local-lvm:8": {Storage: "local-lvm", Size: 8 << 30}, "local-lvm:0.5": {Storage: "local-lvm", Size: 1 << 29},
		"local-lvm:0": {Storage: "local-lvm"}, "local:cloudinit": {Storage: "local", CloudInit: true},
	} {
		if r, ok := ParseRequest(in); !ok || r != want {
			t.Errorf("%s: %+v %v", in, r, ok)
		}
	}
	for _, no := range []string{"local-lvm:vm-100-disk-0", "none", "local:iso/x.iso", ":8"} {
		if _, ok := ParseRequest(no); ok {
			t.Errorf("%s is no request", no)
		}
	}
}

func TestMounts(t *testing.T) {
	for _, c := range []struct{ key, in, out string }{
		{"rootfs", "local-lvm:vm-101-disk-0,size=8G", "local-lvm:vm-101-disk-0,size=8G"},
		{"mp0", "local-lvm:4,mp=/data,ro=yes,backup=1", "local-lvm:4,backup=1,mp=/data,ro=1"},
	} {
		m, err := ParseMount(c.key, c.in)
		if err != nil || m.String() != c.out {
			t.Errorf("%q: %q %v", c.in, m, err)
		}
	}
	for _, bad := range []string{"a:b", "a:b,mp=data", "a:b,mp=/x/../y", "a:b,mp=/x,foo=1"} {
		if _, err := ParseMount("mp0", bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	m, _ := ParseMount("rootfs", "a:b,quota=1,acl=0,backup=1")
	if got := m.Unsupported(); !slices.Equal(got, []string{"quota"}) {
		t.Error(got)
	}
}

func FuzzDrive(f *testing.F) {
	f.Add("local-lvm:vm-100-disk-0,size=32G,iothread=1")
	f.Add("none,media=cdrom")
	f.Fuzz(func(t *testing.T, in string) {
		d, err := Parse(in)
		if err != nil {
			return
		}
		again, err := Parse(d.String())
		if err != nil || !reflect.DeepEqual(d, again) {
			t.Fatalf("%q → %+v → %q → %+v (%v)", in, d, d, again, err)
		}
	})
}
