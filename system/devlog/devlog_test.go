package devlog

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLines(t *testing.T) {
	for in, want := range map[string]string{
		"<85>Nov 21 23:04:05 login[7]: pam_unix(login:auth): authentication failure": "notice login[7]: pam_unix(login:auth): authentication failure",
		"<38>Nov  1 03:04:05 login[7]: ROOT LOGIN on 'tty1'\n\x00":                   "info login[7]: ROOT LOGIN on 'tty1'",
		"<28>dmeventd[9]: pool is 80% full":                                          "warning dmeventd[9]: pool is 80% full",
		"no priority\nsecond \x1b[2J":                                                "notice no priority|notice second ?[2J",
		"<x>odd":                                                                     "notice <x>odd",
		"":                                                                           "notice ",
	} {
		if got := strings.Join(Lines(in), "|"); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	os.WriteFile(path, nil, 0o644) // left by a predecessor
	got := make(chan string, 1)
	l, err := Listen(path, func(s string) { got <- s })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v", st, err)
	}
	c, err := net.Dial("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("<30>Nov 21 23:04:05 x: hello"))
	select {
	case s := <-got:
		if s != "info x: hello" {
			t.Errorf("got %q", s)
		}
	case <-time.After(time.Minute):
		t.Error("nothing came")
	}
}
