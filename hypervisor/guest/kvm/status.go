package kvm

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"joist/hypervisor/guest"
	"joist/hypervisor/guest/kvm/qmp"
)

type runState struct {
	Status  string `json:"status"` // QEMU: qapi/run-state.json, RunState
	Running bool   `json:"running"`
}

// running reports whether the guest has ever got the CPU in this QEMU.
func (s runState) running() bool { return s.Running || s.Status == "paused" }

func queryStatus(ctx context.Context, mon *qmp.Client) (s runState, err error) {
	err = mon.Do(ctx, "query-status", nil, &s)
	return s, err
}

func (m *Machine) query(ctx context.Context) (runState, error) {
	mon, err := m.Monitor(ctx)
	if err != nil {
		return runState{}, err
	}
	return queryStatus(ctx, mon)
}

// states tells the API's states from QEMU's. What is not in the table is a
// guest that does not run on for a reason of its own, and counts as paused.
var states = map[string]guest.State{
	"running": guest.Running, "paused": guest.Paused, "prelaunch": guest.Paused, "suspended": guest.Paused,
	"shutdown": guest.Stopping, "io-error": guest.Paused, "internal-error": guest.Paused, "guest-panicked": guest.Paused,
}

// askTimeout is how long a status waits for QEMU; one that hangs is still
// listed, with what the kernel knows.
const askTimeout = time.Second

// Status reads the machine's state; see guest.Guest.
func (m *Machine) Status(ctx context.Context) (guest.Status, error) {
	st := m.Reading(m.group.Usage())
	if st.State == guest.Stopped {
		return st, nil
	}
	if st.Mem == 0 { // no memory controller
		st.Mem = resident(st.PID)
	}
	m.trimLog()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	mon, err := m.Monitor(ctx)
	if err == nil {
		var s runState
		if s, err = queryStatus(ctx, mon); err == nil {
			st.State = guest.Paused
			if known, ok := states[s.Status]; ok {
				st.State = known
			}
			st.DiskRead, st.DiskWrite = diskCounters(ctx, mon)
		}
	}
	if err != nil {
		m.d.Log.Debug("QEMU does not answer", "vmid", m.vmid, "error", err)
	}
	if m.Record().Asked && st.State == guest.Running {
		st.State = guest.Stopping
	}
	return st, nil
}

// diskCounters sums what all drives have moved.
func diskCounters(ctx context.Context, mon *qmp.Client) (read, written int64) {
	var drives []struct {
		Stats struct {
			Read    int64 `json:"rd_bytes"`
			Written int64 `json:"wr_bytes"`
		} `json:"stats"`
	}
	if mon.Do(ctx, "query-blockstats", nil, &drives) != nil {
		return 0, 0
	}
	for _, d := range drives {
		read += d.Stats.Read
		written += d.Stats.Written
	}
	return read, written
}

// resident is what a process has in memory, field 2 of /proc/PID/statm.
func resident(pid int) int64 {
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	n, _ := strconv.ParseInt(f[1], 10, 64)
	return n * int64(os.Getpagesize())
}

// trimLog empties a log that has grown too long. QEMU appends, so that it goes
// on at the new end.
func (m *Machine) trimLog() {
	path := filepath.Join(m.d.Runs.Folder(m.vmid), logFile)
	if st, err := os.Stat(path); err == nil && st.Size() > maxLog {
		os.Truncate(path, 0)
	}
}

// screendump lets QEMU write into a file that has no name: it may open none
// in our folders.
func (m *Machine) screendump(ctx context.Context) ([]byte, error) {
	mon, err := m.Monitor(ctx)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("screen", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "screen")
	defer f.Close()
	// QEMU takes from a set only a descriptor with exactly the access that it
	// asks for, and it opens pictures write-only.
	out, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	var set struct {
		ID int `json:"fdset-id"`
	}
	if err := mon.DoFiles(ctx, "add-fd", nil, &set, out); err != nil {
		return nil, err
	}
	err = mon.Do(ctx, "screendump", map[string]any{"filename": fmt.Sprintf("/dev/fdset/%d", set.ID)}, nil)
	if rerr := mon.Do(ctx, "remove-fd", map[string]any{"fdset-id": set.ID}, nil); err == nil {
		err = rerr
	}
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(f)
}
