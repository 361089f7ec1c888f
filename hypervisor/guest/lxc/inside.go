package lxc

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"regexp"
	"strings"

	"joist/hypervisor/guest"
)

// Inside is what a container's own files say of it.
type Inside struct {
	Hostname string // without domain
	Domain   string
	DNS      []netip.Addr // empty: the node's
	Search   string
	Timezone string // "", "host" or a name below /usr/share/zoneinfo
	Nets     []Net
}

var (
	domainRE = regexp.MustCompile(`^[a-zA-Z0-9_]([a-zA-Z0-9_.-]{0,252})$`)
	zoneRE   = regexp.MustCompile(`^[a-zA-Z0-9+_-]+(/[a-zA-Z0-9+_-]+){0,2}$`)
)

func (p *Plan) inside(c config, _ guest.Spec) error {
	host, domain, _ := strings.Cut(p.Name, ".")
	p.Inside = Inside{Hostname: host, Domain: domain, Timezone: c.text("timezone", ""), Nets: p.Nets}
	if !domainRE.MatchString(p.Name) {
		return fmt.Errorf("read hostname: %q is no host name", p.Name)
	}
	for _, s := range words(c.text("nameserver", "")) {
		if s == "host" {
			continue
		}
		a, err := netip.ParseAddr(s)
		if err != nil {
			return fmt.Errorf("read nameserver: %q is no address", s)
		}
		p.Inside.DNS = append(p.Inside.DNS, a)
	}
	var search []string
	for _, s := range words(c.text("searchdomain", "")) {
		if s == "host" {
			continue
		}
		if !domainRE.MatchString(s) {
			return fmt.Errorf("read searchdomain: %q is no domain", s)
		}
		search = append(search, s)
	}
	p.Inside.Search = strings.Join(search, " ")
	if z := p.Inside.Timezone; z != "" && !zoneRE.MatchString(z) {
		return fmt.Errorf("read timezone: %q is no time zone", z)
	}
	return nil
}

func words(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' || r == ';' || r == '\t' })
}

// settle writes the container's own files. It runs before every start, so that
// changes of the configuration arrive.
func (d *Driver) settle(t *tree, in Inside) error {
	steps := []struct {
		what string
		do   func(*tree, Inside) error
	}{
		{"host name", writeHostname}, {"hosts", writeHosts}, {"name servers", d.writeResolv},
		{"time zone", d.writeZone}, {"network", writeNetwork},
	}
	for _, s := range steps {
		if err := s.do(t, in); err != nil {
			return fmt.Errorf("write %s into the container: %w", s.what, err)
		}
	}
	return nil
}

func writeHostname(t *tree, in Inside) error {
	if !t.has("etc") {
		return nil // no system as we know it
	}
	return t.write("etc/hostname", 0o644, []byte(in.Hostname+"\n"))
}

const (
	hostsBegin = "# --- joist: made at every start, changes are lost ---"
	hostsEnd   = "# --- joist: end ---"
)

func writeHosts(t *tree, in Inside) error {
	if !t.has("etc") {
		return nil
	}
	old, err := t.read("etc/hosts")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return t.write("etc/hosts", 0o644, []byte(hosts(string(old), in)))
}

// hosts replaces our section of hosts(5).
func hosts(old string, in Inside) string {
	before, rest, found := strings.Cut(old, hostsBegin+"\n")
	after := ""
	if found {
		_, after, _ = strings.Cut(rest, hostsEnd+"\n")
	}
	if before == "" && after == "" {
		before = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
	}
	if !strings.HasSuffix(before, "\n") && before != "" {
		before += "\n"
	}
	addr := "127.0.1.1" // what Debian's installer writes where addresses come and go
	for _, n := range in.Nets {
		if p, err := netip.ParsePrefix(n.IP); err == nil {
			addr = p.Addr().String()
			break
		}
	}
	names := in.Hostname
	if in.Domain != "" {
		names = in.Hostname + "." + in.Domain + " " + in.Hostname
	}
	return before + hostsBegin + "\n" + addr + "\t" + names + "\n" + hostsEnd + "\n" + after
}

// writeResolv leaves a link alone: a resolver in the container looks after it,
// and gets the servers with the network.
func (d *Driver) writeResolv(t *tree, in Inside) error {
	if !t.has("etc") || t.isLink("etc/resolv.conf") {
		return nil
	}
	node := ""
	for _, f := range d.Resolv {
		if b, err := os.ReadFile(f); err == nil {
			node = string(b)
			break
		}
	}
	return t.write("etc/resolv.conf", 0o644, []byte(resolv(node, in)))
}

// resolv makes resolv.conf(5): the container's own servers and domain, else
// the node's. A server on the node's loopback is none for a container.
func resolv(node string, in Inside) string {
	search, servers := in.Search, in.DNS
	if search == "" {
		search = in.Domain
	}
	var found []netip.Addr
	for line := range strings.Lines(node) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); f[0] == "nameserver" && err == nil && !a.IsLoopback() && a.Zone() == "" {
			found = append(found, a)
		}
		if (f[0] == "search" || f[0] == "domain") && search == "" {
			search = strings.Join(f[1:], " ")
		}
	}
	if len(servers) == 0 {
		servers = found
	}
	var b strings.Builder
	if search != "" {
		b.WriteString("search " + search + "\n")
	}
	for _, a := range servers {
		b.WriteString("nameserver " + a.String() + "\n")
	}
	return b.String()
}

func (d *Driver) writeZone(t *tree, in Inside) error {
	zone := in.Timezone
	if zone == "host" {
		target, err := os.Readlink(d.Localtime)
		_, name, ok := strings.Cut(target, "zoneinfo/")
		if err != nil || !ok || !zoneRE.MatchString(name) {
			return nil
		}
		zone = name
	}
	if zone == "" || !t.has("usr/share/zoneinfo/"+zone) {
		return nil
	}
	return t.symlink("/usr/share/zoneinfo/"+zone, "etc/localtime", t.base, t.base)
}

// The programs that set up a container's network, the first one counts. Where
// there is none, nothing is written and the container is on its own.
var networks = []struct {
	program string
	write   func(*tree, Inside) error
}{
	{"usr/sbin/ifup", writeInterfaces}, // Debian's ifupdown
	{"sbin/ifup", writeInterfaces},     // busybox
	{"usr/lib/systemd/systemd-networkd", writeNetworkd},
	{"lib/systemd/systemd-networkd", writeNetworkd},
}

func writeNetwork(t *tree, in Inside) error {
	for _, n := range networks {
		if t.has(n.program) {
			return n.write(t, in)
		}
	}
	return nil
}

func writeInterfaces(t *tree, in Inside) error {
	return t.write("etc/network/interfaces", 0o644, []byte(interfaces(in)))
}

// interfaces makes interfaces(5).
func interfaces(in Inside) string {
	var b strings.Builder
	b.WriteString("# Made by joist at every start. Your own settings go into /etc/network/interfaces.d.\n")
	b.WriteString("source /etc/network/interfaces.d/*\n\nauto lo\niface lo inet loopback\n")
	for _, n := range in.Nets {
		b.WriteString("\nauto " + n.Name + "\n")
		family := func(name, how, gw string) {
			switch how {
			case "", "manual":
				if name == "inet" {
					fmt.Fprintf(&b, "iface %s inet manual\n", n.Name)
				}
			case "dhcp", "auto":
				fmt.Fprintf(&b, "iface %s %s %s\n", n.Name, name, how)
			default:
				fmt.Fprintf(&b, "iface %s %s static\n\taddress %s\n", n.Name, name, how)
				if gw != "" {
					fmt.Fprintf(&b, "\tgateway %s\n", gw)
				}
			}
		}
		family("inet", n.IP, n.GW)
		family("inet6", n.IP6, n.GW6)
	}
	return b.String()
}

// networkdPrefix comes before the names of what a distribution brings: of all
// files that match an interface, systemd.network(5) takes the first by name.
const networkdPrefix = "10-joist-"

func writeNetworkd(t *tree, in Inside) error {
	const dir = "etc/systemd/network"
	for _, name := range t.list(dir) { // of interfaces that may be gone
		if strings.HasPrefix(name, networkdPrefix) {
			if err := t.remove(path.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	for _, n := range in.Nets {
		if err := t.write(path.Join(dir, networkdPrefix+n.Name+".network"), 0o644, []byte(networkd(n, in))); err != nil {
			return err
		}
	}
	return nil
}

// networkd makes systemd.network(5).
func networkd(n Net, in Inside) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Made by joist at every start.\n[Match]\nName=%s\n\n[Network]\n", n.Name)
	dhcp := map[[2]bool]string{{true, false}: "ipv4", {false, true}: "ipv6", {true, true}: "yes", {}: "no"}
	fmt.Fprintf(&b, "DHCP=%s\n", dhcp[[2]bool{n.IP == "dhcp", n.IP6 == "dhcp"}])
	if n.IP6 == "auto" || n.IP6 == "dhcp" {
		b.WriteString("IPv6AcceptRA=yes\n")
	} else {
		b.WriteString("IPv6AcceptRA=no\n")
	}
	for _, a := range [][2]string{{n.IP, n.GW}, {n.IP6, n.GW6}} {
		if _, err := netip.ParsePrefix(a[0]); err != nil {
			continue
		}
		fmt.Fprintf(&b, "Address=%s\n", a[0])
		if a[1] != "" {
			fmt.Fprintf(&b, "Gateway=%s\n", a[1])
		}
	}
	for _, s := range in.DNS {
		fmt.Fprintf(&b, "DNS=%s\n", s)
	}
	if in.Search != "" {
		fmt.Fprintf(&b, "Domains=%s\n", in.Search)
	}
	return b.String()
}
