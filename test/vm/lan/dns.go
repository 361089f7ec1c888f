package lan

import (
	"net"
	"net/netip"
	"strings"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
)

// names is the gateway's name server: a table of A records.
type names struct {
	mu    sync.Mutex
	table map[string]netip.Addr // lower case, without the final dot
	txt   map[string][]string
}

func newNames() *names { return &names{table: map[string]netip.Addr{"gateway": Gateway}} }

func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

func (n *names) set(name string, ip netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.table[canonical(name)] = ip
}

func (n *names) lookup(name string) (netip.Addr, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	ip, ok := n.table[canonical(name)]
	return ip, ok
}

func (n *names) serve(g *station) error {
	c, err := g.listenUDP(netip.AddrPortFrom(Gateway, 53))
	if err != nil {
		return err
	}
	go n.loop(c)
	return nil
}

func (n *names) loop(c net.PacketConn) {
	defer c.Close()
	buf := make([]byte, mtu)
	for {
		size, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		if reply, ok := n.answer(buf[:size]); ok {
			c.WriteTo(reply, from) // a lost answer is the client's to ask for again
		}
	}
}

// answer makes the reply to one query (RFC 1035). A name in the table without
// a record of the wanted type gets an empty answer, so that a query for AAAA
// does not hide the A record.
func (n *names) answer(query []byte) ([]byte, bool) {
	var p dnsmessage.Parser
	head, err := p.Start(query)
	if err != nil || head.Response {
		return nil, false
	}
	q, err := p.Question()
	if err != nil {
		return nil, false
	}
	ip, known := n.lookup(q.Name.String())
	txt := n.lookupTXT(q.Name.String())
	reply := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: head.ID, Response: true, Authoritative: true,
			RecursionDesired: head.RecursionDesired, RecursionAvailable: true,
		},
		Questions: []dnsmessage.Question{q},
	}
	switch {
	case q.Type == dnsmessage.TypeTXT && txt != nil:
		for _, t := range txt {
			reply.Answers = append(reply.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60},
				Body:   &dnsmessage.TXTResource{TXT: []string{t}},
			})
		}
	case !known && txt == nil:
		reply.RCode = dnsmessage.RCodeNameError
	case known && q.Type == dnsmessage.TypeA:
		reply.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60},
			Body:   &dnsmessage.AResource{A: ip.As4()},
		}}
	}
	out, err := reply.Pack()
	return out, err == nil
}
