package disk

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// flip damages a byte.
func flip(t *testing.T, f *os.File, at int64) {
	t.Helper()
	b := []byte{0}
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	put(t, f, at, []byte{b[0] ^ 0xff})
}

func put(t *testing.T, f *os.File, at int64, b []byte) {
	t.Helper()
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// Each damage is said, and mended from what is whole; boot code stays.
func TestTablesMend(t *testing.T) {
	code := bytes.Repeat([]byte("boot code."), 44)
	dos := make([]byte, 66)
	copy(dos, []byte{0x80, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0})
	dos[64], dos[65] = 0x55, 0xaa
	for _, ss := range []int64{512, 4096} {
		const size = 40 * GiB
		l := mustPlan(t, request(size, int(ss)))
		entries := size - ss - maxEntries*entrySize
		other := l
		other.DiskGUID = "ABABABAB-ABAB-4BAB-ABAB-ABABABABABAB"
		for name, c := range map[string]struct {
			damage  func(f *os.File)
			faults  string // "" for none
			starts  bool
			refused error
		}{
			"whole":           {func(*os.File) {}, "", true, nil},
			"primary header":  {func(f *os.File) { flip(t, f, ss+60) }, "the primary partition table is damaged: the header in sector 1 has a wrong checksum", false, nil},
			"primary gone":    {func(f *os.File) { put(t, f, ss, make([]byte, maxEntries*entrySize)) }, "the primary partition table is missing", false, nil},
			"primary entries": {func(f *os.File) { flip(t, f, 2*ss+40) }, "the primary partition table is damaged: the list", false, nil},
			"backup header":   {func(f *os.File) { flip(t, f, size-ss+60) }, "the backup partition table is damaged: the header", true, nil},
			"backup gone":     {func(f *os.File) { put(t, f, size-ss, make([]byte, ss)) }, "the backup partition table is missing", true, nil},
			"backup entries":  {func(f *os.File) { flip(t, f, entries+40) }, "the backup partition table is damaged: the list", true, nil},
			"signature":       {func(f *os.File) { put(t, f, 510, []byte{0, 0}) }, "the protective MBR is damaged", false, nil},
			"entry":           {func(f *os.File) { put(t, f, mbrList, make([]byte, 16)) }, "the protective MBR is damaged", false, nil},
			"all behind code": {func(f *os.File) { put(t, f, mbrList, make([]byte, 2*ss)) }, "the primary partition table is missing; the protective MBR is damaged", false, nil},
			"hybrid":          {func(f *os.File) { put(t, f, mbrList+16, dos[:16]) }, "", true, nil},
			"marks": {func(f *os.File) {
				b := backupOf(l.Marked(Unfinished))
				put(t, f, b.at, b.b)
			}, "the marks in the two partition tables differ", true, nil},
			"another table": {func(f *os.File) {
				b := backupOf(other)
				put(t, f, b.at, b.b)
			}, ErrTablesDiffer.Error(), true, ErrTablesDiffer},
			"another, and no MBR": {func(f *os.File) {
				b := backupOf(other)
				put(t, f, b.at, b.b)
				put(t, f, 510, []byte{0, 0})
			}, ErrTablesDiffer.Error() + "; the protective MBR is damaged", false, ErrTablesDiffer},
			"partitioned anew": {func(f *os.File) { put(t, f, mbrList, append(bytes.Clone(dos), make([]byte, ss)...)) },
				"the primary partition table is missing; " + ErrOtherTable.Error(), false, ErrOtherTable},
		} {
			t.Run(fmt.Sprint(name, ss), func(t *testing.T) {
				f := image(t, size)
				if err := WriteTable(f, l); err != nil {
					t.Fatal(err)
				}
				put(t, f, 0, code)
				c.damage(f)
				before := whole(t, f)
				got, err := CheckTables(f, size, int(ss))
				said := strings.Join(got.Faults, "; ")
				if err != nil || !strings.HasPrefix(said, c.faults) || (said == "") != (c.faults == "") || got.Starts != c.starts || !errors.Is(got.Refused, c.refused) {
					t.Fatalf("%q, starts %v, refused %v, %v", said, got.Starts, got.Refused, err)
				}
				if err := got.Mend(f); !errors.Is(err, c.refused) {
					t.Fatal(err)
				}
				if c.refused != nil {
					if whole(t, f) != before {
						t.Error("what was refused is written")
					}
					return
				}
				again, err := CheckTables(f, size, int(ss))
				if err != nil || len(again.Faults) > 0 || !again.Starts {
					t.Errorf("mended: %q, %v", again.Faults, err)
				}
				kept := make([]byte, len(code))
				if _, err := f.ReadAt(kept, 0); err != nil || !bytes.Equal(kept, code) {
					t.Errorf("the boot code is gone (%v)", err)
				}
				if back, err := ReadTable(f, size, int(ss)); err != nil || fmt.Sprint(back) != fmt.Sprint(l) {
					t.Errorf("the table is now %v, %v", back, err)
				}
			})
		}
	}
}

// whole is all that lies around the partitions.
func whole(t *testing.T, f *os.File) string {
	t.Helper()
	b := make([]byte, 2*MiB)
	i, err := f.Stat()
	if err == nil {
		_, err = f.ReadAt(b[:MiB], 0)
	}
	if err == nil {
		_, err = f.ReadAt(b[MiB:], i.Size()-MiB)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A disk that was copied onto a larger one gets its backup where it belongs.
func TestTablesOfLargerDisk(t *testing.T) {
	l := mustPlan(t, request(40*GiB, 512))
	f := image(t, 50*GiB)
	if err := WriteTable(f, l); err != nil {
		t.Fatal(err)
	}
	got, err := CheckTables(f, 50*GiB, 512)
	if err != nil || !got.Starts || strings.Join(got.Faults, ";") != "the backup partition table is not at the end of the disk" {
		t.Fatalf("%+v %v", got, err)
	}
	if err := got.Mend(f); err != nil {
		t.Fatal(err)
	}
	if got, err = CheckTables(f, 50*GiB, 512); err != nil || len(got.Faults) > 0 {
		t.Errorf("%q %v", got.Faults, err)
	}
	flip(t, f, 512)
	if back, err := ReadTable(f, 50*GiB, 512); err != nil || fmt.Sprint(back.Partitions) != fmt.Sprint(l.Partitions) {
		t.Errorf("%v %v", back, err)
	}
}

// No cut, while a table is mended or marked, leaves a disk without one.
func TestTablesSurviveCuts(t *testing.T) {
	l := mustPlan(t, request(40*GiB, 512))
	for name, c := range map[string]struct {
		size   int64
		damage func(f *os.File)
	}{
		"primary": {l.Size, func(f *os.File) { put(t, f, 446, make([]byte, 1024)) }},
		"backup":  {l.Size, func(f *os.File) { put(t, f, l.Size-512, make([]byte, 512)) }},
		"moved":   {l.Size + GiB, func(*os.File) {}},
	} {
		for action, do := range map[string]func(w *cut) error{
			"mend": func(w *cut) error {
				x, err := CheckTables(w, c.size, 512)
				if err != nil {
					t.Fatal(err)
				}
				return x.Mend(w)
			},
			"mark": func(w *cut) error {
				x := l.Marked(Unfinished)
				x.Size = c.size
				return UpdateTable(w, x)
			},
		} {
			for left := range 2 {
				f := image(t, c.size)
				if err := WriteTable(f, l); err != nil {
					t.Fatal(err)
				}
				c.damage(f)
				err := do(&cut{f, left})
				if err != nil && !errors.Is(err, errCut) {
					t.Fatal(err)
				}
				if got, err := ReadTable(f, c.size, 512); err != nil || got.DiskGUID != l.DiskGUID {
					t.Errorf("%s, %s, cut after %d writes: %v", name, action, left, err)
				}
			}
		}
	}
}
