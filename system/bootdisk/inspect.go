package bootdisk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"joist/image/boot"
	"joist/image/disk"
	"joist/image/verity"
)

// Copy is what a disk holds to start the system.
type Copy struct {
	Disk   Disk
	Tables disk.Tables
	State  boot.State
	Slots  map[boot.Slot]Image
	// Files are the digests of the files on the boot partition that are the
	// same on all disks; of large ones, the size alone unless asked for more.
	Files map[string]string
	Core  string   // digest of the BIOS boot code
	Lacks []string // what keeps the disk from starting the system alone, but for the tables
}

// Image is a system image in a slot.
type Image struct {
	Root  string // of the hash tree
	Ext   string // root hashes of extensions behind it, joined by commas
	Bytes int64  // with the trees, and extensions
}

// needed is on every boot partition.
var needed = []string{"/EFI/BOOT/BOOTX64.EFI", "/EFI/BOOT/grubx64.efi", "/EFI/joist/shimx64.efi", "/EFI/joist/grubx64.efi", boot.PathStub, boot.PathMenu, boot.PathEnv}

// Inspect looks at a disk. deep reads the large files of the boot partition
// too; the data of the slots it does not read, only their hash trees. At the end
// of ctx the next read fails, and what was not read yet is lacking.
func Inspect(ctx context.Context, d Disk, deep bool) Copy {
	c := Copy{Disk: d, Slots: map[boot.Slot]Image{}, Files: map[string]string{}}
	lack := func(what string, err error) {
		if err != nil {
			c.Lacks = append(c.Lacks, fmt.Sprintf("%s: %v", what, err))
		}
	}
	lack("partition table", c.tables(ctx))
	confs, err := c.boot(ctx, deep)
	lack("boot partition", err)
	for _, s := range []boot.Slot{boot.A, boot.B} {
		if conf, ok := confs[s]; ok {
			lack("slot "+string(s), c.slot(ctx, s, conf))
		}
	}
	if err == nil && len(confs) == 0 {
		lack("boot partition", errors.New("it names no slot"))
	}
	if d.Table.BootsBIOS() {
		_, core, err := readBIOS(d)
		lack("BIOS boot code", err)
		if err == nil {
			sum := sha256.Sum256(core)
			c.Core = hex.EncodeToString(sum[:])
		}
	}
	return c
}

// until reads as long as ctx lets it.
type until struct {
	ctx context.Context
	r   io.ReaderAt
}

func (u until) ReadAt(b []byte, off int64) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.r.ReadAt(b, off)
}

// tables looks at the partition tables.
func (c *Copy) tables(ctx context.Context) error {
	f, err := c.Disk.disk(false)
	if err != nil {
		return err
	}
	defer f.Close()
	c.Tables, err = disk.CheckTables(until{ctx, f}, c.Disk.Bytes, c.Disk.Table.SectorSize)
	return err
}

// boot reads the boot partition and returns the slots' configurations.
func (c *Copy) boot(ctx context.Context, deep bool) (map[boot.Slot][]byte, error) {
	p, err := c.Disk.open(disk.NameESP, false)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	files, err := disk.ReadFAT(until{ctx, p})
	if err != nil {
		return nil, err
	}
	confs := map[boot.Slot][]byte{}
	for _, f := range files {
		if err := c.file(f, deep, confs); err != nil {
			return confs, fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	var missing []string
	for _, n := range needed {
		if n != boot.PathEnv && c.Files[n] == "" {
			missing = append(missing, n)
		}
	}
	for s := range confs {
		for _, n := range []string{boot.FileKernel, boot.FileInitrd} {
			if n = boot.PathSlotFile(s, n); c.Files[n] == "" {
				missing = append(missing, n)
			}
		}
	}
	if len(missing) > 0 {
		return confs, fmt.Errorf("it lacks %s", strings.Join(missing, ", "))
	}
	c.State, err = readState(p)
	return confs, err
}

// readAll is the size up to which a file is always read.
const readAll = 64 << 10

// anyDisk stands for the disk's own GUID where configurations are compared.
const anyDisk = "00000000-0000-0000-0000-000000000000"

func (c *Copy) file(f disk.File, deep bool, confs map[boot.Slot][]byte) error {
	if f.Path == boot.PathEnv || f.Data.Size() == 0 {
		return nil
	}
	if f.Data.Size() > readAll && !deep {
		c.Files[f.Path] = fmt.Sprintf("%d bytes", f.Data.Size())
		return nil
	}
	r, err := f.Data.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	h := sha256.New()
	var small bytes.Buffer
	if f.Data.Size() <= readAll {
		if _, err := small.ReadFrom(r); err != nil {
			return err
		}
	}
	for _, s := range []boot.Slot{boot.A, boot.B} {
		if f.Path != boot.PathSlotConfig(s) {
			continue
		}
		confs[s] = bytes.Clone(small.Bytes())
		same, err := boot.OnDisk(small.Bytes(), anyDisk)
		if err != nil {
			return err
		}
		if own, err := boot.OnDisk(small.Bytes(), strings.ToUpper(c.Disk.Table.DiskGUID)); err != nil || !bytes.Equal(own, confs[s]) {
			return errors.New("it names another disk")
		}
		small = *bytes.NewBuffer(same)
	}
	if _, err := io.Copy(h, io.MultiReader(&small, r)); err != nil {
		return err
	}
	c.Files[f.Path] = hex.EncodeToString(h.Sum(nil))
	return nil
}

// slot compares a slot's hash tree with what its configuration says.
func (c *Copy) slot(ctx context.Context, s boot.Slot, conf []byte) error {
	args, err := boot.SlotArgs(conf, s)
	if err != nil {
		return err
	}
	root := ""
	for a := range strings.FieldsSeq(args) {
		if v, ok := strings.CutPrefix(a, "joist.verity="); ok {
			root = v
		}
	}
	p, err := c.Disk.open(slotName(s), false)
	if err != nil {
		return err
	}
	defer p.Close()
	n, err := verity.CheckTree(until{ctx, p}, root)
	if err != nil {
		return err
	}
	ext := boot.ExtensionRoots(args)
	for _, root := range ext {
		more, err := verity.CheckTree(io.NewSectionReader(until{ctx, p}, n, p.size-n), root)
		if err != nil {
			return fmt.Errorf("extension at byte %d: %w", n, err)
		}
		n += more
	}
	c.Slots[s] = Image{Root: root, Ext: strings.Join(ext, ","), Bytes: n}
	return nil
}

func slotName(s boot.Slot) string {
	if s == boot.A {
		return disk.NameSlotA
	}
	return disk.NameSlotB
}

// readState reads the environment block of an open boot partition.
func readState(p *part) (boot.State, error) {
	b, _, err := readEnv(p)
	if err != nil {
		return boot.State{}, err
	}
	e, err := boot.DecodeEnv(b)
	if err != nil {
		return boot.State{}, err
	}
	return boot.DecodeState(e), nil
}

func readEnv(p *part) ([]byte, int64, error) {
	x, err := disk.LocateFAT(p, boot.PathEnv)
	if err != nil {
		return nil, 0, err
	}
	if x.Size != boot.EnvSize {
		return nil, 0, fmt.Errorf("%s has %d bytes, not %d", boot.PathEnv, x.Size, boot.EnvSize)
	}
	b := make([]byte, boot.EnvSize)
	_, err = p.ReadAt(b, x.Offset)
	return b, x.Offset, err
}

// readBIOS returns boot sector and core image of a disk, as they are written to
// another one.
func readBIOS(d Disk) (sector0, core []byte, err error) {
	f, err := d.disk(false)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	sector0 = make([]byte, 512)
	if _, err := f.ReadAt(sector0, 0); err != nil {
		return nil, nil, err
	}
	p, err := d.open(disk.NameBIOS, false)
	if err != nil {
		return nil, nil, err
	}
	defer p.Close()
	t, err := d.Table.Find(disk.NameBIOS)
	if err != nil {
		return nil, nil, err
	}
	want, err := boot.MBR(sector0, sector0, t.Start/512)
	if err != nil {
		return nil, nil, err
	}
	if !bytes.Equal(want, sector0) {
		return nil, nil, errors.New("the boot sector points elsewhere")
	}
	if core, err = boot.ReadCore(p, p.size); err != nil {
		return nil, nil, err
	}
	placed, err := boot.Core(core, t.Start/512, p.size)
	if err == nil && !bytes.Equal(placed, core) {
		err = errors.New("the core image points elsewhere")
	}
	return sector0, core, err
}
