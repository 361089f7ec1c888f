package deb

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

// Trigger is a line of a package's triggers file (deb-triggers(5)).
type Trigger struct {
	Kind string // interest, interest-noawait, activate, activate-await, …
	Name string // a name or an absolute path
}

// Package is an opened .deb (deb(5)). Its control data is in memory, its
// files are read by Walk. Different packages may be used in parallel, and one
// package may be walked several times, in parallel too.
type Package struct {
	Path      string            // of the .deb
	Control   Fields            // Get("Package"), Get("Version"), …
	Scripts   map[string][]byte // preinst, postinst, prerm, postrm, config: those it has
	Triggers  []Trigger         // in the file's order
	Conffiles []string          // absolute paths
	Other     map[string][]byte // every other control member: md5sums, templates, shlibs, …

	data arMember
	keep string // file of the kept copy of data, "" for none
}

const (
	maxControl = 32 << 20 // all of control.tar unpacked
	// The largest packages of Debian unpack to 3 GB and hold 200,000 files.
	maxData    = 8 << 30
	maxEntries = 2 << 20
	maxTail    = 1 << 20 // padding behind the end of a tar archive
)

// Open reads a package's control data.
func Open(name string) (*Package, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open package: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open package: %w", err)
	}
	p := &Package{Path: name, Scripts: map[string][]byte{}, Other: map[string][]byte{}}
	if err := p.open(f, st.Size()); err != nil {
		return nil, fmt.Errorf("open package %s: %w", name, err)
	}
	return p, nil
}

func (p *Package) open(r io.ReaderAt, size int64) error {
	members, err := readAr(r, size)
	if err != nil {
		return err
	}
	// deb(5): debian-binary first; names that begin with "_" may follow it
	// and are to be ignored; then control.tar, then data.tar.
	members = slices.DeleteFunc(members, func(m arMember) bool { return strings.HasPrefix(m.name, "_") })
	if len(members) < 3 || members[0].name != "debian-binary" ||
		!strings.HasPrefix(members[1].name, "control.tar") || !strings.HasPrefix(members[2].name, "data.tar") {
		return errors.New("its members are not debian-binary, control.tar and data.tar")
	}
	version := make([]byte, min(members[0].size, 16))
	if _, err := r.ReadAt(version, members[0].offset); err != nil {
		return noEOF(err)
	}
	if !strings.HasPrefix(string(version), "2.") {
		return fmt.Errorf("format %q is not 2.x", version)
	}
	p.data = members[2]
	if err := p.readControl(r, members[1]); err != nil {
		return fmt.Errorf("%s: %w", members[1].name, err)
	}
	return nil
}

func (p *Package) readControl(r io.ReaderAt, m arMember) error {
	files := map[string][]byte{}
	total := int64(0)
	err := eachEntry(r, m, maxControl, func(h *tar.Header, r io.Reader) error {
		if h.Typeflag != tar.TypeReg {
			return nil
		}
		if total += h.Size; total > maxControl {
			return fmt.Errorf("more than %d bytes of control data", maxControl)
		}
		text, err := io.ReadAll(r)
		files[h.Name] = text
		return err
	})
	if err != nil {
		return err
	}
	stanzas, err := ParseStanzas(string(files["control"]))
	if err != nil {
		return err
	}
	if len(stanzas) != 1 || stanzas[0].Get("Package") == "" {
		return errors.New("it has no control file")
	}
	p.Control = stanzas[0]
	for name, text := range files {
		switch name {
		case "control":
		case "preinst", "postinst", "prerm", "postrm", "config":
			p.Scripts[name] = text
		case "triggers":
			p.Triggers, err = parseTriggers(string(text))
		case "conffiles":
			p.Conffiles, err = parseConffiles(string(text))
		default:
			p.Other[name] = text
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func parseTriggers(text string) ([]Trigger, error) {
	var out []Trigger
	for line := range strings.SplitSeq(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		switch w := strings.Fields(line); len(w) {
		case 0:
		case 2:
			out = append(out, Trigger{Kind: w[0], Name: w[1]})
		default:
			return nil, fmt.Errorf("parse triggers: line %q has not two words", line)
		}
	}
	return out, nil
}

// parseConffiles keeps the paths the package has; "remove-on-upgrade" marks
// those it has no more (deb-conffiles(5)).
func parseConffiles(text string) ([]string, error) {
	var out []string
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || strings.HasPrefix(line, "remove-on-upgrade "):
		case !path.IsAbs(line) || path.Clean(line) != line:
			return nil, fmt.Errorf("parse conffiles: %q is not a clean absolute path", line)
		default:
			out = append(out, line)
		}
	}
	return out, nil
}

// Walk calls f for each entry of the package's data, in archive order, with
// clean names relative to the root ("usr/bin/bash", also for directories; the
// root itself is left out). Link targets of hard links are clean in the same
// way and name a regular file seen before. r holds h.Size bytes. An entry that
// would end up outside the tree, or go through a link, is an error.
func (p *Package) Walk(f func(h *tar.Header, r io.Reader) error) error {
	c := checker{kinds: map[string]byte{}}
	err := p.eachData(func(h *tar.Header, r io.Reader) error {
		if err := c.check(h); err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
		return f(h, r)
	})
	if err != nil {
		return fmt.Errorf("unpack package %s: %w", p.Path, err)
	}
	return nil
}

// eachData goes through the kept copy of the data, or through the data itself.
func (p *Package) eachData(f func(h *tar.Header, r io.Reader) error) error {
	if done, err := p.eachKept(f); done {
		return err
	}
	file, err := os.Open(p.Path)
	if err != nil {
		return err
	}
	defer file.Close()
	z, done, err := decompress(io.NewSectionReader(file, p.data.offset, p.data.size), p.data.name)
	if err != nil {
		return err
	}
	defer done()
	k := beginKept(p.keep)
	defer k.discard()
	if err := entries(io.TeeReader(z, k), maxData, f); err != nil {
		return err
	}
	k.commit()
	return nil
}

// eachEntry unpacks a tar member and goes through it.
func eachEntry(r io.ReaderAt, m arMember, limit int64, f func(h *tar.Header, r io.Reader) error) error {
	z, done, err := decompress(io.NewSectionReader(r, m.offset, m.size), m.name)
	if err != nil {
		return err
	}
	defer done()
	return entries(z, limit, f)
}

// entries goes through an unpacked tar and cleans the names of its entries.
func entries(z io.Reader, limit int64, f func(h *tar.Header, r io.Reader) error) error {
	left := &io.LimitedReader{R: z, N: limit}
	t := tar.NewReader(left)
	for n := 0; ; n++ {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return tooLarge(err, left, limit)
		}
		if n == maxEntries {
			return fmt.Errorf("more than %d entries", maxEntries)
		}
		if h.Name, err = cleanName(h.Name); err != nil {
			return err
		}
		if h.Name == "." {
			continue
		}
		if err := f(h, t); err != nil {
			return tooLarge(err, left, limit)
		}
	}
	// Up to the end of the compressed stream, where its checksum is.
	n, err := io.Copy(io.Discard, io.LimitReader(left, maxTail+1))
	if err == nil && n > maxTail {
		err = errors.New("more data behind the end of the archive")
	}
	return tooLarge(err, left, limit)
}

// tooLarge names the reason when the limit cut the archive short.
func tooLarge(err error, left *io.LimitedReader, limit int64) error {
	if err != nil && left.N <= 0 {
		return fmt.Errorf("it unpacks to more than %d bytes", limit)
	}
	return err
}

// decompress chooses by the member's name, as dpkg does.
func decompress(r io.Reader, name string) (z io.Reader, done func(), err error) {
	r = bufio.NewReaderSize(r, 256<<10)
	switch path.Ext(name) {
	case ".tar":
		return r, func() {}, nil
	case ".xz":
		z, err = xz.NewReader(r, 0)
		return z, func() {}, err
	case ".gz":
		z, err = gzip.NewReader(r)
		return z, func() {}, err
	case ".zst":
		// One goroutine a package: parallelism is over packages. 128 MiB is
		// the window of zstd --ultra -22.
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, nil, err
		}
		return d, d.Close, nil
	}
	return nil, nil, fmt.Errorf("compression of %s is unknown", name)
}

// cleanName makes "./usr/bin/" "usr/bin" and refuses names that are absolute,
// climb or are not in their simplest form.
func cleanName(name string) (string, error) {
	clean := strings.TrimPrefix(name, "./")
	clean = strings.TrimSuffix(clean, "/")
	if clean == "" || clean == "." {
		return ".", nil
	}
	if strings.ContainsRune(clean, 0) || path.IsAbs(name) || path.Clean(clean) != clean || clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("entry %q: its name leads out of the tree or is not clean", name)
	}
	return clean, nil
}

// checker knows the entries of a package seen so far.
type checker struct {
	kinds map[string]byte
}

func (c *checker) check(h *tar.Header) error {
	if h.Size < 0 || h.Size > maxData || h.Uid < 0 || h.Gid < 0 {
		return errors.New("absurd size or owner")
	}
	for dir := path.Dir(h.Name); dir != "."; dir = path.Dir(dir) {
		if k, ok := c.kinds[dir]; ok && k != tar.TypeDir {
			return fmt.Errorf("its parent %q is no directory", dir)
		}
	}
	if k, ok := c.kinds[h.Name]; ok && (k != tar.TypeDir || h.Typeflag != tar.TypeDir) {
		return errors.New("it occurs twice")
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
	case tar.TypeSymlink:
		if h.Linkname == "" || strings.ContainsRune(h.Linkname, 0) || climbs(path.Dir(h.Name), h.Linkname) {
			return fmt.Errorf("symbolic link to %q leads out of the tree", h.Linkname)
		}
	case tar.TypeLink:
		target, err := cleanName(h.Linkname)
		if err != nil || c.kinds[target] != tar.TypeReg {
			return fmt.Errorf("hard link to %q, which is no file of this package", h.Linkname)
		}
		h.Linkname = target
		// A further name of the same file may be linked to as well.
		c.kinds[h.Name] = tar.TypeReg
		return nil
	default:
		return fmt.Errorf("type %q is not one of a package", h.Typeflag)
	}
	c.kinds[h.Name] = h.Typeflag
	return nil
}

// climbs reports whether a relative target, seen from dir, goes above the
// root. An absolute one starts at the image's root and cannot start outside,
// but can climb as well.
func climbs(dir, target string) bool {
	depth := 0
	if !path.IsAbs(target) && dir != "." {
		depth = strings.Count(dir, "/") + 1
	}
	for part := range strings.SplitSeq(target, "/") {
		switch part {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return true
			}
		default:
			depth++
		}
	}
	return false
}
