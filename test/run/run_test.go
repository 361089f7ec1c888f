package main

import (
	"os"
	"strings"
	"testing"
)

func TestSteps(t *testing.T) {
	var b strings.Builder
	s := &steps{to: &b}
	for _, part := range []string{"[    0.00] Linux\n[star", "ted]  copy\n", "[ 42 %]    copy\n[finished] copy (1.0 s)\nnoise\n",
		"cpu: error: no /dev/kvm [x]\n    cure: switch it on\n", "The installation ended: no\n", "[started]  half"} {
		if n, err := s.Write([]byte(part)); n != len(part) || err != nil {
			t.Error(n, err)
		}
	}
	want := "  [started]  copy\n  [ 42 %]    copy\n  [finished] copy (1.0 s)\n  cpu: error: no /dev/kvm [x]\n      cure: switch it on\n  The installation ended: no\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestInstalled(t *testing.T) {
	p := places{t.TempDir()}
	if s, err := p.installed(); s != "" || err != nil {
		t.Errorf("%q %v", s, err)
	}
	write := func(name, text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(p.disk(), "x")
	if _, err := p.installed(); err == nil {
		t.Error("a disk without a password is used")
	}
	write(p.password(), "secret\n")
	if s, err := p.installed(); s != "secret" || err != nil {
		t.Errorf("%q %v", s, err)
	}
}

func TestWelcome(t *testing.T) {
	t.Setenv("JOIST_ISO", "/x/joist.iso")
	s := welcome(places{"build/run"}, "AB:CD", "secret", "/tmp/serial0.log")
	for _, want := range []string{apiURL, "secret", "AB:CD", "upload node1 local iso /x/joist.iso", "ide2=local:iso/joist.iso,media=cdrom", "/nodes/node1/qemu/100/status/start"} {
		if !strings.Contains(s, want) {
			t.Errorf("lacks %q:\n%s", want, s)
		}
	}
	if strings.Contains(s, "%!") {
		t.Error(s)
	}
}
