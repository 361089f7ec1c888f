// Package fetch gets the answer of an unattended installation from a server,
// and tells a server about the finished one. What goes over the wire is made
// and read by functions without effects; Finder, which has them handed to it,
// only decides whom to ask next, and for how long.
package fetch

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"joist/installer/answer"
	"joist/installer/probe"
)

// DHCP options and DNS names by which Proxmox's answer servers are found.
const (
	optURL         = 250
	optFingerprint = 251
	txtURL         = "proxmox-auto-installer."
	txtFingerprint = "proxmox-auto-installer-cert-fingerprint."
)

// Options are the DHCP options that FromACK reads.
func Options() []dhcpv4.OptionCode {
	return []dhcpv4.OptionCode{dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer, dhcpv4.OptionHostName,
		dhcpv4.OptionDomainName, dhcpv4.OptionDNSDomainSearchList, dhcpv4.OptionNTPServers,
		dhcpv4.GenericOptionCode(optURL), dhcpv4.GenericOptionCode(optFingerprint)}
}

// Offer is what the network of one card says.
type Offer struct {
	Card        string
	Address     netip.Prefix
	Gateway     netip.Addr // invalid: there is none
	DNS, NTP    []netip.Addr
	Host        string
	Domains     []string // the lease's own first, then the search list
	URL         string   // option 250
	Fingerprint string   // option 251
}

// FromACK reads a DHCP server's answer to the card. Everything in it comes
// from the wire: what does not pass is left out, and without a usable address
// the whole is refused.
func FromACK(card string, m *dhcpv4.DHCPv4) (Offer, error) {
	o := Offer{Card: card, Host: name(m.HostName()), URL: text(m.Options.Get(dhcpv4.GenericOptionCode(optURL))),
		Fingerprint: text(m.Options.Get(dhcpv4.GenericOptionCode(optFingerprint)))}
	ip, ok := netip.AddrFromSlice(m.YourIPAddr.To4())
	mask := m.SubnetMask()
	if mask == nil {
		mask = m.YourIPAddr.DefaultMask()
	}
	ones, bits := mask.Size()
	if !ok || !machine(ip) || bits != 32 || ones == 0 {
		return Offer{}, fmt.Errorf("read the lease of %s: no usable address and netmask", card)
	}
	o.Address = netip.PrefixFrom(ip, ones)
	if r := addresses(m.Router()); len(r) > 0 {
		o.Gateway = r[0]
	}
	o.DNS, o.NTP = addresses(m.DNS()), addresses(m.NTPServers())
	domains := []string{m.DomainName()}
	if l := m.DomainSearch(); l != nil {
		domains = append(domains, l.Labels...)
	}
	for _, d := range domains {
		if d = name(d); d != "" {
			o.Domains = append(o.Domains, d)
		}
	}
	return o, nil
}

// machine says whether a can be a machine's address.
func machine(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

func addresses(list []net.IP) []netip.Addr {
	var out []netip.Addr
	for _, ip := range list {
		if a, ok := netip.AddrFromSlice(ip.To4()); ok && machine(a) {
			out = append(out, a)
		}
	}
	return out
}

// name is a host or domain name, "" for what is none.
func name(s string) string {
	s = strings.TrimSuffix(strings.TrimRight(s, "\x00"), ".")
	// a domain has no letter before its first dot to ask for
	if s == "" || answer.HostName("x."+s) != "" {
		return ""
	}
	return s
}

// text is an option's text; some servers end it with a zero byte.
func text(b []byte) string { return strings.Trim(string(b), "\x00 \t\r\n") }

// Lease is what facts keep of an offer.
func (o Offer) Lease() probe.Lease {
	l := probe.Lease{Interface: o.Card, Host: o.Host}
	if len(o.Domains) > 0 {
		l.Domain = o.Domains[0]
	}
	return l
}

// Source is the server that the lease names; ok says whether it names one.
func (o Offer) Source() (s answer.Source, ok bool) {
	return answer.Source{URL: o.URL, Fingerprint: o.Fingerprint, From: "DHCP option 250 on " + o.Card}, o.URL != ""
}

// fromTXT is the server that DNS names, from the records of both names.
func fromTXT(domain string, urls, fingerprints []string) (answer.Source, error) {
	s := answer.Source{From: "the DNS name " + txtURL + domain}
	if len(urls) != 1 || len(fingerprints) > 1 {
		return s, fmt.Errorf("%s has %d TXT records and %s%s has %d; one of each at most can be used", txtURL+domain, len(urls), txtFingerprint, domain, len(fingerprints))
	}
	s.URL = text([]byte(urls[0]))
	if len(fingerprints) == 1 {
		s.Fingerprint = text([]byte(fingerprints[0]))
	}
	return s, nil
}
