package node

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"joist/api/node"
)

func TestUsage(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("proc/meminfo", "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 400 kB\n")
	write("proc/uptime", "4242.17 1.00\n")
	now := time.Unix(1000, 0)
	m := &Machine{Root: root, Disk: root, Now: func() time.Time { return now }}
	for _, s := range []struct {
		stat      string
		after     time.Duration
		cpu, wait float64
	}{
		{"cpu  50 0 0 50 0 0 0 0 9 9\ncpu0 1\ncpu1 1\n", 0, 0.5, 0},
		{"cpu  90 0 0 50 10 0 0 0 9 9\ncpu0 1\ncpu1 1\n", 500 * time.Millisecond, 0.5, 0}, // too soon
		{"cpu  70 0 0 110 20 0 0 0 9 9\ncpu0 1\ncpu1 1\n", time.Second, 0.2, 0.2},
		{"cpu  170 0 0 100 20 0 0 0 9 9\ncpu0 1\ncpu1 1\n", time.Second, 1, 0}, // idle ran backwards
	} {
		write("proc/stat", s.stat)
		now = now.Add(s.after)
		u, err := m.Usage()
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]float64{s.cpu, s.wait}, []float64{u.CPU, u.Wait}); d != "" {
			t.Errorf("%q: %s", s.stat, d)
		}
		if u.MaxCPU != 2 || u.MaxMem != 1000<<10 || u.Mem != 600<<10 || u.Uptime != 4242 || u.MaxDisk == 0 {
			t.Errorf("%+v", u)
		}
	}
	write("proc/stat", "nonsense\n")
	if _, err := m.Usage(); err == nil {
		t.Error("accepted a bad /proc/stat")
	}
}

func TestCPUInfo(t *testing.T) {
	const two = "processor\t: 0\nmodel name\t: X\ncpu MHz\t\t: 2000.000\nphysical id\t: 0\ncore id\t\t: 0\nflags\t\t: fpu svm\n\n" +
		"processor\t: 1\nmodel name\t: X\ncpu MHz\t\t: 2100.000\nphysical id\t: 0\ncore id\t\t: 0\nflags\t\t: fpu svm\n"
	want := cpuInfo{Model: "X", MHz: "2000.000", Flags: "fpu svm", HVM: "1", CPUs: 2, Cores: 1, Sockets: 1, UserHZ: 100}
	if d := cmp.Diff(want, parseCPUInfo([]byte(two))); d != "" {
		t.Error(d)
	}
}

func TestInterfaces(t *testing.T) {
	tests := []struct {
		name, want string
		s          node.NetStatus
	}{
		{"none", `null`, node.NetStatus{}},
		{"no address yet", `[{"active":0,"autostart":1,"bridge_fd":"0","bridge_ports":"","bridge_stp":"off","families":["inet"],"iface":"vmbr0","method":"manual","method6":"manual","priority":4,"type":"bridge"}]`,
			node.NetStatus{Bridge: "vmbr0", Method: "dhcp"}},
		{"both families", `[{"active":1,"address":"192.0.2.1","address6":"2001:db8::1","autostart":1,"bridge_fd":"0","bridge_ports":"eth0","bridge_stp":"off","cidr":"192.0.2.1/24","cidr6":"2001:db8::1/64","families":["inet","inet6"],"gateway":"192.0.2.254","iface":"vmbr0","method":"dhcp","method6":"auto","netmask":"24","netmask6":64,"priority":4,"type":"bridge"},{"active":1,"exists":1,"families":["inet"],"iface":"eth0","method":"manual","method6":"manual","priority":3,"type":"eth"}]`,
			node.NetStatus{Bridge: "vmbr0", Link: "eth0", Up: true, Method: "dhcp", Gateway: "192.0.2.254", Addresses: []string{"fe80::1/64", "192.0.2.1/24", "2001:db8::1/64"}}},
		{"IPv6 alone, over a bond", `[{"active":1,"address6":"2001:db8::1","autostart":1,"bridge_fd":"0","bridge_ports":"bond0","bridge_stp":"off","cidr6":"2001:db8::1/64","families":["inet6"],"gateway6":"2001:db8::ff","iface":"vmbr0","method":"manual","method6":"auto","netmask6":64,"priority":4,"type":"bridge"},{"active":1,"exists":1,"families":["inet"],"iface":"bond0","method":"manual","method6":"manual","priority":3,"type":"bond"}]`,
			node.NetStatus{Bridge: "vmbr0", Link: "bond0", Bond: true, Up: true, Method: "static", Gateway: "2001:db8::ff", Addresses: []string{"2001:db8::1/64"}}},
	}
	for _, tt := range tests {
		b, err := json.Marshal(interfaces(tt.s))
		if d := cmp.Diff(tt.want, string(b)); d != "" || err != nil {
			t.Error(tt.name, d, err)
		}
	}
}
