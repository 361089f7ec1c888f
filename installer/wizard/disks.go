package wizard

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"joist/image/disk"
	"joist/installer/answer"
	"joist/installer/plan"
	"joist/installer/preflight"
	"joist/installer/probe"
	"joist/internal/finding"
)

// layout is one way to put a node on disks.
type layout struct {
	words, filesystem, raid string
}

// layouts lists what the image can make of so many disks.
func layouts(zfs bool, disks int) (out []layout) {
	all := []layout{
		{"ext4 on LVM, on one disk", answer.Ext4, answer.Single},
		{"XFS on LVM, on one disk", answer.XFS, answer.Single},
		{"ext4 on LVM, mirrored over two disks or more", answer.Ext4, answer.RAID1},
		{"XFS on LVM, mirrored over two disks or more", answer.XFS, answer.RAID1},
	}
	if zfs {
		all = append(all, layout{"ZFS on one disk", answer.ZFS, answer.RAID0},
			layout{"ZFS, mirrored over two disks or more", answer.ZFS, answer.RAID1},
			layout{"ZFS RAID10, on four disks or more", answer.ZFS, answer.RAID10},
			layout{"ZFS RAIDZ-1: one of three disks or more may fail", answer.ZFS, answer.RAIDZ1},
			layout{"ZFS RAIDZ-2: two of four disks or more may fail", answer.ZFS, answer.RAIDZ2},
			layout{"ZFS RAIDZ-3: three of five disks or more may fail", answer.ZFS, answer.RAIDZ3})
	}
	for _, l := range all {
		// enough disks: the largest number that the layout takes of them
		for n := disks; n > 0; n-- {
			if l.on(nil).MemberCount(n) == "" {
				out = append(out, l)
				break
			}
		}
	}
	return out
}

// on is the layout on these disks, as an answer has it.
func (l layout) on(disks []string) answer.Disk {
	d := answer.Disk{Filesystem: l.filesystem, List: disks}
	switch {
	case l.filesystem == answer.ZFS:
		d.ZFS.RAID = l.raid
	case l.raid != answer.Single:
		d.RAID = l.raid
	}
	return d
}

// single says that the layout is for one disk.
func (l layout) single() bool { return l.raid == answer.Single || l.raid == answer.RAID0 }

// number asks for one of n.
func number(t Terminal, prompt string, n int) (int, error) {
	for {
		t.Print(prompt + " [1]: ")
		reply, err := t.Line()
		if err != nil {
			return 0, fmt.Errorf("ask for a number: %w", err)
		}
		if reply = strings.TrimSpace(reply); reply == "" {
			reply = "1"
		}
		if i, err := strconv.Atoi(reply); err == nil && i >= 1 && i <= n {
			return i - 1, nil
		}
		t.Print(fmt.Sprintf("Type a number from 1 to %d.\n", n))
	}
}

// askDisks asks for layout and disks, and for what is lost on them.
func askDisks(t Terminal, f probe.Facts, a *answer.Answer) error {
	if f.InPlace != nil {
		return askInPlace(t, f, a)
	}
	disks := preflight.Targets(f)
	if len(disks) == 0 {
		return errors.New("choose a disk: none was found")
	}
	all := layouts(f.ZFS == probe.Present, len(disks))
	i, err := askLayout(t, all)
	if err != nil {
		return err
	}
	chosen, err := chooseDisks(t, f, all[i], disks, a)
	if err != nil {
		return err
	}
	var names []string
	for _, d := range chosen {
		names = append(names, d.Name)
	}
	a.Disk = all[i].on(names)
	if err := confirmReplace(t, f, chosen, a); err != nil {
		return err
	}
	return confirmLoss(t, chosen, a)
}

func askLayout(t Terminal, all []layout) (int, error) {
	t.Print("\nLayouts:\n")
	for i, l := range all {
		t.Print(fmt.Sprintf("  %2d  %s\n", i+1, l.words))
	}
	return number(t, "Number of the layout", len(all))
}

// askInPlace asks for the layout on the disks that the system runs from, unless
// their data is kept, which has one.
func askInPlace(t Terminal, f probe.Facts, a *answer.Answer) error {
	disks, names, keep := []probe.Disk(nil), []string(nil), false
	for _, own := range f.InPlace.All() {
		d, ok := f.Find(own.Disk)
		if !ok {
			return fmt.Errorf("find the disk %s that the system was started from: it is gone", own.Disk)
		}
		disks, names = append(disks, d), append(names, d.Name)
		keep = keep || own.Table.Marks()&disk.KeepsData != 0
	}
	show := func(one, many string) {
		if len(disks) > 1 {
			one = many
		}
		t.Print("\n" + one + ":\n")
		for _, d := range disks {
			t.Print("  " + d.Describe() + "\n")
		}
	}
	if keep {
		show("The data of this disk, with the guests, is kept", "The data of these disks, with the guests, is kept")
		a.Disk = layouts(false, 1)[0].on(names) // what is there counts
		return acceptFixed(t, f, disks, a)
	}
	all := slices.DeleteFunc(layouts(f.ZFS == probe.Present, len(disks)), func(l layout) bool {
		return l.on(nil).MemberCount(len(disks)) != "" || l.single() && len(disks) > 1
	})
	i, err := askLayout(t, all)
	if err != nil {
		return err
	}
	show("The node is made on the disk that the system was started from", "The node is made on the disks of the system that runs")
	a.Disk = all[i].on(names)
	return acceptFixed(t, f, disks, a)
}

func chooseDisks(t Terminal, f probe.Facts, l layout, disks []probe.Disk, a *answer.Answer) ([]probe.Disk, error) {
	t.Print("\nDisks:\n")
	for i, d := range disks {
		t.Print(fmt.Sprintf("  %2d  %s\n", i+1, d.Describe()))
	}
	prompt := "Numbers of the disks to install on, with blanks between: "
	if l.single() {
		prompt = "Number of the disk to install on: "
	}
	for {
		t.Print(prompt)
		reply, err := t.Line()
		if err != nil {
			return nil, fmt.Errorf("ask for the disk: %w", err)
		}
		chosen, why := pick(reply, disks)
		if why == "" {
			why = l.on(nil).MemberCount(len(chosen))
		}
		if why == "" && l.single() && len(chosen) > 1 {
			why = "this layout is for one disk"
		}
		if why != "" {
			t.Print(why + "\n")
			continue
		}
		codes, ok, err := accept(t, f, chosen)
		if err != nil {
			return nil, err
		}
		if ok {
			a.Waive = append(a.Waive, codes...)
			return chosen, nil
		}
	}
}

// accept shows what the checks say about disks. What stops and may be waived is
// waived where the person types its code; ok says that nothing else stops.
func accept(t Terminal, f probe.Facts, disks []probe.Disk) (codes []string, ok bool, err error) {
	var fs finding.List
	for _, d := range disks {
		fs = append(fs, preflight.Target(f, d)...)
	}
	fs = append(fs, preflight.Members(f, disks)...)
	if show(t, fs) {
		return nil, true, nil
	}
	for _, x := range fs {
		if x.Level == finding.Stop && preflight.Waivable(x.Code) && !slices.Contains(codes, x.Code) {
			codes = append(codes, x.Code)
		}
	}
	if rest, _ := fs.Waive(codes); rest.Stops() {
		return nil, false, nil
	}
	for _, c := range codes {
		t.Print(fmt.Sprintf("To install all the same type %s, anything else to choose again: ", c))
		reply, err := t.Line()
		if err != nil {
			return nil, false, fmt.Errorf("ask whether a disk is taken all the same: %w", err)
		}
		if strings.TrimSpace(reply) != c {
			return nil, false, nil
		}
	}
	return codes, true, nil
}

// acceptFixed is accept for disks that are not a choice.
func acceptFixed(t Terminal, f probe.Facts, disks []probe.Disk, a *answer.Answer) error {
	codes, ok, err := accept(t, f, disks)
	if err == nil && !ok {
		err = ErrDeclined
	}
	for _, c := range codes {
		if !slices.Contains(a.Waive, c) {
			a.Waive = append(a.Waive, c)
		}
	}
	return err
}

// pick reads numbers of disks.
func pick(reply string, disks []probe.Disk) (out []probe.Disk, why string) {
	for _, w := range strings.FieldsFunc(reply, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' }) {
		n, err := strconv.Atoi(w)
		if err != nil || n < 1 || n > len(disks) {
			return nil, fmt.Sprintf("Type numbers from 1 to %d.", len(disks))
		}
		if slices.ContainsFunc(out, func(d probe.Disk) bool { return d.Name == disks[n-1].Name }) {
			return nil, "Name each disk once."
		}
		out = append(out, disks[n-1])
	}
	if len(out) == 0 {
		return nil, fmt.Sprintf("Type numbers from 1 to %d.", len(disks))
	}
	return out, ""
}

// confirmReplace wants the id of each system that would be replaced, and asks
// whether its data is kept where that is possible.
func confirmReplace(t Terminal, f probe.Facts, disks []probe.Disk, a *answer.Answer) error {
	var typed []string
	for _, d := range disks {
		in := d.Installation
		if in == nil || f.Unfinished(*in) && !in.KeepsData || slices.Contains(typed, in.ID) {
			continue
		}
		t.Print(fmt.Sprintf("The disk %s holds Joist installation %s. Type its id to replace it: ", d.Name, in.ID))
		if err := typeID(t, in.ID); err != nil {
			return err
		}
		typed = append(typed, in.ID)
	}
	if len(typed) == 0 {
		return nil
	}
	if a.Install.Installation = typed[0]; len(typed) > 1 {
		a.Install = answer.Install{Reinstall: true}
	}
	k, ok := adoptable(f, disks)
	if !ok {
		return nil
	}
	t.Print(fmt.Sprintf("Its data, with the guests, can be kept: %s. Otherwise everything is lost.\n", k))
	for {
		t.Print("Keep the data, yes or no: ")
		reply, err := t.Line()
		if err != nil {
			return fmt.Errorf("ask whether data is kept: %w", err)
		}
		switch strings.ToLower(strings.TrimSpace(reply)) {
		case "yes":
			return keep(t, f, k, a)
		case "no":
			return nil
		}
	}
}

// adoptable says whether all disks are of one system whose data can be kept.
func adoptable(f probe.Facts, disks []probe.Disk) (k plan.Kept, ok bool) {
	first := disks[0].Installation
	for _, x := range disks {
		in := x.Installation
		if in == nil || in.Table == nil || in.Group != first.Group || in.Array != first.Array || in.Pool != first.Pool || in.Group == "" && in.Pool == "" {
			return k, false
		}
	}
	k = plan.KeptBy(f, *first)
	return k, !k.Lost && len(k.Other) == 0
}

// keep takes what is there, whatever layout was chosen: all its disks, since one
// that is left out would go on starting the old system.
func keep(t Terminal, f probe.Facts, k plan.Kept, a *answer.Answer) error {
	chosen := a.Disk.List
	k.Take(&a.Disk)
	var more []probe.Disk
	for _, d := range k.Disks {
		if !slices.Contains(chosen, d.Name) {
			t.Print(fmt.Sprintf("The disk %s belongs to it and is taken with the rest.\n", d.Name))
			more = append(more, d)
		}
		if d.Installation.ID != a.Install.Installation { // a try that was cut off between the disks
			a.Install = answer.Install{Reinstall: true}
		}
	}
	if len(more) == 0 {
		return nil
	}
	return acceptFixed(t, f, more, a)
}

// confirmLoss wants the id of whatever else would be lost.
func confirmLoss(t Terminal, disks []probe.Disk, a *answer.Answer) error {
	for _, d := range disks {
		if d.DataID == "" || d.Installation != nil {
			continue
		}
		t.Print(fmt.Sprintf("The disk %s holds data: %s. All of it is lost.\nType its id, %s, to erase it: ", d.Name, plan.Holds(d), d.DataID))
		if err := typeID(t, d.DataID); err != nil {
			return err
		}
		a.Disk.Overwrite = append(a.Disk.Overwrite, d.DataID)
	}
	return nil
}

func typeID(t Terminal, id string) error {
	reply, err := t.Line()
	if err != nil {
		return fmt.Errorf("ask for the id: %w", err)
	}
	if strings.TrimSpace(reply) != id {
		return ErrDeclined
	}
	return nil
}
