package access

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"joist/cluster/store"
)

const (
	ticketLife = 2 * time.Hour
	csrfLife   = 24 * time.Hour // no shorter than any ticket that it goes with
	vncLife    = 40 * time.Second
	clockSkew  = 5 * time.Minute // a ticket of another node may come from the future
)

// SeedKey is where the cluster keeps the secret from which every node's
// signing keys come.
const SeedKey = "/joist/access/ticket-seed"

var (
	errTicket = errors.New("invalid ticket")
	errCSRF   = errors.New("Permission denied - invalid csrf token")
)

// Keys sign tickets and tokens. Tickets carry an Ed25519 signature; CSRF
// tokens are an HMAC whose key comes from the same seed.
type Keys struct {
	sign ed25519.PrivateKey
	mac  []byte
}

// NewKeys derives the keys from a seed of 32 bytes.
func NewKeys(seed []byte) (Keys, error) {
	if len(seed) != ed25519.SeedSize {
		return Keys{}, fmt.Errorf("derive ticket keys: seed of %d bytes", len(seed))
	}
	m := hmac.New(sha256.New, seed)
	m.Write([]byte("joist csrf"))
	return Keys{sign: ed25519.NewKeyFromSeed(seed), mac: m.Sum(nil)}, nil
}

// LoadKeys reads the cluster's seed; the first node makes it.
func LoadKeys(ctx context.Context, s store.Store) (Keys, error) {
	for {
		it, err := s.Get(ctx, SeedKey)
		if err == nil {
			return NewKeys(it.Value)
		}
		if !errors.Is(err, store.ErrNotFound) {
			return Keys{}, fmt.Errorf("read ticket keys: %w", err)
		}
		seed := make([]byte, ed25519.SeedSize)
		rand.Read(seed) // never fails (crypto/rand)
		_, err = s.Txn(ctx, []store.Cond{{Key: SeedKey}}, store.Op{Key: SeedKey, Value: seed})
		if err != nil && !errors.Is(err, store.ErrConflict) {
			return Keys{}, fmt.Errorf("write ticket keys: %w", err)
		}
	}
}

// Mint makes the ticket PVE:user@realm:TTTTTTTT::signature.
func (k Keys) Mint(user string, now time.Time) string {
	plain := fmt.Sprintf("PVE:%s:%08X", escapeUser(user), uint32(now.Unix()))
	return plain + "::" + k.signature(plain)
}

// Verify returns the user that a ticket was minted for.
func (k Keys) Verify(ticket string, now time.Time) (string, error) {
	plain, sig, ok := strings.Cut(ticket, "::")
	if !ok || !strings.HasPrefix(plain, "PVE:") || !k.signed(plain, sig) {
		return "", errTicket
	}
	user, stamp, ok := strings.Cut(strings.TrimPrefix(plain, "PVE:"), ":")
	if !ok || !fresh(stamp, ticketLife, now) {
		return "", errTicket
	}
	user, err := url.PathUnescape(user)
	if err != nil {
		return "", errTicket
	}
	return user, nil
}

// MintVNC makes a console ticket that is good for one user, path and port and
// for a short time: PVEVNC:TTTTTTTT::signature.
func (k Keys) MintVNC(user, path string, port int, now time.Time) string {
	plain := fmt.Sprintf("PVEVNC:%08X", uint32(now.Unix()))
	return plain + "::" + k.signature(vncText(plain, user, path, port))
}

// VerifyVNC checks a console ticket.
func (k Keys) VerifyVNC(ticket, user, path string, port int, now time.Time) error {
	plain, sig, ok := strings.Cut(ticket, "::")
	stamp, vnc := strings.CutPrefix(plain, "PVEVNC:")
	if !ok || !vnc || !k.signed(vncText(plain, user, path, port), sig) || !fresh(stamp, vncLife, now) {
		return errors.New("invalid PVEVNC ticket")
	}
	return nil
}

// vncText is what a console ticket's signature covers. User names and paths
// hold no line feed, so that no two combinations give the same text.
func vncText(plain, user, path string, port int) string {
	return fmt.Sprintf("%s\n%s\n%s\n%d", plain, user, path, port)
}

// MintCSRF makes the token that a ticket's holder sends with every change:
// TTTTTTTT:base64(HMAC-SHA256(TTTTTTTT:user)).
func (k Keys) MintCSRF(user string, now time.Time) string {
	stamp := fmt.Sprintf("%08X", uint32(now.Unix()))
	return stamp + ":" + k.csrf(stamp, user)
}

// VerifyCSRF checks such a token.
func (k Keys) VerifyCSRF(token, user string, now time.Time) error {
	stamp, sum, ok := strings.Cut(token, ":")
	if !ok || !hmac.Equal([]byte(sum), []byte(k.csrf(stamp, user))) || !fresh(stamp, csrfLife, now) {
		return errCSRF
	}
	return nil
}

func (k Keys) csrf(stamp, user string) string {
	m := hmac.New(sha256.New, k.mac)
	m.Write([]byte(stamp + ":" + user))
	return base64.RawStdEncoding.EncodeToString(m.Sum(nil))
}

func (k Keys) signature(text string) string {
	return base64.StdEncoding.EncodeToString(ed25519.Sign(k.sign, []byte(text)))
}

func (k Keys) signed(text, sig string) bool {
	b, err := base64.StdEncoding.Strict().DecodeString(sig)
	return err == nil && len(k.sign) == ed25519.PrivateKeySize &&
		ed25519.Verify(k.sign.Public().(ed25519.PublicKey), []byte(text), b)
}

// fresh reports whether a time stamp of eight hex digits is neither too old
// nor too far ahead.
func fresh(stamp string, life time.Duration, now time.Time) bool {
	n, err := strconv.ParseUint(stamp, 16, 32)
	if err != nil || len(stamp) != 8 {
		return false
	}
	age := now.Sub(time.Unix(int64(n), 0))
	return age < life && age > -clockSkew
}

func escapeUser(u string) string {
	return strings.NewReplacer("%", "%25", ":", "%3A").Replace(u)
}
