package deb

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// index builds an Index of lines "name version; Field: value; …".
func index(t *testing.T, suites ...string) *Index {
	t.Helper()
	var lists [][]Record
	for i, s := range suites {
		var b strings.Builder
		for line := range strings.SplitSeq(strings.TrimSpace(s), "\n") {
			head, fields, _ := strings.Cut(strings.TrimSpace(line), ";")
			name, version, _ := strings.Cut(head, " ")
			fmt.Fprintf(&b, "Package: %s\nVersion: %s\nArchitecture: all\nSize: 1\nFilename: pool/main/%s.deb\nSHA256: %s\n",
				name, version, name, strings.Repeat(fmt.Sprint(i), 64))
			for f := range strings.SplitSeq(fields, ";") {
				if f = strings.TrimSpace(f); f != "" {
					fmt.Fprintln(&b, f)
				}
			}
			fmt.Fprintln(&b)
		}
		rs, err := ParseIndex(b.String(), "trixie", "main")
		if err != nil {
			t.Fatal(err)
		}
		lists = append(lists, rs)
	}
	ix, err := NewIndex(lists...)
	if err != nil {
		t.Fatal(err)
	}
	return ix
}

func TestClosure(t *testing.T) {
	for _, c := range []struct {
		name     string
		suites   []string
		wants    string
		excludes map[string]string
		want     string // name=version<why
		codes    string
	}{
		{name: "chain and cycle",
			suites: []string{"aa 1; Depends: bb\nbb 1; Pre-Depends: cc (>= 1)\ncc 1; Depends: aa\ndd 1"},
			wants:  "aa", want: "aa=1 bb=1<aa cc=1<aa<bb"},
		{name: "later suite is newer",
			suites: []string{"aa 1; Depends: bb (>= 2)\nbb 1", "bb 2; Depends: cc\ncc 1"},
			wants:  "aa", want: "aa=1 bb=2<aa cc=1<aa<bb"},
		{name: "older version in a later suite loses",
			suites: []string{"aa 2", "aa 1"}, wants: "aa", want: "aa=2"},
		{name: "first alternative",
			suites: []string{"aa 1; Depends: bb | cc\nbb 1\ncc 1"}, wants: "aa", want: "aa=1 bb=1<aa"},
		{name: "alternative chosen already, whatever the order",
			suites: []string{"aa 1; Depends: bb | cc\nbb 1\ncc 1\nzz 1; Depends: cc"}, wants: "aa zz", want: "aa=1 cc=1<zz zz=1"},
		{name: "second alternative when the first is too old",
			suites: []string{"aa 1; Depends: bb (>= 2) | cc\nbb 1\ncc 1"}, wants: "aa", want: "aa=1 cc=1<aa"},
		{name: "virtual, best priority",
			suites: []string{"aa 1; Depends: awk\nbb 1; Provides: awk; Priority: optional\ncc 1; Provides: awk; Priority: required"},
			wants:  "aa", want: "aa=1 cc=1<aa"},
		{name: "virtual, wanted provider",
			suites: []string{"aa 1; Depends: awk\nbb 1; Provides: awk; Priority: required\ncc 1; Provides: awk"},
			wants:  "aa cc", want: "aa=1 cc=1"},
		{name: "versioned provides",
			suites: []string{"aa 1; Depends: vv (>= 2)\nbb 1; Provides: vv\ncc 1; Provides: vv (= 1)\ndd 1; Provides: vv (= 3)"},
			wants:  "aa", want: "aa=1 dd=1<aa"},
		{name: "real package too old, provider fits",
			suites: []string{"aa 1; Depends: vv (>= 2)\nvv 1\ndd 1; Provides: vv (= 3)"}, wants: "aa", want: "aa=1 dd=1<aa"},
		{name: "excluded counts as installed",
			suites: []string{"aa 1; Depends: systemd (>= 9), bb\nbb 1\nsystemd 1; Depends: zz"}, wants: "aa",
			excludes: map[string]string{"systemd": "PID 1 is ours"}, want: "aa=1 bb=1<aa"},
		{name: "excluded provider",
			suites: []string{"aa 1; Depends: perlapi-5\nperl-base 1; Provides: perlapi-5"}, wants: "aa",
			excludes: map[string]string{"perl-base": "no scripts"}, want: "aa=1"},
		{name: "alternative before the excluded one",
			suites: []string{"aa 1; Depends: bb | cc\nbb 1\ncc 1"}, wants: "aa",
			excludes: map[string]string{"cc": "x"}, want: "aa=1 bb=1<aa", codes: "exclude-unused"},
		{name: "unused exclusion", suites: []string{"aa 1"}, wants: "aa", excludes: map[string]string{"bb": "x"}, want: "aa=1", codes: "exclude-unused"},
		{name: "unknown", suites: []string{"aa 1"}, wants: "aa bb", want: "aa=1", codes: "package-unknown"},
		{name: "wanted and excluded", suites: []string{"aa 1"}, wants: "aa", excludes: map[string]string{"aa": "x"}, codes: "package-excluded"},
		{name: "unmet", suites: []string{"aa 1; Depends: bb\nbb 1; Depends: cc (>= 2) | dd\ncc 1"}, wants: "aa",
			want: "aa=1 bb=1<aa", codes: "dependency-unmet"},
		{name: "foreign architecture", suites: []string{"aa 1; Depends: bb:i386\nbb 1"}, wants: "aa", want: "aa=1", codes: "dependency-unmet"},
		{name: "any and native", suites: []string{"aa 1; Depends: bb:any, cc:native\nbb 1\ncc 1"}, wants: "aa", want: "aa=1 bb=1<aa cc=1<aa"},
		{name: "conflict", suites: []string{"aa 1; Conflicts: bb\nbb 1"}, wants: "aa bb", want: "aa=1 bb=1", codes: "package-conflict"},
		{name: "breaks an older version", suites: []string{"aa 1; Breaks: bb (<< 2)\nbb 1"}, wants: "aa bb", want: "aa=1 bb=1", codes: "package-conflict"},
		{name: "breaks only older versions", suites: []string{"aa 1; Breaks: bb (<< 2)\nbb 2"}, wants: "aa bb", want: "aa=1 bb=2"},
		{name: "conflict with a provider, not with itself",
			suites: []string{"aa 1; Provides: mta; Conflicts: mta\nbb 1; Provides: mta"}, wants: "aa bb", want: "aa=1 bb=1", codes: "package-conflict"},
		{name: "own virtual conflict", suites: []string{"aa 1; Provides: mta; Conflicts: mta"}, wants: "aa", want: "aa=1"},
		{name: "alternative that clashes is avoided",
			suites: []string{"aa 1; Depends: bb | cc; Conflicts: bb\nbb 1\ncc 1"}, wants: "aa", want: "aa=1 cc=1<aa"},
		{name: "alternative that conflicts with the chosen is avoided",
			suites: []string{"aa 1; Depends: bb | cc\nbb 1; Conflicts: aa\ncc 1"}, wants: "aa", want: "aa=1 cc=1<aa"},
		{name: "no alternative: taken and reported",
			suites: []string{"aa 1; Depends: bb; Conflicts: bb\nbb 1"}, wants: "aa", want: "aa=1 bb=1<aa", codes: "package-conflict"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ps, fs := Closure(index(t, c.suites...), strings.Fields(c.wants), c.excludes)
			var got, codes []string
			for _, p := range ps {
				got = append(got, strings.Join(append([]string{p.Name + "=" + p.Version}, p.Why...), "<"))
			}
			for _, f := range fs {
				codes = append(codes, f.Code)
			}
			if d := cmp.Diff(c.want, strings.Join(got, " ")); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(c.codes, strings.Join(codes, " ")); d != "" {
				t.Error(d, fs)
			}
		})
	}
}

// TestClosureOrder: the order and repetition of wants changes nothing.
func TestClosureOrder(t *testing.T) {
	ix := index(t, "aa 1; Depends: xx | yy\nbb 1; Depends: yy | xx\ncc 1; Depends: vv\nxx 1; Provides: vv\nyy 1; Provides: vv")
	want, _ := Closure(ix, []string{"aa", "bb", "cc"}, nil)
	for _, w := range [][]string{{"cc", "bb", "aa"}, {"bb", "aa", "cc", "bb"}} {
		if got, _ := Closure(ix, w, nil); cmp.Diff(want, got) != "" {
			t.Error(cmp.Diff(want, got))
		}
	}
}

func TestFindingNamesTheChain(t *testing.T) {
	_, fs := Closure(index(t, "aa 1; Depends: bb\nbb 1; Depends: cc (>= 2)\ncc 1"), []string{"aa"}, nil)
	if len(fs) != 1 || !strings.Contains(fs[0].Text, "aa → bb") || !strings.Contains(fs[0].Text, "cc (>= 2)") || fs[0].Hint == "" {
		t.Fatal(fs)
	}
	_, fs = Closure(index(t, "aa 1; Provides: vv"), []string{"vv"}, nil)
	if len(fs) != 1 || !strings.Contains(fs[0].Hint, "aa") {
		t.Fatal(fs)
	}
}
