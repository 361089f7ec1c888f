package iso9660

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"unicode/utf16"

	"joist/rootfs/tree"
)

// A reader of volumes, as strict as the specifications: what it does not
// expect is an error. It shares nothing with the writer but the sector size.

// found is an entry of a volume that was read.
type found struct {
	mode, links int64
	uid, gid    int64
	target      string
	size        int64
	extents     []extent
	date        string
}

type extent struct{ at, size int64 }

// volumeBytes writes a small layout out.
func volumeBytes(t testing.TB, l *Layout) []byte {
	t.Helper()
	b := make([]byte, l.Size)
	put := func(c Chunk) {
		r, err := c.Data.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		content, err := io.ReadAll(r)
		if err != nil || int64(len(content)) != c.Data.Size() {
			t.Fatal("read content", err)
		}
		dst := b[c.At : c.At+int64(len(content))]
		if len(bytes.Trim(dst, "\x00")) > 0 {
			t.Fatalf("something lies at %d already", c.At)
		}
		copy(dst, content)
	}
	for _, c := range l.Meta {
		put(c)
	}
	for _, f := range l.Files {
		put(f.Chunk)
	}
	return b
}

type reader struct {
	b      []byte
	joliet bool
	out    map[string]found
	dirs   map[int64]bool
	table  []string // paths of directories by sector, to compare with the path tables
}

// read returns all entries of the primary hierarchy by their Rock Ridge names,
// or those of Joliet's.
func read(b []byte, joliet bool) (out map[string]found, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the reader fell off: %v", p)
		}
	}()
	for at := 16 * Sector; ; at += Sector {
		d := b[at : at+Sector]
		if string(d[1:6]) != "CD001" || d[6] != 1 {
			return nil, fmt.Errorf("no descriptor at %d", at)
		}
		switch want := byte(1); {
		case joliet:
			want = 2
			fallthrough
		default:
			if d[0] == 255 {
				return nil, fmt.Errorf("there is no descriptor %d", want)
			}
			if d[0] != want {
				continue
			}
		}
		r := reader{b: b, joliet: joliet, out: map[string]found{}, dirs: map[int64]bool{}}
		if n := number(d[80:88]); n*Sector != int64(len(b)) {
			return nil, fmt.Errorf("the volume says %d sectors", n)
		}
		root := d[156:190]
		if err := r.dir("", number(root[2:10]), number(root[10:18]), number(root[2:10])); err != nil {
			return nil, err
		}
		return r.out, r.pathTables(d)
	}
}

// number reads a number in both orders.
func number(b []byte) int64 {
	n := len(b) / 2
	var l, g int64
	for i := range n {
		l |= int64(b[i]) << (8 * i)
		g = g<<8 | int64(b[n+i])
	}
	if l != g {
		panic(fmt.Sprintf("%x is two numbers", b))
	}
	return l
}

func (r *reader) dir(at string, start, size, up int64) error {
	if r.dirs[start] {
		return fmt.Errorf("%s: two directories in sector %d", at, start)
	}
	r.dirs[start] = true
	r.table = append(r.table, fmt.Sprintf("%d", start))
	b := r.b[start*Sector : start*Sector+size]
	var last []byte
	var open string
	type sub struct {
		path        string
		start, size int64
	}
	var subs []sub
	for i, pos := 0, 0; pos < len(b); i++ {
		n := int(b[pos])
		if n == 0 {
			if pos%Sector == 0 {
				return fmt.Errorf("%s: an empty sector", at)
			}
			pos = (pos + Sector - 1) / Sector * Sector
			continue
		}
		rec := b[pos : pos+n]
		if pos/Sector != (pos+n-1)/Sector || n%2 != 0 || number(rec[28:32]) != 1 {
			return fmt.Errorf("%s: a bad record at %d", at, pos)
		}
		pos += n
		id := rec[33 : 33+int(rec[32])]
		loc, length, flags := number(rec[2:10]), number(rec[10:18]), rec[25]
		use := rec[(33+len(id)+1)&^1:]
		f, name, err := r.use(use, i == 0 && at == "")
		if err != nil {
			return fmt.Errorf("%s/%q: %w", at, id, err)
		}
		f.date = fmt.Sprint(rec[18:25])
		switch {
		case i < 2:
			if len(id) != 1 || int(id[0]) != i || flags != 2 || loc != []int64{start, up}[i] {
				return fmt.Errorf("%s: record %d is not what it must be", at, i)
			}
			if i == 0 {
				f.size = length
				r.out[at+"/"] = f
			}
			continue
		case bytes.Compare(id, last) < 0 || bytes.Equal(id, last) && open == "":
			return fmt.Errorf("%s: %q is not behind %q", at, id, last)
		}
		last = id
		if r.joliet {
			if name, err = jolietName(id, flags&2 != 0); err != nil {
				return fmt.Errorf("%s: %w", at, err)
			}
		} else if err := primaryName(id, flags&2 != 0); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		p := at + "/" + name
		if flags&2 != 0 {
			subs = append(subs, sub{p, loc, length})
			continue
		}
		if open != "" {
			if open != p {
				return fmt.Errorf("%s is cut off by %s", open, p)
			}
			before := r.out[p]
			f.size, f.extents = before.size, before.extents
		} else if _, twice := r.out[p]; twice {
			return fmt.Errorf("%s exists twice", p)
		}
		f.size += length
		if length > 0 {
			f.extents = append(f.extents, extent{loc * Sector, length})
		}
		r.out[p] = f
		open = ""
		if flags&0x80 != 0 {
			open = p
		}
	}
	for _, s := range subs {
		if err := r.dir(s.path, s.start, s.size, start); err != nil {
			return err
		}
	}
	return nil
}

func primaryName(id []byte, dir bool) error {
	name, ok := strings.CutSuffix(string(id), ";1")
	base, ext, dot := strings.Cut(name, ".")
	if ok == dir || dot == dir || len(base+ext) > 31 || !dir && len(base+ext) > 30 || strings.Trim(base+ext, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
		return fmt.Errorf("%q is no identifier", id)
	}
	return nil
}

func jolietName(id []byte, dir bool) (string, error) {
	var u []uint16
	for i := 0; i < len(id); i += 2 {
		u = append(u, uint16(id[i])<<8|uint16(id[i+1]))
	}
	name, ok := strings.CutSuffix(string(utf16.Decode(u)), ";1")
	if ok == dir || len([]rune(name)) > 64 || name == "" || strings.ContainsAny(name, `*/:;?\`) {
		return "", fmt.Errorf("%q is no Joliet name", name)
	}
	return name, nil
}

// use reads a system use field with its continuations.
func (r *reader) use(b []byte, root bool) (f found, name string, err error) {
	if r.joliet {
		if len(b) > 0 {
			err = fmt.Errorf("%d bytes for a system", len(b))
		}
		return f, "", err
	}
	seen := map[string]int{}
	var link linkReader
	for len(b) > 3 {
		sig, n := string(b[:2]), int(b[2])
		e := b[4:n]
		if b[3] != 1 || sig != "CE" && sig != "NM" && sig != "SL" && seen[sig] > 0 || len(seen) == 0 && (sig == "SP") != root {
			return f, "", fmt.Errorf("entry %s is out of place", sig)
		}
		seen[sig]++
		b = b[n:]
		switch sig {
		case "CE":
			at, off, size := number(e[:8]), number(e[8:16]), number(e[16:24])
			if off+size > Sector || len(bytes.Trim(b, "\x00")) > 0 {
				return f, "", fmt.Errorf("a continuation over %d+%d", off, size)
			}
			b = r.b[at*Sector+off:][:size]
		case "PX":
			f.mode, f.links, f.uid, f.gid = number(e[:8]), number(e[8:16]), number(e[16:24]), number(e[24:32])
		case "NM":
			name += string(e[1:])
		case "SL":
			link.add(e)
		case "TF", "SP", "ER":
		default:
			return f, "", fmt.Errorf("entry %q", sig)
		}
	}
	if seen["PX"] != 1 || seen["TF"] != 1 || root && seen["ER"] != 1 {
		return f, "", fmt.Errorf("it has only %v", seen)
	}
	f.target = link.String()
	return f, name, nil
}

// linkReader puts a target together as Linux's fs/isofs/rock.c does.
type linkReader struct {
	strings.Builder
	slash bool
}

func (l *linkReader) add(e []byte) {
	for e = e[1:]; len(e) > 0; e = e[2+int(e[1]):] {
		text := string(e[2 : 2+int(e[1])])
		switch e[0] &^ 1 {
		case 2:
			text = "."
		case 4:
			text = ".."
		case 8:
			l.WriteString("/")
			continue
		}
		if l.slash {
			l.WriteString("/")
		}
		l.WriteString(text)
		l.slash = e[0]&1 == 0
	}
}

// pathTables compares both tables with the directories that were walked.
func (r *reader) pathTables(d []byte) error {
	size := number(d[132:140])
	le, be := int64(little.Uint32(d[140:])), int64(big.Uint32(d[148:]))
	l, m := r.b[le*Sector:le*Sector+size], r.b[be*Sector:be*Sector+size]
	seen := map[int64]bool{}
	var parents []int64
	for len(l) > 0 {
		n := (8 + int(l[0]) + 1) &^ 1
		start, up := int64(little.Uint32(l[2:])), int64(little.Uint16(l[6:]))
		if start != int64(big.Uint32(m[2:])) || up != int64(big.Uint16(m[6:])) || !bytes.Equal(l[8:n], m[8:n]) {
			return fmt.Errorf("the path tables differ")
		}
		if up < 1 || up > int64(len(parents))+1 || len(parents) > 0 && up < parents[len(parents)-1] {
			return fmt.Errorf("a parent %d in the path table", up)
		}
		parents = append(parents, up)
		if !r.dirs[start] || seen[start] {
			return fmt.Errorf("the path table has a directory in sector %d", start)
		}
		seen[start] = true
		l, m = l[n:], m[n:]
	}
	if len(seen) != len(r.dirs) {
		return fmt.Errorf("the path table has %d directories of %d", len(seen), len(r.dirs))
	}
	return nil
}

// content is what lies in a file's extents.
func (f found) content(b []byte) []byte {
	var out []byte
	for _, e := range f.extents {
		out = append(out, b[e.at:e.at+e.size]...)
	}
	return out
}

// expect says how a tree must read back.
func expect(root *tree.Node) map[string]found {
	out := map[string]found{}
	add := func(p string, n *tree.Node) {
		f := found{mode: unixMode(n.Mode), uid: int64(n.UID), gid: int64(n.GID), links: 1, target: n.Target, size: length(n)}
		if n.Mode.IsDir() {
			f.links = links(n)
			p = strings.TrimSuffix(p, "/") + "/"
		}
		out[p] = f
	}
	add("/", root)
	root.Walk(func(p string, n *tree.Node) error { add(p, n); return nil })
	return out
}
