package squashfs

import (
	"fmt"

	"github.com/klauspost/compress/zstd"

	"joist/image/squashfs/blockzstd"
)

// Compressor compresses blocks. Each result is one zstd frame that holds the
// length of its content; the same block always gives the same bytes. It is
// called from several goroutines at once.
type Compressor interface {
	// Compress appends the frame of src to dst.
	Compress(dst, src []byte) ([]byte, error)
}

// Codec is a compressor with what the cache and the image say of it.
type Codec struct {
	Compressor
	Name  string // tells blocks of one codec, version and level from all others
	Level int    // on the scale of zstd(1), for unsquashfs -s; 0: not said
}

// DefaultLevel is the one above which smaller costs more than it saves.
const DefaultLevel = 9

// The versions of the compressors are part of the name under which blocks are
// cached: another version may compress otherwise. Tests compare them with
// go.mod and with a known result.
const (
	libraryVersion = "v1.20.3"
	ownVersion     = 1
)

// The levels of zstd(1) and what stands for them: the library up to its
// "better", and from there blockzstd, whose blocks are smaller than those of
// the library's "best" for less time.
var levels = []struct {
	upTo    int
	library zstd.EncoderLevel
	own     blockzstd.Effort
}{
	{upTo: 2, library: zstd.SpeedFastest},
	{upTo: 5, library: zstd.SpeedDefault},
	{upTo: 7, library: zstd.SpeedBetterCompression},
	{upTo: 9, own: blockzstd.Effort{Lazy: true, Depth: 1, Nice: 16}},
	{upTo: 11, own: blockzstd.Effort{Lazy: true, Depth: 3, Nice: 24}},
	{upTo: 14, own: blockzstd.Effort{Depth: 4, Nice: 32, Skim: 128}},
	{upTo: 18, own: blockzstd.Effort{Depth: 32, Nice: 128, Skim: 64}},
	{upTo: 22, own: blockzstd.Effort{Tree: true, Depth: 64, Nice: 256}},
}

// Zstd compresses blocks of up to blockSize bytes about as small as a level of
// zstd(1) does, or smaller.
func Zstd(level, blockSize int) (Codec, error) {
	if level < 1 || level > 22 {
		return Codec{}, fmt.Errorf("%w: zstd has levels 1 to 22, not %d", ErrOptions, level)
	}
	i := 0
	for level > levels[i].upTo {
		i++
	}
	l := levels[i]
	if l.library == 0 {
		return Codec{Compressor: blockzstd.New(l.own), Name: fmt.Sprintf("blockzstd %d %+v", ownVersion, l.own), Level: level}, nil
	}
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(l.library), zstd.WithEncoderCRC(false),
		// Nothing lies further back than a block; a larger window only costs time.
		zstd.WithWindowSize(blockSize), zstd.WithSingleSegment(true), zstd.WithAllLitEntropyCompression(true))
	if err != nil {
		return Codec{}, fmt.Errorf("make zstd encoder: %w", err)
	}
	return Codec{Compressor: library{e}, Name: fmt.Sprintf("klauspost/compress %s %s", libraryVersion, l.library), Level: level}, nil
}

type library struct{ *zstd.Encoder }

func (l library) Compress(dst, src []byte) ([]byte, error) { return l.EncodeAll(src, dst), nil }
