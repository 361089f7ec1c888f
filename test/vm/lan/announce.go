package lan

import (
	"encoding/binary"
	"time"
)

// announceTime is far below the 30 s that the standard has switches wait.
const announceTime = 2 * time.Second

// announce tells each port every few seconds that it is on a switch, in the
// form of IEEE 802.1AB (LLDP), whose frames no bridge passes on. It is here for
// what a frame does to a machine on a software CPU that runs guests itself:
// QEMU's helper_vmrun changes CPUState.interrupt_request without the lock that
// others change it under (7.2), and so an interrupt is lost now and then. If it
// is the timer's, the machine stands still until another device interrupts it;
// on a quiet network that was six minutes, after which its watchdog reset it.
// So the frames go through a cut cable too.
func (s *Switch) announce() {
	tick := time.NewTicker(announceTime)
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		}
		s.mu.Lock()
		ports := s.ports
		s.mu.Unlock()
		for _, p := range ports {
			p.enqueue(announcement(p.name))
		}
	}
}

const etherLLDP = 0x88cc

// announcement is the least that a frame of LLDP holds: chassis, port, how
// long that is true, and the end.
func announcement(port string) []byte {
	tlv := func(b []byte, kind int, value ...byte) []byte {
		return append(binary.BigEndian.AppendUint16(b, uint16(kind<<9|len(value))), value...)
	}
	f := append([]byte{0x01, 0x80, 0xc2, 0, 0, 0x0e}, gatewayMAC...)
	f = binary.BigEndian.AppendUint16(f, etherLLDP)
	f = tlv(f, 1, append([]byte{4}, gatewayMAC...)...)                 // subtype: MAC address
	f = tlv(f, 2, append([]byte{7}, port[:min(len(port), 255)]...)...) // subtype: locally assigned
	f = tlv(f, 3, 0, 120)                                              // seconds
	f = tlv(f, 0)
	return append(f, make([]byte, max(0, 60-len(f)))...) // the shortest frame of Ethernet
}
