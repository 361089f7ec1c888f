package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"joist/hypervisor/guest"
	"joist/hypervisor/guest/lxc/wire"
)

// hold keeps the outer ends of a container's terminals open. Otherwise they
// would close with the monitor, every use of /dev/console would fail inside,
// and systemd, which tries each one for a second, would hardly get to its
// work. Once the monitor is dead, somebody must also read what is written to
// them: a full terminal stops its writers. It ends with the container's init.
func hold(r wire.Request) error {
	init, stop, err := guest.Watch(guest.Process{PID: r.Init.PID, Start: r.Init.Start})
	if err != nil {
		return err
	}
	defer stop()
	monitor, stop, err := guest.Watch(guest.Process{PID: r.Monitor.PID, Start: r.Monitor.Start})
	if err != nil {
		return err
	}
	defer stop()
	terminals, err := terminalsOf(r.Monitor.PID)
	if err != nil {
		return fmt.Errorf("copy terminals of monitor: %w", err)
	}
	select {
	case <-init:
		return nil
	case <-monitor:
	}
	for _, t := range terminals {
		go io.Copy(io.Discard, t)
	}
	<-init
	return nil
}

// terminalsOf copies the descriptors of pseudo-terminals' outer ends out of a
// process, pidfd_getfd(2).
func terminalsOf(pid int) (out []*os.File, err error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(pidfd)
	for _, e := range entries {
		target, _ := os.Readlink(filepath.Join(dir, e.Name()))
		n, err := strconv.Atoi(e.Name())
		if filepath.Base(target) != "ptmx" || err != nil {
			continue
		}
		fd, err := unix.PidfdGetfd(pidfd, n, 0)
		if err != nil {
			return nil, err
		}
		out = append(out, os.NewFile(uintptr(fd), target))
	}
	return out, nil
}
