package storageapi

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"strings"
)

// algorithms in the API's order. MD5 and SHA-1 tell a damaged file, not a
// forged one; publishers still give them.
func algorithms() []string {
	return []string{"md5", "sha1", "sha224", "sha256", "sha384", "sha512"}
}

func newHash(algorithm string) (hash.Hash, bool) {
	switch algorithm {
	case "md5":
		return md5.New(), true
	case "sha1":
		return sha1.New(), true
	case "sha224":
		return sha256.New224(), true
	case "sha256":
		return sha256.New(), true
	case "sha384":
		return sha512.New384(), true
	case "sha512":
		return sha512.New(), true
	}
	return nil, false
}

// checksum is an expectation, with the hash of what came so far.
type checksum struct {
	algorithm, want string
	h               hash.Hash
}

// need checks that both halves are there or none.
func (c *checksum) need() error {
	if (c.want == "") != (c.algorithm == "") {
		return fmt.Errorf("checksum and checksum-algorithm are needed together")
	}
	h, ok := newHash(c.algorithm)
	if c.algorithm != "" && !ok {
		return fmt.Errorf("value '%s' does not have a value in the enumeration '%s'", c.algorithm, strings.Join(algorithms(), ", "))
	}
	if ok && len(c.want) != hex.EncodedLen(h.Size()) {
		return fmt.Errorf("checksum of %s has %d digits, not %d", c.algorithm, hex.EncodedLen(h.Size()), len(c.want))
	}
	return nil
}

// verify compares; where nothing was hashed while the file came (its algorithm
// was named after it), the file is read again.
func (c *checksum) verify(f io.ReadSeeker) error {
	if c.want == "" {
		return nil
	}
	if c.h == nil {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		c.h, _ = newHash(c.algorithm)
		if _, err := io.Copy(c.h, f); err != nil {
			return fmt.Errorf("read file for its checksum: %w", err)
		}
	}
	got := hex.EncodeToString(c.h.Sum(nil))
	if subtle.ConstantTimeCompare([]byte(got), []byte(strings.ToLower(c.want))) != 1 {
		return fmt.Errorf("checksum mismatch: got '%s' != expect '%s'", got, strings.ToLower(c.want))
	}
	return nil
}
