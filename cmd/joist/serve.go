package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/spf13/cobra"

	"joist/internal/finding"
	"joist/iso/netboot"
)

// serveFlags are those of joist serve.
type serveFlags struct {
	address, answer            string
	port                       uint16
	unattended, noDHCP, noTFTP bool
}

func (c *cli) serveCommand() *cobra.Command {
	var o serveFlags
	s := &cobra.Command{
		Use:   "serve [FOLDER]",
		Short: "Let machines start and install from the network",
		Long: `Offers a folder of joist build netboot (build/netboot unless another is named)
to machines that start from the network, by HTTP, TFTP and PXE, for BIOS, UEFI,
UEFI's HTTP boot and iPXE. Addresses still come from the network's own DHCP
server, whose settings need no change: this one only adds what is to be started.

The ports are below 1024 (80, 69, 67, and 4011), which Linux keeps for root:

  sudo joist serve
  sudo setcap cap_net_bind_service+ep build/bin/joist    # once, instead of sudo`,
		Example: "  joist serve\n  joist serve --answer answers/    # answers/52-54-00-12-34-56.toml, answers/default.toml\n" +
			"  joist serve --address 192.0.2.5 --port 8080 --no-dhcp --no-tftp",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "build/netboot"
			if len(args) > 0 {
				dir = args[0]
			}
			return o.serve(cmd, dir)
		},
	}
	f := s.Flags()
	f.StringVar(&o.address, "address", "", "IPv4 `address` of this machine to serve at (default: the only one)")
	f.Uint16Var(&o.port, "port", 80, "of the web server")
	f.StringVar(&o.answer, "answer", "", "install unattended with this answer `FILE`, or with those of a folder, by hardware address")
	f.BoolVar(&o.unattended, "unattended", false, "install unattended with the answer that each machine finds by itself")
	f.BoolVar(&o.noDHCP, "no-dhcp", false, "do not answer PXE requests: the network's DHCP server names the file")
	f.BoolVar(&o.noTFTP, "no-tftp", false, "HTTP only")
	s.MarkFlagsMutuallyExclusive("answer", "unattended")
	return s
}

func (o serveFlags) serve(cmd *cobra.Command, dir string) error {
	self, card, err := serverAddress(o.address)
	if err != nil {
		return usagef(cmd, "%w", err)
	}
	web := "http://" + self.String()
	if o.port != 80 {
		web += fmt.Sprintf(":%d", o.port)
	}
	out := cmd.OutOrStdout()
	s := netboot.Server{Offers: netboot.Offers{Server: self, Web: web}, Say: func(f string, a ...any) { fmt.Fprintf(out, f+"\n", a...) }}
	where := ""
	if o.unattended {
		where = "auto"
	}
	if o.answer != "" {
		answers, fl, err := netboot.LoadAnswers(o.answer)
		fl.Write(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		if fl.Stops() {
			return errShown
		}
		s.Answers, where = &answers, web+netboot.AnswerPath
	}
	if s.Folder, err = netboot.OpenFolder(dir, web, where); err != nil {
		return err
	}
	defer s.Folder.Close()
	at, err := o.listen(self, card)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "serving %s at %s; Ctrl-C ends it\n", dir, web)
	if where != "" {
		fmt.Fprintf(out, "machines that start from here install without asking (joist.answer=%s)\n", where)
	}
	if err := s.Serve(cmd.Context(), at); err != nil {
		return err
	}
	return cmd.Context().Err()
}

// serverAddress checks the address, or takes the machine's only one. The card
// is the network interface that has it.
func serverAddress(given string) (netip.Addr, string, error) {
	cards, err := net.Interfaces()
	if err != nil {
		return netip.Addr{}, "", fmt.Errorf("list network cards: %w", err)
	}
	found := map[netip.Addr]string{}
	var names []string
	for _, c := range cards {
		list, err := c.Addrs()
		if err != nil {
			continue // gone since the listing
		}
		for _, a := range list {
			n, ok := a.(*net.IPNet)
			if !ok || n.IP.To4() == nil {
				continue
			}
			ip, _ := netip.AddrFromSlice(n.IP.To4())
			if given == ip.String() {
				return ip, c.Name, nil
			}
			if !ip.IsLoopback() && !ip.IsLinkLocalUnicast() {
				found[ip] = c.Name
				names = append(names, ip.String())
			}
		}
	}
	if given != "" {
		return netip.Addr{}, "", fmt.Errorf("--address %s is no address of this machine, which has %s", given, strings.Join(names, ", "))
	}
	if len(found) != 1 {
		return netip.Addr{}, "", fmt.Errorf("this machine has %d addresses (%s): choose one with --address", len(found), strings.Join(names, ", "))
	}
	for ip, card := range found {
		return ip, card, nil
	}
	panic("unreachable")
}

// listen opens all sockets, and tells of all that cannot be opened.
func (o serveFlags) listen(self netip.Addr, card string) (netboot.Sockets, error) {
	var at netboot.Sockets
	var fl finding.List
	// Port 67 takes what is sent to all, the others what is sent to this machine.
	if l, err := net.Listen("tcp4", netip.AddrPortFrom(self, o.port).String()); err != nil {
		cannotListen(&fl, int(o.port), err, "--port 8080")
	} else {
		at.Web = l
	}
	if !o.noTFTP {
		if c, err := net.ListenPacket("udp4", netip.AddrPortFrom(self, 69).String()); err != nil {
			cannotListen(&fl, 69, err, "--no-tftp (machines then start by HTTP boot or iPXE only)")
		} else {
			at.TFTP = c
		}
	}
	if !o.noDHCP {
		c, err := server4.NewIPv4UDPConn(card, &net.UDPAddr{IP: net.IPv4zero, Port: 67})
		if err != nil {
			cannotListen(&fl, 67, err, "--no-dhcp, and name the file in the network's DHCP server (docs/netboot.md)")
		} else {
			at.DHCP = c
		}
		if c, err := net.ListenPacket("udp4", netip.AddrPortFrom(self, 4011).String()); err != nil {
			cannotListen(&fl, 4011, err, "--no-dhcp, and name the file in the network's DHCP server (docs/netboot.md)")
		} else {
			at.Direct = c
		}
	}
	if fl.Stops() {
		return at, errors.Join(fl.Err(), at.Close())
	}
	return at, nil
}

func cannotListen(fl *finding.List, port int, err error, without string) {
	hint := "use " + without
	text := err.Error()
	// server4's errors do not wrap the system's.
	if errors.Is(err, os.ErrPermission) || strings.Contains(text, syscall.EACCES.Error()) || strings.Contains(text, syscall.EPERM.Error()) {
		hint = "run it with sudo, or once: sudo setcap cap_net_bind_service+ep " + self() + "; or " + hint
		text = "this port is for root"
	} else if errors.Is(err, syscall.EADDRINUSE) || strings.Contains(text, syscall.EADDRINUSE.Error()) {
		hint = "end the other program, or " + hint
		text = "another program has this port"
	}
	fl.Stopf("serve-port", fmt.Sprintf("port %d", port), hint, "%s", text)
}

func self() string {
	name, err := os.Executable()
	if err != nil {
		return "joist"
	}
	return name
}
