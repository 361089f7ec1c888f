package nocloud

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"joist/internal/finding"
)

const (
	hash = "$6$salt$" + "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234."
	key  = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA me"
	meta = "instance-id: i-1\nlocal-hostname: n1\n"
	user = "#cloud-config\nchpasswd: {expire: false, users: [{name: root, type: hash, password: \"" + hash + "\"}]}\n"
)

func machine() Machine {
	return Machine{Disk: "vda", Cards: []Card{{"eth0", "52:54:00:00:00:01"}, {"eth1", "52:54:00:00:00:02"}}}
}

func TestRead(t *testing.T) {
	for _, c := range []struct {
		name, user, meta, network string
		want                      string // host, key count, network
		codes                     string
	}{
		{name: "least", user: user, meta: meta, want: "n1.localdomain 0 from-dhcp"},
		{name: "name and keys", user: user + "fqdn: n1.example.com\nhostname: n1\ntimezone: Europe/Vienna\nkeyboard: {layout: us}\nssh_authorized_keys: [\"" + key + "\"]\ngrowpart: {mode: auto}\n", meta: meta, want: "n1.example.com 1 from-dhcp"},
		{name: "users", user: "#cloud-config\nusers:\n- name: root\n  lock_passwd: false\n  hashed_passwd: \"" + hash + "\"\n  ssh_authorized_keys: [\"" + key + "\"]\n", meta: meta, want: "n1.localdomain 1 from-dhcp"},
		{name: "list of passwords", user: "#cloud-config\nchpasswd:\n  list: |\n    root:" + hash + "\n", meta: meta, want: "n1.localdomain 0 from-dhcp"},
		{name: "plain password", user: "#cloud-config\npassword: longenough\n", meta: meta, want: "n1.localdomain 0 from-dhcp"},
		{name: "unknown keys", user: user + "runcmd: [ls]\npackages: [vim]\n", meta: meta + "x: 1\n", want: "n1.localdomain 0 from-dhcp", codes: "cloud-init-unknown meta-data.x, cloud-init-unknown user-data.packages, cloud-init-unknown user-data.runcmd"},
		{name: "nothing", codes: "cloud-init-incomplete meta-data!, cloud-init-incomplete user-data!"},
		{name: "other user", user: user + "user: {name: jim}\nusers: [default, {name: joe}]\n", meta: meta, codes: "cloud-init-unknown user-data.user (user jim)!, cloud-init-unknown user-data.users[1] (user joe)!"},
		{name: "as Proxmox VE writes it", user: "#cloud-config\nhostname: n1\nmanage_etc_hosts: true\nuser: root\npassword: " + hash + "\nssh_authorized_keys:\n  - " + key + "\nchpasswd:\n  expire: False\nusers:\n  - default\npackage_upgrade: true\n", meta: "instance-id: x\n",
			network: "version: 1\nconfig:\n    - type: physical\n      name: eth0\n      mac_address: '52:54:00:00:00:01'\n      subnets:\n      - type: static\n        address: '192.0.2.5'\n        netmask: '255.255.255.0'\n        gateway: '192.0.2.1'\n    - type: nameserver\n      address:\n      - '192.0.2.53'\n      search:\n      - 'x'\n",
			want:    "n1.x 1 from-answer map[INTERFACE:eth0] 192.0.2.5/24 192.0.2.1 [192.0.2.53] 0", codes: "cloud-init-unknown user-data.package_upgrade"},
		{name: "not YAML", user: "#cloud-config\n: [\n", meta: meta, codes: "cloud-init-unreadable user-data!, cloud-init-incomplete user-data!"},
		{name: "a key twice", user: user + "fqdn: a\nfqdn: b\n", meta: meta, codes: "cloud-init-unreadable user-data!, cloud-init-incomplete user-data!"},
		{name: "random password", user: "#cloud-config\nchpasswd: {users: [{name: root, type: RANDOM}]}\n", meta: meta, codes: "cloud-init-wrong-value user-data.chpasswd.users[0]!, cloud-init-incomplete user-data!"},
		{name: "no hash", user: "#cloud-config\nchpasswd: {users: [{name: root, type: hash, password: x}]}\n", meta: meta, codes: "cloud-init-wrong-value user-data.chpasswd.users[0]!, cloud-init-incomplete user-data!"},
		{name: "passwords for SSH", user: user + "ssh_pwauth: true\n", meta: meta, codes: "cloud-init-unknown user-data.ssh_pwauth!"},
		{name: "wrong types", user: user + "timezone: [1]\nusers: 5\nkeyboard: x\n", meta: meta, codes: "cloud-init-wrong-value user-data.keyboard!, cloud-init-wrong-value user-data.timezone!, cloud-init-wrong-value user-data.users!"},
		{name: "bad key", user: user + "ssh_authorized_keys: [x]\n", meta: meta, codes: "answer-wrong-value global.root-ssh-keys!"},

		{name: "static 2", user: user, meta: meta, network: "version: 2\nethernets:\n  a:\n    match: {macaddress: '52:54:00:00:00:02'}\n    addresses: [192.0.2.5/24, '2001:db8::5/64']\n    routes: [{to: default, via: 192.0.2.1}, {to: '::/0', via: 'fe80::1'}]\n    nameservers: {addresses: [192.0.2.53], search: [x]}\n    mtu: 1400\n",
			want: "n1.x 0 from-answer map[INTERFACE:eth1] 192.0.2.5/24 192.0.2.1 [192.0.2.53] 1400 2001:db8::5/64 fe80::1"},
		{name: "static 1", user: user, meta: meta, network: "network:\n  version: 1\n  config:\n  - type: physical\n    name: eth0\n    subnets: [{type: static, address: 192.0.2.5, netmask: 255.255.255.0, gateway: 192.0.2.1}]\n  - {type: nameserver, address: [192.0.2.53]}\n",
			want: "n1.localdomain 0 from-answer map[INTERFACE:eth0] 192.0.2.5/24 192.0.2.1 [192.0.2.53] 0"},
		{name: "DHCP 1", user: user, meta: meta, network: "version: 1\nconfig: [{type: physical, mac_address: '52:54:00:00:00:01', subnets: [{type: dhcp4}]}]\n", want: "n1.localdomain 0 from-dhcp", codes: "cloud-init-unknown network-config.config[0]"},
		{name: "no such card", user: user, meta: meta, network: "version: 2\nethernets: {ens3: {dhcp4: true}}\n", codes: "cloud-init-wrong-value network-config.ethernets.ens3!"},
		{name: "two", user: user, meta: meta, network: "version: 2\nethernets: {eth0: {dhcp4: true}, eth1: {dhcp4: true}}\n", codes: "cloud-init-wrong-value network-config!"},
		{name: "bonds", user: user, meta: meta, network: "version: 2\nbonds: {b: {}}\nethernets: {eth0: {dhcp4: true}}\n", codes: "cloud-init-unknown network-config.bonds!"},
		{name: "both", user: user, meta: meta, network: "version: 2\nethernets: {eth0: {dhcp4: true, dhcp6: true, addresses: [192.0.2.5/24, 192.0.2.6/24, x], routes: [{to: 10.0.0.0/8, via: 192.0.2.9}]}}\n",
			codes: "cloud-init-unknown network-config.ethernets.eth0.dhcp6!, cloud-init-unknown network-config.ethernets.eth0.routes[0] (to 10.0.0.0/8)!"},
		{name: "of a family", user: user, meta: meta, network: "version: 2\nethernets: {eth0: {addresses: [192.0.2.5/24, 192.0.2.6/24, x]}}\n",
			codes: "cloud-init-wrong-value network-config.ethernets.eth0!, cloud-init-wrong-value network-config.ethernets.eth0!"},
		{name: "version 3", user: user, meta: meta, network: "version: 3\n", codes: "cloud-init-wrong-value network-config.version!"},
		{name: "vlan", user: user, meta: meta, network: "version: 1\nconfig: [{type: vlan}, {type: physical, name: eth0, subnets: [{type: dhcp}]}]\n", codes: "cloud-init-unknown network-config.config[0] (type vlan)!"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, fl := Read(Files{[]byte(c.user), []byte(c.meta), []byte(c.network)}, machine())
			var codes []string
			for _, f := range fl {
				s := f.Code + " " + f.Path
				if f.Level == finding.Stop {
					s += "!"
				}
				codes = append(codes, s)
				if strings.Contains(f.String(), hash) {
					t.Errorf("the hash is in %s", f)
				}
			}
			if got := strings.Join(codes, ", "); got != c.codes {
				t.Errorf("findings %s\nwant     %s", got, c.codes)
			}
			got := fmt.Sprintf("%s %d %s", a.Global.FQDN, len(a.Global.RootSSHKeys), a.Network.Source)
			if n := a.Network; n.CIDR != "" {
				got += fmt.Sprintf(" %v %s %s %v %d %s %s", n.Filter, n.CIDR, n.Gateway, n.DNS, a.Link.MTU, a.Link.SecondCIDR, a.Link.SecondGateway)
			}
			if got = strings.TrimSpace(got); c.want != "" && got != c.want {
				t.Errorf("%s\nwant %s", got, c.want)
			}
			if c.want != "" && !slices.Equal(a.Disk.List, []string{"vda"}) {
				t.Errorf("disks %v", a.Disk.List)
			}
		})
	}
}

// A name alone gets the domain that is known best.
func TestDomain(t *testing.T) {
	for _, c := range []struct{ host, search, lease, want string }{
		{"n1.example.com", "a.example", "b.example", "n1.example.com root@n1.example.com"},
		{"n1", "a.example, c.example", "b.example", "n1.a.example root@n1.a.example"},
		{"n1", "'no domain', c.example", "b.example", "n1.c.example root@n1.c.example"},
		{"n1", "", "b.example", "n1.b.example root@n1.b.example"},
		{"n1", "", "", "n1.localdomain root@localhost.localdomain"},
	} {
		for _, network := range []string{"version: 2\nethernets: {eth0: {dhcp4: true, nameservers: {search: [%s]}}}\n",
			"version: 1\nconfig: [{type: physical, name: eth0, subnets: [{type: dhcp, dns_search: [%s]}]}]\n",
			"version: 1\nconfig: [{type: physical, name: eth0, subnets: [{type: dhcp}]}, {type: nameserver, search: [%s]}]\n"} {
			m := machine()
			m.Domain = c.lease
			a, fl := Read(Files{[]byte(user), []byte("local-hostname: " + c.host + "\n"), fmt.Appendf(nil, network, c.search)}, m)
			if got := a.Global.FQDN + " " + a.Global.MailTo; got != c.want || fl.Stops() {
				t.Errorf("%+v: %q, %v", c, got, fl)
			}
		}
	}
}

// user-data may be an answer file as well.
func TestAnswerFile(t *testing.T) {
	a, fl := Read(Files{UserData: []byte("[global]\nfqdn = \"n7.example.com\"\n")}, machine())
	if a.Global.FQDN != "n7.example.com" || !fl.Stops() || !a.Unattended() {
		t.Errorf("%q %v", a.Global.FQDN, fl)
	}
	if _, fl := Read(Files{UserData: make([]byte, maxSize+1)}, machine()); !fl.Stops() {
		t.Error("a file of any size is read")
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(user), []byte(meta), []byte("version: 2\nethernets: {a: {dhcp4: true}}"))
	f.Add([]byte("#cloud-config\nusers: [{}]"), []byte("[]"), []byte("version: 1\nconfig: [null]"))
	f.Fuzz(func(t *testing.T, u, m, n []byte) {
		a, fl := Read(Files{u, m, n}, machine())
		if !fl.Stops() && a.Validate().Stops() {
			t.Error("an answer that is wrong has no finding")
		}
	})
}
