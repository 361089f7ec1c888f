package plan

import (
	"strings"
	"testing"

	"joist/installer/answer"
	"joist/installer/probe"
	"joist/internal/finding"
)

const rightAnswer = `[global]
keyboard = "de"
country = "at"
timezone = "UTC"
fqdn = "n1.example.com"
mailto = "a@example.com"
root-password = "topsecret"
[network]
source = "from-dhcp"
[disk-setup]
filesystem = "ext4"
disk-list = ["vda"]
`

// All that stops is said at once, whether it is in the answer or the machine, and
// nothing that only follows from something else that is said.
func TestAllAtOnce(t *testing.T) {
	inUse := func(f *probe.Facts) { f.Disks[0].InUse = []string{"/mnt"} }
	static := "source = \"from-answer\"\ncidr = \"192.0.2.2/24\"\ngateway = \"192.0.2.1\"\ndns = \"192.0.2.1\"\nfilter.INTERFACE = \"nope\"\n"
	for name, c := range map[string]struct {
		old, new string
		edit     func(f *probe.Facts)
		want     string
	}{
		"all is well":                       {"", "", nil, ""},
		"bad key, disk too small":           {"keyboard", "keybord", func(f *probe.Facts) { f.Disks[0].Size = 19.9e9 }, "answer-missing-key answer-unknown-key disk-too-small"},
		"bad key, disk that is not there":   {"\"vda\"", "\"vdz\"]\nfoo = [\"x\"", nil, "answer-unknown-key disk-not-found"},
		"wrong type of the disks":           {"[\"vda\"]", "7", inUse, "answer-wrong-type"},
		"no disks":                          {"disk-list = [\"vda\"]\n", "", inUse, "answer-missing-key"},
		"no file system, disk in use":       {"filesystem = \"ext4\"\n", "", inUse, "answer-missing-key disk-in-use"},
		"too many disks, one in use":        {"\"vda\"", "\"vda\", \"vdb\"", inUse, "answer-disk-count disk-in-use"},
		"no card, disk in use":              {"source = \"from-dhcp\"\n", static, inUse, "nic-not-found disk-in-use"},
		"no card, sizes":                    {"source = \"from-dhcp\"\n[disk-setup]\n", static + "[disk-setup]\nlvm.swapsize = 40\n", nil, "nic-not-found swap-too-large"},
		"btrfs, disk in use":                {"\"ext4\"", "\"btrfs\"\nbtrfs.raid = \"raid0\"", inUse, "btrfs-not-offered disk-in-use"},
		"btrfs, no card":                    {"source = \"from-dhcp\"\n[disk-setup]\nfilesystem = \"ext4\"", static + "[disk-setup]\nfilesystem = \"btrfs\"\nbtrfs.raid = \"raid0\"", nil, "btrfs-not-offered nic-not-found"},
		"sizes":                             {"disk-list", "lvm.hdsize = 1000\nlvm.swapsize = 40\ndisk-list", nil, "hdsize-too-large swap-too-large"},
		"small hdsize, no follow-up":        {"disk-list", "lvm.hdsize = 4\nlvm.swapsize = 10\ndisk-list", nil, "hdsize-too-small"},
		"wrong size, disk in use":           {"disk-list", "lvm.hdsize = \"x\"\ndisk-list", inUse, "answer-wrong-type disk-in-use"},
		"unreadable line":                   {"disk-list", "x = = 1\ndisk-list", inUse, "answer-syntax disk-in-use"},
		"wrong network":                     {"from-dhcp", "from-nowhere", inUse, "answer-wrong-value disk-in-use"},
		"bad key, what is there is not run": {"keyboard", "keybord", func(f *probe.Facts) { f.Disks[0].Installation = installed(f.Disks[0], 0, "lvm") }, "answer-missing-key answer-unknown-key"},
		"two disks, data and none": {"[\"vda\"]", "[\"vda\", \"vdz\"]\n[joist.disk]\nraid = \"raid1\"", func(f *probe.Facts) {
			f.Disks[0].DataID, f.Disks[0].Contents = "0123456789abcdef", []probe.Content{{Where: "vda", Kind: "ext4"}}
		}, "disk-not-found disk-holds-data"},
	} {
		f := facts(64e9)
		if c.edit != nil {
			c.edit(&f)
		}
		a, fs := answer.Load(strings.NewReader(strings.Replace(rightAnswer, c.old, c.new, 1)), "answer.toml")
		p, more := made(f, a, image(), identity(t))
		var stops []string
		for _, x := range append(fs, more...) {
			if x.Level == finding.Stop {
				stops = append(stops, x.Code)
			}
		}
		if got := strings.Join(stops, " "); got != c.want || p.Result != Install || (len(p.Actions) > 0) != (c.want == "") {
			t.Errorf("%s: %s\n got %q, %d actions\nwant %q", name, p.Result, got, len(p.Actions), c.want)
		}
	}
}
