// Package squashfs writes squashfs 4.0 file systems from a tree in memory.
//
// Write is a pipeline: content is read in the order of the image, compressed
// on every core and written in the order of the image again, with a bounded
// number of blocks under way. The bytes depend on the tree and the options
// alone, never on the number of workers, the clock or who runs it. A block
// cache lets the next build compress only what changed.
//
// The format has no standard; fs/squashfs/squashfs_fs.h and the sanity checks
// of fs/squashfs/super.c in Linux are what the layout follows.
package squashfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"runtime"
	"time"

	"joist/rootfs/tree"
)

// DefaultBlockSize is what Linux and mksquashfs have by default.
const DefaultBlockSize = 128 << 10

// The bounds of a block in Linux (SQUASHFS_FILE_MAX_SIZE and a page).
const (
	minBlockSize = 4 << 10
	maxBlockSize = 1 << 20
)

// Options say how a tree is written. The zero value is usable.
type Options struct {
	Time      time.Time // of the image and of every entry
	Level     int       // of Zstd, when Codec is not given; 0 is DefaultLevel
	Codec     Codec     // what compresses; the zero value is Zstd(Level)
	BlockSize int       // a power of two; 0 is DefaultBlockSize
	Workers   int       // 0 is one a core
	Cache     BlockCache

	// Order ranks the files of the image: lower ranks lie nearer to its start,
	// so that what a boot reads is read in one sweep. Files of the same rank
	// are grouped so that they compress well. Nil ranks all the same.
	Order func(path string, n *tree.Node) int

	// PackBelow is the size in bytes from which files no longer share blocks
	// (fragments) with others. 0 is the block size, a negative one packs none.
	PackBelow int

	Export   bool                    // write the table that NFS needs to export the image
	Progress func(done, total int64) // bytes of content; called from one goroutine
}

// Stats tell what an image consists of.
type Stats struct {
	Inodes     int
	Files      int   // regular files, each inode once
	Duplicates int   // of them, those whose content another one holds
	Content    int64 // bytes of content read, duplicates once
	Blocks     int   // data blocks stored, fragment blocks among them
	Cached     int   // of them, those that came from the cache
	Raw        int   // of them, those that compression did not shrink
	Holes      int   // blocks of zeros, which take no space
	Fragments  int   // blocks that several files share
	Size       int64 // of the image, padding included
}

// ErrOptions marks errors of the caller's options.
var ErrOptions = errors.New("squashfs options")

// withDefaults checks the options and fills in what was left out.
func (o Options) withDefaults() (Options, error) {
	o.BlockSize = cmp.Or(o.BlockSize, DefaultBlockSize)
	if o.BlockSize < minBlockSize || o.BlockSize > maxBlockSize || bits.OnesCount(uint(o.BlockSize)) != 1 {
		return o, fmt.Errorf("%w: a block of %d bytes is not possible, take a power of two from %d to %d", ErrOptions, o.BlockSize, minBlockSize, maxBlockSize)
	}
	if o.Time.IsZero() {
		o.Time = time.Unix(0, 0)
	}
	if s := o.Time.Unix(); s < 0 || s > math.MaxUint32 {
		return o, fmt.Errorf("%w: time %v is outside 1970 to 2106", ErrOptions, o.Time)
	}
	if o.Codec.Compressor == nil {
		c, err := Zstd(cmp.Or(o.Level, DefaultLevel), o.BlockSize)
		if err != nil {
			return o, err
		}
		o.Codec = c
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.PackBelow == 0 || o.PackBelow > o.BlockSize {
		o.PackBelow = o.BlockSize
	}
	return o, nil
}

// Write puts the image of root at the start of w, padded to 4 KiB; what lies
// behind is left alone. The superblock is written last: an interrupted Write
// leaves nothing that could be mounted.
func Write(ctx context.Context, w io.WriterAt, root *tree.Node, o Options) (Stats, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Stats{}, fmt.Errorf("write squashfs: %w", err)
	}
	l, err := plan(root, o)
	if err != nil {
		return Stats{}, fmt.Errorf("write squashfs: %w", err)
	}
	if err := l.dedupe(ctx, o.Workers); err != nil {
		return Stats{}, fmt.Errorf("write squashfs: %w", err)
	}
	img := &image{Options: o, layout: l, out: &output{w: w}}
	if err := img.write(ctx); err != nil {
		return Stats{}, fmt.Errorf("write squashfs: %w", err)
	}
	return img.stats, nil
}
