// Package disks looks after the disks that carry a node's system: it shows
// them, says when one no longer starts the node or the data are on fewer disks
// than they should, and puts a new disk in the place of another.
package disks

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"joist/api/node"
	"joist/hypervisor/alert"
	"joist/hypervisor/task"
	"joist/image/disk"
	"joist/internal/finding"
	"joist/system/bootdisk"
)

// Drive is a disk of the machine.
type Drive struct {
	Name, Model, Serial, WWN, Bus string
	Size                          int64
	Sector                        int
	Rotational                    bool
	Holds                         string // what a person should know before it is written over, "" for nothing
	DataID                        string // names that, "" for nothing
	Failing                       *bool  // its own monitoring's verdict, nil where it has none
	Wear                          int    // per cent of the rated writes
}

// Machine is what is asked about the machine's disks.
type Machine interface {
	Drives(ctx context.Context) ([]Drive, error)
	// Fit checks a disk that shall carry the system beside another one.
	Fit(ctx context.Context, name, beside string) (finding.List, error)
}

// Member is a device of what holds the data.
type Member struct {
	Device string // "/dev/sda5"
	Whole  bool   // it has all that it should have
	State  string // in the storage's own words
	// Replaces says that it and Partner, "" for a device that is gone, change
	// places: one takes that of the other.
	Replaces bool
	Partner  string
}

// Redundancy is what keeps the data of the system on several disks.
type Redundancy interface {
	Members(ctx context.Context) ([]Member, error)
	// Need is how many bytes a new member must have.
	Need(ctx context.Context) (int64, error)
	// Degraded says that data are on fewer disks than they should be.
	Degraded(ctx context.Context) (*node.Alert, error)
	// Replace puts fresh in the place of old, "" for one that is gone, and
	// returns when it has all data. It may be called again after a cut.
	Replace(ctx context.Context, old, fresh string, advance func(n, of int64)) error
}

// Service does it. System is nil on a machine that runs no installed system.
type Service struct {
	System  *bootdisk.System
	Machine Machine
	// Data is nil where the data are on one disk; Why says then what to do
	// instead of replacing it.
	Data  Redundancy
	Why   string
	Board *alert.Board
	Tasks task.Starter
	Log   *slog.Logger
	// Blank finds a disk by its kernel name, Tables reads the partition tables
	// of all.
	Blank  func(name string) (bootdisk.Disk, error)
	Tables func() ([]disk.Layout, error)
	// Partitions has the kernel read a new partition table and waits for its
	// partitions.
	Partitions func(ctx context.Context, d bootdisk.Disk) error

	mu      sync.Mutex
	working bool       // a disk is being replaced
	resume  []Exchange // that a cut interrupted
	copies  []bootdisk.Copy
	failed  error // why they could not be read
}

// Row is a disk as it is listed.
type Row struct {
	Drive
	GUID    string // of the partition table, "" where it is not the system's
	Booted  bool   // the node runs from it
	Starts  bool   // it starts the node alone
	Lacks   string // what it lacks for that
	Member  string // state of its data partition
	Partial bool   // it is not (or not yet) whole
}

// List returns the machine's disks.
func (s *Service) List(ctx context.Context) ([]Row, error) {
	drives, err := s.Machine.Drives(ctx)
	if err != nil {
		return nil, err
	}
	copies, members, err := s.look(ctx, false)
	if err != nil {
		return nil, err
	}
	var out []Row
	for _, d := range drives {
		r := Row{Drive: d}
		for _, c := range copies {
			if !c.Disk.Named(d.Name) {
				continue
			}
			r.GUID, r.Starts, r.Lacks = c.Disk.Table.DiskGUID, c.Starts(), strings.Join(c.Faults(), "; ")
			r.Booted = strings.EqualFold(r.GUID, s.System.GUID)
			if m, ok := find(members, c.Disk.Devices(dataPart)...); ok {
				r.Member, r.Partial = m.State, !m.Whole
			}
		}
		out = append(out, r)
	}
	return out, nil
}

// look returns the system's disks and the members of its data.
func (s *Service) look(ctx context.Context, deep bool) ([]bootdisk.Copy, []Member, error) {
	if s.System == nil {
		return nil, nil, nil
	}
	copies, err := s.System.Inspect(ctx, deep)
	if err != nil {
		return nil, nil, err
	}
	if s.Data == nil {
		return copies, nil, nil
	}
	members, err := s.Data.Members(ctx)
	return copies, members, err
}

// find returns the member that is on one of the devices.
func find(members []Member, devices ...string) (Member, bool) {
	for _, m := range members {
		if on(m.Device, devices) {
			return m, true
		}
	}
	return Member{}, false
}

func on(device string, devices []string) bool {
	return device != "" && slices.ContainsFunc(devices, func(d string) bool { return filepath.Base(d) == filepath.Base(device) })
}

// How often it is looked at the disks: at what the kernel shows, and at the
// boot parts.
const (
	lookEvery = time.Minute
	bootEvery = time.Hour
)

// source is the name of these alerts on the board.
const source = "disks"

// Watch keeps the board up to date until ctx ends.
func (s *Service) Watch(ctx context.Context) {
	if s.System == nil {
		return
	}
	var boot time.Time
	for {
		if !s.busy() && time.Since(boot) >= bootEvery {
			s.inspect(ctx, !boot.IsZero()) // large files are not read while the node starts
			boot = time.Now()
		}
		s.show(ctx)
		select {
		case <-ctx.Done():
			return
		case <-time.After(lookEvery):
		}
	}
}

// inspect looks at the boot parts.
func (s *Service) inspect(ctx context.Context, deep bool) {
	copies, err := s.System.Inspect(ctx, deep)
	s.mu.Lock()
	s.copies, s.failed = copies, err
	s.mu.Unlock()
}

// show puts what is wrong on the board.
func (s *Service) show(ctx context.Context) {
	s.mu.Lock()
	copies, failed := s.copies, s.failed
	s.mu.Unlock()
	if err := s.Board.Set(source, s.alerts(ctx, copies, failed)); err != nil {
		s.Log.Warn("show alerts", "err", err)
	}
}

func (s *Service) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.working
}

// refresh shows at once what a task has changed.
func (s *Service) refresh(ctx context.Context) {
	s.inspect(ctx, true)
	s.show(ctx)
}

// Repair brings the boot parts of all disks to the state of the newest.
func (s *Service) Repair(ctx context.Context, log task.Log) error {
	if s.System == nil {
		return errNoSystem
	}
	err := s.System.Reconcile(ctx, log.Printf)
	s.refresh(context.WithoutCancel(ctx))
	return err
}

var errNoSystem = errors.New("this machine runs no installed system")
