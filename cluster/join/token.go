// Package join lets a node become part of a cluster and leave it again: the
// tokens and the proof that both sides know one, the voter's answers, the
// joiner's questions, and the journal that brings a join, a leave, a recovery
// or a demotion to its end, or back to its beginning, over any cut.
//
// What it does to a machine (its store's files, its volumes, its daemon) it
// asks for through the interfaces Machine and Peers; it does none of it.
package join

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"joist/cluster/roster"
	"joist/cluster/store"
)

// TokenLife is how long a token is valid unless its maker says otherwise.
const TokenLife = time.Hour

const (
	tokenWord = "joist-"
	idLen     = 8
	secretLen = 26 // base32 digits: 130 bits
	tokenLen  = len(tokenWord) + idLen + 1 + secretLen
	base32    = "abcdefghijklmnopqrstuvwxyz234567" // RFC 4648, lower case
)

// Token is what the store keeps of a token: enough to check a proof, not
// enough to show it again.
type Token struct {
	ID      string    `json:"id"`
	Key     []byte    `json:"key"` // SHA-256 of the secret: the key of all HMACs
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	Node    string    `json:"node,omitempty"`  // the only name it admits, empty: any
	Burnt   bool      `json:"burnt,omitempty"` // somebody guessed at it

	// Set when a join is committed, all in the transaction that writes its
	// keys, so that they have the token's own revision.
	Bound       string    `json:"bound,omitempty"` // sum of the joiner's key
	Used        time.Time `json:"used,omitzero"`
	Joiner      string    `json:"joiner,omitempty"`      // its name
	Sum         []byte    `json:"sum,omitempty"`         // of what it brought
	Guests      []int     `json:"guests,omitempty"`      // VMIDs it brought
	Storages    []string  `json:"storages,omitempty"`    // those that were new
	Certificate []byte    `json:"certificate,omitempty"` // DER: a repeat gets the same

	// Keys whose joins were called off: what of them is still under way must
	// not arrive later.
	Barred []string `json:"barred,omitempty"`
}

// NewToken makes a token for any node or for the one named. The text is shown
// once and kept nowhere.
func NewToken(now time.Time, life time.Duration, node string) (text string, t Token, err error) {
	if life < time.Minute || life > 30*24*time.Hour {
		return "", t, fmt.Errorf("make token: it can be valid for a minute to 30 days, not for %s", life)
	}
	if node != "" && !roster.ValidName(node) {
		return "", t, fmt.Errorf("make token: %q cannot name a node", node)
	}
	id := strings.ToLower(rand.Text())[:idLen]
	secret := strings.ToLower(rand.Text())[:secretLen]
	now = now.UTC().Truncate(time.Second)
	t = Token{ID: id, Key: tokenKey(secret), Created: now, Expires: now.Add(life), Node: node}
	return tokenWord + id + "-" + secret, t, nil
}

func tokenKey(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// Secret is a token in the joiner's hands.
type Secret struct {
	ID  string
	key []byte
}

// ParseToken reads a token's text. Its errors never repeat the secret.
func ParseToken(text string) (Secret, error) {
	s := strings.ToLower(strings.TrimSpace(text))
	if s == "" {
		return Secret{}, errors.New("read token: it is empty")
	}
	if !strings.HasPrefix(s, tokenWord) {
		return Secret{}, fmt.Errorf("read token: it does not begin with %q", tokenWord)
	}
	if len(s) != tokenLen {
		return Secret{}, fmt.Errorf("read token: it has %d characters, a token has %d: part of it is missing or something follows it", len(s), tokenLen)
	}
	id, secret := s[len(tokenWord):len(tokenWord)+idLen], s[tokenLen-secretLen:]
	if s[len(tokenWord)+idLen] != '-' {
		return Secret{}, fmt.Errorf("read token: character %d must be a dash", len(tokenWord)+idLen+1)
	}
	for i := len(tokenWord); i < tokenLen; i++ {
		if i != len(tokenWord)+idLen && !strings.ContainsRune(base32, rune(s[i])) {
			return Secret{}, fmt.Errorf("read token: character %d is none of a-z and 2-7", i+1)
		}
	}
	return Secret{ID: id, key: tokenKey(secret)}, nil
}

// validTokenID keeps strangers' words out of the store's keys.
func validTokenID(s string) bool {
	return len(s) == idLen && strings.Trim(s, base32) == ""
}

// TokenStoreKey is where a token is kept.
func TokenStoreKey(id string) string { return roster.TokenPrefix + id }

// Encode returns the value that is stored.
func (t Token) Encode() []byte { return mustJSON(t) }

// DecodeToken reads one token's key.
func DecodeToken(it store.Item) (Token, error) {
	var t Token
	if err := json.Unmarshal(it.Value, &t); err != nil {
		return t, fmt.Errorf("read token %s: %w", it.Key, err)
	}
	if TokenStoreKey(t.ID) != it.Key || len(t.Key) != sha256.Size {
		return t, fmt.Errorf("read token %s: it says its id is %q", it.Key, t.ID)
	}
	return t, nil
}

// maxBarred bounds how many joins can be called off with one token.
const maxBarred = 16

// bar notes that a key's join was called off.
func (t *Token) bar(key string) {
	if !slices.Contains(t.Barred, key) {
		t.Barred = append(t.Barred, key)
	}
	if n := len(t.Barred); n > maxBarred {
		t.Barred = t.Barred[n-maxBarred:]
	}
}

// Purposes of a proof. Each begins another HMAC, so that none can stand for
// another.
const (
	proveHello  = "joist join hello"
	proveVoter  = "joist join voter"
	proveJoiner = "joist join joiner"
	proveAbort  = "joist join abort"
)

// proof is an HMAC-SHA256 under the token's key. Lengths go before the parts,
// so that no two lists of parts give the same bytes.
func proof(key []byte, purpose string, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, key)
	sum := digest(append([][]byte{[]byte(purpose)}, parts...)...)
	h.Write(sum)
	return h.Sum(nil)
}

// digest is the SHA-256 over parts with their lengths.
func digest(parts ...[]byte) []byte {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:", len(p))
		h.Write(p)
	}
	return h.Sum(nil)
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only values of this package, and JSON that was parsed before
	}
	return b
}
