package lxc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"joist/hypervisor/guest"
	"joist/hypervisor/guest/lxc/wire"
)

// startTimeout is for liblxc until the container's init runs.
const startTimeout = 60 * time.Second

// launch mounts, writes and starts. The caller cleans up when it fails.
func (d *Driver) launch(ctx context.Context, p *Plan, rec guest.Record) (*Container, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	base, err := d.mountAll(p)
	if err != nil {
		return nil, err
	}
	d.Step("mounted")
	rec.UID = base
	if err := d.Runs.Write(rec); err != nil {
		return nil, err
	}
	if err := d.write(p, base); err != nil {
		return nil, err
	}
	d.Step("written")
	reply, err := d.ask(ctx, launch(p.VMID), d.request(p.VMID, wire.Run), false)
	if err != nil {
		return nil, d.reason(p.VMID, err)
	}
	d.Step("started")
	if rec.Process, err = guest.FindProcess(reply.Init); err != nil {
		return nil, d.reason(p.VMID, fmt.Errorf("the container ended at once: %w", err))
	}
	if rec.Helper, err = parent(reply.Init); err != nil {
		return nil, d.reason(p.VMID, fmt.Errorf("find monitor: %w", err))
	}
	rec.State = guest.Running
	if err := d.Runs.Write(rec); err != nil {
		return nil, err
	}
	d.Step("done")
	return d.watchOver(rec)
}

// mountAll mounts every volume into the run folder and returns the host's id
// of the container's root.
func (d *Driver) mountAll(p *Plan) (base int, err error) {
	for _, m := range p.Mounts {
		target := d.path(p.VMID, m.Key)
		if err := os.Mkdir(target, 0o700); err != nil {
			return 0, err
		}
		if err := d.Mount.Mount(m.Volume.Path, target, m.ReadOnly, p.Unprivileged); err != nil {
			return 0, fmt.Errorf("%s: %w", m.Key, err)
		}
		if m.Key != "rootfs" {
			if err := adoptEmpty(target, base); err != nil {
				return 0, fmt.Errorf("volume %s: %w", m.Volume.ID, err)
			}
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(target, &st); err != nil {
			return 0, err
		}
		if base, err = baseOf(int(st.Uid), p.Unprivileged); err != nil {
			return 0, fmt.Errorf("volume %s: %w", m.Volume.ID, err)
		}
	}
	return base, nil
}

// adoptEmpty gives an empty volume to the container: it was made for the range
// of ids that follows from the VMID, and a container that came from elsewhere
// has the one it was born with. Contents are nobody's business.
func adoptEmpty(dir string, base int) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return err
	}
	if owner := int(st.Uid); owner == base || base != 0 && owner > base && owner < base+IDs {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != "lost+found" {
			return nil
		}
	}
	if err := os.Chown(dir, base, base); !errors.Is(err, unix.EROFS) {
		return err
	}
	return nil
}

// write puts the configuration where liblxc looks for it and the container's
// own files where it does. Root in the container, whom liblxc becomes before
// it mounts, must get through the run folder, and nobody else.
func (d *Driver) write(p *Plan, base int) error {
	folder := d.Runs.Folder(p.VMID)
	if base != 0 {
		if err := os.Chown(folder, 0, base); err != nil {
			return err
		}
		if err := os.Chmod(folder, 0o710); err != nil {
			return err
		}
	}
	if !p.Mounts[0].ReadOnly {
		t, err := openTree(d.path(p.VMID, "rootfs"), base)
		if err != nil {
			return err
		}
		defer t.close()
		if err := d.settle(t, p.Inside); err != nil {
			return err
		}
	}
	host := d.Host()
	if len(host.Controllers) == 0 {
		d.Log.Warn("the kernel offers no limits for containers", "vmid", p.VMID)
	}
	return os.WriteFile(filepath.Join(folder, configFile), []byte(p.Conf(folder, base, host)), 0o600)
}

// request names a container to the helper. liblxc's path is the folder of all
// run folders, its name of the container the VMID.
func (d *Driver) request(vmid int, op string) wire.Request {
	return wire.Request{Op: op, Path: d.Runs.Dir, Name: strconv.Itoa(vmid)}
}

// ask runs the helper in a group and returns its reply. The reply goes through
// a file, because a monitor that stays behind could hold a pipe open.
func (d *Driver) ask(ctx context.Context, group string, r wire.Request, ctty bool, files ...*os.File) (wire.Reply, error) {
	stdin, err := requestFile(r)
	if err != nil {
		return wire.Reply{}, err
	}
	defer stdin.Close()
	stdout, err := memFile("reply")
	if err != nil {
		return wire.Reply{}, err
	}
	defer stdout.Close()
	stderr, err := memFile("stderr")
	if err != nil {
		return wire.Reply{}, err
	}
	defer stderr.Close()
	cmd := command(ctx, d.Helper)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = stdin, stdout, stderr, files
	cmd.SysProcAttr.Setctty, cmd.SysProcAttr.Ctty = ctty, wire.TTY
	if err := d.runIn(cmd, group); err != nil && ctx.Err() != nil {
		return wire.Reply{}, fmt.Errorf("joist-lxc %s: %w", r.Op, ctx.Err())
	} else if err != nil {
		return wire.Reply{}, fmt.Errorf("joist-lxc %s: %w: %s", r.Op, err, contents(stderr))
	}
	var reply wire.Reply
	if err := json.Unmarshal(contents(stdout), &reply); err != nil {
		return wire.Reply{}, fmt.Errorf("read reply of joist-lxc %s: %w", r.Op, err)
	}
	if reply.Error != "" {
		return reply, errors.New(reply.Error)
	}
	return reply, nil
}

// command prepares a program in a session of its own, so that signals to the
// daemon do not reach it.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd
}

// runIn starts a program inside a group, made when it is not there, and waits
// for it.
func (d *Driver) runIn(cmd *exec.Cmd, group string) error {
	done, err := d.startIn(cmd, group)
	if err != nil {
		return err
	}
	return done()
}

func (d *Driver) startIn(cmd *exec.Cmd, group string) (wait func() error, err error) {
	g := d.group(group)
	if err := os.MkdirAll(g.Dir, 0o755); err != nil {
		return nil, err
	}
	dir, err := g.Open()
	if err != nil {
		return nil, err
	}
	if dir != nil {
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if dir == nil {
		if err := g.Add(cmd.Process.Pid); err != nil {
			cmd.Process.Kill()
			cmd.Wait()
			return nil, err
		}
	}
	return cmd.Wait, nil
}

func memFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func requestFile(r wire.Request) (*os.File, error) {
	f, err := memFile("request")
	if err != nil {
		return nil, err
	}
	if err := json.NewEncoder(f).Encode(r); err != nil {
		f.Close()
		return nil, err
	}
	_, err = f.Seek(0, 0)
	return f, err
}

// contents reads what another process wrote; the offset is shared with it.
func contents(f *os.File) []byte {
	st, err := f.Stat()
	if err != nil {
		return nil
	}
	b := make([]byte, min(st.Size(), wire.MaxOutput))
	n, _ := f.ReadAt(b, 0)
	return b[:n]
}

// parent returns the process that started pid: a container's monitor.
func parent(pid int) (guest.Process, error) {
	f := statusField(pid, "PPid")
	if len(f) != 1 {
		return guest.Process{}, os.ErrProcessDone
	}
	ppid, err := strconv.Atoi(f[0])
	if err != nil {
		return guest.Process{}, err
	}
	return guest.FindProcess(ppid)
}

// reason adds what liblxc said. Its first error is the cause, those after it
// are its consequences.
func (d *Driver) reason(vmid int, err error) error {
	b, _ := os.ReadFile(d.path(vmid, logFile))
	if first := firstError(string(b)); first != "" {
		return fmt.Errorf("%s (%w)", first, err)
	}
	return err
}

// logRE takes a line of liblxc's log apart:
// lxc 100 20261121203000.123 ERROR    conf - ../src/lxc/conf.c:run_buffer:322 - text
var logRE = regexp.MustCompile(`^lxc \S+ \d+\.\d+ ERROR +\S+ - \S+:\d+ - (.*)$`)

func firstError(log string) string {
	for line := range strings.Lines(log) {
		if m := logRE.FindStringSubmatch(strings.TrimRight(line, "\n")); m != nil {
			return m[1]
		}
	}
	return ""
}
