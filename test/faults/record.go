package faults

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
)

// Kind is what an Op does.
type Kind int

// Kinds of operations. A trimmed range reads as zeros here; if the trim is
// lost, as what was there.
const (
	Write Kind = iota
	Zero       // write zeroes, or trim
	Flush
)

// Op is one request of the client.
type Op struct {
	Kind           Kind
	Offset, Length int64
	FUA            bool  // durable when it is answered
	at             int64 // of its data in the log
}

func (o Op) end() int64 { return o.Offset + o.Length }

// Disk is a sparse image and the log of what was done to it.
type Disk struct {
	size       int64
	image, log *os.File

	mu   sync.Mutex
	ops  []Op
	used int64 // bytes of the log
}

// Create makes an empty disk, an image at path with its log beside it.
func Create(path string, size int64) (*Disk, error) {
	f, err := newFile(path, size)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return nil, err
	}
	return Open(path)
}

// Open makes a disk of a raw image. Its record tells what is done to it, and
// makes no image of a cut.
func Open(path string) (*Disk, error) {
	image, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	size, err := image.Seek(0, io.SeekEnd)
	if err != nil {
		image.Close()
		return nil, fmt.Errorf("open disk: %w", err)
	}
	log, err := newFile(path+".log", 0)
	if err != nil {
		image.Close()
		return nil, err
	}
	return &Disk{size: size, image: image, log: log}, nil
}

// newFile makes a file of that size without any blocks.
func newFile(path string, size int64) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(size); err != nil {
		f.Close()
		return nil, fmt.Errorf("make disk: %w", err)
	}
	return f, nil
}

// Close lets go of the files; a Record can be used no longer.
func (d *Disk) Close() error {
	err := d.image.Close()
	if lerr := d.log.Close(); err == nil {
		err = lerr
	}
	return err
}

// ReadAt reads what the client would.
func (d *Disk) ReadAt(b []byte, off int64) (int, error) { return d.image.ReadAt(b, off) }

// write does and records a write.
func (d *Disk) write(b []byte, off int64, fua bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.log.WriteAt(b, d.used); err != nil {
		return err
	}
	if _, err := d.image.WriteAt(b, off); err != nil {
		return err
	}
	d.ops = append(d.ops, Op{Kind: Write, Offset: off, Length: int64(len(b)), FUA: fua, at: d.used})
	d.used += int64(len(b))
	return nil
}

// zero does and records a trim or write of zeros.
func (d *Disk) zero(off, length int64, fua bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := punch(d.image, off, length); err != nil {
		return err
	}
	d.ops = append(d.ops, Op{Kind: Zero, Offset: off, Length: length, FUA: fua})
	return nil
}

// flush records a flush.
func (d *Disk) flush() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ops = append(d.ops, Op{Kind: Flush})
}

// Record is what was done so far. Later operations do not change it.
func (d *Disk) Record() Record {
	d.mu.Lock()
	defer d.mu.Unlock()
	return Record{Size: d.size, Ops: slices.Clip(d.ops), log: d.log}
}

// Record is a history of a disk; images are made of one that was empty at first.
type Record struct {
	Size int64
	Ops  []Op
	log  io.ReaderAt
}

// Cut is a moment at which the power goes, and what luck makes of it.
type Cut struct {
	Ops    int    // so many operations were answered
	Seed   uint64 // of the choice among what was not flushed
	Sector int64  // bytes that are written whole or not at all: 512 or 4096
}

// String is the cut as it can be repeated.
func (c Cut) String() string {
	return fmt.Sprintf("%d operations, seed %d, sectors of %d bytes", c.Ops, c.Seed, c.Sector)
}

// RandomCut draws a moment and what is lost then from a seed.
func (r Record) RandomCut(seed uint64, sector int64) Cut {
	return Cut{Ops: rand.New(rand.NewPCG(seed, 1)).IntN(len(r.Ops) + 1), Seed: seed, Sector: sector}
}

// piece is a part of an operation that has reached the disk.
type piece struct {
	op       Op
	from, to int64 // within the operation
}

// survivors are what is on the disk after a cut, oldest first.
func (r Record) survivors(c Cut) []piece {
	ops := r.Ops[:c.Ops]
	flushed := 0 // operations before the last flush
	for i, o := range ops {
		if o.Kind == Flush {
			flushed = i
		}
	}
	luck := rand.New(rand.NewPCG(c.Seed, 2))
	var out []piece
	for i, o := range ops {
		switch {
		case o.Kind == Flush:
		case i < flushed || o.FUA:
			out = append(out, piece{o, 0, o.Length})
		default:
			out = append(out, o.luck(luck, c.Sector)...)
		}
	}
	return out
}

// luck is what becomes of an operation that was not flushed: all of it,
// nothing, or some of its sectors: up to one of them, from one on, or any.
func (o Op) luck(r *rand.Rand, sector int64) []piece {
	n := (o.Length + sector - 1) / sector
	at := func(i int64) int64 { return min(i*sector, o.Length) }
	switch r.IntN(8) {
	case 0, 1, 2:
		return nil
	case 3, 4, 5:
		return []piece{{o, 0, o.Length}}
	case 6:
		cut := r.Int64N(n + 1)
		if r.IntN(2) == 0 {
			return []piece{{o, 0, at(cut)}}
		}
		return []piece{{o, at(cut), o.Length}}
	}
	var out []piece
	for i := int64(0); i < n; {
		run := 1 + r.Int64N(max(n/8, 1))
		if r.IntN(2) == 0 {
			out = append(out, piece{o, at(i), at(i + run)})
		}
		i += run
	}
	return out
}

// Image writes the disk as it is after the cut to a new sparse file.
func (r Record) Image(path string, c Cut) error {
	f, err := newFile(path, r.Size)
	if err != nil {
		return err
	}
	err = r.write(f, c)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("make image of a cut after %v: %w", c, err)
	}
	return nil
}

func (r Record) write(f *os.File, c Cut) error {
	if c.Ops < 0 || c.Ops > len(r.Ops) || c.Sector < 1 {
		return fmt.Errorf("there are %d operations", len(r.Ops))
	}
	buf := make([]byte, 1<<20)
	for _, p := range r.survivors(c) {
		if p.op.Kind == Zero {
			if err := punch(f, p.op.Offset+p.from, p.to-p.from); err != nil {
				return err
			}
			continue
		}
		for at := p.from; at < p.to; at += int64(len(buf)) {
			b := buf[:min(int64(len(buf)), p.to-at)]
			if _, err := r.log.ReadAt(b, p.op.at+at); err != nil {
				return err
			}
			if _, err := f.WriteAt(b, p.op.Offset+at); err != nil {
				return err
			}
		}
	}
	return nil
}
