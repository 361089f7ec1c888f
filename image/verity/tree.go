package verity

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"runtime"
	"sync"
)

// Image is what Append works on; an *os.File is one.
type Image interface {
	io.ReaderAt
	io.WriterAt
}

// Append writes superblock and tree behind the first size bytes of f and
// returns the root hash and the length of the whole. The same data and salt
// give the same bytes; the UUID in the superblock comes from the root hash.
func Append(f Image, size int64, salt []byte) (root string, total int64, err error) {
	if size <= 0 || size%Block != 0 || size/Block > maxBlocks || len(salt) > maxSalt {
		return "", 0, fmt.Errorf("write verity tree: an image of %d bytes with a salt of %d is not possible", size, len(salt))
	}
	s := Superblock{Blocks: size / Block, Salt: salt}
	leaves, err := hashData(f, s.Blocks, salt)
	if err != nil {
		return "", 0, fmt.Errorf("write verity tree: %w", err)
	}
	tree, top := buildTree(leaves, salt)
	sum := sha256.Sum256(append([]byte("joist verity uuid"), top...))
	copy(s.UUID[:], sum[:])
	s.UUID[6], s.UUID[8] = s.UUID[6]&0x0f|0x80, s.UUID[8]&0x3f|0x80 // version 8: made by our own rule (RFC 9562)
	out := append(s.encode(), tree...)
	if _, err := f.WriteAt(out, size); err != nil {
		return "", 0, fmt.Errorf("write verity tree: %w", err)
	}
	return hex.EncodeToString(top), size + int64(len(out)), nil
}

// buildTree stacks the levels on the digests of the data, the highest first as
// they lie on disk, and returns them with the root hash.
func buildTree(digests, salt []byte) (tree, root []byte) {
	h := newHasher(salt)
	for len(digests) > digestSize {
		level := append(digests, make([]byte, (Block-len(digests)%Block)%Block)...)
		tree = append(level[:len(level):len(level)], tree...)
		digests = nil
		for b := level; len(b) > 0; b = b[Block:] {
			digests = h.sum(digests, b[:Block])
		}
	}
	return tree, digests
}

// hasher keeps the digest and its salt.
type hasher struct {
	h    hash.Hash
	salt []byte
}

func newHasher(salt []byte) *hasher { return &hasher{sha256.New(), salt} }

func (h *hasher) sum(dst, block []byte) []byte {
	h.h.Reset()
	h.h.Write(h.salt)
	h.h.Write(block)
	return h.h.Sum(dst)
}

// chunk is how many blocks one worker reads at once.
const chunk = 256

// hashData returns the digests of all data blocks, hashed on every core.
func hashData(r io.ReaderAt, blocks int64, salt []byte) ([]byte, error) {
	out := make([]byte, blocks*digestSize)
	next := make(chan int64)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			h, buf := newHasher(salt), make([]byte, chunk*Block)
			for at := range next {
				n := min(chunk, blocks-at)
				if _, err := r.ReadAt(buf[:n*Block], at*Block); err != nil {
					mu.Lock()
					if first == nil {
						first = fmt.Errorf("read block %d: %w", at, err)
					}
					mu.Unlock()
					continue
				}
				for i := range n {
					h.sum(out[(at+i)*digestSize:(at+i)*digestSize], buf[i*Block:][:Block])
				}
			}
		})
	}
	for at := int64(0); at < blocks; at += chunk {
		next <- at
	}
	close(next)
	wg.Wait()
	return out, first
}

// Damage is the first block that does not match its digest.
type Damage struct {
	Tree  bool  // a block of the tree, else of the data
	Block int64 // counted from the start of the image
}

func (d *Damage) Error() string {
	if d.Tree {
		return fmt.Sprintf("block %d (hash tree) is damaged", d.Block)
	}
	return fmt.Sprintf("block %d is damaged", d.Block)
}

// Verify reads the whole image whose superblock lies at offset and compares it
// with the root hash. A mismatch is a *Damage: tree blocks from the root down
// first, then the first data block.
func Verify(r io.ReaderAt, offset int64, root string) error {
	want, err := parseRoot(root)
	if err != nil {
		return fmt.Errorf("verify image: %w", err)
	}
	b := make([]byte, superSize)
	if _, err := r.ReadAt(b, offset); err != nil {
		return fmt.Errorf("verify image: read superblock: %w", err)
	}
	s, err := ParseSuperblock(b)
	if err != nil {
		return fmt.Errorf("verify image: %w", err)
	}
	if s.Blocks*Block != offset {
		return fmt.Errorf("verify image: the tree covers %d bytes, the image has %d", s.Blocks*Block, offset)
	}
	if want, err = verifyTree(r, s, want); err != nil {
		return fmt.Errorf("verify image: %w", err)
	}
	got, err := hashData(r, s.Blocks, s.Salt)
	if err != nil {
		return fmt.Errorf("verify image: %w", err)
	}
	for i := range s.Blocks {
		if !bytes.Equal(got[i*digestSize:][:digestSize], want[i*digestSize:][:digestSize]) {
			return fmt.Errorf("verify image: %w", &Damage{Block: i})
		}
	}
	return nil
}

// verifyTree walks the levels from the root down and returns the digests of
// the data, now trusted.
func verifyTree(r io.ReaderAt, s Superblock, want []byte) ([]byte, error) {
	h := newHasher(s.Salt)
	at := s.Blocks + 1
	counts := levels(s.Blocks)
	for i := len(counts) - 1; i >= 0; i-- {
		// The image may claim any size: memory grows with what is really there.
		level, err := io.ReadAll(io.NewSectionReader(r, at*Block, counts[i]*Block))
		if err != nil {
			return nil, fmt.Errorf("read hash tree: %w", err)
		}
		if int64(len(level)) != counts[i]*Block {
			return nil, fmt.Errorf("read hash tree: %w", io.ErrUnexpectedEOF)
		}
		for j := range counts[i] {
			if !bytes.Equal(h.sum(nil, level[j*Block:][:Block]), want[j*digestSize:][:digestSize]) {
				return nil, &Damage{Tree: true, Block: at + j}
			}
		}
		want = level
		at += counts[i]
	}
	return want, nil
}

// CheckTree reads the hash tree behind the squashfs image at the start of r and
// compares it with the root hash, but not the data with the tree: two images
// that pass hold the same as far as they are not damaged. It returns the bytes
// that image and tree take.
func CheckTree(r io.ReaderAt, root string) (int64, error) {
	want, err := parseRoot(root)
	if err != nil {
		return 0, fmt.Errorf("check image: %w", err)
	}
	s, at, err := Locate(r)
	if err != nil {
		return 0, fmt.Errorf("check image: %w", err)
	}
	if _, err := verifyTree(r, s, want); err != nil {
		return 0, fmt.Errorf("check image: %w", err)
	}
	return at + TreeSize(at), nil
}
