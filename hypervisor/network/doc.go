// Package network sets up the machine's own network: the bridge over the
// management link, its address by DHCP or by configuration, the default route
// and resolv.conf, and the tap devices that connect virtual machines.
//
// Run is a process of its own (`joistd network`). It works from node.json
// before and without the API and shares nothing with the daemon but a file,
// node.NetState. It only ever converges: what is right already is left alone,
// so restarting it changes no address, and a bridge, port, address or route
// that somebody took away comes back. It refuses to touch links other than the
// bridge and the one network card below it, and it does no filtering.
package network
