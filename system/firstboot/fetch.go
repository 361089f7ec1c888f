package firstboot

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"joist/api/node"
)

const (
	maxProgram = 16 << 20
	fetchFor   = 10 * time.Minute // tries, with pauses that grow
	fetchPause = 30 * time.Second
)

// HTTP fetches programs.
type HTTP struct {
	// For and Pause bound the tries; zero takes the usual ones.
	For, Pause time.Duration
	Say        func(line string)
	// Dial connects, nil as usual.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// errFinal is an answer that does not change when it is asked for again.
var errFinal = errors.New("refused")

// Fetch gets the program, again and again for a while: at a first start much is
// not there yet. With a fingerprint that certificate is trusted, whoever signed
// it, and no other.
func (h HTTP) Fetch(ctx context.Context, r node.FirstBootRequest) ([]byte, error) {
	limit, most := h.For, h.Pause
	if limit == 0 {
		limit, most = fetchFor, fetchPause
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: pinned(r.Fingerprint), Proxy: http.ProxyFromEnvironment, DialContext: h.Dial}, CheckRedirect: keepsTLS}
	var last error
	for pause := most / 16; ; pause = min(2*pause, most) {
		b, err := get(ctx, c, r.URL)
		if err == nil {
			return b, nil
		}
		if last == nil || ctx.Err() == nil {
			last = errors.New("fetch the program: " + hidden(err))
		}
		if errors.Is(err, errFinal) || ctx.Err() != nil {
			return nil, last
		}
		h.Say(last.Error())
		select {
		case <-ctx.Done():
			return nil, last
		case <-time.After(pause):
		}
	}
}

// keepsTLS follows a server to another address, but not from https to http: what
// comes back is run as root, and nobody would have to prove who they are.
func keepsTLS(to *http.Request, via []*http.Request) error {
	switch {
	case via[0].URL.Scheme == "https" && to.URL.Scheme != "https":
		return fmt.Errorf("%w: the server leads from https to an address without it; name the final address in first-boot.url", errFinal)
	case len(via) >= 10: // as net/http has it
		return errors.New("stopped after 10 redirects")
	}
	return nil
}

// hidden is an error without the address that it is about, the one that was
// asked for or one that a server led to: each may hold a secret.
func hidden(err error) string {
	var u *url.Error
	for errors.As(err, &u) {
		err = u.Err
	}
	if text := err.Error(); !strings.Contains(text, "Location header") { // net/http quotes it
		return text
	}
	return "the server leads to what is no address"
}

func get(ctx context.Context, c *http.Client, address string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: its address is no http or https address", errFinal)
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		err := fmt.Errorf("the server answers %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
		if resp.StatusCode >= 400 && resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusRequestTimeout {
			err = fmt.Errorf("%w: %w", errFinal, err)
		}
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxProgram+1))
	switch {
	case err != nil:
		return nil, err
	case len(b) > maxProgram:
		return nil, fmt.Errorf("%w: it is larger than %d MiB", errFinal, maxProgram>>20)
	case len(b) == 0:
		return nil, fmt.Errorf("%w: it is empty", errFinal)
	}
	return b, nil
}

// pinned trusts one certificate by its SHA-256, or those that the system knows.
func pinned(fingerprint string) *tls.Config {
	if fingerprint == "" {
		return &tls.Config{}
	}
	want := strings.ToLower(strings.ReplaceAll(fingerprint, ":", ""))
	// what replaces the usual check demands more: this one certificate
	return &tls.Config{InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			sum := sha256.Sum256(s.PeerCertificates[0].Raw)
			if got := hex.EncodeToString(sum[:]); got != want {
				return fmt.Errorf("%w: the server shows a certificate with SHA-256 %s, not the one that is expected", errFinal, got)
			}
			return nil
		}}
}
