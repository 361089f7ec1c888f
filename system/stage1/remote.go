package stage1

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	imageboot "joist/image/boot"
	"joist/system/cmdline"
	"joist/system/fetch"
	"joist/system/netup"
)

const (
	netTime   = 3 * time.Minute // a switch may need one before it forwards
	fetchTime = 3 * time.Hour   // at 30 kB/s; a server that says nothing ends it earlier
)

// network reads what is to be fetched, and gets onto the network.
func (b *boot) network(ctx context.Context) error {
	text, err := os.ReadFile(imageboot.RemoteFile)
	if err == nil {
		b.remote, err = imageboot.DecodeRemote(text)
	}
	if err == nil && b.remote.Manifest.BuildID != b.opt.Build {
		err = fmt.Errorf("the initrd is of build %s, the boot menu of %s", b.remote.Manifest.BuildID, b.opt.Build)
	}
	if err != nil {
		return &problem{err, "let the loader take vmlinuz and initrd-netboot from the folder that joist build netboot made, both of the same build"}
	}
	u, err := url.Parse(b.opt.Image)
	if err != nil {
		return err
	}
	ip, err := netip.ParseAddr(u.Hostname())
	card, err := netup.Up(ctx, netup.Want{MAC: b.opt.BootMAC, Address: b.opt.Address, IPv6: err == nil && ip.Is6(), Time: netTime,
		Say: b.log.Printf, Look: func() { b.coldplug() }})
	if err != nil {
		return &problem{err, "check cable, switch port and DHCP server, or give an address: ip=192.0.2.10::192.0.2.1:24::eth0:none"}
	}
	b.log.Printf("          the network is up on %s", card)
	return nil
}

// fetch makes a medium in memory of what the server has. Only an installation
// needs more than the system image.
func (b *boot) fetch(ctx context.Context) error {
	list := []imageboot.Fetch{b.remote.System()}
	if b.opt.Mode == cmdline.Install {
		list = append(list, b.remote.Boot()...)
	}
	var size int64
	for _, f := range list {
		size += f.Size
	}
	if err := memoryMedium(size); err != nil {
		return &problem{err, "give the machine at least 2 GiB of memory"}
	}
	image, err := url.Parse(b.opt.Image)
	if err != nil {
		return err
	}
	b.log.Printf("          %.0f MB from %s", float64(size)/1e6, image.Redacted())
	g := fetch.New(b.log.Printf)
	for i, f := range list {
		from := *image // the first is the one that the command line names
		if i > 0 {
			from.Path, from.RawPath = path.Join(path.Dir(image.Path), f.From), ""
		}
		err := g.Get(ctx, fetch.File{Name: f.From, URL: from.String(), To: filepath.Join(medium, f.To), Size: f.Size, SHA256: f.SHA256})
		if errors.Is(err, fetch.ErrOther) {
			return &problem{err, "offer kernel, initrd-netboot and system.sqfs of one build: copy the whole folder that joist build netboot made"}
		}
		if err != nil {
			return &problem{err, "check that the web server runs and that " + from.Redacted() + " can be fetched from this network"}
		}
	}
	if err := b.putManifest(); err != nil {
		return err
	}
	if err := netup.Down(); err != nil {
		b.log.Printf("          %v", err) // what comes next sets the cards up anew
	}
	return nil
}

// putManifest completes the medium: the installer checks all that it takes from
// it, loaders included.
func (b *boot) putManifest() error {
	m := b.remote.Manifest
	m.Files = maps.Clone(m.Files)
	for name, f := range b.remote.Loaders {
		m.Files[imageboot.LoaderFile(name)] = f
	}
	text, err := m.Encode()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(medium, "joist", b.opt.Build, "manifest.json"), text, 0o644)
}

// memoryMedium mounts an empty medium for size bytes, if the memory has room
// for it and for the system that starts from it.
func memoryMedium(size int64) error {
	const rest = 256 << 20 // of the system until there is an installed one
	free, err := memory("MemAvailable")
	if err != nil {
		return err
	}
	if free < size+rest {
		return fmt.Errorf("%d MB of memory are free, the system needs %d", free/1e6, (size+rest)/1e6)
	}
	if err := os.MkdirAll(medium, 0o755); err != nil {
		return err
	}
	data := fmt.Sprintf("mode=0755,size=%d", size+(16<<20)) // and the tree
	if err := unix.Mount("tmpfs", medium, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, data); err != nil {
		return fmt.Errorf("make a medium in memory: %w", err)
	}
	return nil
}

// memory is a value of /proc/meminfo in bytes.
func memory(name string) (int64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	return memoryValue(string(text), name)
}
