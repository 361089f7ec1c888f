package squashfs

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"path"
	"slices"
	"strings"

	"joist/rootfs/tree"
)

// The bounds of Linux: NAME_MAX, PATH_MAX and the fields of the format.
const (
	maxName   = 255
	maxTarget = 4095
	maxIDs    = math.MaxUint16
)

// noIndex marks a missing fragment or xattr set.
const noIndex = math.MaxUint32

// content is the bytes of one or more files.
type content struct {
	path string // of the first file that has it
	data tree.Source
	size int64
	rank int
	same *content // the content that is stored in its place

	start   uint64 // of the first block in the image
	blocks  []uint32
	holes   uint64 // bytes in blocks of zeros
	frag    uint32 // which fragment block holds the tail, noIndex: none
	fragOff uint32
}

// stored is the content that lies in the image for c.
func (c *content) stored() *content {
	if c.same != nil {
		return c.same
	}
	return c
}

// inode is one inode; a hard link is a second name of it.
type inode struct {
	node     *tree.Node
	number   uint32
	nlink    uint32
	uid, gid uint16 // positions in the id table
	xattr    uint32
	content  *content // regular files
	names    []name   // directories
	ref      uint64   // place in the inode table, 0 before it is written
	written  bool
}

// name is an entry of a directory.
type name struct {
	name string
	*inode
}

// layout is everything about an image that is known before content is read.
type layout struct {
	root     *inode
	inodes   []*inode   // by number, from 1
	contents []*content // in the order of the image
	ids      []uint32
	xattrs   xattrTable
}

// planner collects a layout and what is wrong with the tree.
type planner struct {
	layout
	rank  func(string, *tree.Node) int
	ids   map[uint32]uint16
	links map[linkKey]*inode
	data  map[any]*content
	bad   []error
}

// plan numbers the inodes of a tree, joins hard links and orders content. It
// returns every mistake of the tree, not only the first.
func plan(root *tree.Node, o Options) (*layout, error) {
	p := &planner{rank: o.Order, ids: map[uint32]uint16{}, links: map[linkKey]*inode{}, data: map[any]*content{}}
	if p.rank == nil {
		p.rank = func(string, *tree.Node) int { return 0 }
	}
	if !root.Mode.IsDir() {
		return nil, errors.New("the root of the tree is not a directory")
	}
	linked := linkedContent(root)
	p.root = p.add("/", root, linked)
	if n := len(p.layout.ids); n > maxIDs {
		p.bad = append(p.bad, fmt.Errorf("the tree has %d different owners and groups, squashfs holds %d", n, maxIDs))
	}
	if len(p.bad) > 0 {
		return nil, errors.Join(p.bad...)
	}
	slices.SortStableFunc(p.contents, byImageOrder(int64(o.PackBelow)))
	return &p.layout, nil
}

func (p *planner) fail(at, format string, args ...any) {
	p.bad = append(p.bad, fmt.Errorf("%s: %w", at, fmt.Errorf(format, args...)))
}

// add plans the entry at the path and everything below it.
func (p *planner) add(at string, n *tree.Node, linked map[any]bool) *inode {
	p.checkNode(at, n)
	x, err := p.xattrs.add(n.Xattrs)
	if err != nil {
		p.fail(at, "%w", err)
	}
	key, shared := keyOf(at, n, x, linked)
	if in := p.links[key]; shared && in != nil {
		in.nlink++
		in.content.rank = min(in.content.rank, p.rank(at, n))
		return in
	}
	in := &inode{node: n, number: uint32(len(p.inodes) + 1), nlink: 1, uid: p.id(n.UID), gid: p.id(n.GID), xattr: x}
	p.inodes = append(p.inodes, in)
	if shared {
		p.links[key] = in
	}
	if n.Mode.IsRegular() {
		in.content = p.contentOf(at, n)
	}
	if n.Mode.IsDir() {
		in.nlink++ // its own "."
		for i, c := range n.Children {
			if i > 0 && c.Name <= n.Children[i-1].Name {
				p.fail(path.Join(at, c.Name), "the entry is there twice or out of order, add entries with Put")
			}
			in.names = append(in.names, name{c.Name, p.add(path.Join(at, c.Name), c, linked)})
			if c.Mode.IsDir() {
				in.nlink++
			}
		}
	}
	return in
}

// checkNode finds what squashfs or Linux cannot hold.
func (p *planner) checkNode(at string, n *tree.Node) {
	if at != "/" && (n.Name == "" || n.Name == "." || n.Name == ".." || strings.ContainsAny(n.Name, "/\x00")) {
		p.fail(at, "%q is not a file name", n.Name)
	}
	if len(n.Name) > maxName {
		p.fail(at, "the name is longer than %d bytes", maxName)
	}
	for _, id := range []int{n.UID, n.GID} {
		if id < 0 || int64(id) >= math.MaxUint32 { // (uid_t)-1 means "leave it" to chown(2)
			p.fail(at, "%d is not a user or group id", id)
		}
	}
	switch n.Mode.Type() {
	case 0, fs.ModeDir, fs.ModeNamedPipe, fs.ModeSocket:
	case fs.ModeSymlink:
		if len(n.Target) == 0 || len(n.Target) > maxTarget || strings.Contains(n.Target, "\x00") {
			p.fail(at, "a symbolic link needs a target of 1 to %d bytes without NUL", maxTarget)
		}
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		// new_encode_dev of include/linux/kdev_t.h: 12 and 20 bits.
		if n.Major >= 1<<12 || n.Minor >= 1<<20 {
			p.fail(at, "device %d:%d is outside 4095:1048575", n.Major, n.Minor)
		}
	default:
		p.fail(at, "type %v has no place in squashfs", n.Mode.Type())
	}
	if n.Mode.IsRegular() && n.Data != nil && n.Data.Size() < 0 {
		p.fail(at, "its content says it has %d bytes", n.Data.Size())
	}
}

// id returns the position of a user or group id in the table.
func (p *planner) id(v int) uint16 {
	i, ok := p.ids[uint32(v)]
	if !ok {
		i = uint16(len(p.layout.ids))
		p.ids[uint32(v)] = i
		p.layout.ids = append(p.layout.ids, uint32(v))
	}
	return i
}

// contentOf returns the content of a regular file. Files that share their
// Source share it.
func (p *planner) contentOf(at string, n *tree.Node) *content {
	c := &content{path: at, data: n.Data, rank: p.rank(at, n), frag: noIndex}
	id, ok := identify(n.Data)
	if n.Data != nil {
		c.size = n.Data.Size()
	}
	if old := p.data[id]; ok && old != nil && old.size == c.size {
		old.rank = min(old.rank, c.rank)
		return old
	}
	if ok {
		p.data[id] = c
	}
	if c.size > 0 {
		p.contents = append(p.contents, c)
	}
	return c
}

// linkKey tells names that are one inode.
type linkKey struct {
	data     any
	mode     fs.FileMode
	uid, gid int
	xattr    uint32
}

// emptyLink identifies a file without content by the path its links name.
type emptyLink string

// keyOf says what n shares with its hard links, false when it has none. The
// names of a hard link share their Source, and all but the first say LinkTo;
// the path in LinkTo is of little use, as entries move while an image is made.
func keyOf(at string, n *tree.Node, xattr uint32, linked map[any]bool) (linkKey, bool) {
	if !n.Mode.IsRegular() {
		return linkKey{}, false
	}
	id := linkID(at, n)
	return linkKey{id, n.Mode, n.UID, n.GID, xattr}, linked[id]
}

func linkID(at string, n *tree.Node) any {
	if id, ok := identify(n.Data); ok {
		return id
	}
	return emptyLink(path.Clean("/" + cmp.Or(n.LinkTo, at)))
}

// linkedContent collects what is content of a hard link.
func linkedContent(root *tree.Node) map[any]bool {
	linked := map[any]bool{}
	// The function returns no error, so Walk has none.
	_ = root.Walk(func(at string, n *tree.Node) error {
		if n.Mode.IsRegular() && n.LinkTo != "" {
			linked[linkID(at, n)] = true
		}
		return nil
	})
	return linked
}

// memory identifies bytes by where they lie.
type memory struct {
	first *byte
	n     int
}

// identify returns what is equal for two names of the same Source only.
func identify(s tree.Source) (any, bool) {
	switch s := s.(type) {
	case nil:
		return nil, false
	case tree.Bytes:
		if len(s) == 0 {
			return nil, false
		}
		return memory{&s[0], len(s)}, true
	case tree.File:
		return s, true
	}
	return nil, false
}

// dedupe finds contents that are equal. Only those of the same size are read
// for it; the first in the order of the image is the one that is stored.
func (l *layout) dedupe(ctx context.Context, workers int) error {
	bySize := map[int64]int{}
	for _, c := range l.contents {
		bySize[c.size]++
	}
	type key struct {
		size int64
		sum  [sha256.Size]byte
	}
	type hashed struct {
		*content
		key
	}
	candidates := func(yield func(*content) bool) {
		for _, c := range l.contents {
			if bySize[c.size] > 1 && !yield(c) {
				return
			}
		}
	}
	first := map[key]*content{}
	return inOrder(ctx, workers, 2*workers, candidates, func(c *content) (hashed, error) {
		sum, err := c.hash()
		return hashed{c, key{c.size, sum}}, err
	}, func(h hashed) error {
		if f := first[h.key]; f != nil {
			h.same = f
		} else {
			first[h.key] = h.content
		}
		return nil
	})
}

func (c *content) hash() (sum [sha256.Size]byte, err error) {
	if b, ok := c.data.(tree.Bytes); ok {
		return sha256.Sum256(b), nil
	}
	r, err := c.open()
	if err != nil {
		return sum, err
	}
	defer r.Close()
	h := sha256.New()
	n, err := io.Copy(h, r)
	if err != nil {
		return sum, fmt.Errorf("read %s: %w", c.path, err)
	}
	if n != c.size {
		return sum, fmt.Errorf("read %s: %w", c.path, errSize(c.size, n))
	}
	h.Sum(sum[:0])
	return sum, nil
}

func (c *content) open() (io.ReadCloser, error) {
	r, err := c.data.Open()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", c.path, err)
	}
	return r, nil
}

func errSize(want, got int64) error {
	return fmt.Errorf("it has %d bytes where %d were announced; build again when nothing writes to it", got, want)
}

// byImageOrder compares contents by where they lie in the image. Within a rank
// small files, which share blocks, stand beside those of the same kind: what a
// block repeats is what compresses.
func byImageOrder(packBelow int64) func(a, b *content) int {
	kind := func(c *content) (int, string) {
		if c.size >= packBelow {
			return 1, ""
		}
		return 0, path.Ext(c.path)
	}
	return func(a, b *content) int {
		if c := cmp.Compare(a.rank, b.rank); c != 0 {
			return c
		}
		ka, ea := kind(a)
		kb, eb := kind(b)
		return cmp.Or(cmp.Compare(ka, kb), strings.Compare(ea, eb), strings.Compare(a.path, b.path))
	}
}

// sortedKeys is the deterministic way through a map.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
