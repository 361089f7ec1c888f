package vm

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestArgs(t *testing.T) {
	cases := map[string]Config{
		"default": {},
		"everything": {
			Name: "node1", Firmware: OVMFSecureBoot, Vars: "/d/vars.fd", Memory: 4096, CPUs: 4, CPUFlags: []string{"-svm"},
			Media: []Medium{{Path: "/i.iso"}, {Path: "/stick.img", Kind: USBStick}, {}},
			Disks: []Disk{
				{Path: "/a.qcow2"}, {Path: "/b.raw", Format: "raw", Bus: VirtioSCSI, Serial: "S1"},
				{Path: "/c.qcow2", Bus: SATA}, {Path: "/d.qcow2", Bus: NVMe, SectorSize: 4096},
				{NBD: "/s/nbd"}, {Path: "/f.qcow2", Paths: 2, Sparse: true}},
			NICs:    []NIC{{PXE: true}, {User: "hostfwd=tcp:127.0.0.1:8006-:8006", Model: "e1000"}},
			Serials: 2, Clock: time.Date(2020, 2, 29, 1, 2, 3, 0, time.UTC), NoReboot: true, DisksFirst: true, HotPlug: true,
			Extra: []string{"-S"}, Accel: KVM,
		},
		"kernel": {Kernel: "/vmlinuz", Initrd: "/initrd", Append: "console=ttyS0 quiet"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			c.Dir = "/d"
			if c.Accel == Auto {
				c.Accel = TCG
			}
			c, err := c.withDefaults()
			if err != nil {
				t.Fatal(err)
			}
			c.CPUs = cpus(c.CPUs, c.Accel)
			got := strings.ReplaceAll(strings.Join(c.args(), "\n"), "\n-", "\n\n-") + "\n"
			file := filepath.Join("testdata", name+".args")
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
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func TestConfigRefuses(t *testing.T) {
	for name, c := range map[string]Config{
		"comma in a path": {Disks: []Disk{{Path: "/a,b"}}},
		"comma in serial": {Disks: []Disk{{Path: "/a", Serial: "x,readonly=on"}}},
		"two places":      {Disks: []Disk{{Path: "/a", NBD: "/b"}}},
		"paths":           {Disks: []Disk{{Path: "/a", Paths: 2, SectorSize: 4096}}},
		"socket":          {Disks: []Disk{{NBD: "/a?export=b"}}},
		"bad address":     {NICs: []NIC{{MAC: "52:54"}}},
	} {
		if _, err := c.withDefaults(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
