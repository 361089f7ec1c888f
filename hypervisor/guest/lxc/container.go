package lxc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"joist/hypervisor/guest"
)

// Container is one running container; the driver has one value for each, and
// every caller gets the same.
type Container struct {
	*guest.Handle
	d    *Driver
	vmid int
	stop chan struct{} // closed by release

	mu   sync.Mutex
	note string
}

var (
	_ guest.Guest    = (*Container)(nil)
	_ guest.Consoler = (*Container)(nil)
)

// What Exit and Note say.
const (
	ExitSelf   = "container ended by itself" // shut down from within, or its init died
	NoMonitor  = "the container's monitor died; the container runs on, but cannot restart itself"
	exitKilled = "container was ended with its monitor"
)

// watchOver makes the handle of a container that runs.
func (d *Driver) watchOver(rec guest.Record) (*Container, error) {
	c := &Container{Handle: guest.NewHandle(d.Runs, rec, d.Log), d: d, vmid: rec.VMID, stop: make(chan struct{})}
	init, unwatch, err := guest.Watch(rec.Process)
	if err != nil {
		return nil, err
	}
	helper, unwatchHelper, err := guest.Watch(rec.Helper)
	if err != nil {
		unwatch()
		return nil, err
	}
	if !rec.Helper.Alive() {
		c.note = NoMonitor // the watcher says so too, but may come to it later
	}
	c.hold()
	d.containers.Keep(c)
	go c.watch(init, helper, unwatch, unwatchHelper)
	return c, nil
}

// watch follows the container through its reboots until it ends.
func (c *Container) watch(init, helper <-chan struct{}, unwatch, unwatchHelper func()) {
	defer func() { unwatch(); unwatchHelper() }()
	for {
		select {
		case <-c.stop:
			return
		case <-helper:
			helper = nil
			if rec := c.Record(); rec.Process.Alive() && !rec.Asked {
				c.setNote(NoMonitor)
				c.d.Log.Warn("container's monitor died, the container runs on", "vmid", c.vmid, "pid", c.Record().Helper.PID)
			}
		case <-init:
			p, ok := c.d.successor(context.Background(), c.Record())
			if !ok {
				c.finish()
				return
			}
			unwatch()
			next, stop, err := guest.Watch(p)
			if err != nil {
				c.d.Log.Error("watch container", "vmid", c.vmid, "error", err)
				c.finish()
				return
			}
			init, unwatch = next, stop
			c.restarted(p)
		}
	}
}

// restarted writes down the process that a reboot has made.
func (c *Container) restarted(p guest.Process) {
	c.d.Log.Info("container rebooted", "vmid", c.vmid, "pid", p.PID)
	if err := c.Update(func(r *guest.Record) { r.Process = p }); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.d.Log.Warn("write record", "vmid", c.vmid, "error", err)
	}
	c.hold()
}

// finish cleans up after the container and says why it ended.
func (c *Container) finish() {
	exit := ExitSelf
	switch {
	case c.Asked():
		exit = ""
	case c.Note() == NoMonitor:
		exit = exitKilled
	}
	if err := c.Tidy(context.Background(), c.d.clean); err != nil {
		c.d.Log.Error("clean up after a container", "vmid", c.vmid, "error", err)
	}
	c.d.containers.Forget(c)
	c.Finish(exit)
}

// Note says what is wrong with a running container, "" when nothing is.
func (c *Container) Note() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.note
}

func (c *Container) setNote(s string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.note = s
}

// release stops watching: the daemon ends, the container does not.
func (c *Container) release() { close(c.stop) }

// Stop ends the container; see guest.Guest.
func (c *Container) Stop(ctx context.Context, how guest.StopMode) error {
	if c.Ended() {
		return nil
	}
	end := c.shutDown
	if how == guest.Kill {
		end = c.kill
	}
	if err := end(ctx); err != nil {
		return fmt.Errorf("stop guest %d: %w", c.vmid, err)
	}
	return nil
}

// askAgain is how often an init is asked to power off until it does. One that
// has only just started has no ears yet: what is sent before it waits for it is
// lost, and the kernel does not tell.
const askAgain = 5 * time.Second

func (c *Container) shutDown(ctx context.Context) error {
	init := c.Record().Process
	var last unix.Signal
	return c.Shutdown(ctx, askAgain, func() error {
		s := haltSignal(init.PID)
		if s == unix.SIGTERM && s == last {
			return nil // many programs take the second one for "at once"
		}
		last = s
		return signal(init, s)
	})
}

// kill ends the monitor first: it takes an end by SIGHUP or SIGINT for a
// reboot, and there shall be none.
func (c *Container) kill(ctx context.Context) error {
	c.Ask(true)
	for _, path := range groups(c.vmid) {
		if err := killGroup(c.d.group(path)); err != nil {
			return err
		}
	}
	return c.Wait(ctx)
}

// sigRTMin3 is SIGRTMIN+3 as systemd(1) means it; C libraries keep the first
// two realtime signals, 32 and 33, to themselves.
const sigRTMin3 = unix.Signal(37)

// haltSignals are the requests to power off, by what answers them: systemd;
// sysvinit and what follows liblxc's own choice; busybox. An init shows by
// blocking or catching a signal that it waits for it. What does none of this
// is no init and gets what ends programs.
var haltSignals = []unix.Signal{sigRTMin3, unix.SIGPWR, unix.SIGUSR2}

func haltSignal(pid int) unix.Signal {
	var mask uint64
	for _, key := range []string{"SigBlk", "SigCgt"} {
		if f := statusField(pid, key); len(f) == 1 {
			n, _ := strconv.ParseUint(f[0], 16, 64)
			mask |= n
		}
	}
	i := slices.IndexFunc(haltSignals, func(s unix.Signal) bool { return mask&(1<<(s-1)) != 0 })
	if i < 0 {
		return unix.SIGTERM
	}
	return haltSignals[i]
}

// signal reaches the very process or nobody.
func signal(p guest.Process, s unix.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	if !p.Alive() { // only now is the pid pinned
		return fmt.Errorf("signal process %d: %w", p.PID, os.ErrProcessDone)
	}
	if err := unix.PidfdSendSignal(fd, s, nil, 0); err != nil {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	return nil
}
