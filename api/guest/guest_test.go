package guest

import (
	"slices"
	"strings"
	"testing"

	"joist/api/schema"
)

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		kind          Kind
		key, in, want string
		refused       string
	}{
		{QEMU, "onboot", "yes", "1", ""},
		{QEMU, "memory", "2048", "2048", ""},
		{QEMU, "memory", "x", "", "integer"},
		{QEMU, "cores", "4", "4", ""},
		{QEMU, "cores", "0", "", "minimum value of 1"},
		{QEMU, "cores", "four", "", "type check ('integer') failed - got 'four'"},
		{QEMU, "cpulimit", "0.5", "0.5", ""},
		{QEMU, "cpulimit", "1e3", "", "number"},
		{QEMU, "boot", "order=scsi0;ide2;net0", "order=scsi0;ide2;net0", ""},
		{QEMU, "boot", "cdn", "cdn", ""},
		{QEMU, "boot", "order=foo", "", "foo"},
		{QEMU, "scsi0", "size=8G,file=local-lvm:vm-100-disk-0", "local-lvm:vm-100-disk-0,size=8G", ""},
		{QEMU, "scsi31", "a:b", "", "not defined in schema"},
		{QEMU, "net0", "virtio,bridge=vmbr0,firewall=false", "virtio,bridge=vmbr0,firewall=0", ""},
		{QEMU, "tags", "B a;b", "a;b", ""},
		{QEMU, "tags", "go-proxmox+cloud-init", "go-proxmox+cloud-init", ""},
		{QEMU, "name", "web-1.example.org", "web-1.example.org", ""},
		{QEMU, "name", "a,b", "", "DNS"},
		{QEMU, "scsihw", "fast", "", "enumeration"},
		{QEMU, "startup", "1,up=5", "order=1,up=5", ""},
		{QEMU, "vga", "memory=32,type=std", "std,memory=32", ""},
		{QEMU, "cpu", "cputype=host,flags=+aes", "host,flags=+aes", ""},
		{QEMU, "cpu", "host,flags=aes", "", "flag"},
		{QEMU, "machine", "pc-q35-9.2+pve1", "pc-q35-9.2+pve1", ""},
		{QEMU, "machine", "q35,accel=x", "", "accel"},
		{QEMU, "smbios1", "uuid=1", "", "uuid"},
		{QEMU, "serial0", "socket", "socket", ""},
		{QEMU, "numa", "0", "0", ""},
		{QEMU, "numa0", "cpus=0", "cpus=0", ""},
		{QEMU, "nonsense", "1", "", "not defined in schema"},
		{QEMU, "ostype", "l26\nargs: -x", "", "line"},
		{LXC, "memory", "512", "512", ""},
		{LXC, "features", "nesting=1", "nesting=1", ""},
		{LXC, "net0", "name=eth0,bridge=vmbr0,ip=dhcp", "name=eth0,bridge=vmbr0,ip=dhcp,type=veth", ""},
		{LXC, "rootfs", "local-lvm:8", "local-lvm:8", ""},
		{LXC, "mp0", "local-lvm:8,mp=/a", "local-lvm:8,mp=/a", ""},
		{LXC, "scsi0", "a:b", "", "not defined in schema"},
	} {
		got, err := Check(c.kind, c.key, c.in)
		switch {
		case c.refused == "" && (err != nil || got != c.want):
			t.Errorf("%s %s=%q: got %q, %v", c.kind, c.key, c.in, got, err)
		case c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)):
			t.Errorf("%s %s=%q: got %q, error %v, want one with %q", c.kind, c.key, c.in, got, err, c.refused)
		}
	}
}

func TestWire(t *testing.T) {
	for _, c := range []struct {
		kind       Kind
		key, value string
		want       any
	}{
		{QEMU, "memory", "2048", "2048"}, {QEMU, "cores", "2", int64(2)}, {QEMU, "cpulimit", "0.5", "0.5"}, {QEMU, "onboot", "1", int64(1)},
		{LXC, "memory", "512", int64(512)}, {LXC, "cpulimit", "2", "2"}, {LXC, "unprivileged", "1", int64(1)}, {QEMU, "name", "1", "1"},
	} {
		if got := Wire(c.kind, c.key, c.value); got != c.want {
			t.Errorf("%s: %T %v, want %T %v", c.key, got, got, c.want, c.want)
		}
	}
}

func TestUnsupported(t *testing.T) {
	got := Unsupported(QEMU, map[string]string{
		"scsi0": "a:b,mbps=5,backup=0", "net0": "virtio,bridge=vmbr0,firewall=1,queues=2", "hostpci0": "00:02.0", "balloon": "0",
		"numa": "0", "hotplug": "disk,network", "cores": "2", "vga": "qxl", "cpu": "host,hidden=1,phys-bits=host",
	})
	want := []string{
		"option 'cpu': no effect on this node: phys-bits",
		"option 'hostpci0' is kept, but has no effect on this node",
		"option 'net0': no effect on this node: firewall, queues",
		"option 'scsi0': no effect on this node: mbps",
		"option 'vga': no effect on this node: qxl (std is used)",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Every key of the published schema is known; the lists were taken from its
// parameter lists of POST /nodes/{node}/qemu and /nodes/{node}/lxc.
func TestComplete(t *testing.T) {
	for kind, list := range map[Kind]string{
		QEMU: `acpi:b,affinity:s,agent:s,allow-ksm:b,amd-sev:s,arch:s,args:s,audio0:s,autostart:b,balloon:i,bios:s,boot:s,bootdisk:s,cdrom:s,cicustom:s,cipassword:s,citype:s,ciupgrade:b,ciuser:s,cores:i,cpu:s,cpulimit:f,cpuunits:i,description:s,efidisk0:s,freeze:b,hookscript:s,hostpci15:s,hotplug:s,hugepages:s,ide3:s,intel-tdx:s,ipconfig31:s,ivshmem:s,keephugepages:b,keyboard:s,kvm:b,localtime:b,lock:s,machine:s,memory:s,migrate_downtime:f,migrate_speed:i,name:s,nameserver:s,net31:s,numa:b,numa7:s,onboot:b,ostype:s,parallel2:s,protection:b,reboot:b,rng0:s,sata5:s,scsi30:s,scsihw:s,searchdomain:s,serial3:s,shares:i,smbios1:s,smp:i,sockets:i,spice_enhancements:s,sshkeys:s,startdate:s,startup:s,tablet:b,tags:s,tdf:b,template:b,tpmstate0:s,unused255:s,usb13:s,vcpus:i,vga:s,virtio15:s,virtiofs9:s,vmgenid:s,vmstatestorage:s,watchdog:s`,
		LXC:  `arch:s,cmode:s,console:b,cores:i,cpulimit:f,cpuunits:i,debug:b,description:s,dev255:s,entrypoint:s,env:s,features:s,hookscript:s,hostname:s,lock:s,memory:i,mp255:s,nameserver:s,net31:s,onboot:b,ostype:s,protection:b,rootfs:s,searchdomain:s,startup:s,swap:i,tags:s,template:b,timezone:s,tty:i,unprivileged:b,unused255:s`,
	} {
		types := map[string]schema.Type{"s": schema.String, "b": schema.Boolean, "i": schema.Integer, "f": schema.Number}
		for part := range strings.SplitSeq(list, ",") {
			key, letter, _ := strings.Cut(part, ":")
			if o, ok := Lookup(kind, key); !ok || o.Type != types[letter] {
				t.Errorf("%s %s: known %v, type %v", kind, key, ok, o.Type)
			}
		}
	}
}

func TestParams(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range Params(QEMU) {
		if seen[p.Name] {
			t.Errorf("%s twice", p.Name)
		}
		seen[p.Name] = true
	}
	if !seen["net[n]"] || !seen["numa[n]"] || !seen["numa"] || seen["digest"] || seen["meta"] {
		t.Error(seen)
	}
}

func FuzzCheck(f *testing.F) {
	f.Add("scsi0", "local-lvm:vm-100-disk-0,size=32G")
	f.Add("cpu", "host,flags=+aes;-pcid")
	f.Add("smbios1", "uuid=00000000-0000-0000-0000-000000000000,serial=x")
	f.Add("startup", "1,up=3")
	f.Fuzz(func(t *testing.T, key, value string) {
		for _, kind := range []Kind{QEMU, LXC} {
			got, err := Check(kind, key, value)
			if err != nil {
				continue
			}
			again, err := Check(kind, key, got)
			if err != nil || again != got {
				t.Fatalf("%s %s: %q → %q → %q (%v)", kind, key, value, got, again, err)
			}
			Unsupported(kind, map[string]string{key: got})
		}
	})
}
