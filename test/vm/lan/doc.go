// Package lan is an Ethernet segment inside the test process: a switch that
// learns addresses, with one Unix socket per port for QEMU's `-netdev stream`,
// and a gateway with DHCP, DNS and TCP in user space. It needs no root and no
// tap device, and nothing on it can reach the world outside: the only
// services are those that the test offers.
//
//	sw, _ := lan.New(dir)
//	port, _ := sw.NewPort("node1")         // port.Netdev("net0") goes to QEMU
//	l, _ := sw.Listen("10.77.0.1:80")      // a server that guests see
//	c, _ := sw.Dial(ctx, "tcp", "10.77.0.100:8006")
//	port.SetLoss(20)
//	port.Cut(true)
//
// It refuses to be a router: there is one subnet, IPv4 only at the gateway;
// guests may speak any protocol with each other.
package lan
