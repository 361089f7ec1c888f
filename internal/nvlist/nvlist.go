// Package nvlist reads the lists of names and values in which OpenZFS describes
// a pool on each of its devices.
package nvlist

import (
	"encoding/binary"
	"errors"
	"io"
)

// Where the list of a vdev's label is (include/sys/vdev_impl.h, vdev_label_t):
// behind 16 KiB of the label, two of which are at the beginning of the device.
const (
	LabelSize = 256 << 10
	ListAt    = 16 << 10
	listSize  = 112 << 10
)

// Values is a list of names and values, nvlist_t of OpenZFS. Of the types only
// those that are asked for are kept: uint64, string, Values and []Values; of
// an array of numbers their count.
type Values map[string]any

// Number is the value of that name, 0 where there is none.
func (v Values) Number(name string) uint64 { n, _ := v[name].(uint64); return n }

// Text is the value of that name, "" where there is none.
func (v Values) Text(name string) string { s, _ := v[name].(string); return s }

// Lists are the lists of that name.
func (v Values) Lists(name string) []Values { l, _ := v[name].([]Values); return l }

// Tops says over how many vdevs the pool of this label is spread, log devices
// included. It is exact unless vdevs that held data were taken out of the pool
// (zpool-remove(8)): they count for ever, and only the pool itself knows them.
func (v Values) Tops() (n int, exact bool) {
	features, _ := v["features_for_read"].(Values)
	n = int(min(v.Number("vdev_children"), 1<<16)) - int(min(v.Number("hole_array"), 1<<16))
	return n, features.Number("com.delphix:device_removal") == 0
}

// The types of values (include/sys/nvpair.h, data_type_t).
const (
	TypeBoolean = 1
	TypeNumber  = 8
	TypeText    = 9
	TypeNumbers = 16
	TypeList    = 19
	TypeLists   = 20
)

// maxDepth is more than a label has: list, vdev, its disks, a replacement.
const maxDepth = 8

var errList = errors.New("not a list of names and values")

// reader takes XDR (RFC 4506) apart.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.b, r.bad = nil, true
		return make([]byte, 8)
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u32() int { return int(binary.BigEndian.Uint32(r.take(4))) }

func (r *reader) text() string {
	n := r.u32()
	if n < 0 || n > len(r.b) {
		r.bad = true
		return ""
	}
	s := string(r.take(n))
	r.take((4 - n%4) % 4)
	return s
}

// list reads one list to its end mark, two zeros (module/nvpair/nvpair.c).
func (r *reader) list(depth int) Values {
	out := Values{}
	if depth > maxDepth {
		r.bad = true
		return out
	}
	r.take(8) // version and flags
	for !r.bad {
		size := r.u32()
		r.u32() // its size in memory
		if size == 0 {
			break
		}
		p := &reader{b: r.take(size - 8)}
		if r.bad {
			break
		}
		name, kind, count := p.text(), p.u32(), p.u32()
		switch kind {
		case TypeBoolean:
			out[name] = uint64(1)
		case TypeNumber:
			out[name] = binary.BigEndian.Uint64(p.take(8))
		case TypeText:
			out[name] = p.text()
		case TypeNumbers:
			out[name] = uint64(count)
		case TypeList:
			out[name] = p.list(depth + 1)
		case TypeLists:
			var l []Values
			for range min(count, len(p.b)/8) {
				l = append(l, p.list(depth+1))
			}
			out[name] = l
		}
		r.bad = r.bad || p.bad
	}
	return out
}

// Parse reads a label's list.
func Parse(b []byte) (Values, error) {
	if len(b) < 12 || b[0] != 1 { // encoding: XDR
		return nil, errList
	}
	r := &reader{b: b[4:]}
	v := r.list(0)
	if r.bad {
		return nil, errList
	}
	return v, nil
}

// ReadLabel reads the newer of the two labels at the beginning of a vdev.
func ReadLabel(r io.ReaderAt) (Values, bool) {
	var best Values
	for i := range int64(2) {
		b := make([]byte, listSize)
		if _, err := r.ReadAt(b, i*LabelSize+ListAt); err != nil {
			continue
		}
		v, err := Parse(b)
		if err == nil && v.Number("pool_guid") != 0 && (best == nil || v.Number("txg") > best.Number("txg")) {
			best = v
		}
	}
	return best, best != nil
}
