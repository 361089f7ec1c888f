package faults

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"
)

const sectors = 64 // of the disks of these tests

// history draws operations on a small disk; the n-th write fills its sectors
// with the byte n.
func history(t *rapid.T, d *Disk, sector int64) {
	for n := range rapid.IntRange(0, 40).Draw(t, "operations") {
		from := rapid.Int64Range(0, sectors-1).Draw(t, "sector")
		length := rapid.Int64Range(1, sectors-from).Draw(t, "sectors") * sector
		fua := rapid.Bool().Draw(t, "FUA")
		var err error
		switch rapid.IntRange(0, 5).Draw(t, "kind") {
		case 0:
			d.flush()
		case 1:
			err = d.zero(from*sector, length, fua)
		default:
			err = d.write(bytes.Repeat([]byte{byte(n + 1)}, int(length)), from*sector, fua)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// may are the bytes that a sector can hold after the cut: that of the last
// operation which was made durable, or of any later one.
func may(r Record, c Cut, sector int64) map[byte]bool {
	out := map[byte]bool{0: true}
	flushed := 0
	for i, o := range r.Ops[:c.Ops] {
		if o.Kind == Flush {
			flushed = i
		}
	}
	for i, o := range r.Ops[:c.Ops] {
		if o.Kind == Flush || o.Offset > sector*c.Sector || o.end() <= sector*c.Sector {
			continue
		}
		if i < flushed || o.FUA {
			clear(out)
		}
		value := byte(0)
		if o.Kind == Write {
			b := make([]byte, 1)
			if _, err := r.log.ReadAt(b, o.at); err != nil {
				panic(err)
			}
			value = b[0]
		}
		out[value] = true
	}
	return out
}

// TestCuts: what was flushed is never lost, a sector is never torn, and what is
// there was written there.
func TestCuts(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		sector := rapid.SampledFrom([]int64{512, 4096}).Draw(t, "sector size")
		d, err := Create(filepath.Join(dir, "disk.img"), sectors*sector)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		history(t, d, sector)
		r := d.Record()
		c := r.RandomCut(rapid.Uint64().Draw(t, "seed"), sector)
		image := filepath.Join(dir, "cut.img")
		if err := r.Image(image, c); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		for i := range int64(sectors) {
			b := got[i*sector : (i+1)*sector]
			if !bytes.Equal(b, bytes.Repeat(b[:1], len(b))) {
				t.Fatalf("sector %d is torn after %v", i, c)
			}
			if allowed := may(r, c, i); !allowed[b[0]] {
				t.Fatalf("sector %d holds write %d after %v, may be %v", i, b[0], c, allowed)
			}
		}
		if err := r.Image(image, c); err != nil {
			t.Fatal(err)
		}
		if again, err := os.ReadFile(image); err != nil || !bytes.Equal(again, got) {
			t.Fatalf("the same cut is another image (%v)", err)
		}
	})
}

// TestLuck: every outcome that a cache allows comes up.
func TestLuck(t *testing.T) {
	d, err := Create(filepath.Join(t.TempDir(), "disk.img"), 8*512)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.write(bytes.Repeat([]byte{1}, 8*512), 0, false); err != nil {
		t.Fatal(err)
	}
	if err := d.write(bytes.Repeat([]byte{2}, 512), 512, false); err != nil {
		t.Fatal(err)
	}
	r, seen := d.Record(), map[string]int{}
	for seed := range uint64(2000) {
		p := r.survivors(Cut{Ops: 2, Seed: seed, Sector: 512})
		var first, second int64
		for _, x := range p {
			if x.op.Offset == 0 {
				first += x.to - x.from
			} else {
				second += x.to - x.from
			}
		}
		word := map[bool]string{true: "some"}[first > 0 && first < 8*512]
		switch first {
		case 0:
			word = "none"
		case 8 * 512:
			word = "all"
		}
		if second > 0 {
			word += ", second"
		}
		seen[word]++
	}
	for _, want := range []string{"none", "some", "all", "none, second", "some, second", "all, second"} {
		if seen[want] < 20 {
			t.Errorf("%q came up %d times of 2000: %v", want, seen[want], seen)
		}
	}
}

func TestImageRefuses(t *testing.T) {
	d, err := Create(filepath.Join(t.TempDir(), "disk.img"), 4096)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, c := range []Cut{{Ops: 1, Sector: 512}, {Ops: -1, Sector: 512}, {}} {
		if err := d.Record().Image(filepath.Join(t.TempDir(), "x"), c); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}
