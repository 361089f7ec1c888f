package lxc

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"joist/hypervisor/guest"
)

var update = flag.Bool("update", false, "write golden files anew")

// golden compares text with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs:\n%s", name, got)
	}
}

func volumes(keys ...string) map[string]guest.Volume {
	out := map[string]guest.Volume{}
	for _, k := range keys {
		out[k] = guest.Volume{ID: "local-lvm:vm-100-" + k, Path: "/dev/joist/vm-100-" + k, Format: "raw"}
	}
	return out
}

var fullHost = Host{AppArmor: true, Parser: true, Seccomp: seccompFile, LXCFS: lxcfsHook, Controllers: []string{"cpu", "memory", "pids"}}

var confs = []struct {
	name string
	spec guest.Spec
	host Host
}{
	{"plain", guest.Spec{VMID: 100, Config: map[string]string{
		"hostname": "web", "net0": "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,ip=dhcp,type=veth", "rootfs": "local-lvm:vm-100-disk-0,size=8G",
	}, Volumes: volumes("rootfs")}, fullHost},
	{"full", guest.Spec{VMID: 123456, Config: map[string]string{
		"hostname": "db.example.org", "memory": "2048", "swap": "0", "cores": "4", "cpulimit": "1.5", "cpuunits": "200", "tty": "3",
		"features": "nesting=0,fuse=1", "rootfs": "a:b,ro=1",
		"mp0": "local-lvm:x,mp=/srv/my data", "mp1": "local-lvm:y,mp=/srv,ro=1",
		"net0": "name=eth0,bridge=vmbr0,ip=192.0.2.5/24,gw=192.0.2.1,tag=7,mtu=1400", "net1": "name=lan,bridge=vmbr1,link_down=1",
	}, Volumes: volumes("rootfs", "mp0", "mp1")}, fullHost},
	{"privileged", guest.Spec{VMID: 101, Config: map[string]string{"unprivileged": "0", "tty": "0"}, Volumes: volumes("rootfs")},
		Host{AppArmor: true}},
}

func TestConf(t *testing.T) {
	for _, tc := range confs {
		t.Run(tc.name, func(t *testing.T) {
			p, err := Make(tc.spec)
			if err != nil {
				t.Fatal(err)
			}
			base := 0
			if p.Unprivileged {
				base = BaseID(tc.spec.VMID)
			}
			golden(t, tc.name+".conf", p.Conf("/run/joist/guests/x", base, tc.host))
		})
	}
}

func TestMakeRefuses(t *testing.T) {
	for _, tc := range []struct {
		key, value, want string
	}{
		{"hostname", "a\nlxc.init.cmd=x", "no host name"},
		{"memory", "1G", "no number"},
		{"memory", "1", "no number"},
		{"cpulimit", "-1", "no number of CPUs"},
		{"features", "nesting=maybe", "features"},
		{"net0", "name=eth0,bridge=a b", "net0"},
		{"net12", "name=eth0,bridge=vmbr0", "too long"},
		{"mp0", "a:b,mp=/x/../y", "mp0"},
		{"mp0", "a:b,mp=/x\x01y", "mp0"},
		{"mp0", "a:b,mp=/", "mp0"},
		{"nameserver", "1.2.3.4,evil\n", "no address"},
		{"searchdomain", "a\nb", "no domain"},
		{"timezone", "../../etc/shadow", "no time zone"},
	} {
		s := guest.Spec{VMID: 123456789, Config: map[string]string{tc.key: tc.value}, Volumes: volumes("rootfs")}
		if tc.key == "mp0" {
			s.Volumes = volumes("rootfs", "mp0")
		}
		if _, err := Make(s); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s=%q: %v", tc.key, tc.value, err)
		}
	}
	for want, v := range map[string]map[string]guest.Volume{
		"no rootfs": {}, "need raw": {"rootfs": {Format: "qcow2"}}, "containers have": {"rootfs": {Format: "raw"}, "scsi0": {Format: "raw"}},
		"no such key": {"rootfs": {Format: "raw"}, "mp1": {Format: "raw"}},
	} {
		if _, err := Make(guest.Spec{VMID: 100, Volumes: v}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestIDs(t *testing.T) {
	for _, vmid := range []int{100, 29999, 30000, 999999999} {
		base := BaseID(vmid)
		if base < 1000000 || base+IDs > 1<<31 {
			t.Errorf("%d: %d", vmid, base)
		}
		for _, owner := range []int{base, base + 33, base + IDs - 1} { // root inside may give / away
			if got, err := baseOf(owner, true); err != nil || got != base {
				t.Errorf("%d: %d %v", owner, got, err)
			}
		}
		if _, err := baseOf(base, false); err == nil {
			t.Error("a privileged container got a shifted volume")
		}
	}
	for _, owner := range []int{0, 200000, FirstID + slots*IDs} {
		if _, err := baseOf(owner, true); err == nil {
			t.Errorf("%d is no container's", owner)
		}
	}
}

func TestInside(t *testing.T) {
	spec := guest.Spec{VMID: 100, Volumes: volumes("rootfs"), Config: map[string]string{
		"hostname": "db.example.org", "nameserver": "192.0.2.53 2001:db8::53", "searchdomain": "example.org example.net",
		"net0": "name=eth0,bridge=vmbr0,ip=192.0.2.5/24,gw=192.0.2.1,ip6=auto", "net1": "name=eth1,bridge=vmbr0,ip=dhcp,ip6=2001:db8::5/64,gw6=2001:db8::1",
		"net2": "name=eth2,bridge=vmbr0",
	}}
	p, err := Make(spec)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "interfaces", interfaces(p.Inside))
	for _, n := range p.Nets {
		golden(t, n.Name+".network", networkd(n, p.Inside))
	}
	once := hosts("127.0.0.1\tlocalhost\n10.0.0.1\tmine\n", p.Inside)
	golden(t, "hosts", once)
	if twice := hosts(once, p.Inside); twice != once {
		t.Errorf("not the same the second time:\n%s", twice)
	}
	golden(t, "resolv.conf", resolv("nameserver 10.0.0.1\nsearch lan\n", p.Inside))
	if got := resolv("search lan\nnameserver 127.0.0.53\nnameserver 10.0.0.1\n", Inside{}); got != "search lan\nnameserver 10.0.0.1\n" {
		t.Errorf("%q", got)
	}
	text, err := sources("http://mirror.example/debian", "trixie", "/usr/share/keyrings/debian-archive-keyring.pgp")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "debian.sources", text)
	for _, bad := range []string{"", "ftp://x/debian", "http://x/debian\nTrusted: yes", "file:///x"} {
		if _, err := sources(bad, "trixie", ""); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestParsers(t *testing.T) {
	log := "lxc 100 20261121203000.123 WARN     conf - ../src/lxc/conf.c:a:1 - not this\n" +
		"lxc 100 20261121203000.124 ERROR    network - ../src/lxc/network.c:b:2 - the cause\n" +
		"lxc 100 20261121203000.125 ERROR    start - ../src/lxc/start.c:c:3 - its consequence\n"
	if got := firstError(log); got != "the cause" {
		t.Errorf("%q", got)
	}
	info := "1 2 0:1 / / rw - ext4 a b\n3 2 0:1 / /run/g/100/rootfs rw - ext4 a b\n4 2 0:1 / /run/g/100/mp\\0400 rw - ext4 a b\n5 2 0:1 / /run/g/1000/x rw - e a b\n"
	if got := mountsBelow(info, "/run/g/100"); len(got) != 2 || got[1] != "/run/g/100/mp 0" {
		t.Errorf("%q", got)
	}
	if got := haltSignal(os.Getpid()); got == 0 {
		t.Error("no signal")
	}
}
