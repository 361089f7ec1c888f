package squashfs

import (
	"bytes"
	"fmt"
	"io/fs"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"joist/rootfs/tree"
)

// script makes a tree of the bytes a fuzzer gives: each entry takes a few of
// them for its kind, name, owner, size and content.
type script []byte

func (s *script) next() int {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return int(b)
}

// number is one of very different sizes.
func (s *script) number() int {
	n := s.next()
	for range n % 3 {
		n = n<<8 | s.next()
	}
	return n
}

func (s *script) node(block int) *tree.Node {
	n := &tree.Node{Mode: fs.FileMode(s.number()) & 0o777, UID: s.number(), GID: s.number()}
	kind := s.next()
	for i, bit := range []fs.FileMode{fs.ModeSetuid, fs.ModeSetgid, fs.ModeSticky} {
		if kind>>(5+i)&1 != 0 {
			n.Mode |= bit
		}
	}
	switch kind % 16 {
	case 0:
		n.Mode |= fs.ModeDir
	case 1:
		n.Mode |= fs.ModeSymlink
		n.Target = fmt.Sprintf("%0*d", 1+s.number()%4000, s.next())
	case 2:
		n.Mode |= fs.ModeDevice
		n.Major, n.Minor = uint32(s.number()&0xfff), uint32(s.number()&0xfffff)
	case 3:
		n.Mode |= fs.ModeDevice | fs.ModeCharDevice
		n.Major, n.Minor = uint32(s.number()&0xfff), uint32(s.number()&0xfffff)
	case 4:
		n.Mode |= fs.ModeNamedPipe
	case 5:
		n.Mode |= fs.ModeSocket
	case 6, 7: // around the edge of a block
		n.Data = noise(uint64(s.next()), max(0, block*(s.next()%4)+s.next()-128))
	case 8:
		n.Data = make(tree.Bytes, s.number()%(4*block))
	default:
		n.Data = text(uint64(s.next()), s.number()%(4*block))
	}
	for range s.next() % 4 {
		if n.Xattrs == nil {
			n.Xattrs = map[string]string{}
		}
		prefix := []string{"user.", "trusted.", "security."}[s.next()%3]
		n.Xattrs[prefix+fmt.Sprint(s.next())] = string(noise(uint64(s.next()), s.number()%2000))
	}
	return n
}

// memFile is a file in memory.
type memFile []byte

func (m *memFile) WriteAt(p []byte, at int64) (int, error) {
	if end := int(at) + len(p); end > len(*m) {
		*m = append(*m, make([]byte, end-len(*m))...)
	}
	return copy((*m)[at:], p), nil
}

// FuzzRoundTrip: what is written is read back, whatever the tree and the
// options are.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte("a few entries of all kinds, whatever these letters come to when they are numbers"))
	seed := make([]byte, 0, 2000)
	for i := range cap(seed) {
		seed = append(seed, byte(i*7919>>3))
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, b []byte) {
		s := script(b)
		o := Options{Time: time.Unix(int64(s.number()), 0), Level: 1 + s.next()%4, BlockSize: minBlockSize << (s.next() % 3), PackBelow: s.number() - 10, Export: s.next()%2 == 1, Workers: 1 + s.next()%3}
		root := tree.New()
		var first *tree.Node
		var firstPath string
		for i := 0; len(s) > 0 && i < 24; i++ {
			dir := []string{"/", "/a/", "/a/b/", "/z/"}[s.next()%4]
			p := dir + fmt.Sprintf("%0*d", 1+s.next()%250, i)
			n := s.node(o.BlockSize)
			if first != nil && s.next()%8 == 0 {
				n = &tree.Node{Mode: first.Mode, UID: first.UID, GID: first.GID, Data: first.Data, Xattrs: first.Xattrs, LinkTo: firstPath}
			}
			if err := root.Set(p, n); err != nil {
				t.Fatal(err)
			}
			if first == nil && n.Mode.IsRegular() {
				first, firstPath = n, p
			}
		}
		var out memFile
		if _, err := Write(t.Context(), &out, root, o); err != nil {
			t.Fatal(err)
		}
		img, err := Open(bytes.NewReader(out))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(lines(t, root), lines(t, img.Root)); diff != "" {
			t.Error(diff)
		}
	})
}
