package lan

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// udpPayload is what a frame carries to the given UDP port over IPv4.
func udpPayload(frame []byte, port uint16) ([]byte, bool) {
	if len(frame) < etherLen+header.IPv4MinimumSize || binary.BigEndian.Uint16(frame[12:]) != uint16(header.IPv4ProtocolNumber) {
		return nil, false
	}
	ip := header.IPv4(frame[etherLen:])
	if !ip.IsValid(len(ip)) || ip.Protocol() != uint8(header.UDPProtocolNumber) || ip.FragmentOffset() != 0 || ip.More() {
		return nil, false
	}
	udp := header.UDP(ip.Payload())
	if len(udp) < header.UDPMinimumSize || udp.DestinationPort() != port || int(udp.Length()) < header.UDPMinimumSize || int(udp.Length()) > len(udp) {
		return nil, false
	}
	return udp[header.UDPMinimumSize:udp.Length()], true
}

// udpFrame wraps a payload in UDP, IPv4 and Ethernet, sent by the gateway.
func udpFrame(dst MAC, from, to netip.AddrPort, payload []byte) []byte {
	frame := make([]byte, etherLen+header.IPv4MinimumSize+header.UDPMinimumSize+len(payload))
	copy(frame, dst[:])
	copy(frame[6:], gatewayMAC)
	binary.BigEndian.PutUint16(frame[12:], uint16(header.IPv4ProtocolNumber))

	ip := header.IPv4(frame[etherLen:])
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(ip)), TTL: 64, Protocol: uint8(header.UDPProtocolNumber),
		SrcAddr: address(from.Addr()), DstAddr: address(to.Addr()),
	})
	ip.SetChecksum(^ip.CalculateChecksum())

	udp := header.UDP(ip.Payload())
	udp.Encode(&header.UDPFields{SrcPort: from.Port(), DstPort: to.Port(), Length: uint16(len(udp))})
	copy(udp.Payload(), payload)
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, address(from.Addr()), address(to.Addr()), uint16(len(udp)))
	udp.SetChecksum(^udp.CalculateChecksum(checksum.Checksum(payload, sum)))
	return frame
}
