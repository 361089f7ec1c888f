package boot

import (
	"strings"
	"testing"
)

// TestFirstConfig: what is written over the configuration of an image has its
// size, and all that counts in one sector.
func TestFirstConfig(t *testing.T) {
	b := slotBoot(A)
	first, err := FirstConfig(b, []string{"nomodeset"})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "first.cfg", first)
	b.State, b.Extra = "zfs:18446744073709551615", []string{"spl.spl_hostid=0x12345678"}
	then, err := InPlaceConfig(b)
	if err != nil || len(then) != len(first) {
		t.Fatalf("%d and %d bytes, %v", len(first), len(then), err)
	}
	want, err := b.Args()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := SlotArgs(then[:512], A); err != nil || got != strings.Join(want, " ") {
		t.Errorf("the first sector has %q, %v", got, err)
	}
	args, err := SlotArgs(first, A)
	if err != nil || !strings.Contains(args, "joist.in-place=1 nomodeset") || strings.Contains(args, "joist.disk") || strings.Contains(args, "joist.state") {
		t.Errorf("the image starts with %q, %v", args, err)
	}
	b.Console = strings.Fields(strings.Repeat("console=ttyS0,115200 ", 12))
	if _, err := FirstConfig(b, nil); err == nil {
		t.Error("more arguments than a sector takes are no mistake")
	}
	b.Console = nil
	if _, err := FirstConfig(b, strings.Fields(strings.Repeat("nomodeset ", 400))); err == nil {
		t.Error("more arguments than the file takes are no mistake")
	}
}

// TestOwnInstaller: a node's configuration becomes its installer's by one
// sector.
func TestOwnInstaller(t *testing.T) {
	b := slotBoot(A)
	b.Extra = []string{"joist.md=00112233:44556677:8899aabb:ccddeeff", "spl.spl_hostid=0x12345678", "nomodeset"}
	conf, err := InPlaceConfig(b)
	if err != nil {
		t.Fatal(err)
	}
	next, err := OwnInstaller(conf, A)
	if err != nil || len(next) != len(conf) {
		t.Fatalf("%d bytes, %v", len(next), err)
	}
	args, err := SlotArgs(next[:512], A)
	if want := "joist.build=0123456789abcdef joist.slot=A joist.verity=" + manifest().VerityRoot + " panic=30 nomodeset console=tty0 console=ttyS0,115200 joist.in-place=1"; err != nil || args != want {
		t.Errorf("%q, %v", args, err)
	}
	if !strings.Contains(string(next), "set A_title='Joist 0.1.0, slot A") {
		t.Error("the title is gone")
	}
	if again, err := OwnInstaller(next, A); err != nil || string(again) != string(next) {
		t.Errorf("twice: %v", err)
	}
	old, err := SlotConfig(slotBoot(A))
	if err != nil {
		t.Fatal(err)
	}
	for _, conf := range [][]byte{old, nil, conf[:100]} {
		if _, err := OwnInstaller(conf, A); err == nil {
			t.Errorf("%q is changed", conf)
		}
	}
}

func TestAnswerPlace(t *testing.T) {
	for _, text := range []string{"", "a = 1", "a = 1\n", strings.Repeat("x", answerRoom-1)} {
		place := AnswerPlace([]byte(text))
		if len(place) != answerRoom || !strings.HasPrefix(string(place), text) || NoAnswer(place) != (text == "") || string(AnswerPlace(place)) != string(place) {
			t.Errorf("%.20q: %d bytes", text, len(place))
		}
	}
	if got := AnswerPlace(make([]byte, answerRoom+1)); len(got) != answerRoom+1 {
		t.Errorf("%d bytes", len(got))
	}
}
