package deb

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

func TestParseStanzas(t *testing.T) {
	text := "# comment\nPackage: a\nDescription: short\n long\n .\n  indented\n# inside\n more\nEmpty:\n\n\n \t\nPackage: b\r\nX-y:z\r\n"
	got, err := ParseStanzas(text)
	if err != nil {
		t.Fatal(err)
	}
	want := []Fields{
		{{"Package", "a", 2}, {"Description", "short\nlong\n.\n indented\nmore", 3}, {"Empty", "", 9}},
		{{"Package", "b", 13}, {"X-y", "z", 14}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
	if got[1].Get("PACKAGE") != "b" || got[1].Has("Version") {
		t.Fatal("field names")
	}
	for _, bad := range []string{" continuation first\n", "no colon\n", ": no name\n", "a b: c\n", "A: 1\na: 2\n"} {
		if _, err := ParseStanzas(bad); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}

func FuzzParseStanzas(f *testing.F) {
	f.Add("Package: a\nDepends: b,\n c\n\nPackage: d\n")
	f.Add("A:\n#\n #\n\r\n \n")
	f.Fuzz(func(t *testing.T, text string) {
		ss, err := ParseStanzas(text)
		if err != nil {
			return
		}
		for _, s := range ss {
			last := 0
			for _, field := range s {
				if field.Line <= last || field.Line > strings.Count(text, "\n")+1 {
					t.Fatalf("line %d after %d", field.Line, last)
				}
				last = field.Line
			}
		}
	})
}

func TestParseRelations(t *testing.T) {
	got, err := ParseRelations("libc6 (>= 2.38), perl:any | mawk(<<1:2~) ,\n foo ( = 1-1 ),")
	if err != nil {
		t.Fatal(err)
	}
	want := []Clause{
		{{Name: "libc6", Op: ">=", Version: "2.38"}},
		{{Name: "perl", Arch: "any"}, {Name: "mawk", Op: "<<", Version: "1:2~"}},
		{{Name: "foo", Op: "=", Version: "1-1"}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
	for _, bad := range []string{"a |", "x", "foo (>= 1", "foo (1)", "foo (>= )", "foo (!= 1)", "foo [amd64]", "foo <!nocheck>", "-foo", "foo (>= 1) x"} {
		if _, err := ParseRelations(bad); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}

func FuzzParseRelations(f *testing.F) {
	f.Add("libc6 (>= 2.38), perl:any | mawk (<< 1:2~), foo (= 1-1)")
	f.Fuzz(func(t *testing.T, s string) {
		cs, err := ParseRelations(s)
		if err != nil {
			return
		}
		parts := make([]string, len(cs))
		for i, c := range cs {
			parts[i] = c.String()
		}
		again, err := ParseRelations(strings.Join(parts, ", "))
		if err != nil {
			t.Fatalf("own text refused: %v", err)
		}
		if d := cmp.Diff(cs, again); d != "" {
			t.Fatal(d)
		}
	})
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		op   string
		want [3]bool // 1.0 against 0.9, 1.0, 1.1
	}{
		{"<<", [3]bool{false, false, true}},
		{"<=", [3]bool{false, true, true}},
		{"=", [3]bool{false, true, false}},
		{">=", [3]bool{true, true, false}},
		{">>", [3]bool{true, false, false}},
		{"", [3]bool{true, true, true}},
	} {
		for i, v := range []string{"0.9", "1.0", "1.1"} {
			if got := (Relation{Op: c.op, Version: v}).Matches("1.0"); got != c.want[i] {
				t.Errorf("1.0 %s %s: %v", c.op, v, got)
			}
		}
	}
}

func TestParseIndexRefuses(t *testing.T) {
	good := "Package: aa\nVersion: 1\nArchitecture: all\nFilename: pool/main/a/aa_1_all.deb\nSize: 5\nSHA256: " + strings.Repeat("a", 64) + "\n"
	if rs, err := ParseIndex(good+"\n"+strings.Replace(good, "all\n", "i386\n", 1), "trixie", "main"); err != nil || len(rs) != 1 {
		t.Fatal(rs, err)
	}
	for from, to := range map[string]string{
		"pool/main/a/": "../../etc/", "Size: 5": "Size: -5", "Size: 5\n": "", "Package: aa": "Package: a/a", "aaaaa\n": "\n",
	} {
		if _, err := ParseIndex(strings.Replace(good, from, to, 1), "trixie", "main"); err == nil {
			t.Errorf("accepted %q instead of %q", to, from)
		}
	}
}

// An index that comes in pieces is the same as one in memory, and a mistake is
// told with its line.
func TestReadIndex(t *testing.T) {
	var b strings.Builder
	for i := range 9000 {
		fmt.Fprintf(&b, "Package: p%d\nVersion: %d\nArchitecture: all\nFilename: pool/main/p/p%d_all.deb\nSize: 5\nSHA256: %064x\nDescription: %s\n\n", i, i, i, i, strings.Repeat("x", i%1000))
	}
	text := b.String()
	if len(text) < 2*indexPiece {
		t.Fatal("the text is one piece only")
	}
	want, err := ParseIndex(text, "trixie", "main")
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]io.Reader{"whole": strings.NewReader(text), "halves": iotest.HalfReader(strings.NewReader(text)), "without the last line": strings.NewReader(strings.TrimRight(text, "\n"))} {
		got, err := ReadIndex(r, maxIndex, "trixie", "main")
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %d records, want %d, %v", name, len(got), len(want), err)
		}
	}
	if got, err := ReadIndex(strings.NewReader(""), 10, "trixie", "main"); err != nil || len(got) != 0 {
		t.Errorf("nothing: %v, %v", got, err)
	}
	at := strings.LastIndex(text, "Size: 5")
	bad := text[:at] + "no field\n" + text[at:]
	_, err = ReadIndex(strings.NewReader(bad), maxIndex, "trixie", "main")
	if line := fmt.Sprintf("line %d", 1+strings.Count(text[:at], "\n")); err == nil || !strings.Contains(err.Error(), line) {
		t.Errorf("error is %v, want %q in it", err, line)
	}
	if _, err := ReadIndex(strings.NewReader(text), 1000, "trixie", "main"); err == nil || !strings.Contains(err.Error(), "more than 1000 bytes") {
		t.Errorf("too long: %v", err)
	}
	broken := errors.New("broken")
	if _, err := ReadIndex(io.MultiReader(strings.NewReader(text[:indexPiece]), iotest.ErrReader(broken)), maxIndex, "trixie", "main"); !errors.Is(err, broken) {
		t.Errorf("a stream that breaks: %v", err)
	}
}

func FuzzParseIndex(f *testing.F) {
	f.Add("Package: aa\nVersion: 1\nArchitecture: all\nFilename: pool/main/a/aa_1_all.deb\nSize: 5\nSHA256: " + strings.Repeat("a", 64) + "\nDepends: bb\nProvides: cc (= 1)\n")
	f.Fuzz(func(t *testing.T, text string) {
		rs, err := ParseIndex(text, "trixie", "main")
		if err != nil {
			return
		}
		ix, err := NewIndex(rs)
		if err != nil {
			return
		}
		Closure(ix, ix.Select(func(*Record) bool { return true }), nil)
	})
}

func FuzzParseRelease(f *testing.F) {
	f.Add([]byte("Codename: trixie\nDate: Sat, 12 Sep 2026 07:55:41 UTC\nSHA256:\n " + strings.Repeat("a", 64) + " 12 main/x\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ParseRelease(text)
		if err != nil {
			return
		}
		for name := range r.Files {
			if strings.HasPrefix(name, "/") || strings.HasPrefix(name, "..") {
				t.Fatal(name)
			}
		}
	})
}

func FuzzAptConf(f *testing.F) {
	f.Add("Acquire::http { Proxy \"http://p:1\"; Proxy::host \"DIRECT\"; }; // x\n#clear Acquire::http::Proxy;\n/* */ A::B \"c\";")
	f.Fuzz(func(t *testing.T, text string) {
		aptOptions{}.parseAptConf(text)
		parseAuth(text)
	})
}
