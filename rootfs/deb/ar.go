package deb

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// arMember is one file of an ar archive.
type arMember struct {
	name   string
	offset int64
	size   int64
}

const (
	arMagic  = "!<arch>\n"
	arHeader = 60
	// arMembers bounds the members of a package: deb(5) knows three, and a
	// few whose names begin with an underscore.
	arMembers = 32
)

// readAr lists the members of an ar archive as deb(5) uses it: the common
// format without long names.
func readAr(r io.ReaderAt, size int64) ([]arMember, error) {
	magic := make([]byte, len(arMagic))
	if _, err := r.ReadAt(magic, 0); err != nil || string(magic) != arMagic {
		return nil, fmt.Errorf("read ar archive: it is not one")
	}
	var out []arMember
	for at := int64(len(arMagic)); at < size; {
		h := make([]byte, arHeader)
		if _, err := r.ReadAt(h, at); err != nil {
			return nil, fmt.Errorf("read ar archive: header at %d: %w", at, noEOF(err))
		}
		if !bytes.Equal(h[58:60], []byte("`\n")) {
			return nil, fmt.Errorf("read ar archive: header at %d is damaged", at)
		}
		n, err := strconv.ParseInt(strings.TrimRight(string(h[48:58]), " "), 10, 64)
		at += arHeader
		if err != nil || n < 0 || n > size-at {
			return nil, fmt.Errorf("read ar archive: member at %d has a bad size", at)
		}
		name := strings.TrimSuffix(strings.TrimRight(string(h[:16]), " "), "/")
		out = append(out, arMember{name: name, offset: at, size: n})
		if len(out) > arMembers {
			return nil, fmt.Errorf("read ar archive: more than %d members", arMembers)
		}
		at += n + n%2 // members start at even offsets
	}
	return out, nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
