package console

import (
	"context"
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"
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

func TestKeymap(t *testing.T) {
	root := fstest.MapFS{}
	for _, f := range []string{"keymaps/i386/qwertz/de.kmap.gz", "keymaps/i386/qwertz/de-latin1.kmap.gz", "keymaps/mac/de-latin1-nodeadkeys.kmap.gz",
		"keymaps/i386/azerty/be2-latin1.kmap.gz", "kbd/keymaps/i386/azerty/be-latin1.map.gz", "keymaps/i386/include/fr-latin9.inc.gz",
		"kbd/keymaps/si.map"} {
		root["usr/share/"+f] = &fstest.MapFile{}
	}
	for layout, want := range map[string]string{
		"de": "/usr/share/keymaps/i386/qwertz/de-latin1.kmap.gz", "fr-be": "/usr/share/kbd/keymaps/i386/azerty/be-latin1.map.gz",
		"si": "/usr/share/kbd/keymaps/si.map", "fr": "", "../../etc/passwd": "",
	} {
		if got, ok := Keymap(root, layout); got != want || ok != (want != "") {
			t.Errorf("%s: got %q, %v", layout, got, ok)
		}
	}
	if len(Layouts()) != 25 || Layouts()[0] != "de" {
		t.Errorf("got %q", Layouts())
	}
}

func TestCooked(t *testing.T) {
	raw := unix.Termios{Iflag: unix.IGNCR}
	cooked(&raw, true)
	if raw.Iflag&unix.IGNCR != 0 || raw.Iflag&unix.ICRNL == 0 || raw.Lflag&unix.ECHO == 0 || raw.Lflag&unix.ICANON == 0 || raw.Oflag&unix.ONLCR == 0 {
		t.Errorf("got %+v", raw)
	}
	cooked(&raw, false)
	if raw.Lflag&unix.ECHO != 0 {
		t.Errorf("got %+v", raw)
	}
}

func TestEnterSaysWhere(t *testing.T) {
	quiet, typed := pipe(t), pipe(t)
	s := &Set{}
	s.to = append(s.to, &line{name: "tty1", f: quiet.r}, &line{name: "ttyS0", f: typed.r})
	go typed.w.WriteString("abc\rx")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if name, ok := s.Enter(ctx); name != "ttyS0" || !ok {
		t.Errorf("got %q, %v", name, ok)
	}
	over, stop := context.WithCancel(t.Context())
	stop()
	if name, ok := (&Set{}).Enter(over); name != "" || ok {
		t.Errorf("nobody there: got %q, %v", name, ok)
	}
}

type ends struct{ r, w *os.File }

func pipe(t *testing.T) ends {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return ends{r, w}
}
