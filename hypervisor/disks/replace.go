package disks

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"joist/hypervisor/task"
	"joist/image/disk"
	"joist/internal/finding"
	"joist/system/bootdisk"
)

// Missing stands for the disk that is gone, in place of a name.
const Missing = "missing"

// Exchange is one disk in the place of another.
type Exchange struct {
	Old       string `json:"old"`                // GUID of the table, "" for one that is gone
	New       string `json:"new"`                // kernel name
	NewID     string `json:"new_id"`             // what it is known by after a cut, "" for nothing
	NewGUID   string `json:"new_guid,omitempty"` // of its table, once it gets one
	Overwrite string `json:"overwrite,omitempty"`
	User      string `json:"user"`
}

// Kind is the type of the task and of its journal's records.
const Kind = "diskreplace"

// Check says what stands against an exchange; the result is what Start takes.
// old is a kernel name, a path, a GUID of a partition table, or Missing.
func (s *Service) Check(ctx context.Context, old, fresh, overwrite string) (Exchange, finding.List) {
	x := Exchange{Overwrite: overwrite}
	var fs finding.List
	if s.System == nil {
		fs.Stopf("replace-no-system", "", "run it on an installed node", "%v", errNoSystem)
		return x, fs
	}
	copies, members, err := s.look(ctx, false)
	drives, derr := s.Machine.Drives(ctx)
	if err = errors.Join(err, derr); err != nil {
		fs.Stopf("replace-unknown", "", "look at the kernel's messages (dmesg)", "the disks cannot be looked at: %v", err)
		return x, fs
	}
	if s.Data == nil {
		fs.Stopf("replace-single", "", s.Why, "the data of this node are on one disk: nothing could fill a new one while the node runs")
	}
	x.Old = s.checkOld(ctx, copies, members, old, &fs)
	d, ok := drive(drives, fresh)
	if !ok {
		fs.Stopf("replace-not-found", fresh, "list the disks: joist node disk list", "there is no disk %q", fresh)
		return x, fs
	}
	x.New, x.NewID = d.Name, ident(drives, d)
	s.checkNew(ctx, copies, members, d, x, &fs)
	return x, fs
}

// ident names a disk also after its kernel name has changed, "" where nothing
// tells it from others: disks may say nothing of themselves, or all the same.
func ident(drives []Drive, d Drive) string {
	name := func(d Drive) string { return strings.Join([]string{d.WWN, d.Model, d.Serial}, "/") }
	for _, o := range drives {
		if o.Name != d.Name && name(o) == name(d) {
			return ""
		}
	}
	if d.WWN == "" && d.Serial == "" {
		return ""
	}
	return name(d)
}

func drive(drives []Drive, name string) (Drive, bool) {
	for _, d := range drives {
		if d.Name == strings.TrimPrefix(name, "/dev/") {
			return d, true
		}
	}
	return Drive{}, false
}

// checkOld finds the disk that shall go.
func (s *Service) checkOld(ctx context.Context, copies []bootdisk.Copy, members []Member, old string, fs *finding.List) (guid string) {
	whole := 0
	for _, m := range members {
		if m.Whole {
			whole++
		}
	}
	if old == Missing {
		s.checkMissing(ctx, fs)
		return ""
	}
	for _, c := range copies {
		if !c.Disk.Named(strings.TrimPrefix(old, "/dev/")) && !strings.EqualFold(c.Disk.Table.DiskGUID, old) {
			continue
		}
		degraded := s.Data != nil
		if degraded {
			a, err := s.Data.Degraded(ctx)
			degraded = a != nil || err != nil
		}
		if m, ok := find(members, c.Disk.Devices(dataPart)...); ok && m.Whole && whole == 1 && degraded {
			fs.Stopf("replace-last", "/dev/"+c.Disk.Name, "first fill the place of the disk that is missing: joist node disk replace missing NEW",
				"disk %s holds the data alone", c.Disk.Name)
		}
		return c.Disk.Table.DiskGUID
	}
	fs.Stopf("replace-not-ours", old, "list the disks: joist node disk list; one that is no longer there is called "+Missing, "%q is no disk of this system", old)
	return ""
}

// checkMissing wants a place to fill: nothing would copy data to a disk more.
func (s *Service) checkMissing(ctx context.Context, fs *finding.List) {
	if s.Data == nil {
		return
	}
	switch a, err := s.Data.Degraded(ctx); {
	case err != nil:
		fs.Stopf("replace-unknown", "", "look at the kernel's messages (dmesg)", "whether a disk is missing cannot be read: %v", err)
	case a == nil:
		fs.Stopf("replace-none-missing", "", "name the disk that shall go: joist node disk list", "the data are on all their disks: none is missing")
	}
}

// checkNew says whether the new disk can take the place.
func (s *Service) checkNew(ctx context.Context, copies []bootdisk.Copy, members []Member, d Drive, x Exchange, fs *finding.List) {
	at := "/dev/" + d.Name
	ours := false
	for _, c := range copies {
		if !c.Disk.Named(d.Name) {
			continue
		}
		ours = true
		switch m, ok := find(members, c.Disk.Devices(dataPart)...); {
		case ok && m.Whole:
			fs.Stopf("replace-member", at, "name a disk that is not used yet", "disk %s holds the data of this system already", d.Name)
		case ok && m.Replaces && !takes(m, copies, x.Old):
			fs.Stopf("replace-other", at, "wait until that is done, or name the disk whose place it takes", "disk %s takes the place of another disk already", d.Name)
		}
		if strings.EqualFold(c.Disk.Table.DiskGUID, x.Old) {
			fs.Stopf("replace-same", at, "name two disks", "disk %s cannot take its own place", d.Name)
		}
	}
	ref, ok := s.System.Reference(copies)
	if !ok {
		fs.Stopf("replace-no-source", at, repair, "no disk of the system has all boot parts, so that none can be copied")
		return
	}
	if ours {
		return // begun before; what was checked then is written
	}
	found, err := s.Machine.Fit(ctx, d.Name, ref.Disk.Name)
	if err != nil {
		fs.Stopf("replace-unknown", at, "look at the kernel's messages (dmesg)", "disk %s cannot be looked at: %v", d.Name, err)
	}
	*fs = append(*fs, found...)
	if d.DataID != "" && d.DataID != x.Overwrite {
		fs.Stopf("replace-holds-data", at, "use another disk; or, if that can go: --overwrite "+d.DataID, "disk %s holds %s", d.Name, d.Holds)
	}
	if s.Data == nil {
		return
	}
	need, err := s.Data.Need(ctx)
	if err != nil {
		fs.Stopf("replace-unknown", at, "look at the kernel's messages (dmesg)", "%v", err)
	} else if _, err := layout(ref.Disk.Table, d.Size, need, strings.Repeat("0", 8)+"-0000-0000-0000-000000000000", [5]string{}); errors.Is(err, errSmall) {
		fs.Stopf("replace-too-small", at, "use a disk at least as large as the others", "disk %s: %v", d.Name, err)
	}
}

// takes says whether a member takes the place of the disk with that GUID, "" for
// one that is gone.
func takes(m Member, copies []bootdisk.Copy, guid string) bool {
	for _, c := range copies {
		if strings.EqualFold(c.Disk.Table.DiskGUID, guid) {
			return on(m.Partner, c.Disk.Devices(dataPart)) || m.Partner == "" && len(c.Disk.Devices(dataPart)) == 0
		}
	}
	return m.Partner == ""
}

var errSmall = errors.New("it is too small")

// layout is the reference's, on a disk of another size: data take all of it
// where they do so there, and never less than they need.
func layout(ref disk.Layout, size, need int64, guid string, parts [5]string) (disk.Layout, error) {
	l := disk.Layout{DiskGUID: guid, SectorSize: ref.SectorSize, Size: size / int64(ref.SectorSize) * int64(ref.SectorSize)}
	_, refEnd := ref.Usable()
	_, end := l.Usable()
	for i, p := range ref.Partitions {
		if i >= len(parts) {
			return l, fmt.Errorf("disk %s has more partitions than a system of ours", ref.DiskGUID)
		}
		p.GUID, p.Attributes = parts[i], 0
		if p.Name == disk.NameData {
			full := refEnd-p.End() < 2*disk.Align
			last := p.End()
			if full || end < last {
				last = end / disk.Align * disk.Align
			}
			p.Size = last - p.Start
			if p.Size < need {
				return l, fmt.Errorf("%w: %d MiB are left for data, %d MiB are needed", errSmall, max(p.Size, 0)/disk.MiB, (need+disk.MiB-1)/disk.MiB)
			}
		}
		l.Partitions = append(l.Partitions, p)
	}
	return l, nil
}

// Start begins an exchange that Check found nothing against.
func (s *Service) Start(x Exchange) (task.UPID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.working {
		return task.UPID{}, errors.New("another disk is being replaced; wait for that task")
	}
	u, err := s.Tasks.Start(task.Spec{Type: Kind, ID: x.New, User: x.User}, func(ctx context.Context, log task.Log) error {
		defer s.done()
		return s.journalled(ctx, x, log)
	})
	s.working = err == nil
	return u, err
}

func (s *Service) done() {
	s.mu.Lock()
	s.working = false
	s.mu.Unlock()
	s.refresh(context.Background())
}

// journalled leaves a record for as long as it goes on, so that a cut node
// takes it up again. A failure is the person's to look at: it drops the record.
func (s *Service) journalled(ctx context.Context, x Exchange, log task.Log) error {
	j := task.JournalOf(ctx)
	if err := j.Record(Kind, x); err != nil {
		return err
	}
	err := s.replace(ctx, x, log)
	if err != nil && ctx.Err() == nil {
		return errors.Join(err, j.Done())
	}
	return err
}

// Replayer keeps an exchange that was cut off for Resume. One that somebody
// stopped leaves a disk that is begun anew when it is named again.
func (s *Service) Replayer(ctx context.Context, payload json.RawMessage) error {
	if task.JournalOf(ctx) != nil {
		return nil // stopped by a person
	}
	var x Exchange
	if err := json.Unmarshal(payload, &x); err != nil {
		return fmt.Errorf("read exchange of disks: %w", err)
	}
	// the last record comes first, and knows most
	if !slices.ContainsFunc(s.resume, func(o Exchange) bool { return o.New == x.New }) {
		s.resume = append(s.resume, x)
	}
	return nil
}

// Resume goes on with what a cut interrupted, once the boot is over.
func (s *Service) Resume(ctx context.Context) {
	for _, x := range s.resume {
		y, err := s.again(ctx, x)
		if err == nil {
			_, err = s.Start(y)
		}
		if err != nil {
			s.Log.Error("go on replacing a disk; begin anew: joist node disk replace", "disk", x.New, "err", err)
		}
	}
	s.resume = nil
}

// again finds the new disk again, whatever it is called now. One that has the
// table that it got is only filled; any other would be written over, so that all
// is checked as it was before.
func (s *Service) again(ctx context.Context, x Exchange) (Exchange, error) {
	if s.System == nil {
		return x, errNoSystem
	}
	if d, ok, err := s.disk(x.NewGUID); ok || err != nil {
		x.New = d.Name
		return x, err
	}
	drives, err := s.Machine.Drives(ctx)
	if err != nil {
		return x, err
	}
	name := ""
	for _, d := range drives {
		if x.NewID != "" && ident(drives, d) == x.NewID {
			name = d.Name
		}
	}
	if name == "" {
		return x, errors.New("no disk can be told to be the new one")
	}
	old := x.Old
	if _, there, err := s.disk(old); err != nil {
		return x, err
	} else if !there {
		old = Missing
	}
	y, fs := s.Check(ctx, old, name, x.Overwrite)
	y.Old, y.User = x.Old, x.User
	return y, fs.Err()
}

// replace is the work, in steps that can be repeated.
func (s *Service) replace(ctx context.Context, x Exchange, log task.Log) error {
	fresh, err := s.partition(ctx, x, log)
	if err != nil {
		return err
	}
	if err := s.bootParts(ctx, x, fresh, log); err != nil {
		return err
	}
	old, there, err := s.disk(x.Old)
	if err != nil {
		return err
	}
	data := ""
	to, err := s.used(ctx, fresh)
	if err != nil {
		return err
	}
	log.Printf("data: copied to %s; until then they are where they were", to)
	if there {
		if data, err = s.used(ctx, old); err != nil {
			return err
		}
	}
	if err := s.Data.Replace(ctx, data, to, steps(log, "data")); err != nil {
		return err
	}
	log.Printf("data: all of them are on %s", fresh.Name)
	if err := s.System.Exclusive(ctx, func() error { return bootdisk.Mark(fresh, 0) }); err != nil {
		return err
	}
	s.retire(ctx, old, there, log)
	return nil
}

// used is the device by which a disk's data are used: that of any path.
func (s *Service) used(ctx context.Context, d bootdisk.Disk) (string, error) {
	members, err := s.Data.Members(ctx)
	if m, ok := find(members, d.Devices(dataPart)...); ok {
		return m.Device, err
	}
	return d.Part(dataPart), err
}

// partition prepares the new disk. One that was begun before is taken as it is.
func (s *Service) partition(ctx context.Context, x Exchange, log task.Log) (bootdisk.Disk, error) {
	var d bootdisk.Disk
	ref, err := s.reference(ctx, x)
	if err != nil {
		return d, err
	}
	own, err := s.System.Disks()
	if err != nil {
		return d, err
	}
	for _, d := range own {
		if d.Named(x.New) && (x.NewGUID == "" || strings.EqualFold(x.NewGUID, d.Table.DiskGUID)) {
			log.Printf("partitions: those of %s are there", d.Name)
			return d, nil
		}
	}
	need, err := s.Data.Need(ctx)
	if err != nil {
		return d, err
	}
	if d, err = s.Blank(x.New); err != nil {
		return d, fmt.Errorf("partition disk %s: %w", x.New, err)
	}
	if d.Table, err = newLayout(ref.Disk.Table, s.System.GUID, d.Bytes, need); err != nil {
		return d, fmt.Errorf("partition disk %s: %w", d.Name, err)
	}
	log.Printf("partitions: %s gets the GUID %s", d.Name, d.Table.DiskGUID)
	x.NewGUID = d.Table.DiskGUID
	if err := task.JournalOf(ctx).Record(Kind, x); err != nil {
		return d, err
	}
	if err := bootdisk.Prepare(d); err != nil {
		return d, err
	}
	if err := s.Partitions(ctx, d); err != nil {
		return d, fmt.Errorf("partition disk %s: %w", d.Name, err)
	}
	d, ok, err := s.disk(d.Table.DiskGUID)
	if err == nil && !ok {
		err = fmt.Errorf("partition disk %s: it is gone", x.New)
	}
	return d, err
}

func newLayout(ref disk.Layout, system string, size, need int64) (disk.Layout, error) {
	guid, err := bootdisk.GUID(system, rand.Reader)
	var parts [5]string
	for i := range parts {
		if err == nil {
			parts[i], err = disk.NewGUID(rand.Reader)
		}
	}
	if err != nil {
		return disk.Layout{}, err
	}
	return layout(ref, size, need, guid, parts)
}

// reference is the disk that the boot parts are copied from: not the one that
// goes, as long as there is another.
func (s *Service) reference(ctx context.Context, x Exchange) (bootdisk.Copy, error) {
	copies, err := s.System.Inspect(ctx, false)
	if err != nil {
		return bootdisk.Copy{}, err
	}
	var others []bootdisk.Copy
	for _, c := range copies {
		if !c.Disk.Named(x.New) && !strings.EqualFold(c.Disk.Table.DiskGUID, x.Old) {
			others = append(others, c)
		}
	}
	best, ok := s.System.Reference(copies)
	if c, other := s.System.Reference(others); other && c.State.Generation == best.State.Generation {
		return c, nil
	}
	if !ok {
		return best, errors.New("no disk of the system has all boot parts")
	}
	return best, nil
}

// bootParts makes the new disk start the node.
func (s *Service) bootParts(ctx context.Context, x Exchange, fresh bootdisk.Disk, log task.Log) error {
	ref, err := s.reference(ctx, x)
	if err != nil {
		return err
	}
	return s.System.Exclusive(ctx, func() error {
		d := bootdisk.Compare(ref, bootdisk.Inspect(ctx, fresh, true))
		if c := bootdisk.Inspect(ctx, ref.Disk, true); d.Boot {
			ref = c
		}
		log.Printf("boot parts: copied from %s to %s", ref.Disk.Name, fresh.Name)
		if err := bootdisk.Refresh(ctx, ref, fresh, d, steps(log, "system image")); err != nil {
			return err
		}
		if c := bootdisk.Inspect(ctx, fresh, true); bootdisk.Compare(bootdisk.Inspect(ctx, ref.Disk, true), c).Any() {
			return fmt.Errorf("disk %s does not give back what was written: %s", fresh.Name, strings.Join(c.Faults(), "; "))
		}
		log.Printf("boot parts: %s starts the node", fresh.Name)
		if err := s.System.Enlist(fresh); err != nil {
			log.Warnf("%v; the firmware finds the disk by the path that it falls back to", err)
		}
		return nil
	})
}

// retire has nothing start or join from the old disk again. It may be broken:
// that it cannot be written is only said.
func (s *Service) retire(ctx context.Context, old bootdisk.Disk, there bool, log task.Log) {
	running := there && strings.EqualFold(old.Table.DiskGUID, s.System.GUID)
	switch {
	case running:
		log.Warnf("the node still runs from %s: restart it from another disk before you take this one out", old.Name)
		return
	case there:
		if err := s.erase(ctx, old.Table.DiskGUID); err != nil {
			log.Warnf("erase disk %s: %v; do not connect it to this node again", old.Name, err)
		} else {
			log.Printf("disk %s is erased as far as it belonged to this system; it can be taken out", old.Name)
		}
	}
	present, err := s.partitions()
	if err == nil {
		err = s.System.Delist(func(p string) bool { return !present[p] })
	}
	if err != nil {
		log.Warnf("remove boot entry: %v", err)
	}
}

// erase looks for the disk anew: data were copied for hours, and another one may
// have its name by now.
func (s *Service) erase(ctx context.Context, guid string) error {
	return s.System.Exclusive(ctx, func() error {
		d, there, err := s.disk(guid)
		if err == nil && !there {
			err = errors.New("it is no longer there")
		}
		if err != nil {
			return err
		}
		members, err := s.Data.Members(ctx)
		if err != nil {
			return err
		}
		if m, ok := find(members, d.Devices(dataPart)...); ok {
			return fmt.Errorf("it holds data of this system still (%s)", m.State)
		}
		return bootdisk.Erase(d)
	})
}

// partitions are the GUIDs of all that the machine has.
func (s *Service) partitions() (map[string]bool, error) {
	tables, err := s.Tables()
	out := map[string]bool{}
	for _, t := range tables {
		for _, p := range t.Partitions {
			out[strings.ToUpper(p.GUID)] = true
		}
	}
	return out, err
}

// disk finds a disk of the system by its GUID.
func (s *Service) disk(guid string) (bootdisk.Disk, bool, error) {
	ds, err := s.System.Disks()
	for _, d := range ds {
		if guid != "" && strings.EqualFold(d.Table.DiskGUID, guid) {
			return d, true, nil
		}
	}
	return bootdisk.Disk{}, false, err
}

// steps writes a line for each tenth that is done.
func steps(log task.Log, what string) func(n, of int64) {
	last, begun := int64(-1), time.Now()
	return func(n, of int64) {
		if of <= 0 {
			return
		}
		if tenth := n * 10 / of; tenth != last {
			last = tenth
			log.Printf("%s: %d %% after %v", what, tenth*10, time.Since(begun).Round(time.Second))
		}
	}
}
