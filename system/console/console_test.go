package console

import (
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	for _, c := range []struct {
		active   string
		fallback []string
		want     string
	}{
		{"tty0 ttyS0\n", nil, "tty1 ttyS0"},
		{"ttyS0 tty0 tty1", nil, "ttyS0 tty1"},
		{"", []string{"ttyS1"}, "ttyS1"},
		{"", nil, "tty1"},
	} {
		if got := strings.Join(Names(c.active, c.fallback), " "); got != c.want {
			t.Errorf("%q %q: got %q, want %q", c.active, c.fallback, got, c.want)
		}
	}
}
