// Package peer is how nodes of a cluster reach each other: who may speak, by
// certificate and roster; at which addresses, which may change at any moment,
// for all nodes at once; and what each tells the others about itself all the
// time.
//
// All of it runs on the API's port. What a connection is for shows in the
// server name of its TLS handshake (RFC 6066, section 3): a node's peer name
// asks for the node-to-node side, which demands a certificate of the cluster;
// the join name asks for what a machine without one may see; everything else
// is the public API.
package peer

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"joist/cluster/roster"
)

// Files of a member in its cluster folder.
const (
	CAFile   = "ca.crt"
	CertFile = "node.crt"
	KeyFile  = "node.key"
)

// Identity is what this node proves itself with. Its files may be replaced at
// any time; each handshake uses what is there.
type Identity struct {
	dir string

	mu     sync.Mutex
	loaded time.Time // modification time of the certificate that cert is
	cert   tls.Certificate
	ca     *x509.CertPool
	caDER  []byte
}

// OpenIdentity reads the files in dir.
func OpenIdentity(dir string) (*Identity, error) {
	i := &Identity{dir: dir}
	if _, _, err := i.current(); err != nil {
		return nil, err
	}
	return i, nil
}

// Path is where one of the identity's files lies.
func (i *Identity) Path(name string) string { return filepath.Join(i.dir, name) }

// Certificate is the node's own certificate, for those who look at its dates.
func (i *Identity) Certificate() (*x509.Certificate, error) {
	c, _, err := i.current()
	if err != nil {
		return nil, err
	}
	return c.Leaf, nil
}

// CA is the cluster's certificate (DER).
func (i *Identity) CA() []byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.caDER
}

func (i *Identity) current() (tls.Certificate, *x509.CertPool, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	st, err := os.Stat(i.Path(CertFile))
	if err != nil {
		if i.ca != nil { // being replaced right now
			return i.cert, i.ca, nil
		}
		return tls.Certificate{}, nil, fmt.Errorf("read node certificate: %w", err)
	}
	if i.ca != nil && st.ModTime().Equal(i.loaded) {
		return i.cert, i.ca, nil
	}
	cert, err := tls.LoadX509KeyPair(i.Path(CertFile), i.Path(KeyFile))
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("read node certificate: %w", err)
	}
	text, err := os.ReadFile(i.Path(CAFile))
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("read cluster certificate: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return tls.Certificate{}, nil, fmt.Errorf("read cluster certificate: %s holds none", CAFile)
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("read cluster certificate: %w", err)
	}
	// Joiners pin the cluster's certificate: it comes with the node's.
	cert.Certificate = append(cert.Certificate[:1:1], ca.Raw)
	i.ca = x509.NewCertPool()
	i.ca.AddCert(ca)
	i.cert, i.caDER, i.loaded = cert, ca.Raw, st.ModTime()
	return i.cert, i.ca, nil
}

// Allowed decides whether a node with this key belongs to the cluster.
type Allowed func(node, keySHA256 string) bool

// ServerConfig answers handshakes by the name that they ask for; public is
// for all that do not ask for a node.
func (i *Identity) ServerConfig(public *tls.Config, allowed Allowed) *tls.Config {
	config := public.Clone()
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		name := strings.ToLower(hello.ServerName)
		if !strings.HasSuffix(name, "."+roster.Domain) {
			return nil, nil // public
		}
		cert, ca, err := i.current()
		if err != nil {
			return nil, err
		}
		c := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}}
		if name != roster.JoinName {
			c.ClientAuth = tls.RequireAnyClientCert
			c.VerifyConnection = verify(ca, x509.ExtKeyUsageClientAuth, "", allowed)
		}
		return c, nil
	}
	return config
}

// ClientConfig is for a connection to a node.
func (i *Identity) ClientConfig(node string, allowed Allowed) (*tls.Config, error) {
	cert, ca, err := i.current()
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{cert}, ServerName: roster.PeerName(node), MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"},
		// VerifyConnection does it instead: with the cluster's own clock rules.
		InsecureSkipVerify: true,
		VerifyConnection:   verify(ca, x509.ExtKeyUsageServerAuth, node, allowed),
	}, nil
}

// skew is by how much two nodes' clocks may differ before they do not believe
// each other's certificates any more. Time is put right by NTP, over the
// network that must work before.
const skew = 24 * time.Hour

// verify checks a peer's certificate: issued by the cluster, for the node that
// is expected (any, where want is empty), with a key that the roster knows.
func verify(ca *x509.CertPool, usage x509.ExtKeyUsage, want string, allowed Allowed) func(tls.ConnectionState) error {
	return func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 {
			return errors.New("a certificate of the cluster is needed")
		}
		leaf := s.PeerCertificates[0]
		_, err := leaf.Verify(x509.VerifyOptions{Roots: ca, KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: within(leaf, time.Now())})
		if err != nil {
			return fmt.Errorf("certificate is not of this cluster: %w", err)
		}
		node, err := NodeOf(leaf)
		if err != nil {
			return err
		}
		if want != "" && node != want {
			return fmt.Errorf("certificate is of node %q, not of %q", node, want)
		}
		if !allowed(node, KeySHA256(leaf)) {
			return fmt.Errorf("node %q does not belong to this cluster with that key", node)
		}
		return nil
	}
}

// within moves a time that lies just outside of a certificate's life into it.
func within(c *x509.Certificate, now time.Time) time.Time {
	switch {
	case now.Before(c.NotBefore) && now.Add(skew).After(c.NotBefore):
		return c.NotBefore
	case now.After(c.NotAfter) && now.Add(-skew).Before(c.NotAfter):
		return c.NotAfter
	}
	return now
}

// NodeOf is the node a certificate was issued to.
func NodeOf(c *x509.Certificate) (string, error) {
	for _, n := range c.DNSNames {
		if node, ok := strings.CutSuffix(n, "."+roster.Domain); ok && roster.ValidName(node) {
			return node, nil
		}
	}
	return "", errors.New("certificate names no node")
}

// KeySHA256 is what the roster knows a node's key by.
func KeySHA256(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}
