package deb

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
)

func TestCompareVersions(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"1.0", "1.0", 0},
		{"1.0", "1.00", 0},
		{"0:1.0", "1.0", 0},
		{"1.0-0", "1.0", 0},
		{"1.0", "1.1", -1},
		{"1.9", "1.10", -1},
		{"1:0.1", "9.9", 1},
		{"2:1", "10:1", -1},
		{"1.0~rc1", "1.0", -1},
		{"1.0~~", "1.0~", -1},
		{"1.0~~a", "1.0~", -1},
		{"1.0", "1.0a", -1},
		{"1.0a", "1.0+", -1},
		{"1.0-1", "1.0-1+b1", -1},
		{"1.0-1+deb13u1", "1.0-1+deb13u10", -1},
		{"1.0-1", "1.0-1~bpo12+1", 1},
		{"1.2-3-4", "1.2-3-5", -1},
		{"6.12.9-1", "6.12.10-1", -1},
		{"1:10.0.13+ds-0+deb13u1", "1:10.0.13+ds~", 1},
		{"20250520T000000Z", "20250519", 1},
		{"99999999999999999999999", "99999999999999999999998", 1},
		{"1.a", "1.1", 1},
	} {
		if got := CompareVersions(c.a, c.b); got != c.want {
			t.Errorf("%s ? %s: %d, want %d", c.a, c.b, got, c.want)
		}
		if got := CompareVersions(c.b, c.a); got != -c.want {
			t.Errorf("%s ? %s: %d, want %d", c.b, c.a, got, -c.want)
		}
	}
}

// TestCompareVersionsWithDpkg asks dpkg itself about random versions.
func TestCompareVersionsWithDpkg(t *testing.T) {
	dpkg, err := exec.LookPath("dpkg")
	if err != nil {
		t.Skip("no dpkg here")
	}
	n := 10_000
	if testing.Short() {
		n = 500
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	pieces := []string{"0", "1", "9", "10", "00", ".", "+", "~", "~~", "a", "b1", "rc", "deb13u", "Z", "-", "-1"}
	random := func() string {
		var b strings.Builder
		if rnd.IntN(4) == 0 {
			b.WriteString([]string{"0:", "1:", "02:"}[rnd.IntN(3)])
		}
		b.WriteString("1")
		for range rnd.IntN(6) {
			b.WriteString(pieces[rnd.IntN(len(pieces))])
		}
		return strings.TrimRight(b.String(), "-")
	}
	// One shell asks for all: each line is our answer, and dpkg must agree.
	var lines strings.Builder
	for range n {
		a, b := random(), random()
		op := map[int]string{-1: "lt", 0: "eq", 1: "gt"}[CompareVersions(a, b)]
		fmt.Fprintln(&lines, a, op, b)
	}
	x := exec.Command("sh", "-c", `while read -r a op b; do "$0" --compare-versions "$a" "$op" "$b" || echo "$a $op $b"; done; echo end`, dpkg)
	x.Stdin = strings.NewReader(lines.String())
	out, err := x.Output()
	if err != nil || string(out) != "end\n" {
		t.Errorf("dpkg does not agree with (%v)\n%s", err, out)
	}
}

func TestCheckVersion(t *testing.T) {
	for v, ok := range map[string]bool{
		"1": true, "1:2.3-4+deb13u1~bpo1": true, "2-3-4": true,
		"": false, "a1": false, ":1": false, "1-": false, "1 2": false, "1/2": false, "1_2": false, "-1": false,
	} {
		if err := CheckVersion(v); (err == nil) != ok {
			t.Errorf("%q: %v", v, err)
		}
	}
}

func FuzzCompareVersions(f *testing.F) {
	f.Add("1:1.0~rc1-1", "1.0-1+b1", "2")
	f.Add("~", "", "0")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		ab, ba := CompareVersions(a, b), CompareVersions(b, a)
		if ab != -ba {
			t.Fatalf("%q %q: %d and %d", a, b, ab, ba)
		}
		if bc := CompareVersions(b, c); ab <= 0 && bc <= 0 && CompareVersions(a, c) > 0 {
			t.Fatalf("not transitive: %q %q %q", a, b, c)
		}
	})
}
