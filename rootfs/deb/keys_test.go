package deb

import (
	"bytes"
	"os"
	"slices"
	"testing"
	"time"
)

// TestDebianSignatures checks the keys in the tree against indexes that
// Debian signed (of 2026-11-20, with an older release's key beside ours).
func TestDebianSignatures(t *testing.T) {
	k, err := DebianKeys()
	if err != nil {
		t.Fatal(err)
	}
	for suite, a := range map[string]Archive{"trixie-updates": Main, "trixie-security": Security} {
		text, err := os.ReadFile("testdata/" + suite + ".InRelease")
		if err != nil {
			t.Fatal(err)
		}
		signed, signer, err := k.Verify(text, suite, day)
		if err != nil || !slices.Contains(k.Fingerprints(a), signer) {
			t.Fatal(suite, signer, err)
		}
		r, err := ParseRelease(signed)
		if err != nil {
			t.Fatal(err)
		}
		if f := r.Files["main/binary-amd64/Packages.xz"]; r.Codename != suite || !r.ByHash || f.Size == 0 || len(f.SHA256) != 64 {
			t.Fatal(suite, r.Codename, f)
		}
		if r.Expired(day) || !r.Expired(r.ValidUntil.Add(time.Second)) || r.ValidUntil.Year() != 2026 {
			t.Fatal(r.ValidUntil)
		}
		for _, other := range []string{map[Archive]string{Main: "trixie-security", Security: "trixie"}[a], "bookworm", "bookworm-security", "trixiex", "sid"} {
			if _, by, err := k.Verify(text, other, day); err == nil && k.only[by] == k.only[signer] {
				t.Errorf("%s: accepted for %s, by %s", suite, other, by)
			}
		}
		if _, _, err := k.Verify(text, suite, day.AddDate(12, 0, 0)); err == nil {
			t.Errorf("%s: accepted with an expired key", suite)
		}
		for _, at := range []string{"Codename: ", "main/binary-amd64/Packages.xz"} {
			bad := bytes.Replace(text, []byte(at), []byte("X"+at), 1)
			if _, _, err := k.Verify(bad, suite, day); err == nil {
				t.Errorf("%s: change at %q not seen", suite, at)
			}
		}
	}
}
