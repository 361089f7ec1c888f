package bundle

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// What is wrong with a bundle, each a sentence for a person.
var (
	ErrNoBundle = errors.New("this is no update bundle of Joist")
	ErrTooOld   = errors.New("the update bundle has an old format that this release no longer reads; get the bundle of a newer version")
	ErrTooNew   = errors.New("the update bundle has a format that this release does not know yet; update to a version in between first")
	ErrUnsigned = errors.New("the update bundle is not signed; only bundles that were built with a signing key are taken")
	ErrForged   = errors.New("the update bundle was not signed with this node's key, or was changed afterwards; get it again from whoever built it, and do not use it if that does not help")
	ErrDamaged  = errors.New("the update bundle is damaged; get it again")
	ErrCut      = errors.New("the update bundle ends too early; get it again")
)

// Reader hands out the files of a bundle one after the other, like a reader of
// archives: Next leads to a file, Read reads it. Read returns only bytes whose
// hash was right.
type Reader struct {
	Head   Head
	Signed bool  // the signature is one of the key that was given
	Body   int64 // where the first file begins

	r     *bufio.Reader
	next  int
	at    File   // under way
	piece int    // of at, the next to be read
	left  []byte // checked and not yet handed out
	buf   []byte
	err   error
}

// Open reads a bundle's head and checks that it was signed with the key.
func Open(r io.Reader, key ed25519.PublicKey) (*Reader, error) {
	if len(key) != ed25519.PublicKeySize {
		return nil, errors.New("open update bundle: no key was given to check it with")
	}
	return open(r, key)
}

// OpenUnchecked reads a bundle without caring who made it: for looking at it,
// never for using it. Damage is noticed all the same.
func OpenUnchecked(r io.Reader) (*Reader, error) { return open(r, nil) }

func open(r io.Reader, key ed25519.PublicKey) (*Reader, error) {
	x := &Reader{r: bufio.NewReaderSize(r, 64<<10)}
	message := make([]byte, fixed)
	if _, err := io.ReadFull(x.r, message); err != nil {
		if n := len(bytes.TrimRight(message, "\x00")); ended(err) && n > 0 && bytes.HasPrefix([]byte(magic), message[:min(n, len(magic))]) {
			return nil, ErrCut
		}
		if ended(err) {
			return nil, ErrNoBundle
		}
		return nil, fmt.Errorf("read update bundle: %w", err)
	}
	format, size := binary.LittleEndian.Uint32(message[len(magic):]), binary.LittleEndian.Uint32(message[len(magic)+4:])
	switch {
	case string(message[:len(magic)]) != magic:
		return nil, ErrNoBundle
	case format < oldest:
		return nil, fmt.Errorf("%w (format %d)", ErrTooOld, format)
	case format > current:
		return nil, fmt.Errorf("%w (format %d)", ErrTooNew, format)
	case size > maxHead:
		return nil, fmt.Errorf("%w: its head is said to have %d bytes", ErrDamaged, size)
	}
	// The length is not to be trusted yet: memory follows what really comes.
	var rest bytes.Buffer
	n, err := io.CopyN(&rest, x.r, int64(size)+ed25519.SignatureSize)
	if err != nil {
		return nil, cut(err)
	}
	x.Body = int64(fixed) + n
	text, sig := rest.Bytes()[:size], rest.Bytes()[size:]
	if key != nil {
		switch {
		case bytes.Equal(sig, make([]byte, len(sig))):
			return nil, ErrUnsigned
		case !ed25519.Verify(key, append(message, text...), sig):
			return nil, ErrForged
		}
		x.Signed = true
	}
	if err := json.Unmarshal(text, &x.Head); err != nil {
		return nil, fmt.Errorf("%w: its head cannot be read", ErrDamaged)
	}
	if err := x.Head.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return x, nil
}

// Next leads to the next file, past what was not read of the one before. After
// the last one it returns io.EOF; nothing may follow it.
func (x *Reader) Next() (File, error) {
	if _, err := io.Copy(io.Discard, x); err != nil {
		return File{}, err
	}
	if x.next == len(x.Head.Files) {
		_, err := x.r.ReadByte()
		switch {
		case err == nil:
			x.err = fmt.Errorf("%w: something follows its last file", ErrDamaged)
		case errors.Is(err, io.EOF):
			x.err = io.EOF
		default:
			x.err = fmt.Errorf("read update bundle: %w", err)
		}
		return File{}, x.err
	}
	x.at, x.piece = x.Head.Files[x.next], 0
	x.next++
	return x.at, nil
}

// Read reads the file that Next led to.
func (x *Reader) Read(p []byte) (int, error) {
	if x.err != nil {
		return 0, x.err
	}
	if len(x.left) == 0 {
		if x.piece == len(x.at.Chunks) {
			return 0, io.EOF
		}
		if x.err = x.fill(); x.err != nil {
			return 0, x.err
		}
	}
	n := copy(p, x.left)
	x.left = x.left[n:]
	return n, nil
}

// fill reads and checks a piece.
func (x *Reader) fill() error {
	if x.buf == nil {
		x.buf = make([]byte, chunk)
	}
	piece := x.buf[:min(chunk, x.at.Size-int64(x.piece)*chunk)]
	if _, err := io.ReadFull(x.r, piece); err != nil {
		return cut(err)
	}
	if hash(piece) != x.at.Chunks[x.piece] {
		return fmt.Errorf("%w: %s is not what its head lists", ErrDamaged, x.at.Name)
	}
	x.piece++
	x.left = piece
	return nil
}

// Offset is where a file's content begins in the bundle.
func (x *Reader) Offset(name string) (at int64, f File, ok bool) {
	at = x.Body
	for _, f := range x.Head.Files {
		if f.Name == name {
			return at, f, true
		}
		at += f.Size
	}
	return 0, File{}, false
}

func ended(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// cut tells a bundle that is too short from one that cannot be read.
func cut(err error) error {
	if ended(err) {
		return ErrCut
	}
	return fmt.Errorf("read update bundle: %w", err)
}
