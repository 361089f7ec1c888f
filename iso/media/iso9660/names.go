package iso9660

import (
	"fmt"
	"strings"
	"unicode/utf16"

	"joist/rootfs/tree"
)

// version ends the identifier of every file (ECMA-119 7.5.1).
const version = ";1"

// identifiers of the primary hierarchy: capital letters, digits and "_", one
// dot in files and none in directories, 30 and 31 characters (ECMA-119 7.5,
// 7.6, 10.3).
func (rockRidge) identifiers(list []*tree.Node) [][]byte {
	out := make([][]byte, len(list))
	used := names{}
	for i, n := range list {
		if n.Mode.IsDir() {
			out[i] = []byte(used.pick(capitals(n.Name), "", 31))
			continue
		}
		base, ext := splitName(n.Name)
		id := used.pick(capitals(base), "."+cut(capitals(ext), 8), 31)
		out[i] = []byte(id + version)
	}
	return out
}

// joliet is the second hierarchy, for readers that do not know Rock Ridge.
type joliet struct{}

// systemUse is empty: Joliet has names and nothing else.
func (joliet) systemUse(*tree.Node, role) [][]byte { return nil }

// identifiers in UCS-2, 64 characters.
func (joliet) identifiers(list []*tree.Node) [][]byte {
	out := make([][]byte, len(list))
	used := names{}
	for i, n := range list {
		base, ext := n.Name, ""
		if !n.Mode.IsDir() {
			if base, ext = splitName(n.Name); ext != "" || strings.HasSuffix(n.Name, ".") {
				ext = "." + ext
			}
		}
		id := used.pick(ucs2(base), cut(ucs2(ext), 32), 64)
		if !n.Mode.IsDir() {
			id += version
		}
		out[i] = encodeUCS2(id)
	}
	return out
}

// splitName parts a name at its last dot, unless it begins with that.
func splitName(name string) (base, ext string) {
	if i := strings.LastIndexByte(name, '.'); i > 0 {
		return name[:i], name[i+1:]
	}
	return name, ""
}

// capitals maps a name to what ISO 9660 calls d-characters.
func capitals(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return r
		}
		return '_'
	}, s)
}

// ucs2 replaces what Joliet forbids and what 16 bits cannot hold.
func ucs2(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > 0xffff || strings.ContainsRune(`*/:;?\`, r) {
			return '_'
		}
		return r
	}, s)
}

func encodeUCS2(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = big.AppendUint16(b, u)
	}
	return b
}

// cut shortens s to n characters.
func cut(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n])
	}
	return s
}

// names are those given in one directory; whatever the case of their letters,
// no two are alike. The value counts how often a short form was asked for.
type names map[string]int

// pick makes a name of at most limit characters. When it is taken, the end of
// base becomes a number.
func (l names) pick(base, ext string, limit int) string {
	fold := func(s string) string { return strings.TrimSuffix(strings.ToUpper(s), ".") }
	room := limit - len([]rune(ext))
	name := cut(base, room) + ext
	wanted := fold(name)
	for l[fold(name)] > 0 {
		tail := fmt.Sprintf("%03d", l[wanted])
		l[wanted]++
		name = cut(base, room-len(tail)) + tail + ext
	}
	l[fold(name)]++
	return name
}
