package sbom

import (
	"regexp"
	"slices"
	"strings"
)

// Licence is the SPDX expression of a machine-readable debian/copyright (DEP-5:
// https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/): all
// licences that its files have, "" where the file is of another form or none.
// Licences that SPDX does not list get an id of their own in named.
func Licence(copyright []byte, named map[string]string) string {
	lines := strings.Split(string(copyright), "\n")
	if !strings.HasPrefix(lines[0], "Format:") && !strings.HasPrefix(lines[0], "Format-Specification:") {
		return ""
	}
	var all []string
	for _, stanza := range strings.Split(string(copyright), "\n\n") {
		var files bool
		var licence string
		for line := range strings.Lines(strings.TrimLeft(stanza, "\n")) {
			switch k, v, _ := strings.Cut(strings.TrimSpace(line), ":"); {
			case line[0] == ' ' || line[0] == '\t' || line[0] == '#':
			case strings.EqualFold(k, "Files"):
				files = true
			case strings.EqualFold(k, "License"):
				licence = strings.TrimSpace(v)
			}
		}
		if files && licence == "" {
			return "" // half an expression would say too little
		}
		if !files { // the text of a licence that is named elsewhere
			continue
		}
		if x := expression(licence, named); strings.Contains(x, " OR ") {
			all = append(all, x)
		} else {
			all = append(all, strings.Split(x, " AND ")...)
		}
	}
	slices.Sort(all)
	all = slices.Compact(all)
	if len(all) > 1 {
		for i, x := range all {
			if strings.Contains(x, " OR ") {
				all[i] = "(" + x + ")"
			}
		}
	}
	return strings.Join(all, " AND ")
}

// expression translates the synopsis of a License field. "or" binds less than
// "and" unless a comma says otherwise: "A or B, and C" is (A or B) and C.
func expression(s string, named map[string]string) string {
	s = strings.Join(strings.Fields(s), " ")
	for _, op := range []struct{ text, spdx string }{{", and ", " AND "}, {", or ", " OR "}, {" or ", " OR "}, {" and ", " AND "}, {" and/or ", " OR "}} {
		parts := splitFold(s, op.text)
		if len(parts) < 2 {
			continue
		}
		for i, p := range parts {
			if parts[i] = expression(p, named); strings.Contains(parts[i], " OR ") && op.spdx == " AND " {
				parts[i] = "(" + parts[i] + ")"
			}
		}
		return strings.Join(parts, op.spdx)
	}
	return single(strings.Trim(s, " ,"), named)
}

func splitFold(s, sep string) []string {
	var out []string
	for lower := strings.ToLower(s); ; lower = strings.ToLower(s) {
		i := strings.Index(lower, sep)
		if i < 0 {
			return append(out, s)
		}
		out, s = append(out, s[:i]), s[i+len(sep):]
	}
}

// gnu are the names of the GNU licences with their versions in DEP-5.
var gnu = regexp.MustCompile(`^(GPL|LGPL|AGPL|GFDL)-?v?([0-9](?:\.[0-9])?)(?:\.0)?(\+|-or-later|-only)?$`)

// same are names of DEP-5 and of common use for a licence of SPDX's list.
var same = map[string]string{
	"expat": "MIT", "mit": "MIT", "isc": "ISC", "zlib": "Zlib", "bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause", "bsd-4-clause": "BSD-4-Clause",
	"bsd-2": "BSD-2-Clause", "bsd-3": "BSD-3-Clause", "apache-2.0": "Apache-2.0", "apache-2": "Apache-2.0", "mpl-2.0": "MPL-2.0", "mpl-1.1": "MPL-1.1",
	"cc0": "CC0-1.0", "cc0-1.0": "CC0-1.0", "artistic": "Artistic-1.0-Perl", "artistic-2.0": "Artistic-2.0", "psf-2": "PSF-2.0", "0bsd": "0BSD", "bsl-1.0": "BSL-1.0",
	"cc-by-3.0": "CC-BY-3.0", "cc-by-4.0": "CC-BY-4.0", "cc-by-sa-3.0": "CC-BY-SA-3.0", "cc-by-sa-4.0": "CC-BY-SA-4.0", "x11": "X11", "unlicense": "Unlicense",
	"cddl-1.0": "CDDL-1.0", "cddl": "CDDL-1.0", "openssl": "OpenSSL", "ofl-1.1": "OFL-1.1", "unicode-dfs-2016": "Unicode-DFS-2016", "beerware": "Beerware", "curl": "curl",
	"fsfap": "FSFAP", "fsfullr": "FSFULLR", "libpng": "Libpng", "cpl-1.0": "CPL-1.0", "latex2e": "Latex2e", "bsd-2-clause-patent": "BSD-2-Clause-Patent",
	"bsd-4-clause-uc": "BSD-4-Clause-UC", "bsd-3-clause-attribution": "BSD-3-Clause-Attribution", "gpl-2 with linux-syscall-note exception": "GPL-2.0-only WITH Linux-syscall-note",
}

func single(s string, named map[string]string) string {
	if id, ok := same[strings.ToLower(s)]; ok {
		return id
	}
	if m := gnu.FindStringSubmatch(s); m != nil {
		version := m[2]
		if !strings.Contains(version, ".") {
			version += ".0"
		}
		if m[1] == "GFDL" && m[2] == "1" {
			version = "1.1"
		}
		if gnuVersions[m[1]+"-"+version] {
			if m[3] == "+" || m[3] == "-or-later" {
				return m[1] + "-" + version + "-or-later"
			}
			return m[1] + "-" + version + "-only"
		}
	}
	id := "LicenseRef-debian-" + strings.Trim(notID.ReplaceAllString(strings.ReplaceAll(s, "+", "-or-later"), "-"), "-")
	named[s] = id
	return id
}

// gnuVersions are those that SPDX lists.
var gnuVersions = map[string]bool{
	"GPL-1.0": true, "GPL-2.0": true, "GPL-3.0": true, "LGPL-2.0": true, "LGPL-2.1": true, "LGPL-3.0": true, "AGPL-1.0": true, "AGPL-3.0": true,
	"GFDL-1.1": true, "GFDL-1.2": true, "GFDL-1.3": true,
}
