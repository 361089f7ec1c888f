package disk

import "testing"

// Some disks of a system may have its new GUIDs already; those of two systems
// are never taken for one.
func TestOneSystem(t *testing.T) {
	const a, b = "10000000-0000-4000-8000-000000000001", "20000000-0000-4000-8000-000000000001"
	next := func(g string) string { return NextSystem(SystemOf(g)) + g[systemSize:] }
	for name, c := range map[string]struct {
		guids []string
		want  bool
	}{
		"one":              {[]string{a}, true},
		"one, in any case": {[]string{"abcdefab-cdef-4bcd-8000-000000000001", "ABCDEFAB-CDEF-4BCD-8000-000000000002"}, true},
		"two":              {[]string{a, a[:35] + "2"}, true},
		"first is new":     {[]string{next(a), a}, true},
		"last is new":      {[]string{a, a, next(a)}, true},
		"other":            {[]string{a, b}, false},
		"other is new":     {[]string{a, next(b)}, false},
		"two steps":        {[]string{a, next(next(a))}, false},
		"three steps":      {[]string{a, next(a), next(next(a))}, false},
		"none":             {[]string{"x"}, false},
	} {
		if got := OneSystem(c.guids...); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if n := next(a); len(n) != 36 || n[8] != '-' || n[13] != '-' || n[14] != '4' || n[18] != '-' || n != next(a) || SystemOf(n) == SystemOf(a) {
		t.Errorf("next is %q", n)
	}
}
