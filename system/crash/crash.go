// Package crash keeps what the kernel said when it died. The firmware's store
// (pstore: UEFI variables, ACPI's ERST, memory that survives) is small and must
// be emptied for the next time; each boot moves it into a folder of the state
// volume, where a person looks at it and deletes it.
package crash

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"joist/api/node"
)

// PStore is where the kernel shows the firmware's store
// (Documentation/admin-guide/pstore-blk.rst, fs/pstore/inode.c).
const PStore = "/sys/fs/pstore"

// What is kept at most; older crashes go first.
const (
	MaxCrashes = 16
	MaxBytes   = 1 << 20 // of one
)

// ErrNotFound means that there is no such crash.
var ErrNotFound = errors.New("there is no such crash")

// Crash is one that was kept. A panic that was written in several records is
// one.
type Crash struct {
	ID     string    `json:"id"`
	Time   time.Time `json:"time"`   // of the last record, as the store has it
	Reason string    `json:"reason"` // the kernel's word: "Panic", "Oops"; else the kind of the record
	Bytes  int64     `json:"bytes"`
}

var (
	// "Panic#1 Part2": which dump, and which part of it, the last one being 1
	// (fs/pstore/platform.c). RAM begins with a line of its own.
	header = regexp.MustCompile(`^(?:====\d+[^\n]*\n)?([A-Za-z]+)#(\d+) Part(\d+)\n`)
	nameID = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}-[0-9]{1,4}-[a-z]{1,16}$`)
	kind   = regexp.MustCompile(`^[a-z]+`)
)

// record is one file of the store.
type record struct {
	name   string
	at     time.Time
	reason string
	dump   string
	part   int
	text   []byte
}

// Collect moves everything from the store into dir and returns how many crashes
// that were. Records leave the store only after the folder has them.
func Collect(pstore, dir string) (int, error) {
	entries, err := os.ReadDir(pstore)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return 0, nil
		}
		return 0, fmt.Errorf("collect crashes: %w", err)
	}
	var errs []error
	dumps := map[string][]record{}
	for _, e := range entries {
		r, err := read(filepath.Join(pstore, e.Name()))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		dumps[r.dump] = append(dumps[r.dump], r)
	}
	if len(dumps) == 0 {
		return 0, errors.Join(errs...)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, fmt.Errorf("collect crashes: %w", err)
	}
	kept := 0
	for _, rs := range split(dumps) {
		if err := keep(dir, rs); err != nil {
			errs = append(errs, err)
			continue
		}
		kept++
		for _, r := range rs {
			errs = append(errs, os.Remove(filepath.Join(pstore, r.name)))
		}
	}
	return kept, errors.Join(append(errs, bound(dir))...)
}

// split takes apart what several boots have written under one name, and sorts.
func split(dumps map[string][]record) (out [][]record) {
	for _, rs := range dumps {
		slices.SortFunc(rs, func(a, b record) int { return a.at.Compare(b.at) })
		for begin, i := 0, 1; i <= len(rs); i++ {
			if i == len(rs) || rs[i].at.Sub(rs[i-1].at) > time.Minute {
				out = append(out, rs[begin:i])
				begin = i
			}
		}
	}
	return out
}

func read(name string) (record, error) {
	f, err := os.Open(name)
	if err != nil {
		return record{}, fmt.Errorf("read crash: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return record{}, fmt.Errorf("read crash: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(f, MaxBytes))
	if err != nil {
		return record{}, fmt.Errorf("read crash: %w", err)
	}
	r := record{name: filepath.Base(name), at: st.ModTime().UTC(), text: text}
	if m := header.FindSubmatch(text); m != nil {
		r.reason, r.dump = string(m[1]), string(m[1])+"#"+string(m[2])
		r.part, _ = strconv.Atoi(string(m[3])) // digits; one that is too long comes last
		return r, nil
	}
	r.reason = kind.FindString(r.name)
	r.dump = r.name
	return r, nil
}

// keep writes one crash, its parts in the order of time, the end of it where it
// is too long.
func keep(dir string, rs []record) error {
	slices.SortFunc(rs, func(a, b record) int { return cmp.Or(cmp.Compare(b.part, a.part), a.at.Compare(b.at)) })
	var text []byte
	at := rs[0].at
	for _, r := range rs {
		text = append(text, r.text...)
		if r.at.After(at) {
			at = r.at
		}
	}
	text = text[max(0, len(text)-MaxBytes):]
	reason := strings.ToLower(rs[0].reason)
	if reason == "" || len(reason) > 16 {
		reason = "record"
	}
	for n := range 1000 {
		name := filepath.Join(dir, fmt.Sprintf("%s-%d-%s", at.Format("20060102T150405"), n, reason))
		if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			if err := node.WriteFile(name, 0o600, text); err != nil {
				return fmt.Errorf("keep crash: %w", err)
			}
			return os.Chtimes(name, at, at)
		}
	}
	return fmt.Errorf("keep crash: too many of %s", at)
}

// bound deletes the oldest.
func bound(dir string) error {
	all, err := List(dir)
	if err != nil {
		return err
	}
	var errs []error
	for len(all) > MaxCrashes {
		errs = append(errs, Delete(dir, all[0].ID))
		all = all[1:]
	}
	return errors.Join(errs...)
}

// List returns the crashes that are kept, oldest first.
func List(dir string) ([]Crash, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, fmt.Errorf("list crashes: %w", err)
	}
	var out []Crash
	for _, e := range entries {
		st, err := e.Info()
		if err != nil || !nameID.MatchString(e.Name()) || !st.Mode().IsRegular() {
			continue
		}
		word := e.Name()[strings.LastIndexByte(e.Name(), '-')+1:]
		out = append(out, Crash{ID: e.Name(), Time: st.ModTime().UTC(), Reason: strings.ToUpper(word[:1]) + word[1:], Bytes: st.Size()})
	}
	slices.SortStableFunc(out, func(a, b Crash) int { return a.Time.Compare(b.Time) })
	return out, nil
}

// Text is what the kernel said.
func Text(dir, id string) ([]byte, error) {
	if !nameID.MatchString(id) {
		return nil, ErrNotFound
	}
	b, err := os.ReadFile(filepath.Join(dir, id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotFound
	}
	return b, err
}

// Delete removes a crash: somebody has seen it.
func Delete(dir, id string) error {
	if !nameID.MatchString(id) {
		return ErrNotFound
	}
	err := os.Remove(filepath.Join(dir, id))
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNotFound
	}
	return err
}

// Problem says in a line that there are crashes, "" when there are none.
func Problem(dir string) string {
	all, err := List(dir)
	switch {
	case err != nil:
		return err.Error()
	case len(all) == 0:
		return ""
	}
	last := all[len(all)-1]
	more := ""
	if len(all) > 1 {
		more = fmt.Sprintf(" and %d more", len(all)-1)
	}
	return fmt.Sprintf("the kernel crashed %s (%s)%s: joist node crashes", last.Time.Format("2006-01-02 15:04"), last.Reason, more)
}
