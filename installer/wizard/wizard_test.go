package wizard

import (
	"errors"
	"io"
	"strings"
	"testing"

	"joist/image/disk"
	"joist/installer/probe"
)

// paper answers from a list and keeps what was printed.
type paper struct {
	replies []string
	out     strings.Builder
}

func (p *paper) Print(s string) { p.out.WriteString(s) }
func (p *paper) Line() (string, error) {
	if len(p.replies) == 0 {
		return "", io.EOF
	}
	r := p.replies[0]
	p.replies = p.replies[1:]
	return r, nil
}
func (p *paper) Secret() (string, error) { return p.Line() }

func facts() probe.Facts {
	old := func() *probe.Installation {
		return &probe.Installation{ID: "0123456789abcdef", Group: "g", Array: "a", Table: &disk.Layout{}}
	}
	return probe.Facts{
		Disks: []probe.Disk{{Name: "vda", Size: 64e9, Sector: 512}, {Name: "vdb", Size: 1e9, Sector: 512},
			{Name: "vdc", Size: 64e9, Sector: 512, Installation: old(), DataID: "0123456789abcdef"}, {Name: "vdd", Size: 64e9, Sector: 512, Installation: old()},
			{Name: "vde", Size: 64e9, Sector: 512, DataID: "fedcba9876543210", Contents: []probe.Content{{Where: "vde", Kind: "ext4", Name: "home"}}}},
		NICs:   []probe.NIC{{Name: "eth0", MAC: "52:54:00:00:00:01", Carrier: "up"}},
		Leases: []probe.Lease{{Interface: "eth0", Host: "n7", Domain: "lab"}},
		ZFS:    probe.Present,
	}
}

// A key is asked for only where the person says so, and its password is shown.
func TestEnrol(t *testing.T) {
	failed := errors.New("no variables")
	for name, c := range map[string]struct {
		replies []string
		ask     error
		want    error
		said    string
	}{
		"yes":         {[]string{"yes", ""}, nil, nil, "this once:  12345678"},
		"no":          {[]string{"no"}, nil, ErrDeclined, "anything else to stop"},
		"no firmware": {[]string{"yes"}, failed, failed, ""},
		"nobody":      {nil, nil, io.EOF, ""},
	} {
		p, asked := &paper{replies: c.replies}, false
		err := Enrol(p, func() (string, error) { asked = true; return "12345678", c.ask })
		if !errors.Is(err, c.want) || !strings.Contains(p.out.String(), c.said) || asked != (len(c.replies) > 0 && c.replies[0] == "yes") {
			t.Errorf("%s: %v, %q", name, err, p.out.String())
		}
	}
}

// A system that was started from an image of a disk is made on that disk.
func TestAskInPlace(t *testing.T) {
	f := facts()
	f.InPlace = &probe.InPlace{Disk: "vdc"}
	p := &paper{replies: []string{"2", "", "", "", "", "", "longenough", "longenough", ""}}
	a, err := Ask(p, f)
	if err != nil || len(a.Disk.List) != 1 || a.Disk.List[0] != "vdc" || a.Disk.Filesystem != "xfs" {
		t.Errorf("%+v %v\n%s", a.Disk, err, p.out.String())
	}
	if strings.Contains(p.out.String(), "raid") || strings.Contains(p.out.String(), "mirrored") {
		t.Errorf("layouts of several disks are offered:\n%s", p.out.String())
	}
}

// One that is made anew on several disks gets a layout that takes all of them.
func TestAskInPlaceMany(t *testing.T) {
	for _, keep := range []bool{false, true} {
		f := facts()
		l := disk.Layout{Partitions: []disk.Partition{{Name: disk.NameESP, Attributes: disk.InPlace}}}
		replies := []string{"2", "", "", "", "", "", "longenough", "longenough", ""}
		if keep {
			l, replies = l.Marked(disk.InPlace|disk.KeepsData), replies[1:]
		}
		f.InPlace = &probe.InPlace{Disk: "vdc", Table: l, Further: []probe.OwnDisk{{Disk: "vda", Table: l}}}
		p := &paper{replies: replies}
		a, err := Ask(p, f)
		said := p.out.String()
		if err != nil || strings.Join(a.Disk.List, " ") != "vdc vda" || strings.Contains(said, "Layouts") == keep || strings.Contains(said, "on one disk") || strings.Contains(said, "four") {
			t.Errorf("keep %v: %+v %v\n%s", keep, a.Disk, err, said)
		}
		if !keep && (a.Disk.RAID != "raid1" || a.Disk.Filesystem != "xfs" || !strings.Contains(said, "disks of the system")) {
			t.Errorf("%+v\n%s", a.Disk, said)
		}
	}
}

// A disk that says it fails is taken where the person types the code of that, and
// the answer says so. What cannot be waived is asked for again.
func TestWaiveDisk(t *testing.T) {
	rest := []string{"", "", "", "", "", "longenough", "longenough", ""}
	failing := func(f *probe.Facts) { f.Disks[0].Health = &probe.Health{Failing: true} }
	const asked = "To install all the same type disk-failing"
	for name, c := range map[string]struct {
		edit    func(f *probe.Facts)
		replies []string
		waived  string
		said    string
		err     error
	}{
		"taken":            {failing, []string{"", "1", "disk-failing"}, "disk-failing", asked, nil},
		"shown with cure":  {failing, []string{"", "1", "disk-failing"}, "disk-failing", "cure: use another disk", nil},
		"chosen again":     {failing, []string{"", "1", "yes", "1", "disk-failing"}, "disk-failing", asked, nil},
		"another instead":  {failing, []string{"", "1", "no", "5", "fedcba9876543210"}, "", asked, nil},
		"two at once":      {func(f *probe.Facts) { failing(f); f.Disks[4].Health = f.Disks[0].Health }, []string{"3", "1 5", "disk-failing", "fedcba9876543210"}, "disk-failing", asked, nil},
		"the rest of kept": {func(f *probe.Facts) { f.Disks[3].Health = &probe.Health{Failing: true} }, []string{"", "3", "0123456789abcdef", "yes", "disk-failing"}, "disk-failing", "vdd belongs to it", nil},
		"in place":         {func(f *probe.Facts) { failing(f); f.InPlace = &probe.InPlace{Disk: "vda"} }, []string{"1", "disk-failing"}, "disk-failing", asked, nil},
		"in place, no":     {func(f *probe.Facts) { failing(f); f.InPlace = &probe.InPlace{Disk: "vda"} }, []string{"1", "no"}, "", asked, ErrDeclined},
		"not to be waived": {func(f *probe.Facts) { failing(f); f.Disks[0].InUse = []string{"/mnt"} }, []string{"", "1", "5", "fedcba9876543210"}, "", "is in use by", nil},
	} {
		f := facts()
		c.edit(&f)
		p := &paper{replies: append(c.replies, rest...)}
		a, err := Ask(p, f)
		if !errors.Is(err, c.err) || strings.Join(a.Waive, " ") != c.waived || !strings.Contains(p.out.String(), c.said) || err == nil && len(p.replies) > 0 {
			t.Errorf("%s: %v, waived %q, unread %q\n%s", name, err, a.Waive, p.replies, p.out.String())
		}
		if name == "not to be waived" && strings.Contains(p.out.String(), asked) {
			t.Errorf("%s: %s", name, p.out.String())
		}
	}
}

// Data that is kept has its layout: nobody is asked for one.
func TestAskKept(t *testing.T) {
	f := facts()
	l := disk.Layout{Partitions: []disk.Partition{{Name: disk.NameESP, Attributes: disk.InPlace | disk.KeepsData}}}
	f.InPlace = &probe.InPlace{Disk: "vdc", Table: l}
	p := &paper{replies: []string{"", "", "", "", "", "longenough", "longenough", ""}}
	a, err := Ask(p, f)
	if err != nil || len(a.Disk.List) != 1 || a.Disk.List[0] != "vdc" || strings.Contains(p.out.String(), "Layouts") || !strings.Contains(p.out.String(), "is kept") {
		t.Errorf("%+v %v\n%s", a.Disk, err, p.out.String())
	}
}

func TestAsk(t *testing.T) {
	rest := []string{"", "", "", "", "", "longenough", "longenough", ""}
	with := func(first ...string) []string { return append(first, rest...) }
	for _, c := range []struct {
		name    string
		replies []string
		want    string // of the answer, "" when Ask fails
		said    string
	}{
		{"dhcp", []string{"", "9", "2", "1", "bad_name", "n1.lab", "AT", "", "de", "", "short", "longenough", "different", "longenough", "longenough", ""},
			`disk-list = ["vda"]`, "The two are not the same"},
		{"static", []string{"1", "1", "", "", "", "", "", "longenough", "longenough", "static", "eth9", "", "192.0.2.0/24", "192.0.2.5/24", "198.51.100.1", "192.0.2.1", "192.0.2.1"},
			`cidr = "192.0.2.5/24"`, "outside the network"},
		{"the lease's name", with("", "1"), `fqdn = "n7.lab"`, "[n7.lab]"},
		{"xfs", with("99", "2", "1"), `filesystem = "xfs"`, "from 1 to"},
		{"mirror", with("3", "1", "1 1", "1 5", "fedcba9876543210"), `raid = "raid1"`, "Name each disk once"},
		{"pool", with("6", "1,5", "fedcba9876543210"), `zfs.raid = "raid1"`, "Layouts:"},
		{"several for one", with("5", "1 5", "1"), `zfs.raid = "raid0"`, "for one disk"},
		{"replace", with("", "3", "0123456789abcdef", "no"), `installation = "0123456789abcdef"`, "Type its id"},
		{"keep", with("3", "3 4", "0123456789abcdef", "maybe", "yes"), "adopt = true", "with the guests"},
		{"keep all of it", with("", "3", "0123456789abcdef", "yes"), `raid = "raid1"`, "The disk vdd belongs to it"},
		{"keep not", with("3", "3 4", "0123456789abcdef", "no"), `installation = "0123456789abcdef"`, "with the guests"},
		{"not replaced", []string{"", "3", "no"}, "", "Type its id"},
		{"foreign data", with("", "5", "fedcba9876543210"), `overwrite = ["fedcba9876543210"]`, "vde ext4 home"},
		{"foreign data stays", []string{"", "5", "yes"}, "", "All of it is lost"},
		{"line lost", []string{"", "1", "n1.lab"}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &paper{replies: c.replies}
			a, err := Ask(p, facts())
			if (err == nil) != (c.want != "") || !strings.Contains(a.String(), c.want) || !strings.Contains(p.out.String(), c.said) {
				t.Errorf("%v\n%s\n%s", err, a, p.out.String())
			}
			if fs := a.Validate(); c.want != "" && fs.Stops() {
				t.Error(fs)
			}
			if c.name == "keep not" && a.Disk.Adopt || err == nil && len(p.replies) > 0 {
				t.Errorf("adopt %v, unread %q", a.Disk.Adopt, p.replies)
			}
		})
	}
}

// A layout is offered when the image can make it of the disks that there are.
func TestLayouts(t *testing.T) {
	for _, c := range []struct {
		zfs         bool
		disks, want int
	}{{false, 1, 2}, {false, 2, 4}, {true, 1, 3}, {true, 2, 6}, {true, 3, 7}, {true, 4, 9}, {true, 5, 10}} {
		if got := layouts(c.zfs, c.disks); len(got) != c.want {
			t.Errorf("zfs %v, %d disks: %v", c.zfs, c.disks, got)
		}
	}
}

func TestConfirm(t *testing.T) {
	if err := Confirm(&paper{replies: []string{"yes"}}, "plan"); err != nil {
		t.Error(err)
	}
	if err := Confirm(&paper{replies: []string{"y"}}, "plan"); !errors.Is(err, ErrDeclined) {
		t.Error(err)
	}
}
