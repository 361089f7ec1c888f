package access

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/go-crypt/crypt/algorithm/bcrypt"
	"github.com/go-crypt/crypt/algorithm/shacrypt"
	"github.com/go-crypt/x/yescrypt"
)

// ErrCredentials is the one answer to any wrong credentials: it does not say
// whether the user exists.
var ErrCredentials = errors.New("authentication failure")

// maxPassword bounds what is hashed; longer input cannot be a password.
const maxPassword = 1024

// CheckPassword compares a password with a crypt(5) hash: yescrypt ($y$),
// SHA-512 ($6$), SHA-256 ($5$) or bcrypt ($2a$, $2b$, $2y$). Empty, locked
// ("!…", "*") and other hashes match nothing.
func CheckPassword(hash, password string) error {
	if password == "" || len(password) > maxPassword || strings.ContainsRune(password, 0) {
		return ErrCredentials
	}
	ok, err := false, error(nil)
	switch {
	case strings.HasPrefix(hash, "$y$"):
		var got []byte
		got, err = yescrypt.Hash([]byte(password), []byte(hash))
		ok = err == nil && subtle.ConstantTimeCompare(got, []byte(hash)) == 1
	case strings.HasPrefix(hash, "$6$"), strings.HasPrefix(hash, "$5$"):
		ok, err = matchSHA(hash, password)
	case strings.HasPrefix(hash, "$2"):
		ok, err = matchBcrypt(hash, password)
	default:
		return ErrCredentials
	}
	if err != nil {
		return fmt.Errorf("read password hash: %w", err)
	}
	if !ok {
		return ErrCredentials
	}
	return nil
}

func matchSHA(hash, password string) (bool, error) {
	d, err := shacrypt.Decode(hash)
	if err != nil {
		return false, err
	}
	return d.MatchAdvanced(password)
}

func matchBcrypt(hash, password string) (bool, error) {
	d, err := bcrypt.Decode(hash)
	if err != nil {
		return false, err
	}
	return d.MatchAdvanced(password)
}

// ReadShadow returns the hash in the first field that looks like one of a
// shadow file's line; a file that holds nothing but the hash is fine too.
func ReadShadow(name string) (string, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return "", fmt.Errorf("read password hash: %w", err)
	}
	s, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	if user, rest, ok := strings.Cut(s, ":"); ok && user == "root" {
		s, _, _ = strings.Cut(rest, ":")
	}
	return s, nil
}
