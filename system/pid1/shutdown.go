package pid1

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"joist/internal/run"
	"joist/system/cmdline"
	"joist/system/phase"
)

const (
	guestsTime  = 180 * time.Second // for joistd stop-guests
	servicesAll = 45 * time.Second
	closeTime   = 30 * time.Second
	// lastResort is when the machine restarts whatever still hangs.
	lastResort = guestsTime + servicesAll + closeTime + 60*time.Second
)

// shutdown takes the system down in order and does not return.
func (s *system) shutdown(how ending) {
	s.screens.Mute(false)
	word, cmd := "restarts", unix.LINUX_REBOOT_CMD_RESTART
	if how.off {
		word, cmd = "switches off", unix.LINUX_REBOOT_CMD_POWER_OFF
	}
	fmt.Fprintf(s.screens, "\n")
	s.log.Printf("The machine %s (%s).", word, how.why)
	time.AfterFunc(lastResort, func() { unix.Reboot(cmd) })
	phase.Run(context.Background(), s.log, nil, s.ends())
	s.log.Printf("Joist is down; the machine %s.", word)
	s.screens.Flush(time.Second)
	unix.Sync()
	if how.off {
		s.dog.Disarm() // or it would reset the machine that hesitates to go off
	}
	unix.Reboot(cmd)
	select {} // a PID 1 that returns is a kernel panic
}

// ends is the way down, in order. None is fatal: the next one makes up for it.
func (s *system) ends() []phase.Phase {
	var list []phase.Phase
	if s.opt.Mode == cmdline.Node && s.sup != nil {
		list = append(list, phase.Phase{Name: "stop guests", Deadline: guestsTime, Run: s.stopGuests})
	}
	if s.opt.Mode == cmdline.Node && s.sup != nil && s.opt.Pool == "" {
		list = append(list, phase.Phase{Name: "end monitoring of the thin pool", Deadline: 10 * time.Second, Run: s.endMonitoring})
	}
	if s.sup != nil {
		list = append(list, phase.Phase{Name: "stop services", Deadline: servicesAll, Run: func(ctx context.Context) error {
			s.sup.StopAll(ctx)
			return nil
		}})
	}
	list = append(list,
		phase.Phase{Name: "end other processes", Run: s.endOthers},
		phase.Phase{Name: "unmount file systems", Run: s.unmountAll})
	if s.pool.name != "" {
		list = append(list, phase.Phase{Name: "close pool", Deadline: closeTime, Run: s.closePool})
	}
	return list
}

// stopGuests lets joistd shut guests down in their order; it reports what it
// does line by line.
func (s *system) stopGuests(ctx context.Context) error {
	if _, err := os.Stat(joistd); err != nil {
		return nil
	}
	_, err := s.run.Run(ctx, run.Cmd{Path: joistd, Args: []string{"stop-guests"}, Line: func(l string) { s.log.Printf("          %s", l) }})
	return err
}

// endOthers ends what is left: first guests' and tasks' groups, then every
// process that is not PID 1 (kill(2): -1 means all but it).
func (s *system) endOthers(ctx context.Context) error {
	unix.Kill(-1, unix.SIGTERM)
	unix.Kill(-1, unix.SIGHUP) // interactive shells take no SIGTERM (bash(1), SIGNALS)
	for begun := time.Now(); time.Since(begun) < 5*time.Second && userProcesses() > 0; {
		time.Sleep(50 * time.Millisecond)
	}
	for _, g := range groups {
		killGroup(cgroups + "/" + g)
	}
	unix.Kill(-1, unix.SIGKILL)
	for begun := time.Now(); time.Since(begun) < 5*time.Second; time.Sleep(50 * time.Millisecond) {
		if userProcesses() == 0 {
			return nil
		}
	}
	return fmt.Errorf("%d processes do not end", userProcesses())
}

// userProcesses counts processes beside PID 1 and the kernel's own threads,
// which have no command line.
func userProcesses() (n int) {
	dirs, _ := os.ReadDir("/proc")
	for _, d := range dirs {
		if name := d.Name(); name == "1" || strings.Trim(name, "0123456789") != "" {
			continue
		}
		if b, _ := os.ReadFile("/proc/" + d.Name() + "/cmdline"); len(b) > 0 {
			n++
		}
	}
	return n
}

// stays are the mounts that end with the kernel.
func stays(target string) bool {
	if target == "/" || target == "/etc" {
		return true
	}
	for _, top := range []string{"/proc", "/sys", "/dev", "/run"} {
		if target == top || strings.HasPrefix(target, top+"/") && !strings.HasPrefix(target, "/run/joist/mnt") {
			return true
		}
	}
	return false
}

// unmountAll unmounts in reverse order, several times since one may hold
// another; what stays busy is at least made read-only, which writes it out.
func (s *system) unmountAll(context.Context) error {
	s.machine.closeLogs()
	s.run.Run(context.Background(), run.Cmd{Path: "swapoff", Args: []string{"-a"}})
	var errs []error
	for range 5 {
		errs = nil
		all, err := mounted()
		if err != nil {
			return err
		}
		for i := len(all) - 1; i >= 0; i-- {
			if stays(all[i]) {
				continue
			}
			if err := unix.Unmount(all[i], unix.UMOUNT_NOFOLLOW); err != nil {
				errs = append(errs, fmt.Errorf("unmount %s: %w", all[i], err))
				unix.Mount("", all[i], "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
			}
		}
		if len(errs) == 0 {
			return nil
		}
		time.Sleep(200 * time.Millisecond)
	}
	return errors.Join(errs...)
}
