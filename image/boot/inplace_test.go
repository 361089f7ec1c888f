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
