package iso9660

import (
	"strings"
	"time"
)

// Volume descriptors (ECMA-119 8) and the boot catalogue (El Torito 2).

const (
	typeBoot          = 0
	typePrimary       = 1
	typeSupplementary = 2
	typeEnd           = 255

	jolietEscape = "%/E" // UCS-2 level 3

	maxBoot      = 16 // far below what a sector holds
	platformBIOS = 0
	platformEFI  = 0xef
)

// encodeDescriptors keeps the boot record second: firmware looks for it in
// sector 17 only.
func (p *plan) encodeDescriptors() []byte {
	var b []byte
	b = append(b, p.describe(typePrimary, p.trees[0], func(s string) []byte { return []byte(s) }, " ")...)
	if len(p.v.Boot) > 0 {
		boot := descriptor(typeBoot)
		copy(boot[7:], "EL TORITO SPECIFICATION")
		little.PutUint32(boot[71:], uint32(p.catalogue))
		b = append(b, boot...)
	}
	second := p.describe(typeSupplementary, p.trees[1], encodeUCS2, "\x00 ")
	copy(second[88:], jolietEscape)
	b = append(b, second...)
	return append(b, descriptor(typeEnd)...)
}

func descriptor(kind byte) []byte {
	b := make([]byte, Sector)
	b[0], b[6] = kind, 1
	copy(b[1:], "CD001")
	return b
}

// describe is a primary or supplementary descriptor (ECMA-119 8.4, 8.5). text
// encodes its texts, which blank fills up.
func (p *plan) describe(kind byte, h *hierarchy, text func(string) []byte, blank string) []byte {
	b := descriptor(kind)
	put := func(at, n int, s string) {
		copy(b[at:at+n], strings.Repeat(blank, n))
		copy(b[at:at+n], text(s))
	}
	put(8, 32, "") // system
	put(40, 32, p.v.ID)
	both32(b[80:], p.at)
	both16(b[120:], 1) // volumes of the set
	both16(b[124:], 1) // this one's number
	both16(b[128:], Sector)
	both32(b[132:], h.tableSize)
	little.PutUint32(b[140:], uint32(h.little))
	big.PutUint32(b[148:], uint32(h.big))
	root := record{id: []byte{0}, dir: h.dirs[0]}
	root.encode(b[156:190], dirTime(p.v.Time), nil, nil)
	put(190, 128, "") // set
	put(318, 128, p.v.Publisher)
	put(446, 128, p.v.Publisher) // preparer
	put(574, 128, p.v.Application)
	for _, at := range []int{702, 739, 776} { // copyright, abstract, bibliography
		put(at, 37, "")
	}
	made := longTime(p.v.Time)
	copy(b[813:], made)
	copy(b[830:], made)
	copy(b[847:], noTime) // expiration
	copy(b[864:], noTime) // effective from
	b[881] = 1
	return b
}

// noTime is a date that is not given: digits 0, then the zone.
const noTime = "0000000000000000\x00"

// longTime is a date in a descriptor (ECMA-119 8.4.26.1), in UTC.
func longTime(t time.Time) string { return t.UTC().Format("20060102150405") + "00\x00" }

// encodeCatalogue lists the boot images: the first is the default, every other
// one has a section of its own.
func (p *plan) encodeCatalogue() []byte {
	b := make([]byte, Sector)
	b[0], b[1] = 1, p.v.Boot[0].platform()
	copy(b[4:28], "JOIST")
	b[30], b[31] = 0x55, 0xaa
	var sum uint16
	for i := 0; i < 32; i += 2 {
		sum += little.Uint16(b[i:])
	}
	little.PutUint16(b[28:], -sum) // the words of the entry add up to 0
	for i, image := range p.v.Boot {
		e := b[32+64*i:]
		p.bootEntry(e, image)
		if i == len(p.v.Boot)-1 {
			break
		}
		head := e[32:]
		head[0], head[1] = 0x90, p.v.Boot[i+1].platform()
		if i == len(p.v.Boot)-2 {
			head[0] = 0x91 // the last section
		}
		little.PutUint16(head[2:], 1)
	}
	return b
}

func (i BootImage) platform() byte {
	if i.EFI {
		return platformEFI
	}
	return platformBIOS
}

func (p *plan) bootEntry(e []byte, i BootImage) {
	n := p.v.Root.Lookup(i.Path)
	load := int64(i.Load)
	if load == 0 {
		load = (length(n) + 511) / 512
	}
	if load > 0xffff {
		load = 0 // UEFI 2.10, 13.3.2.1: up to the end of the medium
	}
	e[0] = 0x88 // bootable
	little.PutUint16(e[6:], uint16(load))
	little.PutUint32(e[8:], uint32(p.starts[n]))
}
