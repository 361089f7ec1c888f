// Package pid1 is the first process of the running system: it mounts, starts
// udevd, brings up the state volume, renders /etc, keeps services running,
// reaps every orphan, feeds the watchdog and takes the system down in order.
// It does nothing else; the dashboard and everything with a network are
// processes of their own. A failure that leaves a node without its state is
// shown and ends in a restart, never in a machine that hangs.
package pid1

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"joist/system/cmdline"
	"joist/system/console"
	"joist/system/phase"
	"joist/system/proc"
	"joist/system/service"
	"joist/system/supervise"
	"joist/system/watchdog"
)

const (
	bootLog      = "/run/joist/boot.log"
	watchdogTime = 30 * time.Second
	failureTime  = 30 * time.Second // how long a fatal failure stays on the screen
	shellIdle    = "900"            // seconds; bash(1), TMOUT
)

// system is PID 1's own state.
type system struct {
	opt      cmdline.Options
	consoles []string
	screens  *console.Set
	log      *phase.Log
	board    phase.Board // of the boot
	procs    *proc.Table
	run      proc.Runner
	machine  *machine
	specs    []service.Spec
	sup      *supervise.Supervisor
	dog      *watchdog.Timer
	data     string // device of the LVM physical volume
	pool     opened // in place of it
	end      chan ending
}

// ending is how the system is to end.
type ending struct {
	off bool   // switch off instead of restart
	why string // shown on the console
}

// Main runs the system and does not return.
func Main() {
	s := &system{end: make(chan ending, 8), procs: proc.NewTable(), dog: watchdog.Inherit()}
	s.run = proc.Runner{Table: s.procs}
	s.machine = newMachine(s.procs)
	s.dog.SetTimeout(watchdogTime)
	opt, optErr := cmdline.Read()
	s.opt = opt
	s.consoles = console.Active(opt.Consoles)
	s.screens = console.Open(s.consoles)
	s.log = phase.NewLog(s.screens)
	// Ctrl-Alt-Del becomes SIGINT to PID 1 instead of an immediate restart.
	unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	unix.Umask(0o022)
	ctx := context.Background()
	go s.procs.Reap(ctx)
	go s.signals()
	if optErr != nil {
		s.log.Printf("          %v", optErr)
	}
	people, leave := context.WithCancel(ctx) // shells and the installer
	go func() {
		err := s.prepare(ctx)
		if err == nil {
			_, err = phase.Run(people, s.log, &s.board, s.phases())
		}
		switch {
		case people.Err() != nil:
		case err != nil:
			s.failed(people, err)
		default:
			s.running(people)
		}
	}()
	how := <-s.end
	leave()
	s.shutdown(how)
}

// prepare makes what the phases and their log need.
func (s *system) prepare(ctx context.Context) error {
	if !s.opt.Verbose {
		os.WriteFile("/proc/sys/kernel/printk", []byte("4 4 1 7"), 0)
	}
	err := makeAll(early())
	if f, ferr := os.OpenFile(bootLog, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); ferr == nil {
		s.log.Add(f)
	}
	if err != nil {
		return fmt.Errorf("mount kernel file systems: %w", err)
	}
	if err := setUpCgroups(); err != nil {
		return fmt.Errorf("set up control groups: %w", err)
	}
	s.specs = services(s.opt.Mode, s.consoles, neededKeys())
	if s.opt.Pool != "" { // there is no thin pool to watch
		s.specs = slices.DeleteFunc(s.specs, func(x service.Spec) bool { return x.Name == dmeventd })
	}
	sup, err := supervise.New(s.specs, s.machine, s.log.Printf, s.dog.Feed)
	if err != nil {
		return err
	}
	s.sup = sup
	go sup.Run(ctx)
	return nil
}

// running is the time between boot and shutdown, by mode.
func (s *system) running(ctx context.Context) {
	go s.powerButton(ctx)
	switch s.opt.Mode {
	case cmdline.Node:
		s.log.Printf("          the boot is over")
		if s.opt.Pool == "" {
			s.sup.Follow(ctx, dmeventd, s.monitor)
		}
	case cmdline.Install:
		go s.install(ctx)
	default:
		go s.rescue(ctx)
	}
}

// failed shows a fatal failure and offers a shell. A node where nobody takes
// it restarts: on trial the loader counts the tries down to the other slot.
// In the other modes a person is there.
func (s *system) failed(ctx context.Context, err error) {
	s.screens.Mute(false)
	what, next := err.Error(), "Press Enter within 30 s for a shell, or the machine restarts."
	if s.opt.Mode != cmdline.Node {
		next = "Press Enter for a shell; leaving it restarts the machine."
	}
	hint := "look at " + bootLog + "; if it stays so, start the other slot or the medium's rescue entry from the boot menu"
	var p *phase.Error
	if errors.As(err, &p) && cures[p.Phase] != "" {
		hint = cures[p.Phase]
	}
	fmt.Fprintf(s.screens, "\n*** Joist cannot start: PID 1, %s\n*** What to do: %s.\n*** %s\n\n", what, hint, next)
	s.screens.Flush(time.Second)
	wait, cancel := context.WithCancel(ctx)
	if s.opt.Mode == cmdline.Node {
		wait, cancel = context.WithTimeout(ctx, failureTime)
	}
	defer cancel()
	why := "start failed"
	if tty, ok := s.screens.Enter(wait); ok {
		s.shell(ctx, tty, "TMOUT="+shellIdle) // a line that echoes presses Enter too
		why = "shell left after a failed start"
	}
	if ctx.Err() == nil {
		s.end <- ending{why: why}
	}
}

// signals turns what kernel and programs send into an ending: SIGINT comes
// from Ctrl-Alt-Del, SIGPWR from a failing power supply.
func (s *system) signals() {
	c := make(chan os.Signal, 4)
	signal.Notify(c, unix.SIGINT, unix.SIGTERM, unix.SIGPWR, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE)
	for sig := range c {
		switch sig {
		case unix.SIGINT:
			s.end <- ending{why: "Ctrl-Alt-Del"}
		case unix.SIGTERM, unix.SIGPWR:
			s.end <- ending{off: true, why: "signal " + sig.String()}
		}
	}
}
