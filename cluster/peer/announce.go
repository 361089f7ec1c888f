package peer

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"
)

// Announcements are how nodes find each other when addresses changed for all
// of them at once: one signed datagram to everybody on the link. Guests on the
// link can read it, a node's name and addresses, and cannot make one.
const announcePort = 8007

// Groups that only nodes listen to: link-local (RFC 4291, section 2.7) and
// administratively scoped (RFC 2365).
var groups = []struct {
	network string
	ip      net.IP
}{
	{"udp6", net.ParseIP("ff02::6a6f:6973")},
	{"udp4", net.IPv4(239, 255, 106, 105)},
}

// message is what is signed.
type message struct {
	Cluster   string   `json:"cluster"`
	Node      string   `json:"node"`
	Seq       int64    `json:"seq"`
	Addresses []string `json:"addresses"`
}

// datagram is what is sent: the message as it was signed, the certificate
// whose key did it, and the signature (ECDSA over SHA-256, ASN.1).
type datagram struct {
	Message json.RawMessage `json:"message"`
	Cert    []byte          `json:"cert"`
	Sig     []byte          `json:"sig"`
}

// Announcer sends and hears announcements on one interface.
type Announcer struct {
	Book      *Book
	Identity  *Identity
	Interface func() string      // the management bridge, "" while there is none
	Addresses func() []string    // this node's
	Missing   func() bool        // whether a node is away: then announce again and again
	Changed   func(own []string) // called when this node's addresses changed
	Log       *slog.Logger
	look      time.Duration // between looks at the own addresses; tests shorten it
}

const (
	lookEvery  = 2 * time.Second
	againAfter = 30 * time.Second
	maxPacket  = 4096
)

// Run announces and listens until ctx ends.
func (a *Announcer) Run(ctx context.Context) {
	if a.look == 0 {
		a.look = lookEvery
	}
	var last []string
	var sent time.Time
	var socks []*net.UDPConn
	var on string
	defer func() { closeAll(socks) }()
	for {
		own, ifname := a.Addresses(), a.Interface()
		changed := len(own) > 0 && !slices.Equal(own, last)
		if changed || ifname != on {
			// Membership of a group goes with the addresses of an interface.
			closeAll(socks)
			socks, on = a.listen(ctx, ifname), ifname
			if len(socks) == 0 {
				on = ""
			}
		}
		if changed {
			last = own
			a.Changed(own)
		}
		if changed || a.Missing() && time.Since(sent) > againAfter {
			sent = time.Now()
			a.send(socks, own)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(a.look):
		}
	}
}

func closeAll(socks []*net.UDPConn) {
	for _, s := range socks {
		s.Close()
	}
}

func (a *Announcer) listen(ctx context.Context, name string) (out []*net.UDPConn) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return nil
	}
	for _, g := range groups {
		c, err := net.ListenMulticastUDP(g.network, ifi, &net.UDPAddr{IP: g.ip, Port: announcePort})
		if err != nil { // a link may lack one of the two
			a.Log.Debug("listen for announcements", "interface", name, "network", g.network, "err", err)
			continue
		}
		out = append(out, c)
		go a.hear(ctx, c)
	}
	return out
}

func (a *Announcer) hear(ctx context.Context, c *net.UDPConn) {
	buf := make([]byte, maxPacket)
	for ctx.Err() == nil {
		n, _, err := c.ReadFromUDP(buf)
		if err != nil {
			return
		}
		if err := a.take(buf[:n]); err != nil {
			a.Log.Debug("announcement is not believed", "err", err)
		}
	}
}

// take checks an announcement and learns what it says. One that is new is
// answered when it comes from a node that was away: it does not know where
// this one is either.
func (a *Announcer) take(b []byte) error {
	m, err := open(b, a.Book)
	if err != nil {
		return err
	}
	a.Book.Learn(m.Node, m.Addresses, m.Seq)
	return nil
}

func open(b []byte, book *Book) (message, error) {
	var d datagram
	var m message
	if err := json.Unmarshal(b, &d); err != nil {
		return m, err
	}
	if err := json.Unmarshal(d.Message, &m); err != nil {
		return m, err
	}
	cert, err := x509.ParseCertificate(d.Cert)
	if err != nil {
		return m, err
	}
	name, err := NodeOf(cert)
	if err != nil {
		return m, err
	}
	// The roster knows the key: no chain needs checking.
	if name != m.Node || m.Cluster != book.Cluster().ID || !book.Allowed(name, KeySHA256(cert)) {
		return m, fmt.Errorf("%q of cluster %q is not one of us", m.Node, m.Cluster)
	}
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	sum := sha256.Sum256(d.Message)
	if !ok || !ecdsa.VerifyASN1(key, sum[:], d.Sig) {
		return m, errors.New("wrong signature")
	}
	return m, nil
}

func (a *Announcer) seal(own []string, now time.Time) ([]byte, error) {
	cert, _, err := a.Identity.current()
	if err != nil {
		return nil, err
	}
	m, err := json.Marshal(message{a.Book.Cluster().ID, a.Book.Self(), now.UnixNano(), own})
	if err != nil {
		return nil, err
	}
	signer, ok := cert.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, errors.New("sign announcement: the node's key cannot sign")
	}
	sum := sha256.Sum256(m)
	sig, err := signer.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign announcement: %w", err)
	}
	return json.Marshal(datagram{m, cert.Certificate[0], sig})
}

func (a *Announcer) send(socks []*net.UDPConn, own []string) {
	b, err := a.seal(own, time.Now())
	if err != nil {
		a.Log.Warn("announce this node", "err", err)
		return
	}
	for _, c := range socks {
		to := &net.UDPAddr{Port: announcePort}
		for _, g := range groups {
			if v4 := c.LocalAddr().(*net.UDPAddr).IP.To4() != nil; v4 == (g.ip.To4() != nil) {
				to.IP = g.ip
				if !v4 {
					to.Zone = a.Interface()
				}
			}
		}
		if _, err := c.WriteToUDP(b, to); err != nil {
			a.Log.Debug("announce this node", "to", to, "err", err)
		}
	}
}
