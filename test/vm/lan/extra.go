package lan

import "github.com/insomniacslk/dhcp/dhcpv4"

// DHCPOption adds an option to what the DHCP server grants from now on; an
// empty value takes it away.
func (s *Switch) DHCPOption(code uint8, value string) { s.dhcp.setOption(code, value) }

// TXT makes the gateway's name server answer a query for the TXT records of
// name with these.
func (s *Switch) TXT(name string, records ...string) { s.names.setTXT(name, records) }

func (l *leases) setOption(code uint8, value string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.options == nil {
		l.options = map[uint8]string{}
	}
	if l.options[code] = value; value == "" {
		delete(l.options, code)
	}
}

// extra are the modifiers of setOption's options.
func (l *leases) extra() (out []dhcpv4.Modifier) {
	for code, v := range l.options {
		out = append(out, dhcpv4.WithGeneric(dhcpv4.GenericOptionCode(code), []byte(v)))
	}
	return out
}

func (n *names) setTXT(name string, records []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.txt == nil {
		n.txt = map[string][]string{}
	}
	n.txt[canonical(name)] = records
}

func (n *names) lookupTXT(name string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.txt[canonical(name)]
}
