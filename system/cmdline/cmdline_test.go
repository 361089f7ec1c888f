package cmdline

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

const nodeLine = `BOOT_IMAGE=/joist/A/vmlinuz joist.mode=node joist.build=0123456789abcdef joist.slot=A ` +
	`joist.verity=00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff ` +
	`joist.disk=6F2A0B1C-1111-2222-3333-444455556666 joist.state=lvm:abcdef-ABCD-1234-abcd-ABCD-1234-abcdef ` +
	`joist.trial=1 console=tty0 console=ttyS0,115200 nvme_core.default_ps_max_latency_us=0 panic=10`

func TestParseNode(t *testing.T) {
	o, err := Parse(nodeLine)
	if err != nil {
		t.Fatal(err)
	}
	if o.Mode != Node || o.Slot != "A" || !o.Trial || o.Partition() != "joist-a" || !o.FromSlot() {
		t.Errorf("got %+v", o)
	}
	if o.Disk != "6f2a0b1c-1111-2222-3333-444455556666" || o.StateVG != "abcdef-ABCD-1234-abcd-ABCD-1234-abcdef" {
		t.Errorf("got disk %q, VG %q", o.Disk, o.StateVG)
	}
	if got := strings.Join(o.Consoles, " "); got != "tty0 ttyS0" {
		t.Errorf("consoles %q", got)
	}
	if got := o.Params["nvme_core"]; len(got) != 1 || got[0] != "default_ps_max_latency_us=0" {
		t.Errorf("module parameters %q", got)
	}
	if len(o.Params["joist"]) != 0 {
		t.Errorf("joist's own values taken for module parameters: %q", o.Params["joist"])
	}
}

// The menu of a disk image starts nodes and rescue systems; its disk is none yet.
func TestParseInPlace(t *testing.T) {
	line := "joist.slot=A joist.build=0123456789abcdef joist.verity=00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff joist.in-place=1 console=tty0"
	for mode, want := range map[string]Mode{"node": Install, "rescue": Rescue} {
		o, err := Parse("joist.mode=" + mode + " " + line)
		if err != nil || o.Mode != want || !o.InPlace || !o.FromSlot() {
			t.Errorf("%s: %+v %v", mode, o, err)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"joist.mode=install", "joist.build= is missing"},
		{"joist.mode=node", "joist.verity= is missing"},
		{"joist.mode=fly joist.build=0123456789abcdef", `joist.mode="fly"`},
		{"joist.mode=rescue joist.build=../../etc", `joist.build="../../etc"`},
		{"joist.slot=C joist.build=0123456789abcdef", "neither A nor B"},
		{"joist.mode=node joist.state=btrfs:x", "neither lvm: nor zfs:"},
		{nodeLine + " joist.state=zfs:rpool", `joist.state="zfs:rpool"`},
		{strings.Replace(nodeLine, "joist.state=", "joist.kept=", 1), "joist.state= is missing"},
		{nodeLine + " joist.md=/dev/md0", `joist.md="/dev/md0"`},
	} {
		if _, err := Parse(c.line); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.line, err, c.want)
		}
	}
}

func TestAnswerFingerprint(t *testing.T) {
	const line, digits = "joist.mode=install joist.build=0123456789abcdef joist.answer=https://192.0.2.1/a joist.answer-fingerprint=", "ab01ab01ab01ab01ab01ab01ab01ab01ab01ab01ab01ab01ab01ab01ab01ab01"
	o, err := Parse(line + "AB:01" + digits[4:])
	if err != nil || o.Answer != "https://192.0.2.1/a" || o.AnswerPin != digits {
		t.Errorf("%+v %v", o, err)
	}
	if o, err := Parse(line + "AB:01"); err == nil || o.AnswerPin != "" {
		t.Errorf("%+v %v", o, err)
	}
}

func TestKeyboardIsNoReasonNotToStart(t *testing.T) {
	for val, want := range map[string]string{"de": "de", "fr-ch": "fr-ch", "../x": "", "DE": ""} {
		if o, err := Parse(nodeLine + " joist.keyboard=" + val); o.Keyboard != want || err != nil {
			t.Errorf("%s: got %q, %v", val, o.Keyboard, err)
		}
	}
}

func TestParseMirror(t *testing.T) {
	o, err := Parse(nodeLine + " joist.md=00010203:04050607:08090A0B:0c0d0e0f")
	if err != nil || o.Array != "00010203:04050607:08090a0b:0c0d0e0f" {
		t.Errorf("%q %v", o.Array, err)
	}
	if o, err = Parse(nodeLine); err != nil || o.Array != "" {
		t.Errorf("%q %v", o.Array, err)
	}
}

func TestParsePool(t *testing.T) {
	line := nodeLine[:strings.Index(nodeLine, "joist.state")] + "joist.state=zfs:11400714819323198485 spl.spl_hostid=0x01020304"
	o, err := Parse(line)
	if err != nil || o.Pool != "11400714819323198485" || o.StateVG != "" || len(o.Params["spl"]) != 1 || o.Params["spl"][0] != "spl_hostid=0x01020304" {
		t.Errorf("%+v %v", o, err)
	}
}

func TestWords(t *testing.T) {
	got := words(` a="b c"  d "e=f g" ` + "\n")
	if strings.Join(got, "|") != "a=b c|d|e=f g" {
		t.Errorf("got %q", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(nodeLine)
	f.Add(`a="b joist.mode=install -- joist.mode=node`)
	f.Fuzz(func(t *testing.T, line string) {
		o, _ := Parse(line)
		if strings.ContainsAny(o.Build+o.Slot+o.Verity+o.Disk+o.StateVG+o.Pool, "/ \n.") {
			t.Errorf("unchecked value in %+v", o)
		}
	})
}

func TestAddress(t *testing.T) {
	addr := netip.MustParseAddr
	for val, want := range map[string]Address{
		"dhcp": {}, "on": {}, ":::::eth1:dhcp": {Device: "eth1"},
		"192.0.2.5::192.0.2.1:255.255.255.0::eth0:none:192.0.2.2:192.0.2.3": {"eth0", netip.MustParsePrefix("192.0.2.5/24"), addr("192.0.2.1"), []netip.Addr{addr("192.0.2.2"), addr("192.0.2.3")}},
		"192.0.2.5:::26::":                          {Prefix: netip.MustParsePrefix("192.0.2.5/26")},
		"[2001:db8::5]::[2001:db8::1]:64:host::off": {Prefix: netip.MustParsePrefix("2001:db8::5/64"), Gateway: addr("2001:db8::1")},
	} {
		got, err := ParseAddress(val)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v", val, got, err)
		}
	}
	for _, val := range []string{"x", "192.0.2.5", "192.0.2.5::192.0.2.1:255.0.255.0::eth0:none", "192.0.2.5:::33::", "192.0.2.5::x:24::",
		"192.0.2.5::2001:db8::1:24::", "192.0.2.5:::24::../x", ":::::eth0:none", "192.0.2.5:::24::eth0:none:x", "192.0.2.5::[2001:db8::1]:24::"} {
		if got, err := ParseAddress(val); err == nil {
			t.Errorf("%s was taken: %+v", val, got)
		}
	}
}

func TestNetwork(t *testing.T) {
	const build = "joist.build=0123456789abcdef joist.mode=install "
	o, err := Parse(build + "joist.image=http://192.0.2.1:8080/joist/system.sqfs BOOTIF=01-52-54-00-AA-bb-01 ip=dhcp joist.ram=0")
	if err != nil || o.Image != "http://192.0.2.1:8080/joist/system.sqfs" || o.BootMAC != "52:54:00:aa:bb:01" || o.RAM != "0" || o.Address.Static() {
		t.Errorf("got %+v, %v", o, err)
	}
	if o, err = Parse(build + "BOOTIF=52:54:00:aa:bb:02"); err != nil || o.BootMAC != "52:54:00:aa:bb:02" {
		t.Errorf("got %+v, %v", o, err)
	}
	if o, err = Parse(build + "BOOTIF="); err != nil || o.BootMAC != "" {
		t.Errorf("got %+v, %v", o, err)
	}
	for _, bad := range []string{"joist.image=tftp://x/y", "joist.image=http:///x", "joist.image=http://x", "joist.image=http://x/joist/", "joist.image=", "joist.ram=2", "joist.image=http://x/y ip=1"} {
		if _, err := Parse(build + bad); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
	if _, err := Parse(build + "joist.image=ftp://user:secret@x/y"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a password is shown: %v", err)
	}
}
