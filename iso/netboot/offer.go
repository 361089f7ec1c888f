package netboot

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// Offers answers the DHCP requests of firmware beside the network's own DHCP
// server: that one gives addresses, this one names the file to start (PXE 2.1,
// 2.2 "PXE DHCP options", and UEFI 2.10, 24.7 "HTTP boot").
type Offers struct {
	Server netip.Addr // this server, as the machines reach it
	Web    string     // its web address, without a slash at the end
}

// The classes of clients that are answered (option 60).
const (
	classPXE  = "PXEClient"
	classHTTP = "HTTPClient"
)

// bootFile is what a machine starts; "" if it gets nothing from here, and why.
func (o Offers) bootFile(req *dhcpv4.DHCPv4) (class, file, why string) {
	class, _, _ = strings.Cut(req.ClassIdentifier(), ":")
	if class != classPXE && class != classHTTP {
		return "", "", "it is no firmware"
	}
	for _, u := range req.UserClass() {
		if u == "iPXE" {
			return class, o.Web + "/" + IPXEFile, ""
		}
	}
	arch := iana.Arch(0) // a PXE client without the option is an old BIOS
	if list := req.ClientArch(); len(list) > 0 {
		arch = list[0]
	}
	switch {
	case class == classHTTP && arch == iana.EFI_X86_64_HTTP:
		return class, o.Web + "/" + UEFIFile, ""
	case class == classPXE && arch == iana.INTEL_X86PC:
		return class, BIOSFile, ""
	case class == classPXE && (arch == iana.EFI_BC || arch == iana.EFI_X86_64): // firmware mixes the two up
		return class, UEFIFile, ""
	}
	return class, "", fmt.Sprintf("nothing here is for %s (%s)", arch, class)
}

// Reply is the answer to a request, nil for none. direct says that it came to
// the boot server's own port, 4011, where also requests are answered. The text
// says what was done, "" where there is nothing to tell.
func (o Offers) Reply(req *dhcpv4.DHCPv4, direct bool) (reply *dhcpv4.DHCPv4, text string) {
	kind := dhcpv4.MessageTypeOffer
	switch t := req.MessageType(); {
	case req.OpCode != dhcpv4.OpcodeBootRequest || len(req.ClientHWAddr) != 6:
		return nil, ""
	case t == dhcpv4.MessageTypeDiscover && !direct:
	case direct && (t == dhcpv4.MessageTypeRequest || t == dhcpv4.MessageTypeInform):
		kind = dhcpv4.MessageTypeAck
	default:
		return nil, ""
	}
	class, file, why := o.bootFile(req)
	if class == "" {
		return nil, ""
	}
	if file == "" {
		return nil, fmt.Sprintf("%s gets nothing: %s", req.ClientHWAddr, why)
	}
	self := net.IP(o.Server.AsSlice())
	mods := []dhcpv4.Modifier{
		dhcpv4.WithMessageType(kind), dhcpv4.WithServerIP(self), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(self)),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier(class)), dhcpv4.WithOption(dhcpv4.OptBootFileName(file)),
	}
	if class == classPXE {
		// Discovery control, bit 3: take the file as it is named here.
		mods = append(mods, dhcpv4.WithOption(dhcpv4.OptTFTPServerName(o.Server.String())),
			dhcpv4.WithGeneric(dhcpv4.OptionVendorSpecificInformation, []byte{6, 1, 8, 255}))
	}
	if id := req.GetOneOption(dhcpv4.OptionClientMachineIdentifier); id != nil {
		mods = append(mods, dhcpv4.WithGeneric(dhcpv4.OptionClientMachineIdentifier, id))
	}
	reply, err := dhcpv4.NewReplyFromRequest(req, mods...)
	if err != nil {
		return nil, fmt.Sprintf("%s gets nothing: %v", req.ClientHWAddr, err)
	}
	// Firmware looks into the header, which holds 127 bytes.
	if len(file) < 128 {
		reply.BootFileName = file
	}
	return reply, fmt.Sprintf("%s is told to start %s", req.ClientHWAddr, file)
}

// replyTo is where an answer goes: to the relay, to a client that has an
// address, or to all, for a client without one cannot be asked for its hardware
// address.
func replyTo(req *dhcpv4.DHCPv4, from net.Addr) net.Addr {
	if relay := req.GatewayIPAddr; relay != nil && !relay.IsUnspecified() {
		return &net.UDPAddr{IP: relay, Port: dhcpv4.ServerPort}
	}
	if a, ok := from.(*net.UDPAddr); ok && !a.IP.IsUnspecified() {
		return a
	}
	return &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpv4.ClientPort}
}
