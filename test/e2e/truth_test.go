package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"joist/api/client"
)

// betweenAddress is where somebody stands between the nodes.
var betweenAddress = netip.MustParseAddr("10.77.0.66")

// standBetween answers at an address of the network as a node does, with
// certificates of an authority of its own, and counts what it is told.
func (n *runningNode) standBetween(t testing.TB) (told func() int) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "node1"}, NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().AddDate(5, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, DNSNames: []string{"node1.joist.internal", "join.joist.internal"}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := n.LAN.Listen(betweenAddress.String() + ":8006")
	if err != nil {
		t.Fatal(err)
	}
	requests := make(chan struct{}, 1000)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests <- struct{}{}
		http.Error(w, "{}", http.StatusOK)
	})}
	go srv.Serve(tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}))
	t.Cleanup(func() { srv.Close() })
	return func() int { return len(requests) }
}

// membership is how the node stands in its cluster.
type membership struct {
	State, Error, Reason, Warning string
	CertificateEnds               int64 `json:"certificate_ends"`
}

func (n *runningNode) membership(ctx context.Context) (m membership, err error) {
	return m, n.API.Get(ctx, "/nodes/"+n.Name+"/membership", nil, &m)
}

// TestClusterTruth: what goes wrong with a join, and later with clocks and
// certificates, is told as it is, and nothing is half joined.
func TestClusterTruth(t *testing.T) {
	n1 := startNode(t, nil)
	j := n1.token(t)
	n2 := installNode(t, n1.LAN, 2, "")
	ask := func(address, fingerprint string) client.Params {
		return client.Params{"hostname": address, "token": j.Token, "fingerprint": fingerprint}
	}
	join := func(p client.Params) error {
		return n2.API.Task(within(t, clusterTime), http.MethodPost, "/cluster/config/join", p)
	}
	alone := func() {
		t.Helper()
		n1.wantMembers(t, "node1 voter")
		if o, err := n2.membership(within(t, time.Minute)); err != nil || o.CertificateEnds != 0 {
			t.Errorf("node2 is in a cluster: %+v %v", o, err)
		}
	}

	told := n1.standBetween(t)
	if err := join(ask(betweenAddress.String(), j.Fingerprint)); err == nil || !strings.Contains(err.Error(), "fingerprint") {
		t.Errorf("somebody between the nodes: %v", err)
	} else {
		t.Logf("somebody between the nodes: %v", err)
	}
	if n := told(); n != 0 {
		t.Errorf("who stands between was told %d things", n)
	}
	alone()

	n2.run(t, "date -s @$(($(date +%s) + 600))")
	n2.login(t)
	if err := join(ask(n1.IP, j.Fingerprint)); err == nil || !strings.Contains(err.Error(), "clock") {
		t.Errorf("clocks ten minutes apart: %v", err)
	} else {
		t.Logf("clocks ten minutes apart: %v", err)
	}
	alone()
	n2.run(t, "date -s @$(($(date +%s) - 600))")
	n2.login(t)

	// The power goes while the token is in use.
	if err := join(ask(n1.IP, j.Fingerprint)); err != nil {
		t.Fatal(err)
	}
	n1.until(t, "node2 has used the token", func(ctx context.Context) error {
		var tokens []struct{ Node string }
		var rows []struct{ Node, State string }
		if err := n1.API.Get(ctx, "/cluster/config/token", nil, &tokens); err != nil {
			return err
		}
		if err := n1.API.Get(ctx, "/cluster/config/nodes", nil, &rows); err != nil {
			return err
		}
		if len(rows) != 2 {
			return fmt.Errorf("nodes %+v, tokens %+v", rows, tokens)
		}
		return nil
	})
	if err := n2.Kill(); err != nil {
		t.Fatal(err)
	}
	n2.closeSSH()
	n2.boot(t, n2.disk)
	n2.settle(t, "done")
	n1.wantMembers(t, "node1 voter", "node2 learner")

	t.Run("clocks apart later", func(t *testing.T) {
		n2.run(t, "date -s @$(($(date +%s) + 600))")
		n1.until(t, "it is told", func(ctx context.Context) error {
			m, err := n1.membership(ctx)
			if err == nil && !strings.Contains(m.Warning, "clock of node node2") {
				err = fmt.Errorf("%+v", m)
			}
			return err
		})
		n2.run(t, "date -s @$(($(date +%s) - 600))")
	})

	t.Run("certificates near their end", func(t *testing.T) {
		for _, n := range []*runningNode{n1, n2} {
			n.until(t, "its certificate's end is known", func(ctx context.Context) error {
				m, err := n.membership(ctx)
				if err == nil && time.Until(time.Unix(m.CertificateEnds, 0)) < 300*24*time.Hour {
					err = fmt.Errorf("%+v", m)
				}
				return err
			})
		}
		for _, n := range []*runningNode{n1, n2} {
			n.run(t, "date -s @$(($(date +%s) + 300 * 86400))")
			n.kill(t, n.process(t, daemonCommand).pid) // it looks after certificates when it begins, and each hour
		}
		for _, n := range []*runningNode{n1, n2} {
			n.until(t, "it has a new certificate", func(ctx context.Context) error {
				m, err := n.membership(ctx)
				if err == nil && (time.Until(time.Unix(m.CertificateEnds, 0)) < 600*24*time.Hour || m.Warning != "") {
					err = fmt.Errorf("%+v", m)
				}
				return err
			})
		}
		n1.wantMembers(t, "node1 voter", "node2 learner")
	})
}
