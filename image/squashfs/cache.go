package squashfs

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// BlockCache keeps compressed blocks from one build to the next. The key names
// codec and content of a block; an empty value says that the block does not
// shrink. A cache is called from several goroutines and only ever saves time:
// what it has lost or damaged is a miss.
type BlockCache interface {
	Get(key [32]byte) ([]byte, bool)
	Put(key [32]byte, packed []byte)
}

// PackCache is a BlockCache in a folder. Each build that has something new
// adds one pack: blocks one after the other, then an index, renamed into place
// when it is complete. Packs never change, so builds at the same time need no
// lock: each reads the packs that were there when it began.
type PackCache struct {
	dir string

	mu    sync.Mutex
	packs []*pack
	index map[[32]byte]place
	next  *pack // being written, nil before the first Put
	err   error // the first of writing; no Put is tried after it
}

// pack is one file of the cache.
type pack struct {
	path    string
	file    *os.File
	size    int64 // of the blocks; the index follows
	whole   int64 // of the file
	used    time.Time
	touched bool // a block of it was asked for
	damaged bool // one could not be read
}

// place is where a block lies.
type place struct {
	pack *pack
	at   int64
	n    uint32
	sum  uint32
	used bool
}

const (
	packSuffix = ".pack"
	packNew    = ".new-"
	packMagic  = "joistpk1"
	recordSize = 32 + 8 + 4 + 4
	tailSize   = 8 + 8 + 4 + len(packMagic) // blocks' bytes, records, checksum of records, magic
	maxPacks   = 16                         // more are joined by Prune
	maxBlock   = maxBlockSize               // nothing longer was ever put
	staleAfter = 24 * time.Hour             // an unfinished pack this old belongs to no build
)

// OpenCache opens the cache in a folder, which is made where it is missing. A
// pack that cannot be read is as if it were not there.
func OpenCache(dir string) (*PackCache, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("open block cache: %w", err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*"+packSuffix))
	if err != nil {
		return nil, fmt.Errorf("open block cache: %w", err)
	}
	c := &PackCache{dir: dir, index: map[[32]byte]place{}}
	for _, name := range names {
		p, records, err := openPack(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // another build has just joined it to others
		}
		if err != nil {
			os.Remove(name) // damaged: it would only take space
			continue
		}
		c.packs = append(c.packs, p)
		for ; len(records) > 0; records = records[recordSize:] {
			r := records[32:recordSize]
			c.index[[32]byte(records)] = place{pack: p, at: int64(binary.LittleEndian.Uint64(r)), n: binary.LittleEndian.Uint32(r[8:]), sum: binary.LittleEndian.Uint32(r[12:])}
		}
	}
	return c, nil
}

// openPack opens a pack and returns its records.
func openPack(name string) (p *pack, records []byte, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	st, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	p = &pack{path: name, file: f, whole: st.Size(), used: st.ModTime()}
	tail := make([]byte, tailSize)
	if _, err := f.ReadAt(tail, p.whole-int64(tailSize)); err != nil {
		return nil, nil, err
	}
	p.size = int64(binary.LittleEndian.Uint64(tail))
	count := int64(binary.LittleEndian.Uint64(tail[8:]))
	if string(tail[20:]) != packMagic || p.size < 0 || count < 0 || count > p.whole/recordSize || p.size+count*recordSize+int64(tailSize) != p.whole {
		return nil, nil, errors.New("its end is damaged")
	}
	records = make([]byte, count*recordSize)
	if _, err := f.ReadAt(records, p.size); err != nil {
		return nil, nil, err
	}
	if checksum(records) != binary.LittleEndian.Uint32(tail[16:]) {
		return nil, nil, errors.New("its index is damaged")
	}
	return p, records, nil
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// Get implements BlockCache.
func (c *PackCache) Get(key [32]byte) ([]byte, bool) {
	c.mu.Lock()
	p, ok := c.index[key]
	if ok && !p.used {
		p.used, p.pack.touched = true, true
		c.index[key] = p
	}
	c.mu.Unlock()
	if !ok {
		return nil, false
	}
	b, err := p.read()
	if err == nil {
		return b, true
	}
	c.mu.Lock()
	p.pack.damaged = true
	c.mu.Unlock()
	return nil, false
}

func (p place) read() ([]byte, error) {
	if p.n > maxBlock {
		return nil, errors.New("no block is that long")
	}
	b := make([]byte, p.n)
	if _, err := p.pack.file.ReadAt(b, p.at); err != nil {
		return nil, err
	}
	if checksum(b) != p.sum {
		return nil, errors.New("damaged")
	}
	return b, nil
}

// Put implements BlockCache. A block that is there already is written again
// only when it turned out to be damaged.
func (c *PackCache) Put(key [32]byte, packed []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.index[key]; ok {
		if old, err := p.read(); err == nil && bytes.Equal(old, packed) {
			return
		}
	}
	if c.err == nil {
		c.err = c.append(key, packed)
	}
}

func (c *PackCache) append(key [32]byte, packed []byte) error {
	if c.next == nil {
		f, err := os.CreateTemp(c.dir, packNew)
		if err != nil {
			return err
		}
		c.next = &pack{path: f.Name(), file: f, touched: true}
	}
	at := c.next.size
	if _, err := c.next.file.WriteAt(packed, at); err != nil {
		return err
	}
	c.next.size += int64(len(packed))
	c.index[key] = place{pack: c.next, at: at, n: uint32(len(packed)), sum: checksum(packed), used: true}
	return nil
}

// Close keeps what was put and says when that was not possible. The cache is
// of no use afterwards.
func (c *PackCache) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.replaceDamaged()
	now := time.Now()
	for _, p := range c.packs {
		if p.touched {
			// The time of last use is what Prune goes by; a pack that another
			// build removed has none.
			_ = os.Chtimes(p.path, now, now)
		}
		err = errors.Join(err, p.file.Close())
	}
	c.packs, c.index = nil, nil
	if err != nil {
		return fmt.Errorf("keep compressed blocks: %w", err)
	}
	return nil
}

// replaceDamaged keeps what is good of packs with damage elsewhere: they would
// hide what was put in the place of the damaged block.
func (c *PackCache) replaceDamaged() error {
	var victims []*pack
	c.packs = slices.DeleteFunc(c.packs, func(p *pack) bool {
		if p.damaged {
			c.salvage(p, p.whole, func(place) bool { return true })
			victims = append(victims, p)
		}
		return p.damaged
	})
	return errors.Join(c.commit(), discard(victims))
}

// discard removes packs whose blocks are copied or not wanted.
func discard(victims []*pack) (err error) {
	for _, p := range victims {
		err = errors.Join(err, p.file.Close(), removed(p.path))
	}
	return err
}

// commit ends the pack being written and moves it into place. What a full disk
// left of it is removed.
func (c *PackCache) commit() error {
	p := c.next
	c.next = nil
	if p == nil {
		return c.err
	}
	err := c.err
	if err == nil {
		err = c.seal(p)
	}
	if err == nil {
		to := filepath.Join(c.dir, strings.TrimPrefix(filepath.Base(p.path), packNew)+packSuffix)
		if err = os.Link(p.path, to); err == nil { // never over another build's
			os.Remove(p.path)
			p.path, p.used = to, time.Now()
			c.packs = append(c.packs, p)
			return nil
		}
	}
	c.err = err
	for k, v := range c.index {
		if v.pack == p {
			delete(c.index, k)
		}
	}
	return errors.Join(err, p.file.Close(), os.Remove(p.path))
}

// seal writes the index of a pack.
func (c *PackCache) seal(p *pack) error {
	var b []byte
	for k, v := range c.index {
		if v.pack == p {
			b = append(b, k[:]...)
			b = binary.LittleEndian.AppendUint64(b, uint64(v.at))
			b = binary.LittleEndian.AppendUint32(b, v.n)
			b = binary.LittleEndian.AppendUint32(b, v.sum)
		}
	}
	count, sum := len(b)/recordSize, checksum(b)
	b = binary.LittleEndian.AppendUint64(b, uint64(p.size))
	b = binary.LittleEndian.AppendUint64(b, uint64(count))
	b = binary.LittleEndian.AppendUint32(b, sum)
	b = append(b, packMagic...)
	_, err := p.file.WriteAt(b, p.size)
	p.whole = p.size + int64(len(b))
	return err
}

// Prune brings the cache below maxBytes and into few files. What this build
// used stays, as long as it fits; of the rest the packs longest unused go.
func (c *PackCache) Prune(maxBytes int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.commit(); err != nil {
		return fmt.Errorf("prune block cache: %w", err)
	}
	slices.SortFunc(c.packs, func(a, b *pack) int { return cmp.Or(a.used.Compare(b.used), strings.Compare(a.path, b.path)) })
	var total, kept int64
	for _, p := range c.packs {
		total += p.whole
	}
	var victims []*pack
	for len(c.packs) > 0 && total+kept > maxBytes {
		p := c.packs[0]
		n := c.salvage(p, maxBytes-kept, func(v place) bool { return v.used })
		total, kept = total-p.whole, kept+n
		victims, c.packs = append(victims, p), c.packs[1:]
	}
	// Joining is for the speed of opening; the smallest cost least to copy.
	if len(c.packs) > maxPacks {
		slices.SortFunc(c.packs, func(a, b *pack) int { return cmp.Or(cmp.Compare(a.whole, b.whole), strings.Compare(a.path, b.path)) })
		small := c.packs[:len(c.packs)-maxPacks/2]
		for _, p := range small {
			c.salvage(p, p.whole, func(place) bool { return true })
		}
		victims, c.packs = append(victims, small...), slices.Clone(c.packs[len(small):])
	}
	// What was copied is in place before the packs it came from go.
	if err := errors.Join(c.commit(), discard(victims), c.removeStale()); err != nil {
		return fmt.Errorf("prune block cache: %w", err)
	}
	return nil
}

// salvage copies the wanted blocks of a pack to the one being written, up to
// room bytes, forgets the others and returns how much it copied.
func (c *PackCache) salvage(p *pack, room int64, want func(place) bool) (copied int64) {
	for k, v := range c.index {
		if v.pack != p {
			continue
		}
		delete(c.index, k)
		cost := int64(v.n) + recordSize
		if b, err := v.read(); want(v) && err == nil && copied+cost <= room && c.err == nil {
			if c.err = c.append(k, b); c.err == nil {
				copied += cost
			}
		}
	}
	return copied
}

// removeStale removes what builds that were killed left unfinished.
func (c *PackCache) removeStale() error {
	names, err := filepath.Glob(filepath.Join(c.dir, packNew+"*"))
	for _, name := range names {
		if st, e := os.Stat(name); e == nil && time.Since(st.ModTime()) > staleAfter {
			err = errors.Join(err, removed(name))
		}
	}
	return err
}

func removed(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
