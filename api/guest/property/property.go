// Package property is the codec of property strings, the way in which the API
// and qm.conf write a record on one line:
//
//	local-lvm:vm-100-disk-0,iothread=1,size=32G
//
// One key, the default key of the record, may stand without its name. What is
// written comes out in one order (default key first, the rest sorted), because
// clients compare what they read with what they wrote.
package property

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Set is the pairs of one property string.
type Set map[string]string

var keyRE = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_-]*$`)

// Parse reads s. A part without "=" is the value of the key def; with def ""
// no such part is allowed.
func Parse(s, def string) (Set, error) {
	set := Set{}
	if strings.TrimSpace(s) == "" {
		return set, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue // "a,,b" and a trailing comma are accepted by the field
		}
		k, v, ok := strings.Cut(part, "=")
		if !ok || !keyRE.MatchString(k) {
			if def == "" {
				return nil, fmt.Errorf("invalid format - value without key, but schema does not define a default key")
			}
			k, v = def, part
		}
		if strings.ContainsFunc(v, control) {
			return nil, fmt.Errorf("invalid format - %s: control character in value", k)
		}
		if _, dup := set[k]; dup {
			return nil, fmt.Errorf("invalid format - duplicate key in comma-separated list property: %s", k)
		}
		set[k] = v
	}
	return set, nil
}

func control(r rune) bool { return r < ' ' || r == 0x7f }

// Format writes the set: the value of def first and without its name, the rest
// sorted.
func (s Set) Format(def string) string {
	var out []string
	if v, ok := s[def]; ok && def != "" {
		// A bare value that itself looks like key=value keeps its name.
		if k, _, eq := strings.Cut(v, "="); v == "" || eq && keyRE.MatchString(k) || v != strings.TrimSpace(v) {
			v = def + "=" + v
		}
		out = append(out, v)
	}
	for _, k := range slices.Sorted(maps.Keys(s)) {
		if k != def || def == "" {
			out = append(out, k+"="+s[k])
		}
	}
	return strings.Join(out, ",")
}

// Only returns an error that names the first key of s that is not allowed.
func (s Set) Only(allowed ...string) error {
	for _, k := range slices.Sorted(maps.Keys(s)) {
		if !slices.Contains(allowed, k) {
			return Unknown(k)
		}
	}
	return nil
}

// Invalid is the error of the property key, worded as the API does.
func Invalid(key, format string, args ...any) error {
	return fmt.Errorf("invalid format - %s: %w", key, fmt.Errorf(format, args...))
}

// Unknown is the error of a key that the record does not have.
func Unknown(key string) error {
	return Invalid(key, "property is not defined in schema and the schema does not allow additional properties")
}

// Missing is the error of a key that the record needs.
func Missing(key string) error { return Invalid(key, "property is missing and it is not optional") }

// Each calls f for each pair, sorted by key, so that of several faults always
// the same is named. It ends with f's first error.
func (s Set) Each(f func(key, value string) error) error {
	for _, k := range slices.Sorted(maps.Keys(s)) {
		if err := f(k, s[k]); err != nil {
			return err
		}
	}
	return nil
}

// Clone returns a copy that can be written to, also of a nil set.
func (s Set) Clone() Set {
	out := Set{}
	maps.Copy(out, s)
	return out
}

// Flag reads the boolean under key. One that is given as 0 goes to rest, so
// that it reads back.
func (s Set) Flag(key string, rest Set) (bool, error) {
	on, err := s.Bool(key, false)
	if _, given := s[key]; err == nil && given && !on {
		rest[key] = "0"
	}
	return on, err
}

// Bool reads a boolean as people and clients write it.
func Bool(v string) (bool, error) {
	switch strings.ToLower(v) {
	case "1", "on", "yes", "true":
		return true, nil
	case "0", "off", "no", "false":
		return false, nil
	}
	return false, fmt.Errorf("type check ('boolean') failed - got '%s'", v)
}

// FormatBool writes a boolean as configuration files hold it.
func FormatBool(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// Bool reads the boolean under key, def when it is absent.
func (s Set) Bool(key string, def bool) (bool, error) {
	v, ok := s[key]
	if !ok {
		return def, nil
	}
	b, err := Bool(v)
	if err != nil {
		return false, Invalid(key, "%w", err)
	}
	return b, nil
}

// Int reads the decimal number under key, def when it is absent.
func (s Set) Int(key string, def, lo, hi int) (int, error) {
	v, ok := s[key]
	if !ok {
		return def, nil
	}
	n, err := strconv.Atoi(v)
	switch {
	case err != nil:
		return 0, Invalid(key, "type check ('integer') failed - got '%s'", v)
	case n < lo:
		return 0, Invalid(key, "value must have a minimum value of %d", lo)
	case n > hi:
		return 0, Invalid(key, "value must have a maximum value of %d", hi)
	}
	return n, nil
}

// Enum checks the value under key, if there is one, against a list.
func (s Set) Enum(key string, allowed ...string) error {
	if v, ok := s[key]; ok && !slices.Contains(allowed, v) {
		return Invalid(key, "value '%s' does not have a value in the enumeration '%s'", v, strings.Join(allowed, ", "))
	}
	return nil
}

var sizeRE = regexp.MustCompile(`^(\d{1,15})(\.\d{1,9})?([KMGT])?$`)

var units = map[string]int64{"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

// ParseSize reads "32G", "512M", "1.5T" or bytes.
func ParseSize(s string) (int64, error) {
	m := sizeRE.FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf("unable to parse size '%s'", s)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil || n > math.MaxInt64/units[m[3]]/2 {
		return 0, fmt.Errorf("size '%s' is out of range", s)
	}
	n *= units[m[3]]
	if m[2] != "" {
		f, _ := strconv.ParseFloat("0"+m[2], 64)
		n += int64(f * float64(units[m[3]]))
	}
	return n, nil
}

// FormatSize writes bytes with the largest unit that divides them, at most G
// until a whole number of terabytes is reached.
func FormatSize(n int64) string {
	for _, u := range []string{"T", "G", "M", "K"} {
		if n > 0 && n%units[u] == 0 {
			return strconv.FormatInt(n/units[u], 10) + u
		}
	}
	return strconv.FormatInt(n, 10)
}
