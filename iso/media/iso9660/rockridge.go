package iso9660

import (
	"strings"
	"time"

	"joist/rootfs/tree"
)

// rockRidge is the primary hierarchy: identifiers that any reader takes, and
// the real names beside them.
type rockRidge struct{ time time.Time }

// The extension that the root directory announces (Rock Ridge 1.10, 4.3).
const (
	extensionID     = "RRIP_1991A"
	extensionText   = "THE ROCK RIDGE INTERCHANGE PROTOCOL PROVIDES SUPPORT FOR POSIX FILE SYSTEM SEMANTICS"
	extensionSource = "PLEASE CONTACT DISC PUBLISHER FOR SPECIFICATION SOURCE.  SEE PUBLISHER IDENTIFIER IN PRIMARY VOLUME DESCRIPTOR FOR CONTACT INFORMATION."
)

const (
	maxEntry         = 250 // content of an entry: its length stands in one byte
	continuationSize = 28
	continues        = 1 // flag of NM, SL and a link's component
)

// susp is one entry of a system use field: signature, length, version 1.
func susp(signature string, content ...byte) []byte {
	return append([]byte{signature[0], signature[1], byte(4 + len(content)), 1}, content...)
}

// systemUse says what Unix knows of a file. The root's "." begins with the mark
// of the protocol and ends with the extension in use.
func (r rockRidge) systemUse(n *tree.Node, as role) [][]byte {
	var list [][]byte
	if as == rootSelf {
		list = append(list, susp("SP", 0xbe, 0xef, 0))
	}
	px := make([]byte, 32)
	for i, v := range []int64{unixMode(n.Mode), links(n), int64(n.UID), int64(n.GID)} {
		both32(px[8*i:], v)
	}
	date := dirTime(r.time)
	tf := []byte{0x0e} // modification, access, change of attributes
	for range 3 {
		tf = append(tf, date...)
	}
	list = append(list, susp("PX", px...), susp("TF", tf...))
	switch as {
	case rootSelf:
		er := []byte{byte(len(extensionID)), byte(len(extensionText)), byte(len(extensionSource)), 1}
		list = append(list, susp("ER", append(er, extensionID+extensionText+extensionSource...)...))
	case entry:
		list = append(list, nameEntries(n.Name)...)
		if n.Target != "" {
			list = append(list, linkEntries(n.Target)...)
		}
	}
	return list
}

// nameEntries spreads a name over as many entries as it needs.
func nameEntries(name string) (list [][]byte) {
	for len(name) > maxEntry {
		list = append(list, susp("NM", append([]byte{continues}, name[:maxEntry]...)...))
		name = name[maxEntry:]
	}
	return append(list, susp("NM", append([]byte{0}, name...)...))
}

// linkEntries is the target of a symbolic link, component by component.
func linkEntries(target string) (list [][]byte) {
	var parts [][]byte // flags, length, text
	part := func(flags byte, text string) {
		parts = append(parts, append([]byte{flags, byte(len(text))}, text...))
	}
	if strings.HasPrefix(target, "/") {
		part(1<<3, "")
	}
	for _, c := range strings.Split(target, "/") {
		switch c {
		case "":
		case ".":
			part(1<<1, "")
		case "..":
			part(1<<2, "")
		default:
			for len(c) > maxEntry-2 {
				part(continues, c[:maxEntry-2])
				c = c[maxEntry-2:]
			}
			part(0, c)
		}
	}
	content := []byte{0}
	for _, p := range parts {
		if len(content)-1+len(p) > maxEntry {
			content[0] = continues
			list, content = append(list, susp("SL", content...)), []byte{0}
		}
		content = append(content, p...)
	}
	return append(list, susp("SL", content...))
}

// pack puts as many entries into the record as fit into room, in their order;
// when there are more, the room for a pointer to them is left.
func pack(list [][]byte, room int) (use, more []byte) {
	total := 0
	for _, e := range list {
		total += len(e)
	}
	if total > room {
		room -= continuationSize
	}
	for _, e := range list {
		if more == nil && len(use)+len(e) <= room {
			use = append(use, e...)
		} else {
			more = append(more, e...)
		}
	}
	return use, more
}

// continuation points at the rest of a system use field.
func continuation(sector, offset, n int64) []byte {
	b := make([]byte, 24)
	both32(b, sector)
	both32(b[8:], offset)
	both32(b[16:], n)
	return susp("CE", b...)
}
