package network

import (
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ErrTapBusy is a tap whose other end somebody holds: its guest still runs.
var ErrTapBusy = errors.New("tap is in use")

// txQueue holds what a guest has not taken while its CPU was waited for. It is
// the default for Ethernet (DEFAULT_TX_QUEUE_LEN); tuntap's own is half of it.
const txQueue = 1000

// OpenTap makes the tap name in bridge and returns its other end for a guest
// with hardware address mac. The tap is not persistent: it goes when the last
// holder of the file ends. Flags: Documentation/networking/tuntap.rst.
func OpenTap(name, bridge string, mac net.HardwareAddr) (*os.File, error) {
	f, err := openTap(name, bridge, mac)
	if err != nil {
		return nil, fmt.Errorf("open tap %q in %q: %w", name, bridge, err)
	}
	return f, nil
}

func openTap(name, bridge string, mac net.HardwareAddr) (_ *os.File, err error) {
	for _, s := range []string{name, bridge} {
		if err := checkName(s); err != nil {
			return nil, err
		}
	}
	br, err := netlink.LinkByName(bridge)
	if err != nil {
		return nil, err
	}
	if br.Type() != "bridge" {
		return nil, fmt.Errorf("%s is a %s, not a bridge", bridge, br.Type())
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer func() {
		if err != nil {
			f.Close() // and with it the tap
		}
	}()
	req, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); errors.Is(err, unix.EBUSY) {
		return nil, ErrTapBusy
	} else if err != nil {
		return nil, fmt.Errorf("make tap: %w", err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 0); err != nil {
		return nil, fmt.Errorf("make tap transient: %w", err)
	}
	return f, setUpTap(name, br, mac)
}

// setUpTap keeps the host itself off the tap (no IPv6 address of its own) and
// gives it a hardware address that is not the guest's: the guest's with the
// locally administered first byte fe, higher than any that is in use, so that
// no bridge would take it for its own.
func setUpTap(name string, br netlink.Link, mac net.HardwareAddr) error {
	tap, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := sysctl("ipv6/conf/"+name+"/disable_ipv6", "1"); err != nil {
		return err
	}
	if len(mac) == 6 && mac[0] != 0xfe {
		if err := netlink.LinkSetHardwareAddr(tap, append(net.HardwareAddr{0xfe}, mac[1:]...)); err != nil {
			return fmt.Errorf("set hardware address: %w", err)
		}
	}
	if err := netlink.LinkSetTxQLen(tap, txQueue); err != nil {
		return fmt.Errorf("set queue length: %w", err)
	}
	if mtu := br.Attrs().MTU; mtu != tap.Attrs().MTU {
		if err := netlink.LinkSetMTU(tap, mtu); err != nil {
			return fmt.Errorf("set MTU %d: %w", mtu, err)
		}
	}
	if err := netlink.LinkSetMaster(tap, br); err != nil {
		return fmt.Errorf("put into bridge: %w", err)
	}
	if err := netlink.LinkSetUp(tap); err != nil {
		return fmt.Errorf("bring up: %w", err)
	}
	return nil
}

// RemoveTap removes a tap; one that is not there is no error. A link of that
// name that is no tap is not touched.
func RemoveTap(name string) error {
	if err := checkName(name); err != nil {
		return fmt.Errorf("remove tap: %w", err)
	}
	l, err := netlink.LinkByName(name)
	var none netlink.LinkNotFoundError
	if errors.As(err, &none) {
		return nil
	}
	if err == nil && l.Type() != "tuntap" && l.Type() != "tun" {
		err = fmt.Errorf("link is a %s", l.Type())
	}
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove tap %q: %w", name, err)
	}
	return nil
}

// tapRE takes a guest's tap name apart: tap<vmid>i<n>.
var tapRE = regexp.MustCompile(`^tap([0-9]{3,9})i([0-9]{1,2})$`)

// TapName names the tap of a guest's n-th network card.
func TapName(vmid, n int) string { return fmt.Sprintf("tap%di%d", vmid, n) }

// StaleTaps lists guests' taps whose guest does not run.
func StaleTaps(runs func(vmid int) bool) ([]string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list taps: %w", err)
	}
	var out []string
	for _, l := range links {
		if l.Type() != "tuntap" && l.Type() != "tun" {
			continue
		}
		m := tapRE.FindStringSubmatch(l.Attrs().Name)
		if m == nil {
			continue
		}
		if vmid, err := strconv.Atoi(m[1]); err == nil && !runs(vmid) {
			out = append(out, l.Attrs().Name)
		}
	}
	return out, nil
}

// Taps connects virtual machines; it has no state, the kernel has it all.
type Taps struct{}

// OpenTap is the function of this name.
func (Taps) OpenTap(name, bridge string, mac net.HardwareAddr) (*os.File, error) {
	return OpenTap(name, bridge, mac)
}

// RemoveTap is the function of this name.
func (Taps) RemoveTap(name string) error { return RemoveTap(name) }

// netlinkSocket hears of links, IPv4 and IPv6 addresses and IPv4 routes:
// rtnetlink(7).
func netlinkSocket() (*nl.NetlinkSocket, error) {
	return nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE)
}
