package deb

import (
	"encoding/hex"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"
)

// IndexFile is a file a Release vouches for.
type IndexFile struct {
	Size   int64
	SHA256 string
}

// Release is the head of a suite (InRelease).
type Release struct {
	Suite      string // stable, stable-updates, …
	Codename   string // trixie, trixie-updates, …
	Version    string // 13.2
	Date       time.Time
	ValidUntil time.Time // zero: no limit, as for a released suite
	ByHash     bool      // index files can be had by their hash
	Files      map[string]IndexFile
}

// ParseRelease reads the signed text of an InRelease file.
func ParseRelease(text []byte) (*Release, error) {
	stanzas, err := ParseStanzas(string(text))
	if err != nil {
		return nil, fmt.Errorf("parse Release: %w", err)
	}
	if len(stanzas) != 1 {
		return nil, fmt.Errorf("parse Release: %d stanzas instead of one", len(stanzas))
	}
	f := stanzas[0]
	r := &Release{Suite: f.Get("Suite"), Codename: f.Get("Codename"), Version: f.Get("Version"),
		ByHash: f.Get("Acquire-By-Hash") == "yes", Files: map[string]IndexFile{}}
	if r.Date, err = releaseDate(f.Get("Date")); err != nil {
		return nil, fmt.Errorf("parse Release: Date: %w", err)
	}
	if v := f.Get("Valid-Until"); v != "" {
		if r.ValidUntil, err = releaseDate(v); err != nil {
			return nil, fmt.Errorf("parse Release: Valid-Until: %w", err)
		}
	}
	for line := range strings.SplitSeq(f.Get("SHA256"), "\n") {
		if blank(line) {
			continue
		}
		if err := r.addFile(line); err != nil {
			return nil, fmt.Errorf("parse Release: SHA256: %w", err)
		}
	}
	return r, nil
}

func (r *Release) addFile(line string) error {
	w := strings.Fields(line)
	if len(w) != 3 {
		return fmt.Errorf("line %q has not three words", line)
	}
	size, err := strconv.ParseInt(w[1], 10, 64)
	if err != nil || size < 0 {
		return fmt.Errorf("line %q: bad size", line)
	}
	if sum, err := hex.DecodeString(w[0]); err != nil || len(sum) != 32 {
		return fmt.Errorf("line %q: bad hash", line)
	}
	if path.IsAbs(w[2]) || path.Clean(w[2]) != w[2] || strings.HasPrefix(w[2], "..") {
		return fmt.Errorf("line %q: bad path", line)
	}
	r.Files[w[2]] = IndexFile{Size: size, SHA256: strings.ToLower(w[0])}
	return nil
}

// releaseDate reads the RFC 5322 date of a Release; the zone is always UTC,
// written as such or as GMT or +0000.
func releaseDate(s string) (time.Time, error) {
	for _, layout := range []string{"Mon, 2 Jan 2006 15:04:05 MST", time.RFC1123Z} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a date", s)
}

// Expired reports whether the suite's validity has run out: a mirror that
// stands still, or somebody who holds back updates.
func (r *Release) Expired(now time.Time) bool {
	return !r.ValidUntil.IsZero() && now.After(r.ValidUntil)
}
