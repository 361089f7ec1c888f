package crash

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func put(t *testing.T, name, text string, at time.Time) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o400), os.Chtimes(name, at, at)); err != nil {
		t.Fatal(err)
	}
}

func left(t *testing.T, dir string) int {
	t.Helper()
	l, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(l)
}

func TestCollect(t *testing.T) {
	store, dir := t.TempDir(), filepath.Join(t.TempDir(), "crash")
	at := time.Date(2026, 11, 29, 1, 2, 3, 0, time.UTC)
	put(t, store+"/dmesg-efi_pstore-1", "Panic#1 Part1\nthe end\n", at)
	put(t, store+"/dmesg-efi_pstore-2", "Panic#1 Part2\nthe middle\n", at)
	put(t, store+"/dmesg-efi_pstore-10", "Panic#1 Part10\nthe start\n", at)
	put(t, store+"/dmesg-efi_pstore-3", "Panic#1 Part1\nof an earlier boot\n", at.Add(-10*time.Minute))
	put(t, store+"/dmesg-ramoops-0", "====1700000000.000-D\nOops#2 Part1\nan oops\n", at.Add(-time.Hour))
	put(t, store+"/console-ramoops-0", "words without a head", at.Add(-2*time.Hour))
	if n, err := Collect(store, dir); n != 4 || err != nil {
		t.Fatalf("%d crashes, %v", n, err)
	}
	if n := left(t, store); n != 0 {
		t.Errorf("%d records stay in the store", n)
	}
	all, err := List(dir)
	if err != nil || len(all) != 4 {
		t.Fatalf("%+v %v", all, err)
	}
	for i, want := range []Crash{
		{"20261128T230203-0-console", at.Add(-2 * time.Hour), "Console", 20},
		{"20261129T000203-0-oops", at.Add(-time.Hour), "Oops", 42},
		{"20261129T005203-0-panic", at.Add(-10 * time.Minute), "Panic", 33},
		{"20261129T010203-0-panic", at, "Panic", 72},
	} {
		if all[i] != want {
			t.Errorf("crash %d: %+v", i, all[i])
		}
	}
	text, err := Text(dir, all[3].ID)
	if err != nil || string(text) != "Panic#1 Part10\nthe start\nPanic#1 Part2\nthe middle\nPanic#1 Part1\nthe end\n" {
		t.Errorf("%q %v", text, err)
	}
	if p := Problem(dir); !strings.Contains(p, "2026-11-29 01:02 (Panic) and 3 more") {
		t.Error(p)
	}
	for _, c := range all {
		if err := Delete(dir, c.ID); err != nil {
			t.Error(err)
		}
	}
	if p := Problem(dir); p != "" {
		t.Errorf("after all were deleted: %s", p)
	}
}

// TestBound: a machine that dies at every boot fills neither the store nor the
// disk.
func TestBound(t *testing.T) {
	store, dir := t.TempDir(), t.TempDir()
	at := time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)
	for i := range MaxCrashes + 5 {
		put(t, store+"/dmesg-efi-1", "Panic#1 Part1\n"+strings.Repeat("x", MaxBytes)+fmt.Sprint(i), at.Add(time.Duration(i/2)*time.Minute))
		if n, err := Collect(store, dir); n != 1 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
	}
	all, err := List(dir)
	if err != nil || len(all) != MaxCrashes || left(t, store) != 0 || all[0].Bytes != MaxBytes || all[0].Time.Before(at.Add(2*time.Minute)) {
		t.Errorf("%d crashes, %d in the store, first %+v, %v", len(all), left(t, store), all[0], err)
	}
}

// TestNothing: no store, an empty one and a folder that is not there are
// normal.
func TestNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "crash")
	for _, store := range []string{t.TempDir(), "/does/not/exist"} {
		if n, err := Collect(store, dir); n != 0 || err != nil {
			t.Errorf("%s: %d, %v", store, n, err)
		}
	}
	if l, err := List(dir); l != nil || err != nil || Problem(dir) != "" {
		t.Errorf("%v %v", l, err)
	}
}

// TestStays: what cannot be kept is not taken from the store.
func TestStays(t *testing.T) {
	store, dir := t.TempDir(), filepath.Join(t.TempDir(), "file")
	put(t, dir, "in the way", time.Now())
	put(t, store+"/dmesg-efi-1", "Panic#1 Part1\n", time.Now())
	if n, err := Collect(store, dir); n != 0 || err == nil || left(t, store) != 1 {
		t.Errorf("%d, %v, %d in the store", n, err, left(t, store))
	}
}

func TestNamesStayInside(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/../secret", "x", time.Now())
	for _, id := range []string{"../secret", "", ".", "20261129T010203-0-../x", "20261129T010203-0-panic"} {
		if _, err := Text(dir, id); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q is read: %v", id, err)
		}
		if err := Delete(dir, id); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q is deleted: %v", id, err)
		}
	}
}
