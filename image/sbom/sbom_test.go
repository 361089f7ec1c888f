package sbom

import (
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden file")

const dep5 = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nCopyright: x\nLicense: GPL-2+\n Text.\n\n" +
	"Files: a\nLicense: Expat or LGPL-2.1\n\nFiles: b\nLicense: odd_thing\n\nLicense: GPL-3\n The text of one that no file has.\n"

func TestEncode(t *testing.T) {
	d := Document{Name: "joist-1.2.3-amd64", BuildID: "0123456789abcdef", Version: "1.2.3", Created: time.Unix(1700000000, 0), Packages: []Package{
		{Kind: GoModule, Name: "example.com/m_x", Version: "v1.0.0+incompatible"},
		{Kind: Debian, Name: "libstdc++6", Version: "1:2~3+b1", Arch: "amd64", SHA256: strings.Repeat("a", 64), Copyright: []byte(dep5)},
		{Kind: Debian, Name: "bash", Version: "5", Arch: "amd64"},
	}}
	got, err := d.Encode()
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/document.json"
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Error(diff)
	}
	// The order in which the packages come is not in the text.
	slices.Reverse(d.Packages)
	if again, err := d.Encode(); err != nil || string(again) != string(got) {
		t.Errorf("another order gives another text (%v)", err)
	}
	list, err := Decode(got)
	if diff := cmp.Diff([]Brief{
		{Debian, "bash", "5", "NOASSERTION"},
		{Debian, "libstdc++6", "1:2~3+b1", "GPL-2.0-or-later AND LicenseRef-debian-odd-thing AND (MIT OR LGPL-2.1-only)"},
		{GoModule, "example.com/m_x", "v1.0.0+incompatible", "NOASSERTION"},
	}, list); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if _, err := Decode([]byte(`{"spdxVersion":"SPDX-3.0"}`)); err == nil {
		t.Error("a document of another version was read")
	}
}

func TestExpression(t *testing.T) {
	for in, want := range map[string]string{
		"Expat": "MIT", "GPL-2": "GPL-2.0-only", "GPL-2.0+": "GPL-2.0-or-later", "GPLv3+": "GPL-3.0-or-later", "LGPL-2.1+": "LGPL-2.1-or-later", "GFDL-1.3": "GFDL-1.3-only",
		"GPL-1+ or Artistic": "GPL-1.0-or-later OR Artistic-1.0-Perl", "ISC and BSD-3-clause": "ISC AND BSD-3-Clause",
		"GPL-2 or Expat, and Zlib":                "(GPL-2.0-only OR MIT) AND Zlib",
		"GPL-2 with Linux-syscall-note exception": "GPL-2.0-only WITH Linux-syscall-note",
		"GPL-9": "LicenseRef-debian-GPL-9", "public-domain": "LicenseRef-debian-public-domain",
	} {
		named := map[string]string{}
		got := expression(in, named)
		if got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
		if strings.Contains(got, "LicenseRef") != (len(named) > 0) {
			t.Errorf("%q: named are %v", in, named)
		}
	}
}

func TestLicenceUnknown(t *testing.T) {
	for what, text := range map[string]string{
		"no file": "", "prose": "This package was debianized by hand.\nLicense: GPL-2\n",
		"a licence below its line": "Format: x\n\nFiles: *\nLicense:\n MIT\n",
	} {
		if got := Licence([]byte(text), map[string]string{}); got != "" {
			t.Errorf("%s gives %q", what, got)
		}
	}
}
