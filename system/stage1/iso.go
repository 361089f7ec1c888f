package stage1

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	isoBlock = 2048 // bytes, of ISO 9660
	isoDepth = 3    // folders below the volume's top that image files are looked for in
	isoMost  = 2000 // entries looked at: a volume with more is no boot stick
)

// findISO looks for an image file of this build's medium below dir, "" if there
// is none. Of each image only the descriptor is read, in which the builder
// writes the build (ECMA-119, 8.4.20: application identifier).
func findISO(dir, build string) string {
	found, looked := "", 0
	filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if looked++; looked > isoMost {
			return fs.SkipAll
		}
		rel, rerr := filepath.Rel(dir, p)
		switch {
		case rerr != nil || err != nil:
			return nil // what cannot be read is not it
		case d.IsDir():
			if rel != "." && (strings.HasPrefix(d.Name(), ".") || strings.HasPrefix(d.Name(), "$") || strings.Count(rel, "/") >= isoDepth) {
				return fs.SkipDir
			}
		case d.Type().IsRegular() && strings.EqualFold(filepath.Ext(p), ".iso") && isMedium(p, build):
			found = p
			return fs.SkipAll
		}
		return nil
	})
	return found
}

func isMedium(file, build string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, 2048)
	if _, err := io.ReadFull(io.NewSectionReader(f, 16*2048, 2048), b); err != nil || string(b[:6]) != "\x01CD001" {
		return false
	}
	words := bytes.Fields(b[574 : 574+128])
	return slices.ContainsFunc(words, func(w []byte) bool { return string(w) == strings.ToUpper(build) })
}
