// Package host is the machine as one value: its files, its programs, its
// system calls, its clock. Code that takes a *Host runs unchanged on a real
// machine and, in tests, on a temporary folder with a scripted runner.
package host

import (
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"joist/internal/run"
)

// Mount is one mount(2) call.
type Mount struct {
	Source, Target, FSType string
	Flags                  uintptr
	Data                   string
}

// PowerAction is what the machine does next.
type PowerAction int

const (
	Reboot PowerAction = iota
	PowerOff
)

// Sys is what cannot be done through files and programs.
type Sys interface {
	Mount(Mount) error
	Unmount(target string) error
	Power(PowerAction) error
}

// Host is the machine.
type Host struct {
	Root string // "/" on a real machine, a temporary folder in tests
	Run  run.Runner
	Sys  Sys
	Now  func() time.Time
	Log  *slog.Logger
}

// Path places an absolute path of the machine below Root. The result never
// leaves Root through "..".
func (h *Host) Path(elem ...string) string {
	p := filepath.Clean("/" + strings.Join(elem, "/"))
	return filepath.Join(h.Root, p)
}
