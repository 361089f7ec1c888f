package dashboard

import (
	"context"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"joist/api/node"
)

var update = flag.Bool("update", false, "write golden files")

func states() map[string]State {
	good := State{
		Version: "0.1.0", Node: node.Config{Name: "pve1", Domain: "example.org"},
		Net:    node.NetStatus{Bridge: "vmbr0", Link: "enp1s0", Up: true, Method: "dhcp", Addresses: []string{"192.0.2.10/24", "2001:db8::10/64"}},
		API:    node.APIStatus{Port: 8006, Fingerprint: strings.TrimSuffix(strings.Repeat("AB:CD:", 16), ":")},
		Booted: "2026-01-02 03:04", CPUs: 4, Load: 0.31, MemUsed: 700 << 20, MemTotal: 16 << 30,
		Services: []node.Service{{Name: "udevd", State: "running"}, {Name: "network", State: "running"}, {Name: "joistd", State: "running"},
			{Name: "chrony", State: "running"}, {Name: "lxcfs", State: "running"}, {Name: "dashboard-tty1", State: "running"}},
	}
	bad := good
	bad.Net = node.NetStatus{Bridge: "vmbr0", Link: "enp1s0", Method: "dhcp", Error: "no answer from a DHCP server after 60 s"}
	bad.API = node.APIStatus{}
	bad.Disks = "the mirror lacks 1 of 2 disks; data is on the others only"
	bad.First = node.FirstBoot{Begun: 1, Steps: []node.FirstBootStep{{Name: "identity", State: "done"}, {Name: "network", State: "waiting", Detail: "for an address"}, {Name: "erase secrets", State: "waiting"}}}
	bad.Alerts = []node.Alert{{Code: "data-degraded", Text: "said above already"}, {Code: "boot-copy-missing", Text: "disk sdb does not start this node: boot partition: this is no FAT volume"}}
	bad.Crashes = "the kernel crashed 2026-01-02 03:04 (Panic) and 12 more: joist node crashes"
	bad.Services = []node.Service{{Name: "udevd", State: "running"}, {Name: "joistd", State: "backoff", Restarts: 7, Error: "exit status 1"},
		{Name: "chrony", State: "running", Restarts: 2, Error: "killed by SIGSEGV \x1b[2J"}}
	bad.Phases = []node.Phase{{Name: "start udevd", State: node.PhaseDone}, {Name: "activate thin pool", State: node.PhaseFailed, Error: "lvm: no such volume"}}
	return map[string]State{"good": good, "bad": bad, "early": {Version: "0.1.0", InitErr: "PID 1 does not answer"}}
}

func TestGolden(t *testing.T) {
	for name, s := range states() {
		for _, size := range []struct {
			suffix     string
			cols, rows int
		}{{"", 80, 24}, {"-narrow", 40, 12}} {
			got := Render(s, size.cols, size.rows)
			file := filepath.Join("testdata", name+size.suffix+".golden")
			if *update {
				os.MkdirAll("testdata", 0o755)
				os.WriteFile(file, []byte(got), 0o644)
			}
			want, _ := os.ReadFile(file)
			if got != string(want) {
				t.Errorf("%s differs (run with -update and look):\n%s", file, got)
			}
			lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
			if len(lines) >= size.rows {
				t.Errorf("%s: %d lines", file, len(lines))
			}
			for _, l := range lines {
				if len(l) >= size.cols || strings.ContainsAny(l, "\x1b\r\t") {
					t.Errorf("%s: line %q", file, l)
				}
			}
		}
	}
}

func TestSerialSaysOnlyNews(t *testing.T) {
	var b strings.Builder
	sc := screen{w: &b, text: true}
	s := states()["good"]
	for i := range 5 {
		s.Load, s.MemUsed = float64(i), int64(i)<<28
		sc.show(s, 80, 24)
	}
	if n := strings.Count(b.String(), "Joist 0.1.0"); n != 1 {
		t.Errorf("drawn %d times", n)
	}
	s.Services[0].State = "backoff"
	sc.show(s, 80, 24)
	if n := strings.Count(b.String(), "Joist 0.1.0"); n != 2 || strings.Contains(b.String(), "\x1b") {
		t.Errorf("drawn %d times", n)
	}
}

// What is wrong with a node's disks is read from what the kernel shows.
func TestGatherDisks(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(node.ConfigFile, `{"storage": {"pool_guid": "77", "pool_name": "rpool"}}`)
	for state, want := range map[string]string{"ONLINE": "", "DEGRADED": `pool "rpool" lacks a disk`} {
		write("proc/spl/kstat/zfs/rpool/state", state+"\n")
		if got := Gather(root).Disks; (got == "") != (want == "") || !strings.HasPrefix(got, want) || len(got) > Cols-4 {
			t.Errorf("%s: %q", state, got)
		}
	}
	write(node.ConfigFile, `{"storage": {"array_uuid": "u"}}`)
	if got := Gather(root).Disks; got != "the mirror does not run" {
		t.Errorf("%q", got)
	}
}

func TestSerial(t *testing.T) {
	for path, want := range map[string]bool{"/dev/tty1": false, "/dev/ttyS0": true, "/dev/hvc0": true, "/dev/ttyAMA0": true} {
		if serial(path) != want {
			t.Errorf("%s", path)
		}
	}
}

func TestEnterLeavesTheRestToTheLogIn(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w.WriteString("abc\rroot\n")
	w.Close()
	var b strings.Builder
	calls := 0
	enter, err := show(t.Context(), &screen{w: &b}, pressed(r), func() (int, int) { return 80, 24 },
		func() State { calls++; return states()["good"] })
	rest, _ := io.ReadAll(r)
	if !enter || err != nil || calls == 0 || string(rest) != "root\n" || !strings.Contains(b.String(), "Press Enter to log in.") {
		t.Errorf("got %v, %v, %d pictures, rest %q", enter, err, calls, rest)
	}
}

func TestWithoutAnybodyItEndsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var b strings.Builder
	enter, err := show(ctx, &screen{w: &b}, pressed(strings.NewReader("no end of line")), func() (int, int) { cancel(); return 80, 24 },
		func() State { return State{} })
	if enter || err != nil || b.Len() == 0 {
		t.Errorf("got %v, %v", enter, err)
	}
}
