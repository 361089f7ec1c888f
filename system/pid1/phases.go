package pid1

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"joist/api/node"
	"joist/internal/run"
	"joist/system/bootdisk"
	"joist/system/cmdline"
	"joist/system/devlog"
	"joist/system/firstboot"
	"joist/system/module"
	"joist/system/phase"
	"joist/system/service"
)

// cures says what a person can do when a fatal phase failed.
var cures = map[string]string{
	phaseActivate: "check that the system disk is connected and healthy (rescue: joist-init rescue-mount)",
	phaseVar:      "start the medium's rescue entry and run e2fsck on the state volume (xfs_repair if it is XFS)",
}

const (
	phaseUdev     = "start udevd"
	phaseDisks    = "coldplug disks and network cards"
	phaseColdplug = "coldplug other devices"
	phaseModules  = "load kernel modules"
	phaseActivate = "activate state volume"
	phaseVar      = "check and mount /var"
	phaseLocal    = "check and mount /var/lib/vz"
	phaseServices = "start services"
	phaseCard     = "find network card"
	phaseProgram  = "wait for first-boot program"
	phaseHostKey  = "make SSH host keys"
	phasePool     = "activate thin pool"
	phaseAppArmor = "load AppArmor profiles"
	phaseMirror   = "tend mirror"
	phaseCache    = "bound ZFS's cache"
	phaseTendPool = "tend pool"
	phaseEnd      = "end installation"
	phaseBoot     = "compare boot parts"
	phaseCrashes  = "collect crash records"
)

// backgroundTime is for work that nobody at the console waits for; it shares
// the processors with services that start.
const backgroundTime = 5 * time.Minute

// phases is the boot of each mode, in order. Devices come up in the
// background, and services do not wait for all of them: each starts with the
// phase that brings what it needs (late). Guests wait for the last phase.
func (s *system) phases() []phase.Phase {
	list := []phase.Phase{
		{Name: phaseUdev, Fatal: true, Run: s.startUdev},
		{Name: phaseDisks, Background: true, Deadline: settleTime, Run: s.coldplugFirst},
	}
	if s.opt.Mode == cmdline.Node {
		list = append(list,
			phase.Phase{Name: phaseActivate, Fatal: true, Deadline: 2 * time.Minute, Run: s.activateState},
			phase.Phase{Name: phaseVar, Fatal: true, Deadline: 20 * time.Minute, Run: s.mountVar},
			phase.Phase{Name: phaseLocal, Deadline: 20 * time.Minute, Run: s.mountLocal})
		if s.opt.Pool != "" {
			list = append(list, phase.Phase{Name: phaseCache, Run: s.limitCache})
		}
	} else {
		list = append(list, phase.Phase{Name: "mount /var in memory", Fatal: true, Run: s.memoryVar})
	}
	list = append(list,
		phase.Phase{Name: "populate /var", Run: func(context.Context) error { return populate() }},
		phase.Phase{Name: "open logs", Run: s.openLogs},
		phase.Phase{Name: "render /etc", Fatal: true, Run: func(context.Context) error { return makeEtc(s.log.Printf) }},
		phase.Phase{Name: "set kernel parameters", Run: s.kernelParameters},
		phase.Phase{Name: "open control socket", Run: s.listen},
		phase.Phase{Name: "load keymap", Background: true, Run: s.loadKeymap})
	if s.opt.Mode == cmdline.Node {
		return append(list, s.nodePhases()...)
	}
	return append(list,
		phase.Phase{Name: phaseModules, Background: true, Deadline: backgroundTime, Run: s.modules},
		phase.Phase{Name: phaseColdplug, Background: true, Deadline: settleTime, After: []string{phaseDisks}, Run: s.coldplugRest},
		// The installer lists disks and network cards, people type commands.
		phase.Phase{Name: phaseServices, Fatal: true, After: []string{phaseModules, phaseColdplug}, Run: s.startServices})
}

// nodePhases ends the boot of a node: services, and what they and guests need
// beside.
func (s *system) nodePhases() []phase.Phase {
	list := []phase.Phase{
		{Name: phaseCard, Background: true, Deadline: settleTime, Run: s.findCard},
		{Name: phaseHostKey, Background: true, Deadline: backgroundTime, Run: s.hostKeys},
		{Name: phaseServices, Fatal: true, Run: s.startServices},
		{Name: phaseProgram, Background: true, Deadline: firstboot.ProgramTime + 2*time.Minute, After: []string{phaseCard, phaseServices}, Run: s.firstProgram},
		{Name: phaseModules, Background: true, Deadline: backgroundTime, Run: s.modules},
		{Name: phaseColdplug, Background: true, Deadline: settleTime, After: []string{phaseDisks}, Run: s.coldplugRest},
		{Name: phaseAppArmor, Background: true, Deadline: backgroundTime, After: []string{phaseDisks}, Run: s.loadAppArmor},
		{Name: phaseEnd, Background: true, Deadline: backgroundTime, Run: s.endInstallation},
		{Name: phaseBoot, Background: true, Deadline: backgroundTime, After: []string{phaseDisks, phaseEnd}, Run: s.reconcile},
		{Name: phaseCrashes, Background: true, Deadline: backgroundTime, After: []string{phaseModules}, Run: s.collectCrashes},
	}
	if s.opt.Array != "" {
		list = append(list, phase.Phase{Name: phaseMirror, Background: true, Deadline: backgroundTime, After: []string{phaseDisks}, Run: s.tendMirror})
	}
	if s.opt.Pool != "" {
		list = append(list, phase.Phase{Name: phaseTendPool, Background: true, Deadline: backgroundTime, After: []string{phaseDisks}, Run: s.tendPool})
	} else {
		list = append(list, phase.Phase{Name: phasePool, Background: true, Deadline: 10 * time.Minute, After: []string{phaseDisks}, Run: s.activatePool})
	}
	for _, l := range late {
		if !slices.ContainsFunc(list, func(p phase.Phase) bool { return p.Name == l.phase }) {
			continue
		}
		list = append(list, phase.Phase{Name: "start " + l.service, Background: true, After: []string{phaseServices, l.phase},
			Run: func(context.Context) error { return s.start(l.service) }})
	}
	return list
}

// late are the services of a node that start after a phase of their own.
var late = [...]struct{ service, phase string }{
	{"network", phaseProgram},
	{"sshd", phaseHostKey},
	{dmeventd, phasePool},
}

func isLate(service string) bool {
	for _, l := range late {
		if l.service == service {
			return true
		}
	}
	return false
}

// modules loads what will be needed. File systems are not among it: the kernel
// asks modprobe(8) for theirs when they are mounted.
func (s *system) modules(context.Context) error {
	rel, err := module.Release()
	if err != nil {
		return err
	}
	x, err := module.Open(filepath.Join("/usr/lib/modules", rel))
	if err != nil {
		return err
	}
	l := &module.Loader{Index: x, Params: s.opt.Params, Insert: module.Insert}
	return l.Load(wanted(s.opt.Mode)...)
}

func (s *system) startUdev(ctx context.Context) error {
	if err := s.sup.Start(udevd); err != nil {
		return err
	}
	return s.sup.Wait(ctx, udevd)
}

func (s *system) activateState(ctx context.Context) (err error) {
	if err := s.alone(); err != nil {
		return fmt.Errorf("%w; %s", err, bootdisk.CopiesCure)
	}
	if s.opt.Pool != "" {
		return s.openPool(ctx)
	}
	if s.data, err = s.findStorage(ctx); err != nil {
		return err
	}
	s.log.Printf("          data is on %s", s.data)
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
	if s.opt.Pool != "" {
		return nil // swap on a volume of a pool waits for memory that it would have to give
	}
	swap, err := volume("/sys", s.opt.StateVG, "swap")
	if errors.Is(err, os.ErrNotExist) {
		return nil // made only where the answer asked for it
	}
	_, err = s.run.Run(ctx, run.Cmd{Path: "swapon", Args: []string{swap}})
	return err
}

func (s *system) mountVolume(ctx context.Context, name, target string, flags uintptr) error {
	if s.opt.Pool != "" {
		return mountOn(s.pool.name+"/"+name, target, "zfs", flags, "")
	}
	dev, err := volume("/sys", s.opt.StateVG, name)
	if err != nil {
		return err
	}
	fs, err := fileSystem(dev)
	if err != nil {
		return err
	}
	if err := check(ctx, s.run, fs, dev, func(l string) { s.log.Printf("          %s", l) }); err != nil {
		return err
	}
	return mountOn(dev, target, fs, flags, "")
}

// activatePool comes after the devices' first events and tries again: while
// udevd handles those, the node of the pool's metadata may be away for a
// moment, and thin_check then calls a sound pool damaged.
func (s *system) activatePool(ctx context.Context) (err error) {
	for range 3 {
		if err = activate(ctx, s.run, s.data, s.opt.StateVG, thinPool); err == nil {
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

// hostKeys makes the SSH host keys that are not there yet, at the first start
// that needs them: those that the installer could not make, or did not know.
func (s *system) hostKeys(ctx context.Context) error {
	if st, err := os.Stat(neededKeys()); err != nil || st.Size() == 0 {
		return nil
	}
	return makeHostKeys(ctx, s.run, "/")
}

// makeHostKeys makes what is missing below root. An empty file is what a power
// cut leaves of one that was just made.
func makeHostKeys(ctx context.Context, r run.Runner, root string) error {
	var errs []error
	for _, k := range node.HostKeys() {
		name := filepath.Join(root, k.File)
		if st, err := os.Stat(name); err == nil && st.Size() > 0 {
			continue
		}
		if err := makeHostKey(ctx, r, name, k); err != nil {
			errs = append(errs, fmt.Errorf("%s key: %w", k.Kind, err))
		}
	}
	return errors.Join(errs...)
}

func makeHostKey(ctx context.Context, r run.Runner, name string, k node.HostKey) error {
	fresh := name + ".new"
	for _, f := range []string{fresh, fresh + ".pub"} { // ssh-keygen asks before it overwrites
		if err := os.Remove(f); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if _, err := r.Run(ctx, run.Cmd{Path: "ssh-keygen", Args: []string{"-q", "-t", k.Kind, "-b", k.Bits, "-N", "", "-C", "", "-f", fresh}}); err != nil {
		return err
	}
	key, err := os.ReadFile(fresh)
	if err != nil {
		return err
	}
	return errors.Join(node.WriteFile(name, 0o600, key), os.Remove(fresh), os.Remove(fresh+".pub"))
}

// firstProgram holds the network up while the first start's program runs that
// is to run before it. A first start that has ended in whatever way holds
// nothing up.
func (s *system) firstProgram(ctx context.Context) error {
	if !firstboot.HoldsNetwork("/") {
		return nil
	}
	s.log.Printf("          the network waits for the first start's program")
	return untilFree(ctx, func() bool { return firstboot.HoldsNetwork("/") && !s.over(firstBoot) }, time.Second/4)
}

// untilFree waits while something is held.
func untilFree(ctx context.Context, held func() bool, every time.Duration) error {
	for held() {
		select {
		case <-ctx.Done():
			return errors.New("the program has not ended; the network starts without it")
		case <-time.After(every):
		}
	}
	return nil
}

// over says whether a service that runs once has ended, or was left out.
func (s *system) over(name string) bool {
	for _, v := range s.sup.Status() {
		if v.Name == name {
			state := service.State(v.State)
			return state == service.Done || state == service.Failed || state == service.Stopped
		}
	}
	return true
}

// startServices starts what belongs to the mode and does not wait for a phase
// of its own. On a node the dashboards own the screens from here on.
func (s *system) startServices(context.Context) error {
	if s.opt.Mode == cmdline.Node {
		s.log.Printf("started   services; the system is up")
		s.screens.Flush(time.Second)
		s.screens.Mute(true)
	}
	var names []string
	for _, spec := range s.specs {
		if !isLate(spec.Name) {
			names = append(names, spec.Name)
		}
	}
	return s.start(names...)
}

// start starts services. What the image or the node's configuration lacks
// (chrony, keys for sshd) is said and left out.
func (s *system) start(names ...string) error {
	for _, spec := range s.specs {
		switch {
		case !slices.Contains(names, spec.Name), spec.Name == firstBoot && firstboot.Over("/"):
		case !present("/", spec):
			s.log.Printf("          service %s is left out: its program or configuration is not there", spec.Name)
		default:
			if err := s.sup.Start(spec.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// openLogs moves the logs to the disk, and takes messages from who knows
// syslog(3) only.
func (s *system) openLogs(context.Context) error {
	_, err := devlog.Listen(devlog.Path, s.machine.Log("syslog").Line)
	return errors.Join(err, s.machine.openLogs(node.LogDir))
}
