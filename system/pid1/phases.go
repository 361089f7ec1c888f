package pid1

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"joist/api/node"
	"joist/internal/run"
	"joist/system/cmdline"
	"joist/system/module"
	"joist/system/phase"
)

// cures says what a person can do when a fatal phase failed.
var cures = map[string]string{
	phaseActivate: "check that the system disk is connected and healthy (rescue: joist-init rescue-mount)",
	phaseVar:      "start the medium's rescue entry and run e2fsck on the state volume",
}

const (
	phaseUdev     = "start udevd"
	phaseColdplug = "coldplug devices"
	phaseModules  = "load kernel modules"
	phaseActivate = "activate state volume"
	phaseVar      = "check and mount /var"
	phaseLocal    = "check and mount /var/lib/vz"
	phasePool     = "activate thin pool"
)

// phases is the boot of each mode, in order. Devices come up in the
// background while the state volume is brought up.
func (s *system) phases() []phase.Phase {
	list := []phase.Phase{
		{Name: phaseModules, Background: true, Run: s.modules},
		{Name: phaseUdev, Fatal: true, Run: s.startUdev},
		{Name: phaseColdplug, Background: true, Deadline: 2 * time.Minute, Run: s.coldplug},
	}
	if s.opt.Mode == cmdline.Node {
		list = append(list,
			phase.Phase{Name: phaseActivate, Fatal: true, Deadline: 2 * time.Minute, Run: s.activateState},
			phase.Phase{Name: phaseVar, Fatal: true, Deadline: 20 * time.Minute, Run: s.mountVar},
			phase.Phase{Name: phaseLocal, Deadline: 20 * time.Minute, Run: s.mountLocal},
			phase.Phase{Name: phasePool, Background: true, Deadline: 10 * time.Minute, After: []string{phaseColdplug}, Run: s.activatePool})
	} else {
		list = append(list, phase.Phase{Name: "mount /var in memory", Fatal: true, Run: s.memoryVar})
	}
	list = append(list,
		phase.Phase{Name: "populate /var", Run: func(context.Context) error { return populate() }},
		phase.Phase{Name: "open logs", Run: func(context.Context) error { return s.machine.openLogs(node.LogDir) }},
		phase.Phase{Name: "render /etc", Fatal: true, Run: func(context.Context) error {
			if err := s.load("overlay"); err != nil {
				return err
			}
			return makeEtc(s.log.Printf)
		}},
		phase.Phase{Name: "set kernel parameters", Run: s.kernelParameters},
		phase.Phase{Name: "open control socket", Run: s.listen})
	if s.opt.Mode == cmdline.Node {
		list = append(list, phase.Phase{Name: "make SSH host key", Background: true, Run: s.hostKey})
	}
	return append(list,
		phase.Phase{Name: "start services", Fatal: true, After: []string{phaseModules, phaseColdplug, "make SSH host key"}, Run: s.startServices})
}

func (s *system) modules(context.Context) error { return s.load(wanted...) }

func (s *system) load(names ...string) error {
	rel, err := module.Release()
	if err != nil {
		return err
	}
	x, err := module.Open(filepath.Join("/usr/lib/modules", rel))
	if err != nil {
		return err
	}
	l := &module.Loader{Index: x, Params: s.opt.Params, Insert: module.Insert}
	return l.Load(names...)
}

func (s *system) startUdev(ctx context.Context) error {
	if err := s.sup.Start(udevd); err != nil {
		return err
	}
	return s.sup.Wait(ctx, udevd)
}

// coldplug has udevd handle every device that the kernel already knows and
// waits until it is done.
func (s *system) coldplug(ctx context.Context) error {
	if _, err := s.run.Run(ctx, run.Cmd{Path: "udevadm", Args: []string{"trigger", "--type=all", "--action=add",
		"--prioritized-subsystem=module,block,net,tty,input"}}); err != nil {
		return err
	}
	_, err := s.run.Run(ctx, run.Cmd{Path: "udevadm", Args: []string{"settle", "--timeout=110"}})
	return err
}

func (s *system) activateState(ctx context.Context) (err error) {
	if s.data, err = findData(ctx, s.opt.Disk); err != nil {
		return err
	}
	s.log.Printf("          data partition is %s", s.data)
	if err := activate(ctx, s.run, s.data, s.opt.StateVG, "state", "local", "swap"); err != nil {
		return err
	}
	// lvchange is content when nothing matches.
	_, err = volume("/sys", s.opt.StateVG, "state")
	return err
}

func (s *system) mountVar(ctx context.Context) error {
	return s.mountVolume(ctx, "state", "/var", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOATIME)
}

func (s *system) mountLocal(ctx context.Context) error {
	if err := s.mountVolume(ctx, "local", node.LocalDir, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOATIME); err != nil {
		return err
	}
	swap, err := volume("/sys", s.opt.StateVG, "swap")
	if errors.Is(err, os.ErrNotExist) {
		return nil // made only where the answer asked for it
	}
	_, err = s.run.Run(ctx, run.Cmd{Path: "swapon", Args: []string{swap}})
	return err
}

func (s *system) mountVolume(ctx context.Context, name, target string, flags uintptr) error {
	dev, err := volume("/sys", s.opt.StateVG, name)
	if err != nil {
		return err
	}
	if err := check(ctx, s.run, dev, func(l string) { s.log.Printf("          %s", l) }); err != nil {
		return err
	}
	return mountExt4(dev, target, flags, "")
}

// activatePool comes after the devices' first events and tries again: while
// udevd handles those, the node of the pool's metadata may be away for a
// moment, and thin_check then calls a sound pool damaged.
func (s *system) activatePool(ctx context.Context) (err error) {
	for range 3 {
		if err = activate(ctx, s.run, s.data, s.opt.StateVG, "data"); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(3 * time.Second):
		}
	}
	return err
}

func (s *system) memoryVar(context.Context) error {
	return unix.Mount("tmpfs", "/var", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=50%")
}

func (s *system) kernelParameters(context.Context) error {
	return errors.Join(setSysctls(), loopbackUp(), reserve(s.specs))
}

// loopbackUp sets the link "lo" up; the kernel then gives it its addresses.
func loopbackUp() error {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq(lo.Name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		return err
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("set link lo up: %w", err)
	}
	return nil
}

// hostKey makes the SSH host key at the first start that needs one.
func (s *system) hostKey(ctx context.Context) error {
	if st, err := os.Stat(node.KeysFile); err != nil || st.Size() == 0 {
		return nil
	}
	if _, err := os.Stat(sshKey); err == nil {
		return nil
	}
	_, err := s.run.Run(ctx, run.Cmd{Path: "ssh-keygen", Args: []string{"-q", "-t", "ed25519", "-N", "", "-f", sshKey}})
	return err
}

// startServices starts what belongs to the mode. What the image or the node's
// configuration lacks (chrony, keys for sshd) is said and left out.
func (s *system) startServices(context.Context) error {
	kept, left := present("/", s.specs)
	for _, name := range left {
		s.log.Printf("          service %s is left out: its program or configuration is not there", name)
	}
	for _, spec := range kept {
		if err := s.sup.Start(spec.Name); err != nil {
			return err
		}
	}
	return nil
}
