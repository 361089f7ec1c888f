package diskimage

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
)

// hole is how many zeros a frame of the compressed image stands for at most.
const hole = 64 << 20

// WriteZstd writes the raw image, compressed (RFC 8878). What holds nothing is
// not read: frames of zeros that were made once stand for it. The system inside
// is compressed already, so the quickest level does.
func WriteZstd(w io.Writer, m Image) error {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithZeroFrames(true))
	if err != nil {
		return fmt.Errorf("compress disk image: %w", err)
	}
	defer z.Close()
	full := z.EncodeAll(make([]byte, hole), nil)
	skip := func(n int64) error {
		for ; n >= hole; n -= hole {
			if _, err := w.Write(full); err != nil {
				return err
			}
		}
		if n == 0 {
			return nil
		}
		_, err := w.Write(z.EncodeAll(make([]byte, n), nil))
		return err
	}
	var at int64
	for _, x := range m.Extents {
		err := skip(x.Offset - at)
		if err == nil {
			z.Reset(w)
			_, err = io.Copy(struct{ io.Writer }{z}, io.NewSectionReader(m, x.Offset, x.Size))
		}
		if err == nil {
			err = z.Close()
		}
		if err != nil {
			return fmt.Errorf("compress disk image: %w", err)
		}
		at = x.Offset + x.Size
	}
	if err := skip(m.Size - at); err != nil {
		return fmt.Errorf("compress disk image: %w", err)
	}
	return nil
}

// ErrNoImage says that a file is no disk image.
var ErrNoImage = errors.New("it is no disk image")

const (
	zstdMagic = 0xfd2fb528
	maxImage  = 1 << 40 // of what is unpacked
)

// IsZstd says whether a file begins with a frame of Zstandard.
func IsZstd(r io.ReaderAt) bool {
	b := make([]byte, 4)
	_, err := r.ReadAt(b, 0)
	return err == nil && binary.LittleEndian.Uint32(b) == zstdMagic
}

// Unpack writes a compressed raw image into an empty file, which stays sparse.
// table says after the first 8 KiB whether it is one.
func Unpack(r io.Reader, to *os.File, table func(head []byte) bool) (int64, error) {
	z, err := zstd.NewReader(bufio.NewReaderSize(r, 1<<20), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return 0, fmt.Errorf("unpack disk image: %w", err)
	}
	defer z.Close()
	buf := make([]byte, unit)
	for at := int64(0); ; {
		n, err := io.ReadFull(z, buf)
		if at == 0 && (n < 8192 || !table(buf[:8192])) {
			return 0, ErrNoImage
		}
		if n > 0 && !zero(buf[:n]) {
			if _, werr := to.WriteAt(buf[:n], at); werr != nil {
				return 0, fmt.Errorf("unpack disk image: %w", werr)
			}
		}
		at += int64(n)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return at, to.Truncate(at)
		case err != nil:
			return 0, fmt.Errorf("unpack disk image: %w", err)
		case at > maxImage:
			return 0, fmt.Errorf("unpack disk image: it is larger than %d bytes", int64(maxImage))
		}
	}
}
