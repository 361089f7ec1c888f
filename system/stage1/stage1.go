// Package stage1 is the program in the initramfs: it finds the system image
// (on the medium that carries its build id, in the slot that the kernel command
// line names, or on a web server, from where it is fetched), makes it the root file system and hands over to PID 1
// in it. It assembles and activates nothing else, and it never waits without
// saying what for. When it cannot go on it says what, where and what to do
// next on every console, and restarts the machine rather than hang.
package stage1

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	imageboot "joist/image/boot"
	"joist/system/cmdline"
	"joist/system/console"
	"joist/system/module"
	"joist/system/phase"
	"joist/system/watchdog"
)

const (
	newRoot  = "/newroot"
	runDir   = "/run/joist"
	medium   = runDir + "/medium"
	carrier  = runDir + "/carrier" // volume that holds the medium as a file
	bootLog  = runDir + "/boot.log"
	findTime = 60 * time.Second
	// The watchdog must outlast a slow disk's start and is fed meanwhile;
	// PID 1 shortens it.
	watchdogTime = 60 * time.Second
)

// Applies reports whether this process runs in an initramfs: PID 1 on a root
// file system in memory.
func Applies() bool {
	var st unix.Statfs_t
	if os.Getpid() != 1 || unix.Statfs("/", &st) != nil {
		return false
	}
	return st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC
}

// problem is a failure with its cure.
type problem struct {
	err  error
	hint string
}

func (p *problem) Error() string { return p.err.Error() }
func (p *problem) Unwrap() error { return p.err }

type boot struct {
	opt     cmdline.Options
	log     *phase.Log
	screens *console.Set
	mods    *module.Loader
	dog     *watchdog.Timer
	image   string // block device that holds the squashfs
	device  string // what it lies on, and extensions behind it; empty: the same
	checked bool   // the image was, as a whole
	carrier string // loop device of the medium, where that is a file
	remote  imageboot.Remote
	noted   map[string]bool
}

// Main does not return: it becomes PID 1 of the system image or ends in a
// restart.
func Main() {
	b := &boot{screens: &console.Set{}, noted: map[string]bool{}}
	b.log = phase.NewLog()
	err := mountEarly()
	b.opt, b.screens = options(&err)
	b.log.Add(b.screens)
	if f, ferr := os.OpenFile(bootLog, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); ferr == nil {
		b.log.Add(f)
	}
	if err == nil {
		_, err = phase.Run(context.Background(), b.log, nil, b.phases())
	}
	b.fail(err) // without an error the last phase has become PID 1
}

func options(err *error) (cmdline.Options, *console.Set) {
	opt, perr := cmdline.Read()
	if *err == nil && perr != nil {
		*err = &problem{perr, "start another entry of the boot menu, or correct this one (key e in the menu)"}
	}
	if !opt.Verbose {
		// Errors only, so that the console stays readable (proc(5), printk).
		os.WriteFile("/proc/sys/kernel/printk", []byte("4 4 1 7"), 0)
	}
	// Whatever happens to PID 1, the machine restarts instead of hanging.
	os.WriteFile("/proc/sys/kernel/panic", []byte("10"), 0)
	return opt, console.Open(console.Active(opt.Consoles))
}

func (b *boot) phases() []phase.Phase {
	list := []phase.Phase{
		{Name: "set clock", Run: b.clock},
		{Name: "load kernel modules", Fatal: true, Run: b.modules},
	}
	if b.opt.FromSlot() {
		list = append(list,
			phase.Phase{Name: "find slot " + b.opt.Slot + " of the system disk", Fatal: true, Deadline: findTime + 10*time.Second, Run: b.findSlot},
			phase.Phase{Name: "arm watchdog", Run: b.arm},
			phase.Phase{Name: "set up verity", Fatal: true, Run: b.verity})
	} else if b.opt.Image != "" {
		list = append(list,
			phase.Phase{Name: "bring up network", Fatal: true, Deadline: netTime + 10*time.Second, Run: b.network},
			phase.Phase{Name: "fetch system", Fatal: true, Deadline: fetchTime, Run: b.fetch},
			phase.Phase{Name: "attach system image", Fatal: true, Run: b.attach})
	} else {
		list = append(list,
			phase.Phase{Name: "find medium with build " + b.opt.Build, Fatal: true, Deadline: findTime + 10*time.Second, Run: b.findMedium},
			phase.Phase{Name: "copy medium to memory", Fatal: true, Deadline: time.Hour, Run: b.copyMedium},
			phase.Phase{Name: "attach system image", Fatal: true, Run: b.attach},
			phase.Phase{Name: "set up verity", Fatal: true, Run: b.mediumVerity})
	}
	return append(list,
		phase.Phase{Name: "mount system image", Fatal: true, Run: b.mountImage},
		phase.Phase{Name: "switch to system image", Fatal: true, Run: b.switchRoot})
}

// build is build.json: what this image is.
type build struct {
	Version string    `json:"version"`
	ID      string    `json:"build_id"`
	Built   time.Time `json:"built"`
}

// clock sets the time to the build's when it is earlier: a machine with an
// empty battery must still accept certificates and write sane file times.
func (b *boot) clock(context.Context) error {
	data, err := os.ReadFile("/build.json")
	if err != nil {
		return fmt.Errorf("read build date: %w", err)
	}
	var bd build
	if err := json.Unmarshal(data, &bd); err != nil {
		return fmt.Errorf("read build date: %w", err)
	}
	b.log.Printf("          Joist %s, build %s", bd.Version, bd.ID)
	if now := time.Now(); now.Before(bd.Built) {
		tv := unix.NsecToTimeval(bd.Built.UnixNano())
		if err := unix.Settimeofday(&tv); err != nil {
			return fmt.Errorf("set clock to the build date: %w", err)
		}
		b.log.Printf("          clock said %s; set to the build date %s", now.UTC().Format(time.RFC3339), bd.Built.UTC().Format(time.RFC3339))
	}
	return nil
}

// always are the modules that no device asks for: file systems and stacking
// drivers of the way from the medium or slot to the root file system.
func always(fromSlot bool) []string {
	if fromSlot {
		return []string{"squashfs", "dm_mod", "dm_verity"}
	}
	return []string{"squashfs", "loop", "isofs", "vfat", "nls_cp437", "nls_iso8859_1", "nls_ascii", "nls_utf8"}
}

func (b *boot) modules(context.Context) error {
	rel, err := module.Release()
	if err != nil {
		return err
	}
	x, err := module.Open(filepath.Join("/lib/modules", rel))
	if err != nil {
		return &problem{err, "this initrd does not belong to this kernel: take kernel and initrd from the same build"}
	}
	b.mods = &module.Loader{Index: x, Params: b.opt.Params, Blacklist: b.opt.Blacklist, Insert: module.Insert}
	if err := b.mods.Load(always(b.opt.FromSlot())...); err != nil {
		b.log.Printf("          %v", err)
	}
	b.coldplug()
	return nil
}

// coldplug loads what newly seen devices ask for. A driver that cannot be
// loaded is said once and not more: the disk may be behind another.
func (b *boot) coldplug() int {
	n, err := b.mods.Coldplug("/sys/devices")
	if err != nil && !b.noted[err.Error()] {
		b.noted[err.Error()] = true
		b.log.Printf("          %v", err)
	}
	return n
}

// arm starts the watchdog; its hardware's module came with the others.
func (b *boot) arm(context.Context) error {
	if b.opt.Mode != cmdline.Node {
		return nil
	}
	dog, err := watchdog.Arm(watchdogTime)
	if errors.Is(err, watchdog.ErrNone) {
		if err := b.mods.Load("softdog"); err != nil {
			return err
		}
		dog, err = watchdog.Arm(watchdogTime)
	}
	b.dog = dog
	return err
}
