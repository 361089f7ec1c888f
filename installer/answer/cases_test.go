package answer

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
)

const base = `[global]
keyboard = "de"
country = "at"
timezone = "UTC"
fqdn = "n1.example.com"
mailto = "a@example.com"
root-password = "12345678"
[network]
source = "from-dhcp"
[disk-setup]
filesystem = "ext4"
disk-list = ["sda"]
`

const static = `source = "from-answer"
cidr = "192.0.2.10/24"
gateway = "192.0.2.1"
dns = "192.0.2.1"
filter.INTERFACE = "eth0"`

const print64 = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

// cases are edits of the smallest answer: pairs of old and new text. An empty
// old text appends.
func cases() [][]string {
	src, fs, list, name := `source = "from-dhcp"`, `filesystem = "ext4"`, `disk-list = ["sda"]`, `fqdn = "n1.example.com"`
	zfs := func(raid, disks string) []string {
		return []string{fs, "filesystem = \"zfs\"\nzfs.raid = \"" + raid + "\"", list, "disk-list = [" + disks + "]"}
	}
	return [][]string{
		{}, {`"de"`, `"pt-br"`}, {`"at"`, `"AT"`}, {`"UTC"`, `"Europe/Viena"`}, {`"UTC"`, `""`}, {`"UTC"`, `3`},
		{name, `fqdn = "1.example.com"`}, {name, `fqdn = "n1"`}, {name, `fqdn = "` + strings.Repeat("a.", 130) + `a"`}, {name, ``},
		{name, `fqdn.source = "from-dhcp"`}, {name, `fqdn.source = "from-dns"`}, {name, `fqdn.domain = "example.com"`},
		{name, "fqdn.source = \"from-dhcp\"\nfqdn.domain = \"a_b\""}, {src, static, name, `fqdn.source = "from-dhcp"`},
		{`a@example.com`, `A <a@example.com>`}, {`"a@example.com"`, `""`},
		{`"12345678"`, `"1234567"`}, {`"12345678"`, `"ÄÖÜäöüßß"`}, {`"12345678"`, `"123456\n78"`}, {`root-password =`, `root-password-hashed =`}, {`root-password =`, `root-pasword =`},
		{`[network]`, "root-ssh-keys = [\"ssh-ed25519 AAAA\"]\n[network]"}, {`[network]`, "root-ssh-keys = [\"a\\nb\"]\n[network]"},
		{`[network]`, "reboot-mode = \"power-off\"\nreboot-on-error = 1\n[network]"}, {`[network]`, "subscription-key = \"pve1c-1\"\n[network]"},
		{src, static}, {src, `source = "from-answer"`}, {src, `source = "static"`}, {src, strings.Replace(static, ".10/24", ".10", 1)},
		{src, strings.Replace(static, "192.0.2.1\"\ndns", "192.0.2.10\"\ndns", 1)}, {src, strings.Replace(static, "192.0.2.1\"\ndns", "198.51.100.1\"\ndns", 1)},
		{src, strings.Replace(static, "gateway = \"192.0.2.1\"", "gateway = \"2001:db8::1\"", 1)}, {src, strings.Replace(static, `dns = "192.0.2.1"`, `dns = ["x", "ff02::1"]`, 1)},
		{src, strings.Replace(static, "192.0.2.10/24", "2001:db8::10/64", 1)}, {src, strings.Replace(static, "eth0", "eth[", 1)}, {src, strings.Replace(static, "INTERFACE", "interface", 1)},
		{src, "interface-name-pinning.enabled = true\ninterface-name-pinning.mapping.\"52-54\" = \"0\""},
		{src, "interface-name-pinning.mapping = {\"52:54:00:00:00:01\" = \"nic0\", \"52:54:00:00:00:02\" = \"nic0\", \"52:54:00:00:00:03\" = \"a-b\"}"},
		{src, "interface-name-pinning.enabled = false\ninterface-name-pinning.mapping.\"52:54:00:00:00:01\" = \"nic0\""},
		{src, "interface-name-pinning.enabled = true\ninterface-name-pinning.mapping = {\"52:54:00:00:00:01\" = \"vmbr0\", \"52:54:00:00:00:02\" = \"lan2\"}"},
		{fs, `filesystem = "xfs"`}, {fs, `filesystem = "btrfs"`}, {fs, "filesystem = \"btrfs\"\nbtrfs.raid = \"raid5\""}, {fs, "filesystem = \"zfs\""}, {fs, "filesystem = \"zfs\"\nlvm.hdsize = 30"},
		zfs("raid0", `"sda"`), zfs("raid0", `"sda", "sdb"`), zfs("raid1", `"sda"`), zfs("raid10", `"a", "b", "c"`), zfs("raid10", `"a", "b", "c", "d", "e"`), zfs("raidz-1", `"a", "b"`), zfs("raidz-2", `"a", "b", "c"`), zfs("raidz-3", `"a", "b", "c", "d"`), zfs("raidz", `"a"`),
		append(zfs("raid1", `"a", "b"`), list, "", `[disk-setup]`, "[disk-setup]\nzfs.ashift = 17\nzfs.arc-max = 1\nzfs.copies = 4\nzfs.compress = \"lz5\"\nzfs.checksum = \"off\"\nzfs.hdsize = 0"),
		{list, `disk-list = ["sda", "sdb"]`}, {list, `disk-list = []`}, {list, `disk-list = ["sda", "/dev/sda"]`}, {list, `disk-list = "sda"`}, {list, ``}, {list, "filter.ID_SERIAL = \"a[\"\nfilter-match = \"some\""}, {list, "disk_list = [\"sda\"]\nfilter.ID_SERIAL = \"x\""},
		{list, list + "\nlvm.hdsize = nan"}, {list, list + "\nlvm = { swapsize = 0, maxvz = 0.5, minfree = 1e3 }"}, {list, list + "\nlvm.hdsiz = 3"}, {list, list + "\nhdsize = 3"},
		{"", "[joist.disk]\nraid = \"raid1\""}, {"", "[joist.disk]\nraid = \"raid1\"", list, `disk-list = ["sda", "sdb"]`}, {"", "[joist.disk]\nadopt = true"}, {"", "[joist.disk]\noverwrite = [\"x\"]"}, append(zfs("raid0", `"sda"`), "", "[joist.disk]\nraid = \"single\""),
		{"", "[post-installation-webhook]\nauth-token = \"t\""}, {"", "[post-installation-webhook]\nurl = \"http://example.com\"\nauth-token = \"t\"\ncert-fingerprint = \"" + print64 + "\""}, {"", "[post-installation-webhook]\nurl = \"ftp://example.com\""},
		{"", "[first-boot]\nordering = \"late\""}, {"", "[first-boot]\nsource = \"from-url\""}, {"", "[first-boot]\nsource = \"from-iso\"\nurl = \"https://example.com/x\""}, {"", "[first-boot]\nsource = \"from-iso\"\nordering = \"network-online\""},
		{"", "[joist.network]\nvlan = 4095\nmtu = 500"}, {"", "[joist.network]\nfilter.ID_NET_NAME_MAC = \"enx*\"\nbond.mode = \"active-backup\"\nbond.filter.ID_NET_DRIVER = \"e*\""}, {"", "[joist.network]\nbond.mode = \"lacp\""}, {"", "[joist.network]\nbond.hash = \"layer2\""}, {"", "[joist.network]\nbond.mode = \"active-backup\"\nbond.hash = \"layer2\"\nbond.lacp-rate = \"fast\"\nbond.filter.ID_NET_DRIVER = \"e*\""},
		{"", "[joist.network]\nsecond-cidr = \"192.0.2.5/24\""}, {"", "[joist.network]\nsecond-cidr = \"2001:db8::5/64\"\nsecond-gateway = \"192.0.2.1\""}, {"", "[joist.network]\nsecond-gateway = \"fe80::1\""},
		{"", "[joist.cluster]\naddress = \"n1:0\"\ntoken = \"short\""}, {"", "[joist.cluster]\naddress = \"n1:8006\"\ntoken = \"0123456789abcdef\"\nfingerprint = \"" + print64 + "\""}, {"", "[joist.cluster]\nfingerprint = \"aa\""},
		{"", "[joist.waive]\ncodes = [\"cpu-virtualisation\", \"No\"]"}, {"", "[joist.install]\ninstallation = \"\""}, {"", "[joist.install]\napt-mirror = \"file:///x\""}, {"", "[[joist.install]]\nreinstall = true"}, {"", "[joist.instal]\nreinstall = true"},
		{"", "[global]\ncountry = \"de\""}, {"", "x = \"a\\u001b[2J\"\n\"\\u001b[2J\" = 1"}, {"", "[unfinished"}, {"", "a = \"\"\"\nopen"},
		{`"12345678"`, "\"\"\"\nhunter2\n"}, {`root-password =`, `"\u0072oot-password" =`, `"12345678"`, `"hunter2"`},
	}
}

// Each case with every finding it has, in one golden file.
func TestCases(t *testing.T) {
	all := cases()
	if len(all) < 60 {
		t.Fatalf("only %d cases", len(all))
	}
	var b strings.Builder
	for i, edits := range all {
		doc := base
		for j := 0; j+1 < len(edits); j += 2 {
			if edits[j] == "" {
				doc += edits[j+1] + "\n"
				continue
			}
			if n := strings.Count(doc, edits[j]); n == 0 && edits[j+1] != "" {
				t.Fatalf("case %d: %q is not in the answer", i, edits[j])
			}
			doc = strings.Replace(doc, edits[j], edits[j+1], 1)
		}
		a, fs := Load(strings.NewReader(doc), "answer.toml")
		fmt.Fprintf(&b, "=== %d %q\n", i, edits)
		fs.Write(&b)
		if again := a.Validate(); !fs.Stops() && again.Stops() {
			t.Errorf("case %d: loaded without findings, then %v", i, again)
		}
		for _, f := range fs {
			if f.Hint == "" || strings.Contains(f.String(), "\x1b") || strings.Contains(f.String(), "hunter2") || strings.Contains(f.String(), "1234567") {
				t.Errorf("case %d: %q", i, f.String())
			}
		}
	}
	golden(t, "testdata/cases.golden", b.String())
}

// What is shown as TOML is read as the same answer, secrets apart.
func TestStringIsReadBack(t *testing.T) {
	for _, f := range inputs() {
		r, err := os.Open(f)
		if err != nil {
			t.Fatal(err)
		}
		a, fs := Load(r, f)
		r.Close()
		if fs.Stops() {
			continue
		}
		shown := strings.NewReplacer(`password = "***"`, `password = "12345678"`, `hashed = "***"`, `hashed = "$y$j9T$a$b"`, `token = "***"`, `token = "0123456789abcdef"`,
			`url = "***"`, `url = "https://example.com/"`).Replace(a.String())
		b, fs := Load(strings.NewReader(shown), f)
		if fs.Stops() || b.String() != a.String() {
			t.Errorf("%s: %v\n%s\n%s", f, fs, a, b)
		}
	}
}

func TestExplain(t *testing.T) {
	a, _ := Load(strings.NewReader(base), "answer.toml")
	golden(t, "testdata/explain.golden", a.Explain())
}

// The schema lists each key of the table, under the name it is read by.
func TestSchema(t *testing.T) {
	b, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/schema.golden", string(b))
	var root map[string]any
	if err := json.Unmarshal(b, &root); err != nil {
		t.Fatal(err)
	}
	for _, f := range schema() {
		at := any(root)
		for _, p := range strings.Split(f.path, ".") {
			m := at.(map[string]any)
			if either, ok := m["anyOf"].([]any); ok {
				m = either[1].(map[string]any)
			}
			if p == "*" {
				at = m["additionalProperties"]
				continue
			}
			at = m["properties"].(map[string]any)[p]
		}
		if at == nil {
			t.Errorf("the schema lacks %s", f.path)
		}
	}
}

// docs/answer-file.md names every key.
func TestDocumented(t *testing.T) {
	b, err := os.ReadFile("../../docs/answer-file.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range schema() {
		header, key := table(f.path)
		if !strings.Contains(string(b), "`"+f.path+"`") && !strings.Contains(string(b), "`"+header+"."+strings.TrimSuffix(key, ".*")+".KEY`") {
			t.Errorf("docs/answer-file.md lacks %s", f.path)
		}
	}
}

// Large nonsense is read in a moment: with anything quadratic in it this test
// takes minutes.
func TestHostileInput(t *testing.T) {
	for _, s := range []string{"[", "a=[", "{b=", "a.", `{"a":`, "k=\n", "[a]\n", `"""`, "x"} {
		for _, tail := range []string{"", "a=1\n"} {
			if _, fs := Load(strings.NewReader("a="+strings.Repeat(s, maxSize/len(s)-8)+tail), "x"); !fs.Stops() {
				t.Errorf("%q is an answer", s)
			}
			if _, fs := Load(strings.NewReader(strings.Repeat(s, maxSize/len(s)-8)+tail), "x"); !fs.Stops() {
				t.Errorf("%q is an answer", s)
			}
		}
	}
	var keys strings.Builder
	for i := range 8000 {
		fmt.Fprintf(&keys, "unknown%d = 1\n", i)
	}
	if _, fs := Load(strings.NewReader(keys.String()), "x"); len(fs) < 8000 {
		t.Errorf("%d findings", len(fs))
	}
}
