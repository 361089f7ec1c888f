package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"unicode/utf16"
)

// Extent is a file that lies in one piece.
type Extent struct{ Offset, Size int64 }

// fatReader reads a FAT16 or FAT32 volume that somebody else may have written.
type fatReader struct {
	r        io.ReaderAt
	bits     int
	cluster  int64 // bytes
	fat      int64 // offset of the first FAT
	root     int64 // FAT16: offset of the root directory
	rootSize int64
	rootAt   int64 // FAT32: first cluster of the root directory
	data     int64 // offset of cluster 2
	clusters int64
}

const maxDirBytes = 65536 * direntSize

// LocateFAT finds a file in a FAT volume and says where its bytes lie, so that
// a file of fixed size (the boot environment) is changed in place without
// mounting. It is an error when the file is in pieces. The volume must not be
// mounted for writing meanwhile: the kernel's cache would not notice.
func LocateFAT(r io.ReaderAt, path string) (Extent, error) {
	e, err := locateFAT(r, path)
	if err != nil {
		return e, fmt.Errorf("find %q in FAT volume: %w", path, err)
	}
	return e, nil
}

func locateFAT(r io.ReaderAt, path string) (Extent, error) {
	f, err := openFAT(r)
	if err != nil {
		return Extent{}, err
	}
	dir, err := f.rootDir()
	if err != nil {
		return Extent{}, err
	}
	names := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for i, name := range names {
		e, ok := findEntry(dir, name)
		last := i == len(names)-1
		if !ok || e.dir == last {
			return Extent{}, fmt.Errorf("there is no %q: %w", name, fs.ErrNotExist)
		}
		chain, err := f.chain(e.cluster, ceil(e.size, f.cluster), last)
		if err != nil {
			return Extent{}, err
		}
		if last {
			for j, c := range chain {
				if c != chain[0]+int64(j) {
					return Extent{}, errors.New("the file is in pieces")
				}
			}
			if len(chain) == 0 {
				return Extent{}, errors.New("the file is empty")
			}
			return Extent{Offset: f.offset(chain[0]), Size: e.size}, nil
		}
		if dir, err = f.read(chain); err != nil {
			return Extent{}, err
		}
	}
	return Extent{}, errors.New("no name given")
}

func (f *fatReader) offset(c int64) int64 { return f.data + (c-firstCluster)*f.cluster }

func openFAT(r io.ReaderAt) (*fatReader, error) {
	b := make([]byte, 512)
	if _, err := r.ReadAt(b, 0); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	ss, per, fats := int64(le.Uint16(b[11:])), int64(b[13]), int64(b[16])
	if b[510] != 0x55 || b[511] != 0xaa || ss < 512 || ss > 4096 || ss&(ss-1) != 0 || per == 0 || per&(per-1) != 0 || fats == 0 || fats > 2 {
		return nil, errors.New("this is no FAT volume")
	}
	total, size := int64(le.Uint16(b[19:])), int64(le.Uint16(b[22:]))
	if total == 0 {
		total = int64(le.Uint32(b[32:]))
	}
	if size == 0 {
		size = int64(le.Uint32(b[36:]))
	}
	f := &fatReader{r: r, cluster: ss * per, fat: int64(le.Uint16(b[14:])) * ss, bits: 16}
	f.root = f.fat + fats*size*ss
	f.rootSize = ceil(int64(le.Uint16(b[17:]))*direntSize, ss) * ss
	f.data = f.root + f.rootSize
	f.clusters = (total*ss - f.data) / f.cluster
	switch {
	case f.fat == 0 || size == 0 || f.clusters < 4085:
		return nil, errors.New("this is no FAT16 or FAT32 volume")
	case f.clusters >= 65525:
		f.bits, f.rootAt = 32, int64(le.Uint32(b[44:]))
	}
	f.clusters = min(f.clusters, size*ss*8/int64(f.bits)-firstCluster)
	return f, nil
}

func (f *fatReader) rootDir() ([]byte, error) {
	if f.bits == 16 {
		b := make([]byte, f.rootSize)
		_, err := f.r.ReadAt(b, f.root)
		return b, err
	}
	chain, err := f.chain(f.rootAt, 0, false)
	if err != nil {
		return nil, err
	}
	return f.read(chain)
}

// chain follows the FAT from cluster c. exact asks for n clusters; otherwise
// the chain's own end counts, up to the largest directory.
func (f *fatReader) chain(c, n int64, exact bool) ([]int64, error) {
	limit := maxDirBytes/f.cluster + 1
	if exact {
		limit = n
	}
	var out []int64
	entry := make([]byte, f.bits/8)
	for int64(len(out)) < limit {
		if c < firstCluster || c >= f.clusters+firstCluster {
			return nil, errors.New("the chain of clusters is damaged")
		}
		out = append(out, c)
		if _, err := f.r.ReadAt(entry, f.fat+c*int64(len(entry))); err != nil {
			return nil, err
		}
		end := int64(0xfff8)
		if f.bits == 16 {
			c = int64(binary.LittleEndian.Uint16(entry))
		} else {
			c, end = int64(binary.LittleEndian.Uint32(entry)&0x0fffffff), 0x0ffffff8
		}
		if c >= end {
			if exact && int64(len(out)) < n {
				return nil, errors.New("the file is shorter than its entry says")
			}
			return out, nil
		}
	}
	if !exact {
		return nil, errors.New("the directory is too large")
	}
	return out, nil
}

func (f *fatReader) read(chain []int64) ([]byte, error) {
	b := make([]byte, 0, int64(len(chain))*f.cluster)
	for _, c := range chain {
		b = b[:int64(len(b))+f.cluster]
		if _, err := f.r.ReadAt(b[int64(len(b))-f.cluster:], f.offset(c)); err != nil {
			return nil, err
		}
	}
	return b, nil
}

type dirent struct {
	name    string
	short   string
	dir     bool
	cluster int64
	size    int64
}

// findEntry looks for name, long or short, in the bytes of a directory.
func findEntry(dir []byte, name string) (dirent, bool) {
	for _, e := range dirents(dir) {
		if strings.EqualFold(e.short, name) || strings.EqualFold(e.name, name) {
			return e, true
		}
	}
	return dirent{}, false
}

// dirents are the entries of a directory, labels and deleted ones left out.
// name is the long name, or the short one where there is none.
func dirents(dir []byte) []dirent {
	le := binary.LittleEndian
	var out []dirent
	var long []uint16
	for ; len(dir) >= direntSize && dir[0] != 0; dir = dir[direntSize:] {
		e := dir[:direntSize]
		switch {
		case e[0] == 0xe5:
			long = nil
			continue
		case e[11] == attrLong:
			part := make([]uint16, 0, longUnits)
			for _, off := range longOffsets() {
				part = append(part, le.Uint16(e[off:]))
			}
			long = append(part, long...)
			continue
		case e[11]&attrLabel != 0:
			long = nil
			continue
		}
		for i, u := range long {
			if u == 0 {
				long = long[:i]
				break
			}
		}
		x := dirent{short: shortName(e), dir: e[11]&attrDir != 0, cluster: int64(le.Uint16(e[20:]))<<16 | int64(le.Uint16(e[26:])), size: int64(le.Uint32(e[28:]))}
		if x.name = x.short; len(long) > 0 {
			x.name = string(utf16.Decode(long))
		}
		out = append(out, x)
		long = nil
	}
	return out
}

// shortName is the 8.3 name as it is shown: two bits say that its parts are in
// lower case.
func shortName(e []byte) string {
	part := func(b []byte, lower byte) string {
		s := strings.TrimRight(string(b), " ")
		if e[12]&lower != 0 {
			s = strings.ToLower(s)
		}
		return s
	}
	base := part(e[:8], 0x08)
	if ext := part(e[8:11], 0x10); ext != "" {
		base += "." + ext
	}
	return base
}
