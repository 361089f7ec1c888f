// Package inside is what the node reads and changes in a running container
// from outside, without running anything in there: its network interfaces and
// the size of its file systems.
package inside

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"joist/hypervisor/guest"
)

// Interface is one network interface.
type Interface struct {
	Name, MAC string
	Addresses []string // with prefix length
}

// Interfaces asks the kernel about the network namespace of a process.
func Interfaces(p guest.Process) ([]Interface, error) {
	out, err := interfaces(p)
	if err != nil {
		return nil, fmt.Errorf("list network interfaces of process %d: %w", p.PID, err)
	}
	return out, nil
}

func interfaces(p guest.Process) ([]Interface, error) {
	ns, err := netns.GetFromPid(p.PID)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	if !p.Alive() { // only now is it certain whose namespace was opened
		return nil, guest.ErrNotRunning
	}
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return nil, err
	}
	out := make([]Interface, 0, len(links))
	for _, l := range links {
		i := Interface{Name: l.Attrs().Name, MAC: l.Attrs().HardwareAddr.String()}
		addrs, err := h.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			i.Addresses = append(i.Addresses, a.IPNet.String())
		}
		out = append(out, i)
	}
	return out, nil
}
