package deb

import (
	"bytes"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// keyFiles are the archive's public keys; keys/README.md says where they are
// from.
//
//go:embed keys/*.asc
var keyFiles embed.FS

// Archive is one of Debian's archives. Each has its own layout below a base
// URL and its own signing keys.
type Archive int

const (
	Main     Archive = iota // debian/: releases and their updates
	Security                // debian-security/: suites called …-security
)

func (a Archive) String() string {
	if a == Security {
		return "debian-security"
	}
	return "debian"
}

// archiveOf tells which archive holds a suite.
func archiveOf(suite string) Archive {
	if strings.HasSuffix(suite, "-security") {
		return Security
	}
	return Main
}

// key is a line of the table of keys.
type key struct {
	file        string
	fingerprint string  // of the primary key
	archive     Archive // whose indexes it may sign
	release     string  // codename of the release whose suites it may sign
}

func accepted() []key {
	return []key{
		{"keys/trixie-archive-automatic.asc", "04b54c3cdca79751b16bc6b5225629df75b188bd", Main, "trixie"},
		{"keys/trixie-release.asc", "41587f7db8c774bccf131416762f67a0b2c39de4", Main, "trixie"},
		{"keys/trixie-security-automatic.asc", "5e04a1e3223a19a20706e20f9904613d4cce68c6", Security, "trixie"},
		{"keys/bookworm-archive-automatic.asc", "b8b80b5b623eab6ad8775c45b7c5d7d6350947f8", Main, "bookworm"},
		{"keys/bookworm-release.asc", "4d64fec119c2029067d6e791f8d2585b8783d481", Main, "bookworm"},
		{"keys/bookworm-security-automatic.asc", "05ab90340c0c5e797f44a8c8254cf3b5aec0a8f0", Security, "bookworm"},
	}
}

// Keyring holds, per archive, the keys whose signature on an index counts.
type Keyring struct {
	keys map[Archive]openpgp.EntityList
	only map[string]string // fingerprint → the one release whose suites it may sign; others may sign all
}

// NewKeyring makes a keyring of given keys, for tests and private archives.
func NewKeyring(keys map[Archive]openpgp.EntityList) *Keyring { return &Keyring{keys: keys} }

// DebianKeys is the keyring in the tree. A file that does not hold exactly
// the key the table names is an error.
func DebianKeys() (*Keyring, error) {
	k := &Keyring{keys: map[Archive]openpgp.EntityList{}, only: map[string]string{}}
	for _, a := range accepted() {
		text, err := fs.ReadFile(keyFiles, a.file)
		if err != nil {
			return nil, fmt.Errorf("read key: %w", err)
		}
		list, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(text))
		if err != nil {
			return nil, fmt.Errorf("read key %s: %w", a.file, err)
		}
		if len(list) != 1 || fingerprint(list[0]) != a.fingerprint {
			return nil, fmt.Errorf("read key %s: it does not hold exactly the key %s", a.file, a.fingerprint)
		}
		k.keys[a.archive] = append(k.keys[a.archive], list[0])
		k.only[a.fingerprint] = a.release
	}
	return k, nil
}

// of are the keys that may sign a suite: those of an older release's archive,
// which are out in the world for longer, do not vouch for a newer one.
func (k *Keyring) of(suite string) openpgp.EntityList {
	var out openpgp.EntityList
	for _, e := range k.keys[archiveOf(suite)] {
		release := k.only[fingerprint(e)]
		if release == "" || suite == release || strings.HasPrefix(suite, release+"-") {
			out = append(out, e)
		}
	}
	return out
}

func fingerprint(e *openpgp.Entity) string { return hex.EncodeToString(e.PrimaryKey.Fingerprint) }

// Fingerprints lists the keys accepted for an archive.
func (k *Keyring) Fingerprints(a Archive) []string {
	var out []string
	for _, e := range k.keys[a] {
		out = append(out, fingerprint(e))
	}
	return out
}

// has reports whether a fingerprint or the long id at its end names one of
// our keys or their subkeys.
func (k *Keyring) has(id string) bool {
	id = strings.ToLower(strings.TrimSuffix(id, "!"))
	if len(id) < 16 {
		return false
	}
	for _, list := range k.keys {
		for _, e := range list {
			prints := []string{fingerprint(e)}
			for _, s := range e.Subkeys {
				prints = append(prints, hex.EncodeToString(s.PublicKey.Fingerprint))
			}
			if slices.ContainsFunc(prints, func(p string) bool { return strings.HasSuffix(p, id) }) {
				return true
			}
		}
	}
	return false
}

// errUnsigned is text that is no clear-signed message at all.
var errUnsigned = errors.New("it is not a signed index")

// Verify checks a clear-signed text against the keys of a suite and returns what
// was signed (never anything around it) and the fingerprint of the signer's
// primary key.
func (k *Keyring) Verify(text []byte, suite string, now time.Time) (signed []byte, signer string, err error) {
	block, _ := clearsign.Decode(text)
	if block == nil {
		return nil, "", errUnsigned
	}
	// SHA-1 and older hashes are refused by the library's defaults; signatures
	// by keys that are not in the list are skipped.
	e, err := block.VerifySignature(k.of(suite), &packet.Config{Time: func() time.Time { return now }})
	if err != nil {
		return nil, "", fmt.Errorf("no signature by a key of the %s archive for %s: %w", archiveOf(suite), suite, err)
	}
	return block.Plaintext, fingerprint(e), nil
}
