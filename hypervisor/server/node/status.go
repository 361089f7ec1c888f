package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"joist/api/node"
	"joist/hypervisor/server"
)

// status answers GET /nodes/{node}/status. The types are those that clients
// insist on: load averages, clock rate and hvm are strings.
func (d *Deps) status(context.Context, *server.Request) (any, error) {
	m := d.Machine
	u, err := m.Usage()
	if err != nil {
		return nil, err
	}
	mem, err := m.memory()
	if err != nil {
		return nil, err
	}
	vol, err := m.space()
	if err != nil {
		return nil, err
	}
	load, err := m.read("proc/loadavg")
	if err != nil {
		return nil, fmt.Errorf("read load: %w", err)
	}
	avg := append(strings.Fields(string(load)), "0.00", "0.00", "0.00")[:3]
	cpu, err := m.read("proc/cpuinfo")
	if err != nil {
		return nil, fmt.Errorf("read CPUs: %w", err)
	}
	k := m.kernel()
	return map[string]any{
		"uptime": u.Uptime, "cpu": u.CPU, "wait": u.Wait, "idle": 0, "loadavg": avg,
		"memory":  map[string]uint64{"total": u.MaxMem, "used": u.Mem, "free": mem["MemFree"], "available": mem["MemAvailable"]},
		"swap":    map[string]uint64{"total": mem["SwapTotal"], "free": mem["SwapFree"], "used": mem["SwapTotal"] - mem["SwapFree"]},
		"rootfs":  map[string]uint64{"total": vol.total, "used": vol.used, "free": vol.free, "avail": vol.avail},
		"ksm":     map[string]uint64{"shared": m.ksm()},
		"cpuinfo": parseCPUInfo(cpu), "pveversion": d.Version.Manager(),
		"kversion": k["sysname"] + " " + k["release"] + " " + k["version"], "current-kernel": k,
		"boot-info": m.boot(), "alerts": d.alerts(),
	}, nil
}

// alerts is nil where nothing watches the node.
func (d *Deps) alerts() []node.Alert {
	if d.Alerts == nil {
		return nil
	}
	return d.Alerts()
}

func (m *Machine) kernel() map[string]string {
	line := func(name string) string {
		b, err := m.read("proc/sys/kernel/" + name)
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(b))
	}
	return map[string]string{"sysname": line("ostype"), "release": line("osrelease"), "version": line("version"), "machine": "x86_64"}
}

// ksm is the memory that merging of equal pages shares (admin-guide/mm/ksm).
func (m *Machine) ksm() uint64 {
	b, err := m.read("sys/kernel/mm/ksm/pages_sharing")
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64) // 0 when unreadable
	return n * uint64(os.Getpagesize())
}

// boot says how the firmware started the node. The byte after the four of an
// efivar's attributes is SecureBoot's value (UEFI specification 3.3).
func (m *Machine) boot() map[string]any {
	if _, err := os.Stat(filepath.Join(m.Root, "sys/firmware/efi")); errors.Is(err, fs.ErrNotExist) {
		return map[string]any{"mode": "legacy-bios"}
	}
	b, err := m.read("sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c")
	return map[string]any{"mode": "efi", "secureboot": server.Bit(err == nil && len(b) == 5 && b[4] == 1)}
}
