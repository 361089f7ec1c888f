package join

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"joist/cluster/pki"
	"joist/cluster/roster"
	"joist/internal/finding"
)

var (
	// ErrUnreachable: nobody answered, or not to the end. Whether what was
	// asked for has happened is not known; asking again is safe.
	ErrUnreachable = errors.New("the cluster cannot be reached")
	// ErrStranger: somebody answered who is not the cluster.
	ErrStranger = errors.New("this is not the cluster")
)

// FingerprintError: who answers shows none of the certificates that the person
// was told of.
type FingerprintError struct {
	Address   string
	Want      string
	Authority string // of the certificate that signed what it showed, empty: none
	API       string // of its API certificate, empty: it showed none
}

func (e *FingerprintError) Error() string {
	got := []string{}
	if e.Authority != "" {
		got = append(got, "cluster authority "+e.Authority)
	}
	if e.API != "" {
		got = append(got, "API certificate "+e.API)
	}
	if len(got) == 0 {
		got = append(got, "none")
	}
	return fmt.Sprintf("the fingerprint does not match: %s was given, %s shows %s: either it was copied wrongly, or somebody else answers there",
		e.Want, e.Address, strings.Join(got, " and "))
}

// Unwrap makes it an ErrStranger.
func (e *FingerprintError) Unwrap() error { return ErrStranger }

// Client carries the exchange to a voter.
type Client interface {
	// Connect finds a voter, makes sure of its certificate and returns the
	// fingerprint of the authority behind it, to which later calls keep.
	Connect(ctx context.Context) (authority string, err error)
	Hello(ctx context.Context, s Signed) (Signed, error)
	Commit(ctx context.Context, s Signed) (Admission, error)
	Abort(ctx context.Context, s Signed) error
}

// APIPort is where nodes listen unless the address says otherwise.
const APIPort = "8006"

const (
	dialTime     = 10 * time.Second
	exchangeTime = 30 * time.Second
)

// HTTPS is the Client that talks to nodes.
type HTTPS struct {
	Addresses []string // "192.0.2.1", "node.example:8006", tried in order
	// Fingerprint is what the person was told: the SHA-256 of the cluster's
	// authority, of the node's certificate, or of its API certificate.
	Fingerprint string

	address   string // where Connect succeeded
	authority string
}

// Connect implements Client. A certificate's time is not looked at: who it is
// says the fingerprint, and that clocks differ is told truly later.
func (c *HTTPS) Connect(ctx context.Context) (string, error) {
	pin, err := pki.ParseFingerprint(c.Fingerprint)
	if err != nil {
		return "", err
	}
	if len(c.Addresses) == 0 {
		return "", errors.New("no address to join at")
	}
	errs := []error{}
	for _, a := range c.Addresses {
		address := withPort(a)
		authority, err := identify(ctx, address, pin)
		if err == nil {
			c.address, c.authority = address, authority
			return authority, nil
		}
		errs = append(errs, err)
	}
	// A stranger at one address says less than silence at another: the
	// cluster may still be there.
	for _, err := range errs {
		if errors.Is(err, ErrUnreachable) && len(errs) > 1 {
			return "", err
		}
	}
	return "", errs[0]
}

// withPort adds the API's port to an address that has none.
func withPort(a string) string {
	if _, _, err := net.SplitHostPort(a); err == nil {
		return a
	}
	if strings.HasPrefix(a, "[") && strings.HasSuffix(a, "]") {
		a = a[1 : len(a)-1]
	}
	return net.JoinHostPort(a, APIPort)
}

// identify compares who answers with the fingerprint.
func identify(ctx context.Context, address, pin string) (authority string, err error) {
	chain, err := shown(ctx, address, roster.JoinName)
	if err != nil {
		return "", err
	}
	bad := &FingerprintError{Address: address, Want: pin}
	if ca, err := behind(chain); err == nil {
		bad.Authority = pki.Fingerprint(ca.Raw)
		if bad.Authority == pin || pki.Fingerprint(chain[0].Raw) == pin {
			return bad.Authority, nil
		}
	}
	chain, err = shown(ctx, address, "")
	if err != nil {
		return "", err
	}
	bad.API = pki.Fingerprint(chain[0].Raw)
	switch {
	case bad.API != pin:
		return "", bad
	case bad.Authority == "":
		return "", fmt.Errorf("%s has the right certificate, but belongs to no cluster that could be joined: %w", address, ErrStranger)
	}
	// The authority is proven by the token: it is part of what is signed.
	return bad.Authority, nil
}

// shown is the chain that a server shows for a name, empty: for none.
func shown(ctx context.Context, address, name string) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	d := tls.Dialer{Config: &tls.Config{ServerName: name, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}} // compared by fingerprint
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, unreachable(address, err)
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates, nil
}

// behind finds the authority of a node's chain: the one that signed its first
// certificate.
func behind(chain []*x509.Certificate) (*x509.Certificate, error) {
	for _, ca := range chain[1:] {
		if !ca.IsCA {
			continue
		}
		if _, err := pki.VerifyPeer(chain[:1], ca, chain[0].NotAfter.Add(-time.Second)); err == nil {
			return ca, nil
		}
	}
	return nil, errors.New("no authority of a cluster is behind the certificate")
}

func unreachable(address string, err error) error {
	return fmt.Errorf("talk to %s: %w: %w", address, ErrUnreachable, err)
}

// Hello implements Client.
func (c *HTTPS) Hello(ctx context.Context, s Signed) (Signed, error) {
	return post[Signed](ctx, c, PathHello, s)
}

// Commit implements Client.
func (c *HTTPS) Commit(ctx context.Context, s Signed) (Admission, error) {
	return post[Admission](ctx, c, PathCommit, s)
}

// Abort implements Client.
func (c *HTTPS) Abort(ctx context.Context, s Signed) error {
	_, err := post[struct{}](ctx, c, PathAbort, s)
	return err
}

// verify is the check of every connection: the authority must be the one that
// Connect saw.
func (c *HTTPS) verify(s tls.ConnectionState) error {
	ca, err := behind(s.PeerCertificates)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", c.address, err, ErrStranger)
	}
	if got := pki.Fingerprint(ca.Raw); got != c.authority {
		return &FingerprintError{Address: c.address, Want: c.authority, Authority: got}
	}
	return nil
}

func post[T any](ctx context.Context, c *HTTPS, path string, s any) (out T, err error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+roster.JoinName+path, bytes.NewReader(mustJSON(s)))
	if err != nil {
		return out, err
	}
	req.Header.Set("Content-Type", "application/json")
	var d net.Dialer
	t := &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "tcp", c.address) },
		TLSClientConfig: &tls.Config{ServerName: roster.JoinName, MinVersion: tls.VersionTLS13,
			InsecureSkipVerify: true, VerifyConnection: c.verify}, // pinned
	}
	resp, err := (&http.Client{Transport: t, CheckRedirect: noRedirect}).Do(req)
	if errors.Is(err, ErrStranger) {
		return out, err
	}
	if err != nil {
		return out, unreachable(c.address, fmt.Errorf("the connection ended before the answer came: %w", err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return out, unreachable(c.address, fmt.Errorf("the connection ended in the middle of the answer: %w", err))
	}
	return out, decodeAnswer(c.address, resp.StatusCode, body, &out)
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// decodeAnswer reads what a voter said, or why it did not.
func decodeAnswer(address string, status int, body []byte, out any) error {
	if status == http.StatusOK {
		if err := json.Unmarshal(body, out); err != nil {
			return fmt.Errorf("%s answers in no way that a node would (%v): %w", address, err, ErrStranger)
		}
		return nil
	}
	var list finding.List
	if json.Unmarshal(body, &list) != nil || !list.Stops() {
		return fmt.Errorf("%s answers with HTTP status %d and says nothing: %w", address, status, ErrStranger)
	}
	if status >= 500 {
		return unreachable(address, &Refused{list})
	}
	return &Refused{list}
}
