// Package watchdog arms and feeds a watchdog timer (Documentation/watchdog/
// watchdog-api.rst). Stage 1 arms it and PID 1 inherits the open descriptor
// across exec: some drivers stop when their device is closed.
package watchdog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Env names the variable that carries the descriptor's number to PID 1.
const Env = "JOIST_WATCHDOG_FD"

// ErrNone means that the machine has no watchdog device.
var ErrNone = errors.New("no watchdog device")

// Timer is an armed watchdog. A nil Timer is none: its methods do nothing.
type Timer struct{ f *os.File }

// Arm opens the first hardware watchdog, or the software one when there is no
// other. Opening starts it.
func Arm(timeout time.Duration) (*Timer, error) {
	node, err := choose("/sys/class/watchdog")
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(node, os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("arm watchdog: %w", err)
	}
	t := &Timer{f}
	t.SetTimeout(timeout)
	return t, nil
}

func choose(sys string) (string, error) {
	nodes, _ := filepath.Glob(filepath.Join(sys, "watchdog*"))
	soft := ""
	for _, n := range nodes {
		id, _ := os.ReadFile(filepath.Join(n, "identity"))
		if !strings.Contains(string(id), "Software Watchdog") {
			return "/dev/" + filepath.Base(n), nil
		}
		soft = "/dev/" + filepath.Base(n)
	}
	if soft == "" {
		return "", ErrNone
	}
	return soft, nil
}

// Inherit takes over the watchdog that stage 1 armed, nil when it did not.
func Inherit() *Timer {
	fd, err := strconv.Atoi(os.Getenv(Env))
	os.Unsetenv(Env)
	if err != nil || fd < 3 {
		return nil
	}
	unix.CloseOnExec(fd)
	return &Timer{os.NewFile(uintptr(fd), "watchdog")}
}

// Leave makes the descriptor survive the next exec and returns the
// environment entry that names it.
func (t *Timer) Leave() (env string, err error) {
	if t == nil {
		return "", nil
	}
	if _, err := unix.FcntlInt(t.f.Fd(), unix.F_SETFD, 0); err != nil {
		return "", fmt.Errorf("pass watchdog on: %w", err)
	}
	return fmt.Sprintf("%s=%d", Env, t.f.Fd()), nil
}

// SetTimeout asks for a time after which an unfed machine is reset; drivers
// round it, some have a fixed one.
func (t *Timer) SetTimeout(d time.Duration) {
	if t != nil {
		unix.IoctlSetPointerInt(int(t.f.Fd()), unix.WDIOC_SETTIMEOUT, int(d.Seconds()))
	}
}

// Feed starts the time anew.
func (t *Timer) Feed() {
	if t != nil {
		unix.IoctlWatchdogKeepalive(int(t.f.Fd()))
	}
}

// Disarm stops the watchdog ("magic close"), so that a machine that is being
// switched off is not reset instead.
func (t *Timer) Disarm() {
	if t != nil {
		t.f.Write([]byte("V"))
		t.f.Close()
	}
}
