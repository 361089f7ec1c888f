package node

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Usage is a node's load as lists show it. Sizes are bytes.
type Usage struct {
	CPU           float64 // 0 … 1 of all CPUs
	Wait          float64 // waiting for disks
	MaxCPU        int
	Mem, MaxMem   uint64
	Disk, MaxDisk uint64 // the state volume: / is an image and always full
	Uptime        int64  // seconds
}

// Into adds the numbers to a row.
func (u Usage) Into(row map[string]any) {
	row["cpu"], row["maxcpu"] = u.CPU, u.MaxCPU
	row["mem"], row["maxmem"] = u.Mem, u.MaxMem
	row["disk"], row["maxdisk"] = u.Disk, u.MaxDisk
	row["uptime"] = u.Uptime
}

// Machine reads /proc and the like below Root; "/" on a node.
type Machine struct {
	Root string
	Disk string // a path on the volume whose space is shown
	Now  func() time.Time

	mu       sync.Mutex
	last     cpuTimes
	lastAt   time.Time
	cpu, iow float64
}

// cpuTimes are sums over all CPUs in ticks (proc_stat(5)).
type cpuTimes struct{ total, idle, wait uint64 }

func (m *Machine) read(name string) ([]byte, error) {
	return os.ReadFile(filepath.Join(m.Root, name))
}

// Usage measures the load. CPU is the mean since the last call that lies a
// second or more back, at first since boot.
func (m *Machine) Usage() (Usage, error) {
	var u Usage
	stat, err := m.read("proc/stat")
	if err != nil {
		return u, fmt.Errorf("read load: %w", err)
	}
	t, cpus, err := parseStat(stat)
	if err != nil {
		return u, err
	}
	mem, err := m.memory()
	if err != nil {
		return u, err
	}
	up, err := m.read("proc/uptime")
	if err != nil {
		return u, fmt.Errorf("read uptime: %w", err)
	}
	secs, _, _ := strings.Cut(string(up), ".")
	u.Uptime, err = strconv.ParseInt(secs, 10, 64)
	if err != nil {
		return u, fmt.Errorf("read uptime: %w", err)
	}
	fs, err := m.space()
	if err != nil {
		return u, err
	}
	u.MaxCPU = cpus
	u.MaxMem, u.Mem = mem["MemTotal"], mem["MemTotal"]-mem["MemAvailable"]
	u.MaxDisk, u.Disk = fs.total, fs.used
	u.CPU, u.Wait = m.load(t)
	return u, nil
}

func (m *Machine) load(t cpuTimes) (cpu, wait float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.Now()
	if now.Sub(m.lastAt) < time.Second || t.total <= m.last.total {
		return m.cpu, m.iow
	}
	total := float64(t.total - m.last.total)
	m.iow = share(t.wait, m.last.wait, total)
	m.cpu = max(0, 1-share(t.idle, m.last.idle, total)-m.iow)
	m.last, m.lastAt = t, now
	return m.cpu, m.iow
}

// share is a part of a sum; idle counters may run backwards a little
// (proc_stat(5) on iowait).
func share(now, before uint64, total float64) float64 {
	if now < before {
		return 0
	}
	return min(1, float64(now-before)/total)
}

func parseStat(b []byte) (t cpuTimes, cpus int, err error) {
	for l := range strings.Lines(string(b)) {
		f := strings.Fields(l)
		if len(f) == 0 || !strings.HasPrefix(f[0], "cpu") {
			continue
		}
		if f[0] != "cpu" {
			cpus++
			continue
		}
		for i, s := range f[1:] {
			n, err := strconv.ParseUint(s, 10, 64)
			if err != nil {
				return t, 0, fmt.Errorf("read load: %w", err)
			}
			switch {
			case i == 3:
				t.idle = n
			case i == 4:
				t.wait = n
			case i > 7: // guest times are in user times already
				continue
			}
			t.total += n
		}
	}
	if cpus == 0 {
		return t, 0, fmt.Errorf("read load: no CPU in /proc/stat")
	}
	return t, cpus, nil
}

// memory is /proc/meminfo in bytes.
func (m *Machine) memory() (map[string]uint64, error) {
	b, err := m.read("proc/meminfo")
	if err != nil {
		return nil, fmt.Errorf("read memory: %w", err)
	}
	mem := map[string]uint64{}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		k, v, _ := strings.Cut(s.Text(), ":")
		if f := strings.Fields(v); len(f) > 0 {
			if n, err := strconv.ParseUint(f[0], 10, 64); err == nil {
				mem[k] = n << 10
			}
		}
	}
	if mem["MemTotal"] == 0 {
		return nil, fmt.Errorf("read memory: no MemTotal in /proc/meminfo")
	}
	return mem, nil
}

type space struct{ total, used, free, avail uint64 }

func (m *Machine) space() (space, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(m.Disk, &s); err != nil {
		return space{}, fmt.Errorf("read space of %s: %w", m.Disk, err)
	}
	n := uint64(s.Bsize)
	return space{total: s.Blocks * n, used: (s.Blocks - s.Bfree) * n, free: s.Bfree * n, avail: s.Bavail * n}, nil
}

// cpuInfo is the cpuinfo object of a node's status.
type cpuInfo struct {
	Model   string `json:"model"`
	MHz     string `json:"mhz"`
	Flags   string `json:"flags"`
	HVM     string `json:"hvm"` // "1" when hardware runs guests
	CPUs    int    `json:"cpus"`
	Cores   int    `json:"cores"`
	Sockets int    `json:"sockets"`
	UserHZ  int    `json:"user_hz"`
}

func parseCPUInfo(b []byte) cpuInfo {
	i := cpuInfo{HVM: "0", UserHZ: 100} // USER_HZ of x86 (time(7))
	sockets, cores := map[string]bool{}, map[string]bool{}
	socket := ""
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		k, v, _ := strings.Cut(s.Text(), ":")
		k, v = strings.TrimSpace(k), strings.TrimSpace(v)
		switch k {
		case "processor":
			i.CPUs++
		case "model name":
			i.Model = v
		case "cpu MHz":
			if i.MHz == "" {
				i.MHz = v
			}
		case "flags":
			i.Flags = v
		case "physical id":
			socket = v
			sockets[v] = true
		case "core id":
			cores[socket+"/"+v] = true
		}
	}
	for _, f := range strings.Fields(i.Flags) {
		if f == "vmx" || f == "svm" {
			i.HVM = "1"
		}
	}
	i.Sockets, i.Cores = max(1, len(sockets)), max(1, len(cores))
	return i
}
