package kvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"joist/hypervisor/guest"
	"joist/hypervisor/guest/kvm/qmp"
)

const (
	logFile   = "qemu.log"
	vncSocket = "vnc"
	// startTimeout is for QEMU until it answers, not for the guest.
	startTimeout = 60 * time.Second
)

// launch makes the group, starts QEMU in it with its CPUs held, waits for its
// monitor and lets it go. The caller cleans up when it fails.
func (d *Driver) launch(ctx context.Context, p *Plan, rec guest.Record) (*Machine, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	group, missing, err := d.Groups.Create(rec.VMID, p.Limits)
	if err != nil {
		return nil, err
	}
	if len(missing) > 0 {
		d.Log.Warn("the kernel offers no such limits", "vmid", rec.VMID, "files", missing)
	}
	d.Step("grouped")
	folder := d.Runs.Folder(rec.VMID)
	files, err := d.open(p, folder)
	if err != nil {
		return nil, err
	}
	defer files.close()
	d.Step("opened")
	child, err := d.exec(p, rec, group, files)
	if err != nil {
		return nil, err
	}
	d.Step("started")
	m := d.newMachine(rec)
	if err := m.bring(ctx, p, child, files.vnc); err != nil {
		m.disconnect()
		return nil, err
	}
	d.machines.Keep(m)
	go m.watch(child.ended, child)
	return m, nil
}

// child is a QEMU that this process started and must wait for.
type child struct {
	pid    int
	ended  chan struct{}
	status syscall.WaitStatus // valid once ended is closed
}

// exec starts QEMU. It is in its group and has its uid from the start, no
// capabilities, no supplementary groups, and a session of its own, so that
// signals to the daemon do not reach it.
func (d *Driver) exec(p *Plan, rec guest.Record, group guest.Group, files *opened) (*child, error) {
	log, err := os.OpenFile(filepath.Join(d.Runs.Folder(rec.VMID), logFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(d.QEMU, p.Args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "HOME=/nonexistent"}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, files.files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if rec.UID > 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(rec.UID), Gid: uint32(rec.UID), Groups: []uint32{}}
	}
	dir, err := group.Open()
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	if dir != nil {
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("run QEMU: %w", err)
	}
	c := &child{pid: cmd.Process.Pid, ended: make(chan struct{})}
	go func() {
		cmd.Wait()
		c.status, _ = cmd.ProcessState.Sys().(syscall.WaitStatus)
		close(c.ended)
	}()
	if dir == nil {
		if err := group.Add(c.pid); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// bring takes a fresh QEMU from its first instruction to a running guest.
func (m *Machine) bring(ctx context.Context, p *Plan, c *child, vnc *os.File) error {
	proc, err := guest.FindProcess(c.pid)
	if err != nil {
		return m.failed(c, err)
	}
	if err := m.Update(func(r *guest.Record) { r.Process = proc }); err != nil {
		return err
	}
	m.d.Step("recorded")
	m.d.settle(c.pid)
	mon, err := m.dialFirst(ctx, c)
	if err != nil {
		return m.failed(c, err)
	}
	m.connected(mon)
	m.d.Step("greeted")
	if err := m.prepare(ctx, mon, p, vnc); err != nil {
		return m.failed(c, err)
	}
	m.d.Step("running")
	if err := m.running(proc); err != nil {
		return err
	}
	m.d.Step("done")
	return nil
}

// settle sets what QEMU would otherwise inherit from a daemon that is
// protected: the out-of-memory score, and core dumps (they hold the guest's
// memory).
func (d *Driver) settle(pid int) {
	if err := os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte("0"), 0); err != nil {
		d.Log.Debug("set oom_score_adj", "pid", pid, "error", err)
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil); err != nil {
		d.Log.Debug("forbid core dumps", "pid", pid, "error", err)
	}
}

// dialFirst connects to the monitor of a QEMU that just started. The socket
// listens already, so that the greeting is what is waited for.
func (m *Machine) dialFirst(ctx context.Context, c *child) (*qmp.Client, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-c.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	return qmp.Dial(ctx, filepath.Join(m.d.Runs.Folder(m.vmid), monitorNames[0]))
}

// prepare gives QEMU what has no place on its command line and starts the
// CPUs.
func (m *Machine) prepare(ctx context.Context, mon *qmp.Client, p *Plan, vnc *os.File) error {
	if vnc != nil {
		if err := attachVNC(ctx, mon, vnc); err != nil {
			return err
		}
	}
	for _, key := range p.LinkDown {
		if err := mon.Do(ctx, "set_link", map[string]any{"name": key, "up": false}, nil); err != nil {
			return err
		}
	}
	if p.Frozen {
		return nil
	}
	if err := mon.Do(ctx, "cont", nil, nil); err != nil {
		return err
	}
	s, err := queryStatus(ctx, mon)
	if err != nil {
		return err
	}
	if !s.running() {
		return fmt.Errorf("QEMU is in state %q instead of running", s.Status)
	}
	return nil
}

// attachVNC hands over the listening socket of the screen. -vnc takes no
// descriptor, and a socket that QEMU made itself would lie in a folder that a
// broken guest could put other things into.
func attachVNC(ctx context.Context, mon *qmp.Client, socket *os.File) error {
	if err := mon.DoFiles(ctx, "getfd", map[string]string{"fdname": "vnc"}, nil, socket); err != nil {
		return err
	}
	return mon.Do(ctx, "display-update", map[string]any{"type": "vnc",
		"addresses": []any{map[string]string{"type": "fd", "str": "vnc"}}}, nil)
}

// failed makes the error of a start that QEMU did not survive: its own last
// words, if it ended.
func (m *Machine) failed(c *child, err error) error {
	select {
	case <-c.ended:
	case <-time.After(time.Second):
		return err
	}
	if last := lastLine(filepath.Join(m.d.Runs.Folder(m.vmid), logFile)); last != "" {
		return fmt.Errorf("qemu exited: %s", last)
	}
	if c.status.Signaled() {
		return fmt.Errorf("qemu was killed by signal %d (%s)", c.status.Signal(), c.status.Signal())
	}
	return errors.Join(fmt.Errorf("qemu exited with status %d", c.status.ExitStatus()), err)
}

// maxLog bounds what a guest can make QEMU write.
const maxLog = 1 << 20

// lastLine returns the last line of a log, without the program's own name.
func lastLine(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, 4096)
	if st, err := f.Stat(); err == nil && st.Size() > int64(len(b)) {
		f.Seek(-int64(len(b)), 2)
	}
	n, _ := f.Read(b)
	lines := bytes.Split(bytes.TrimSpace(b[:n]), []byte("\n"))
	last := strings.ToValidUTF8(string(lines[len(lines)-1]), "?")
	if _, rest, ok := strings.Cut(last, "qemu-system-x86_64: "); ok {
		last = rest
	}
	return last
}
