package fetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"time"

	"joist/installer/answer"
)

// Limits of one exchange.
const (
	exchangeTime = 60 * time.Second
	maxReply     = 256<<10 + 1 // one byte more than an answer may have
)

// Dial opens connections: net.Dialer.DialContext, or a test's network.
type Dial func(ctx context.Context, network, addr string) (net.Conn, error)

// PinError says that a server showed another certificate than was asked for.
type PinError struct{ Want, Have string }

func (e *PinError) Error() string {
	return fmt.Sprintf("the server's certificate has the fingerprint %s, not %s", e.Have, e.Want)
}

// StatusError is a reply of the server that is no success.
type StatusError struct {
	Code   int
	Status string
}

func (e *StatusError) Error() string { return "the server replied " + e.Status }

// Final says that asking again would change nothing: the server's certificate
// is not to be trusted, or it refuses this machine.
func Final(err error) bool {
	var pin *PinError
	var cert *tls.CertificateVerificationError
	var status *StatusError
	switch {
	case errors.As(err, &pin), errors.As(err, &cert):
		return true
	case errors.As(err, &status):
		switch status.Code {
		case http.StatusNotFound, http.StatusRequestTimeout, http.StatusConflict, http.StatusTooEarly, http.StatusTooManyRequests:
			return false // the server may know the machine in a moment
		}
		return status.Code >= 300 && status.Code < 500
	}
	return false
}

// cure is what to do about an error of Post.
func cure(err error) string {
	var pin *PinError
	var cert *tls.CertificateVerificationError
	var invalid x509.CertificateInvalidError
	var status *StatusError
	switch {
	case errors.As(err, &pin):
		return "if that is the right server, give its fingerprint " + pin.Have
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "check the machine's clock and the certificate; or give the certificate's fingerprint, which is then all that counts"
	case errors.As(err, &cert):
		return "give the fingerprint of the server's certificate, or have it signed by an authority that Debian's ca-certificates holds"
	case errors.As(err, &status) && (status.Code == 401 || status.Code == 403):
		return "give the token that the server wants: joist build iso --answer-token-file FILE"
	case errors.As(err, &status):
		return "look at the server's log: it was asked by POST with the machine's identity"
	}
	return "check cable, address and server"
}

// tlsConfig trusts the one certificate whose fingerprint is given, whatever
// its name, its dates and who signed it; without one the authorities.
func tlsConfig(fingerprint string) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	want, pinned := answer.Digest(fingerprint)
	if !pinned {
		return c
	}
	c.InsecureSkipVerify = true // in favour of the comparison
	c.VerifyConnection = func(s tls.ConnectionState) error {
		sum := sha256.Sum256(s.PeerCertificates[0].Raw)
		if have := hex.EncodeToString(sum[:]); have != want {
			return &PinError{Want: want, Have: have}
		}
		return nil
	}
	return c
}

// Client speaks to the source's server. It follows no redirection: what was
// pinned and what the token is for is this address.
func Client(s answer.Source, dial Dial) *http.Client {
	return &http.Client{
		Timeout:       exchangeTime,
		Transport:     &http.Transport{DialContext: dial, TLSClientConfig: tlsConfig(s.Fingerprint), DisableKeepAlives: true, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Request asks for the answer of the machine that body describes.
func Request(ctx context.Context, s answer.Source, body []byte) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("the address of the answer server cannot be read")
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, application/toml;q=0.5")
	r.Header.Set("User-Agent", "joist-install")
	if s.Token != "" {
		r.Header.Set("Authorization", "Bearer "+s.Token.Reveal())
	}
	return r, nil
}

// Reply is a server's answer.
type Reply struct {
	Text []byte
	Date time.Time // the server's clock, zero when it did not say
}

// ReadReply reads an answer, TOML or JSON: which of the two it is shows its
// text.
func ReadReply(r *http.Response) (Reply, error) {
	defer r.Body.Close()
	var out Reply
	out.Date, _ = http.ParseTime(r.Header.Get("Date"))
	if r.StatusCode != http.StatusOK {
		return out, &StatusError{r.StatusCode, fmt.Sprintf("%d %s", r.StatusCode, http.StatusText(r.StatusCode))}
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err == nil && t == "text/html" {
		return out, errors.New("the server replied with a web page, not with an answer")
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, maxReply))
	if err != nil {
		return out, fmt.Errorf("read the answer: %w", err)
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return out, errors.New("the server's answer is empty")
	}
	out.Text = b
	return out, nil
}

// Post asks once.
func Post(ctx context.Context, s answer.Source, body []byte, dial Dial) (Reply, error) {
	r, err := Request(ctx, s, body)
	if err != nil {
		return Reply{}, err
	}
	resp, err := Client(s, dial).Do(r)
	if err != nil {
		return Reply{}, plain(err)
	}
	return ReadReply(resp)
}

// plain takes the address out of an error of net/http: its query may be a
// secret.
func plain(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
