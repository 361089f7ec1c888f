package diskimage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// The qcow2 format, version 3 (QEMU's docs/interop/qcow2.rst). All numbers are
// big-endian. Clusters have 64 KiB, reference counts 16 bits.
const (
	qcowMagic    = 0x514649fb
	qcowVersion  = 3
	clusterBits  = 16
	cluster      = 1 << clusterBits
	headerLength = 112
	perL2        = cluster / 8 // entries of a table
	perRefcount  = cluster / 2
	copied       = uint64(1) << 63 // of an entry: one reference, writable in place
	offsetMask   = 0x00fffffffffffe00
)

// qcow is where everything lies in the file, in clusters: the header, the L1
// table, the table of reference counts and their blocks, the L2 tables, data.
type qcow struct {
	l1, refTable, refBlocks, l2 int64 // counts of clusters
	l1Entries, data             int64
}

func (q qcow) total() int64 { return 1 + q.l1 + q.refTable + q.refBlocks + q.l2 + q.data }

func ceil(n, d int64) int64 { return (n + d - 1) / d }

func planQcow(m Image) qcow {
	var q qcow
	q.l1Entries = ceil(ceil(m.Size, cluster), perL2)
	q.l1 = ceil(q.l1Entries*8, cluster)
	q.l2 = int64(len(l2Used(m)))
	for _, x := range m.Extents {
		q.data += ceil(x.Size, cluster)
	}
	for { // counts cover their own blocks
		blocks := ceil(q.total(), perRefcount)
		table := ceil(blocks*8, cluster)
		if blocks == q.refBlocks && table == q.refTable {
			return q
		}
		q.refBlocks, q.refTable = blocks, table
	}
}

// l2Used numbers the L2 tables that have an entry: index in the L1 table → its
// place among those that are written.
func l2Used(m Image) map[int64]int64 {
	used := map[int64]int64{}
	for _, x := range m.Extents {
		for i := x.Offset / cluster / perL2; i <= (x.Offset+x.Size-1)/cluster/perL2; i++ {
			if _, ok := used[i]; !ok {
				used[i] = int64(len(used))
			}
		}
	}
	return used
}

// WriteQcow2 writes the image as qcow2, front to back.
func WriteQcow2(w io.Writer, m Image) error {
	if err := writeQcow2(w, m); err != nil {
		return fmt.Errorf("write qcow2: %w", err)
	}
	return nil
}

func writeQcow2(w io.Writer, m Image) error {
	q, used := planQcow(m), l2Used(m)
	be := binary.BigEndian
	l1At, refAt := int64(1), 1+q.l1
	blocksAt := refAt + q.refTable
	l2At := blocksAt + q.refBlocks
	dataAt := l2At + q.l2

	head := make([]byte, cluster)
	be.PutUint32(head[0:], qcowMagic)
	be.PutUint32(head[4:], qcowVersion)
	be.PutUint32(head[20:], clusterBits)
	be.PutUint64(head[24:], uint64(m.Size))
	be.PutUint32(head[36:], uint32(q.l1Entries))
	be.PutUint64(head[40:], uint64(l1At*cluster))
	be.PutUint64(head[48:], uint64(refAt*cluster))
	be.PutUint32(head[56:], uint32(q.refTable))
	be.PutUint32(head[96:], 4) // 1<<4 bits of a reference count
	be.PutUint32(head[100:], headerLength)

	l1 := make([]byte, q.l1*cluster)
	for i, n := range used {
		be.PutUint64(l1[i*8:], uint64((l2At+n)*cluster)|copied)
	}
	table := make([]byte, q.refTable*cluster)
	for i := range q.refBlocks {
		be.PutUint64(table[i*8:], uint64((blocksAt+i)*cluster))
	}
	counts := make([]byte, q.refBlocks*cluster)
	for i := range q.total() {
		be.PutUint16(counts[i*2:], 1)
	}
	l2 := make([]byte, q.l2*cluster)
	next := dataAt
	for _, x := range m.Extents {
		for c := x.Offset / cluster; c*cluster < x.Offset+x.Size; c++ {
			be.PutUint64(l2[used[c/perL2]*cluster+c%perL2*8:], uint64(next*cluster)|copied)
			next++
		}
	}
	for _, b := range [][]byte{head, l1, table, counts, l2} {
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	for _, x := range m.Extents {
		if _, err := io.Copy(struct{ io.Writer }{w}, io.NewSectionReader(m, x.Offset, x.Size)); err != nil {
			return err
		}
		if rest := ceil(x.Size, cluster)*cluster - x.Size; rest > 0 {
			if _, err := w.Write(make([]byte, rest)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Qcow2 reads an image of this kind: whole clusters, no compression, no
// backing file, no snapshots.
type Qcow2 struct {
	r    io.ReaderAt
	Size int64
	l1   []uint64

	mu sync.Mutex
	l2 map[uint64][]byte // tables that were read
}

// OpenQcow2 opens one. It answers ErrNoImage for what is something else.
func OpenQcow2(r io.ReaderAt) (*Qcow2, error) {
	head := make([]byte, headerLength)
	be := binary.BigEndian
	if _, err := r.ReadAt(head, 0); err != nil || be.Uint32(head) != qcowMagic {
		return nil, ErrNoImage
	}
	q := &Qcow2{r: r, Size: int64(be.Uint64(head[24:])), l2: map[uint64][]byte{}}
	n := int64(be.Uint32(head[36:]))
	switch {
	case be.Uint32(head[4:]) != qcowVersion || be.Uint32(head[20:]) != clusterBits:
		return nil, errors.New("read qcow2: it is not of version 3 with clusters of 64 KiB")
	case be.Uint64(head[8:]) != 0 || be.Uint32(head[32:]) != 0 || be.Uint32(head[60:]) != 0 || be.Uint64(head[72:]) != 0:
		return nil, errors.New("read qcow2: it has a backing file, snapshots, encryption or features that are not supported")
	case q.Size <= 0 || q.Size > maxImage || n < ceil(ceil(q.Size, cluster), perL2) || n > 1<<20:
		return nil, errors.New("read qcow2: its sizes make no sense")
	}
	b := make([]byte, n*8)
	if _, err := r.ReadAt(b, int64(be.Uint64(head[40:]))); err != nil {
		return nil, fmt.Errorf("read qcow2: %w", err)
	}
	for i := range n {
		q.l1 = append(q.l1, be.Uint64(b[i*8:]))
	}
	return q, nil
}

// ReadAt implements io.ReaderAt.
func (q *Qcow2) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("read qcow2: negative offset")
	}
	done := 0
	for done < len(b) {
		at := off + int64(done)
		if at >= q.Size {
			return done, io.EOF
		}
		n := int(min(cluster-at%cluster, int64(len(b)-done), q.Size-at))
		if err := q.piece(b[done:done+n], at); err != nil {
			return done, fmt.Errorf("read qcow2: %w", err)
		}
		done += n
	}
	return done, nil
}

// table is the L2 table at an offset of the file.
func (q *Qcow2) table(at uint64) ([]byte, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if b, ok := q.l2[at]; ok {
		return b, nil
	}
	b := make([]byte, cluster)
	if _, err := q.r.ReadAt(b, int64(at)); err != nil {
		return nil, err
	}
	q.l2[at] = b
	return b, nil
}

// piece reads within one cluster.
func (q *Qcow2) piece(b []byte, at int64) error {
	clear(b)
	i := at / cluster
	table := q.l1[i/perL2] & offsetMask
	if table == 0 {
		return nil
	}
	l2, err := q.table(table)
	if err != nil {
		return err
	}
	e := binary.BigEndian.Uint64(l2[i%perL2*8:])
	switch {
	case e&(1<<62) != 0:
		return errors.New("a cluster is compressed")
	case e&1 != 0 || e&offsetMask == 0:
		return nil
	}
	n, err := q.r.ReadAt(b, int64(e&offsetMask)+at%cluster)
	if n == len(b) || errors.Is(err, io.EOF) && bytes.Equal(b[n:], make([]byte, len(b)-n)) {
		return nil
	}
	return err
}
