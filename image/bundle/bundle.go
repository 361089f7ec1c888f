// Package bundle writes and reads update bundles: one file with all that a
// slot of a node needs, which says what it holds before it holds it. A reader
// that knows the key hands out nothing that the key's owner did not sign.
//
//	0    "JOISTUPD"
//	8    format, 4 bytes, little endian
//	12   length of the head, 4 bytes, little endian
//	16   head: JSON, with size and hashes of each file
//	     Ed25519 signature (RFC 8032) of all before it, 64 bytes; zeros: unsigned
//	     the files, in the order of the head, without gaps
//
// Each file has a hash for every piece of 1 MiB, so that a stream can be
// written to a disk as it comes: what does not fit is noticed before it is
// handed out, not at the end.
package bundle

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"

	"joist/image/boot"
	"joist/rootfs/tree"
)

// Suffix ends the names of bundles.
const Suffix = ".update"

const (
	magic   = "JOISTUPD"
	fixed   = len(magic) + 8
	oldest  = 1 // format that is still read
	current = 1 // format that is written

	chunk    = 1 << 20
	maxHead  = 4 << 20
	maxFiles = 64
	maxSize  = 16 << 30 // of one file: no slot is larger
)

// Head says what a bundle holds.
type Head struct {
	Manifest boot.Manifest `json:"manifest"`
	Files    []File        `json:"files"`
}

// File is one file of a bundle: one of boot.Manifest, or one of a loader.
type File struct {
	Name   string   `json:"name"`
	Size   int64    `json:"size"`
	SHA256 string   `json:"sha256"`
	Chunks []string `json:"chunks"` // SHA-256 of each MiB
}

var (
	reName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
	reHash = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// check refuses what cannot be a bundle, whoever signed it.
func (h Head) check() error {
	if err := h.Manifest.Validate(); err != nil {
		return err
	}
	if len(h.Files) > maxFiles {
		return fmt.Errorf("it lists %d files, more than %d", len(h.Files), maxFiles)
	}
	seen := map[string]bool{}
	for _, f := range h.Files {
		switch {
		case !reName.MatchString(f.Name) || seen[f.Name]:
			return fmt.Errorf("%q is not the name of a file, or listed twice", f.Name)
		case f.Size <= 0 || f.Size > maxSize || int64(len(f.Chunks)) != (f.Size+chunk-1)/chunk:
			return fmt.Errorf("size and hashes of %s do not fit together", f.Name)
		case !reHash.MatchString(f.SHA256):
			return fmt.Errorf("%s has no hash", f.Name)
		}
		for _, c := range f.Chunks {
			if !reHash.MatchString(c) {
				return fmt.Errorf("a piece of %s has no hash", f.Name)
			}
		}
		seen[f.Name] = true
		if m, ok := h.Manifest.Files[f.Name]; ok && m != (boot.File{Size: f.Size, SHA256: f.SHA256}) {
			return fmt.Errorf("its manifest speaks of another %s", f.Name)
		}
	}
	for name := range h.Manifest.Files {
		if !seen[name] {
			return fmt.Errorf("it has no %s", name)
		}
	}
	return nil
}

// Content is a file to be put into a bundle.
type Content struct {
	Name string
	Data tree.Source
}

// Sign signs the head. It returns nil for an unsigned bundle.
type Sign func(message []byte) ([]byte, error)

// Write writes a bundle. The same manifest, files and key give the same bytes.
func Write(w io.Writer, m boot.Manifest, files []Content, sign Sign) error {
	h := Head{Manifest: m}
	for _, c := range files {
		f, err := measure(c)
		if err != nil {
			return fmt.Errorf("bundle %s: %w", c.Name, err)
		}
		h.Files = append(h.Files, f)
	}
	if err := h.check(); err != nil {
		return fmt.Errorf("make bundle: %w", err)
	}
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	message := append(le.AppendUint32(le.AppendUint32([]byte(magic), current), uint32(len(text))), text...)
	sig, err := sign(message)
	if err != nil {
		return err
	}
	if sig == nil {
		sig = make([]byte, ed25519.SignatureSize)
	}
	if len(sig) != ed25519.SignatureSize {
		return errors.New("make bundle: the signature is not of Ed25519")
	}
	if _, err := w.Write(append(message, sig...)); err != nil {
		return err
	}
	for i, c := range files {
		if err := copyFile(w, c.Data, h.Files[i].Size); err != nil {
			return fmt.Errorf("bundle %s: %w", c.Name, err)
		}
	}
	return nil
}

// measure reads a file for its hashes.
func measure(c Content) (File, error) {
	f := File{Name: c.Name, Size: c.Data.Size()}
	r, err := c.Data.Open()
	if err != nil {
		return f, err
	}
	defer r.Close()
	whole := sha256.New()
	buf := make([]byte, chunk)
	var n int64
	for n < f.Size {
		piece := buf[:min(chunk, f.Size-n)]
		if _, err := io.ReadFull(r, piece); err != nil {
			return f, fmt.Errorf("it is shorter than it was: %w", err)
		}
		whole.Write(piece)
		f.Chunks = append(f.Chunks, hash(piece))
		n += int64(len(piece))
	}
	f.SHA256 = hex.EncodeToString(whole.Sum(nil))
	return f, nil
}

func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func copyFile(w io.Writer, s tree.Source, size int64) error {
	r, err := s.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.CopyN(w, r, size)
	return err
}
