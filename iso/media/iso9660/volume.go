// Package iso9660 lays an ISO 9660 volume out and encodes it: ECMA-119 with
// files of any size (level 3), Rock Ridge for names, modes and symbolic links
// as Unix has them, Joliet for names as Windows shows them, and an El Torito
// catalogue. A plan is a value made of a tree and options alone: it says which
// bytes go where, and somebody else writes them.
//
// Sources: ECMA-119 (4th edition), IEEE P1281 (SUSP 1.12), IEEE P1282 (Rock
// Ridge 1.10), the Joliet specification of 1995, "El Torito" 1.0, and the
// Linux kernel's fs/isofs where these leave a choice.
package iso9660

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"joist/rootfs/tree"
)

const (
	// Sector is the logical sector and block of a volume.
	Sector = 2048
	// SystemArea is the room before the first descriptor; it is not ISO 9660's.
	SystemArea = 16 * Sector

	maxSection = 1<<32 - Sector // bytes of one extent: the largest multiple of a sector in 32 bits
	maxDirs    = 1<<16 - 1      // a path table counts parents in 16 bits
	maxName    = 253            // bytes: Linux's reader cuts longer names off (fs/isofs/rock.c)
	maxTarget  = 1000           // bytes of a link, so that its entries fit one continuation area
)

// Volume is a file system to be. Regular files, directories and symbolic links
// are written; extended attributes are not. All times are Time.
type Volume struct {
	ID          string // up to 32 of A-Z 0-9 _
	Publisher   string // and preparer; up to 128 of the characters of reText
	Application string // the same
	Time        time.Time
	Root        *tree.Node
	Boot        []BootImage // El Torito entries; their files come first on the volume
	Pad         int64       // bytes behind the last file, at least
}

// BootImage is a file that firmware starts, without disk emulation.
type BootImage struct {
	Path string
	EFI  bool // for UEFI: the image of a FAT volume; else for a BIOS
	Load int  // sectors of 512 bytes that the firmware loads; 0: the whole image
}

// Chunk is content with its place on the volume.
type Chunk struct {
	At   int64 // bytes from the start of the volume, whole sectors
	Data tree.Source
}

// File is an extent that one or several files share.
type File struct {
	Chunk
	Paths []string
}

// Layout is a planned volume. What neither Meta nor Files covers is zero.
type Layout struct {
	Size  int64   // whole sectors
	Meta  []Chunk // descriptors, catalogue, path tables and directories
	Files []File  // in the order of their places; empty files have none
}

// Find returns the extent of the file at p.
func (l *Layout) Find(p string) (File, bool) {
	i := slices.IndexFunc(l.Files, func(f File) bool { return slices.Contains(f.Paths, p) })
	if i < 0 {
		return File{}, false
	}
	return l.Files[i], true
}

// Plan lays the volume out. The same volume gives the same layout.
func (v Volume) Plan() (*Layout, error) {
	if err := v.check(); err != nil {
		return nil, fmt.Errorf("plan volume %q: %w", v.ID, err)
	}
	p := &plan{v: v, at: SystemArea / Sector, starts: map[*tree.Node]int64{}}
	if err := p.place(); err != nil {
		return nil, fmt.Errorf("plan volume %q: %w", v.ID, err)
	}
	p.encode()
	return &p.out, nil
}

// plan is a layout under way. Places are counted in sectors.
type plan struct {
	v           Volume
	at          int64 // the next free sector
	descriptors int64
	catalogue   int64
	trees       []*hierarchy // Rock Ridge's, Joliet's
	starts      map[*tree.Node]int64
	out         Layout
}

// take reserves room for n bytes.
func (p *plan) take(n int64) int64 {
	at := p.at
	p.at += sectors(n)
	return at
}

func sectors(n int64) int64 { return (n + Sector - 1) / Sector }

// place gives everything its sectors: descriptors, catalogue, path tables,
// directories, files. Sizes depend on names alone, never on places.
func (p *plan) place() error {
	p.descriptors = p.take(3 * Sector)
	if len(p.v.Boot) > 0 {
		p.take(Sector) // a fourth descriptor
		p.catalogue = p.take(Sector)
	}
	for _, s := range []scheme{rockRidge{p.v.Time}, joliet{}} {
		h := newHierarchy(p.v.Root, s)
		if len(h.dirs) > maxDirs {
			return fmt.Errorf("%d directories, at most %d are possible", len(h.dirs), maxDirs)
		}
		h.little, h.big = p.take(h.tableSize), p.take(h.tableSize)
		for _, d := range h.dirs {
			d.start = p.take(d.size + d.overflow)
		}
		p.trees = append(p.trees, h)
	}
	if err := p.placeFiles(); err != nil {
		return err
	}
	p.at += sectors(p.v.Pad)
	if p.at >= 1<<32 {
		return fmt.Errorf("%d bytes are more than a volume holds", p.at*Sector)
	}
	p.out.Size = p.at * Sector
	return nil
}

// placeFiles puts boot images first, in their order: a BIOS may not reach far.
// Files taken from the same file lie there once, but for boot images, which
// are patched when they are written.
func (p *plan) placeFiles() error {
	shared := map[tree.File]int{} // → index in Files
	add := func(at string, n *tree.Node, share bool) {
		if n.Data == nil || n.Data.Size() == 0 {
			return
		}
		src, ok := n.Data.(tree.File)
		if i, seen := shared[src]; seen && ok && share {
			p.starts[n] = p.out.Files[i].At / Sector
			p.out.Files[i].Paths = append(p.out.Files[i].Paths, at)
			return
		}
		if ok && share {
			shared[src] = len(p.out.Files)
		}
		p.starts[n] = p.take(n.Data.Size())
		p.out.Files = append(p.out.Files, File{Chunk{p.starts[n] * Sector, n.Data}, []string{at}})
	}
	for _, b := range p.v.Boot {
		n := p.v.Root.Lookup(b.Path)
		if _, twice := p.starts[n]; !twice {
			add(b.Path, n, false)
		}
	}
	return p.v.Root.Walk(func(at string, n *tree.Node) error {
		if _, done := p.starts[n]; n.Mode.IsRegular() && !done {
			add(at, n, true)
		}
		return nil
	})
}

// encode turns places into bytes.
func (p *plan) encode() {
	meta := func(at int64, b []byte) {
		p.out.Meta = append(p.out.Meta, Chunk{at * Sector, tree.Bytes(b)})
	}
	meta(p.descriptors, p.encodeDescriptors())
	if len(p.v.Boot) > 0 {
		meta(p.catalogue, p.encodeCatalogue())
	}
	for _, h := range p.trees {
		meta(h.little, h.pathTable(little))
		meta(h.big, h.pathTable(big))
		for _, d := range h.dirs {
			meta(d.start, d.encode(dirTime(p.v.Time), p.starts))
		}
	}
}

var (
	reVolume = regexp.MustCompile(`^[A-Z0-9_]{1,32}$`)
	reText   = regexp.MustCompile(`^[A-Z0-9_ !"%&'()*+,./:;<=>?-]{0,128}$`) // a-characters, ECMA-119 7.4.1
)

// check reports everything that a volume cannot hold.
func (v Volume) check() error {
	var errs []error
	fail := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if !reVolume.MatchString(v.ID) {
		fail("%q is not a volume id", v.ID)
	}
	for _, s := range []string{v.Publisher, v.Application} {
		if !reText.MatchString(s) {
			fail("%q is not text for a descriptor", s)
		}
	}
	if y := v.Time.UTC().Year(); y < 1970 || y > 2099 {
		fail("%v is no date for it", v.Time)
	}
	if v.Pad < 0 {
		fail("%d is no size", v.Pad)
	}
	if v.Root == nil || !v.Root.Mode.IsDir() {
		return errors.Join(append(errs, errors.New("it has no root directory"))...)
	}
	for _, b := range v.Boot {
		if n := v.Root.Lookup(b.Path); n == nil || !n.Mode.IsRegular() || n.Data == nil || n.Data.Size() == 0 {
			fail("the boot image %q is not among its files", b.Path)
		} else if path.Clean(b.Path) != b.Path || b.Load < 0 || b.Load > 0xffff {
			fail("the boot image %q cannot be entered", b.Path)
		}
	}
	if len(v.Boot) > maxBoot {
		fail("%d boot images, at most %d are possible", len(v.Boot), maxBoot)
	}
	v.Root.Walk(func(at string, n *tree.Node) error {
		if err := checkNode(n); err != nil {
			fail("%q: %w", at, err)
		}
		return nil
	})
	return errors.Join(errs...)
}

func checkNode(n *tree.Node) error {
	name := n.Name
	switch {
	case name == "" || name == "." || name == ".." || len(name) > maxName || strings.ContainsAny(name, "/\x00") || !utf8.ValidString(name):
		return errors.New("the name is not possible")
	case n.UID < 0 || n.GID < 0 || int64(n.UID) >= 1<<32 || int64(n.GID) >= 1<<32:
		return errors.New("the owner is not possible")
	case n.Mode.IsDir() || n.Mode.IsRegular():
		return nil
	case n.Mode&fs.ModeType != fs.ModeSymlink:
		return fmt.Errorf("%v is neither file, directory nor symbolic link", n.Mode.Type())
	case n.Target == "" || len(n.Target) > maxTarget || strings.Contains(n.Target, "\x00"):
		return errors.New("the target of the link is not possible")
	}
	return nil
}
