package main

import (
	"context"
	"fmt"
	"strings"
	"testing"

	nodeapi "joist/hypervisor/server/node"
	"joist/image/boot"
	"joist/installer/answer"
	"joist/installer/probe"
	"joist/internal/finding"
	"joist/system/bootdisk"
	"joist/system/bootdisk/bootdisktest"
)

// someGuests are those that run.
type someGuests []int

func (g someGuests) Running() []int                            { return g }
func (g someGuests) Volumes(context.Context) ([]string, error) { return nil, nil }

func TestReset(t *testing.T) {
	const whole = "[global]\nkeyboard = \"de\"\ncountry = \"at\"\ntimezone = \"UTC\"\nfqdn = \"n2.example.com\"\nmailto = \"a@example.com\"\nroot-password = \"longenough\"\n[disk-setup]\nfilesystem = \"ext4\"\ndisk-list = [\"vda\"]\n"
	for _, c := range []struct {
		name   string
		r      nodeapi.Reset
		others []string
		guests someGuests
		start  error
		want   string // of the error
	}{
		{name: "wizard", r: nodeapi.Reset{KeepData: true}},
		{name: "answer", r: nodeapi.Reset{Answer: whole}},
		{name: "member", others: []string{"n2", "n3"}, want: "n2, n3: leave first"},
		{name: "guests", guests: someGuests{100, 101}, want: "guests are running: 100 101"},
		{name: "guests, forced", guests: someGuests{100}, r: nodeapi.Reset{Force: true}},
		{name: "a wrong answer", r: nodeapi.Reset{Answer: "[global]\nfqdm = 1\n"}, want: "Parameter"},
		{name: "an answer that the installer would stop at", r: nodeapi.Reset{Answer: strings.Replace(whole, `"ext4"`, `"btrfs"`, 1)}, want: "Parameter"},
		{name: "a large answer", start: bootdisk.ErrAnswerTooLarge, want: "Parameter"},
		{name: "an old boot partition", start: fmt.Errorf("x: %w", boot.ErrNotInPlace), want: "install from the ISO"},
		{name: "disks that differ", start: fmt.Errorf("disk vdb: %w", bootdisk.ErrNotAlike), want: "joist node disk repair"},
	} {
		started := ""
		r := resetter{others: func() []string { return c.others }, guests: c.guests, plan: func(_ context.Context, a answer.Answer, _ bool) (fs finding.List, _ error) {
			if a.Disk.Filesystem == answer.Btrfs {
				fs.Stopf("btrfs-not-offered", "", "", "there is no layout on btrfs")
			}
			return fs, nil
		}, start: func(_ context.Context, a []byte, keep bool) error {
			started = fmt.Sprint(len(a), keep)
			return c.start
		}}
		err := r.reset(t.Context(), c.r)
		if c.want == "" && (err != nil || started != fmt.Sprint(len(c.r.Answer), c.r.KeepData)) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, started %q", c.name, err, started)
		}
		if c.want != "" && c.start == nil && started != "" {
			t.Errorf("%s: it was refused and is prepared", c.name)
		}
	}
}

// TestPlanReset: what the installer would stop at is found while the node still
// runs, and its own use of the disk is no obstacle.
func TestPlanReset(t *testing.T) {
	const guid = "10000000-0000-4000-8000-000000000001"
	ds := []bootdisk.Disk{bootdisktest.Install(t, guid, bootdisktest.NewBuild(t, "0123456789abcdef"), boot.Fresh())}
	system := bootdisktest.System(t, guid, &ds)
	look := func() probe.Facts {
		var f probe.Facts
		for _, d := range ds {
			f.Disks = append(f.Disks, probe.Disk{Name: d.Name, Size: 64 << 30, Sector: 512, InUse: []string{"dm-3"}})
		}
		return f
	}
	const text = "[global]\nkeyboard = \"de\"\ncountry = \"at\"\ntimezone = \"UTC\"\nfqdn = \"n2.example.com\"\nmailto = \"a@example.com\"\nroot-password = \"longenough\"\n" +
		"[network]\nsource = \"from-dhcp\"\n[first-boot]\nsource = \"from-iso\"\n[disk-setup]\nfilesystem = \"ext4\"\ndisk-list = [\"vda\"]\n"
	a, fs := answer.Load(strings.NewReader(text), "answer")
	if fs.Stops() {
		t.Fatal(fs.Err())
	}
	stops := func(keep bool) map[string]bool {
		t.Helper()
		fs, err := planReset(t.Context(), system, look, a, keep)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]bool{}
		for _, f := range fs {
			if f.Level == finding.Stop {
				got[f.Code] = true
			}
		}
		return got
	}
	if got := stops(true); !got["first-boot-missing"] || !got["no-nic"] || got["disk-in-use"] || got["medium-incomplete"] {
		t.Errorf("the installer would stop at %v", got)
	}
	// of several disks, the answer's layout must take as many
	ds = append(ds, bootdisktest.Install(t, guid[:35]+"2", bootdisktest.NewBuild(t, "0123456789abcdef"), boot.Fresh()))
	ds[1].Name = "vdb"
	if got := stops(false); !got["disk-image-one"] || got["disk-in-use"] {
		t.Errorf("of two disks the installer would stop at %v", got)
	}
	a.Disk.RAID, a.Disk.List = answer.RAID1, []string{"vda", "vdb"}
	if got := stops(false); got["disk-image-one"] || got["disk-in-use"] || got["disk-not-found"] || !got["no-nic"] {
		t.Errorf("a mirror on two disks stops at %v", got)
	}
}
