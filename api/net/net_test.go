package net

import (
	"bytes"
	"reflect"
	"testing"
)

func TestNets(t *testing.T) {
	for _, c := range []struct{ in, out string }{
		{"virtio=bc:24:11:00:00:01,bridge=vmbr0,firewall=0", "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=0"},
		{"virtio,bridge=vmbr0,tag=5", "virtio,bridge=vmbr0,tag=5"},
		{"model=e1000,macaddr=BC:24:11:00:00:02,bridge=vmbr0,firewall=1,link_down=yes", "e1000=BC:24:11:00:00:02,bridge=vmbr0,firewall=1,link_down=1"},
		{"virtio,queues=4,rate=10,mtu=1", "virtio,mtu=1,queues=4,rate=10"},
	} {
		n, err := Parse(c.in)
		if err != nil {
			t.Fatalf("%q: %v", c.in, err)
		}
		if n.String() != c.out {
			t.Errorf("%q: got %q, want %q", c.in, n, c.out)
		}
	}
	for _, bad := range []string{"", "bridge=vmbr0", "foo=1", "virtio=xx", "virtio=01:00:00:00:00:00", "virtio,e1000=BC:24:11:00:00:01",
		"virtio,bridge=a/b", "virtio,tag=5000", "virtio=BC:24:11:00:00:01,macaddr=BC:24:11:00:00:01"} {
		if _, err := Parse(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestLXC(t *testing.T) {
	for _, c := range []struct{ in, out string }{
		{"name=eth0,bridge=vmbr0,ip=dhcp,hwaddr=bc:24:11:00:00:01", "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,ip=dhcp,type=veth"},
		{"name=eth0,bridge=vmbr0,ip=192.0.2.5/24,gw=192.0.2.1,ip6=auto,type=veth", "name=eth0,bridge=vmbr0,gw=192.0.2.1,ip=192.0.2.5/24,ip6=auto,type=veth"},
	} {
		n, err := ParseLXC(c.in)
		if err != nil || n.String() != c.out {
			t.Errorf("%q: got %q (%v), want %q", c.in, n, err, c.out)
		}
	}
	for _, bad := range []string{"", "bridge=vmbr0", "eth0", "name=eth0,ip=192.0.2.5", "name=eth0,ip6=192.0.2.5/24", "name=eth0,gw=x", "name=a b"} {
		if _, err := ParseLXC(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestNewMAC(t *testing.T) {
	mac, err := NewMAC(bytes.NewReader([]byte{1, 2, 0xff}))
	if err != nil || FormatMAC(mac) != "BC:24:11:01:02:FF" {
		t.Error(mac, err)
	}
}

func FuzzNet(f *testing.F) {
	f.Add("virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=0")
	f.Add("name=eth0,bridge=vmbr0,ip=dhcp")
	f.Fuzz(func(t *testing.T, in string) {
		if n, err := Parse(in); err == nil {
			again, err := Parse(n.String())
			if err != nil || !reflect.DeepEqual(n, again) {
				t.Fatalf("%q → %q → %+v (%v)", in, n, again, err)
			}
		}
		if n, err := ParseLXC(in); err == nil {
			again, err := ParseLXC(n.String())
			if err != nil || !reflect.DeepEqual(n, again) {
				t.Fatalf("%q → %q → %+v (%v)", in, n, again, err)
			}
		}
	})
}
