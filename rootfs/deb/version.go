package deb

import (
	"cmp"
	"fmt"
	"strings"
)

// CompareVersions orders two version strings as deb-version(7) says: epoch,
// then upstream version, then Debian revision. It is total: strings that are
// no valid version are ordered too.
func CompareVersions(a, b string) int {
	if a == b {
		return 0
	}
	ae, au, ar := splitVersion(a)
	be, bu, br := splitVersion(b)
	if c := compareNumbers(ae, be); c != 0 {
		return c
	}
	if c := comparePart(au, bu); c != 0 {
		return c
	}
	return comparePart(ar, br)
}

// splitVersion cuts at the first colon (only behind digits: anything else is
// no epoch) and at the last hyphen.
func splitVersion(v string) (epoch, upstream, revision string) {
	if e, rest, ok := strings.Cut(v, ":"); ok && e != "" && strings.Trim(e, "0123456789") == "" {
		epoch, v = e, rest
	}
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return epoch, v[:i], v[i+1:]
	}
	return epoch, v, ""
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// order is the weight of the first byte where a non-digit run is compared:
// "~" before everything, even the end, letters before other characters.
func order(s string) int {
	switch {
	case s == "" || isDigit(s[0]):
		return 0
	case s[0] == '~':
		return -1
	case s[0] >= 'A' && s[0] <= 'Z' || s[0] >= 'a' && s[0] <= 'z':
		return int(s[0])
	default:
		return int(s[0]) + 256
	}
}

// comparePart compares runs of non-digits and of digits in turn.
func comparePart(a, b string) int {
	for a != "" || b != "" {
		for a != "" && !isDigit(a[0]) || b != "" && !isDigit(b[0]) {
			if c := cmp.Compare(order(a), order(b)); c != 0 {
				return c
			}
			// Equal weights of which at least one is a non-digit: both are.
			a, b = a[1:], b[1:]
		}
		i, j := digits(a), digits(b)
		if c := compareNumbers(a[:i], b[:j]); c != 0 {
			return c
		}
		a, b = a[i:], b[j:]
	}
	return 0
}

func digits(s string) int {
	n := 0
	for n < len(s) && isDigit(s[n]) {
		n++
	}
	return n
}

// compareNumbers compares decimal numbers of any length; "" is zero.
func compareNumbers(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if c := cmp.Compare(len(a), len(b)); c != 0 {
		return c
	}
	return strings.Compare(a, b)
}

// CheckVersion refuses what deb-version(7) does not allow.
func CheckVersion(v string) error {
	bad := func(why string) error { return fmt.Errorf("check version %q: %s", v, why) }
	epoch, upstream, revision := splitVersion(v)
	if epoch == "" && strings.HasPrefix(v, ":") || len(epoch) > 9 {
		return bad("bad epoch")
	}
	if upstream == "" || !isDigit(upstream[0]) {
		return bad("does not start with a digit")
	}
	if strings.HasSuffix(v, "-") {
		return bad("empty revision")
	}
	for _, c := range upstream + revision {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.+-~:", c) {
			return bad(fmt.Sprintf("character %q", c))
		}
	}
	return nil
}
